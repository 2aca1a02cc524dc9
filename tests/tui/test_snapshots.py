"""What the screens look like."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from textual.pilot import Pilot

from s2p_tui.session import Session
from s2p_tui.tui.screens.workspace import Workspace

from .conftest import fitting, linears, make_app, until
from .test_drawing import hostile

SIZES = {"120x40": (120, 40), "80x24": (80, 24)}
SCENES: dict[str, tuple[Callable[[], Session], str]] = {
    "start": (linears, ""),
    "edited": (linears, "J G m g enter 4 enter s"),
    "picked": (linears, "m j j 4"),
    "marked": (linears, "space space v j"),
    "find": (linears, "slash f i r s t"),
    "found": (linears, "slash f i enter"),
    "blocked": (linears, "G c"),
    "no_details": (linears, "d"),
    "scrolled": (lambda: fitting(60), "pagedown pagedown j"),
    "hostile": (hostile, "j j j"),
    "help": (linears, "question_mark"),
    "quit": (linears, "J q"),
    "convert": (fitting, "c"),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scene", SCENES)
def test_scene(snap_compare, scene: str, size: str) -> None:
    make, pressed = SCENES[scene]
    assert snap_compare(
        make_app(make()), terminal_size=SIZES[size], run_before=_press(*pressed.split())
    )


def test_narrow(snap_compare) -> None:
    assert snap_compare(make_app(linears()), terminal_size=(40, 10), run_before=_press("m", "j"))


def test_ascii(snap_compare) -> None:
    app = make_app(linears(), ascii_only=True)
    assert snap_compare(app, terminal_size=(80, 24), run_before=_press("space", "m"))


def _press(*keys: str):
    async def before(pilot: Pilot[object]) -> None:
        await until(pilot, lambda: isinstance(pilot.app.screen, Workspace))
        await pilot.press(*keys)
        await pilot.pause()

    return before
