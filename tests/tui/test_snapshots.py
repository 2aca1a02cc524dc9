"""What the screens look like."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from textual.pilot import Pilot

from s2p_tui.session import Session
from s2p_tui.tui.screens.workspace import Workspace

from .conftest import fitting, linears, make_app, reordered, until, without_partner
from .test_drawing import hostile
from .test_transform import fused, many_keys, scanned, turned, turned_up

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
    "transform": (turned, "t"),
    "transform_none": (turned, "j t"),
    "transform_number": (turned, "t 3 enter"),
    "transform_rule": (turned_up, "t 2"),
    "stacked": (scanned, "g space space space g t 1 enter"),
    "split_list": (fused, "g space space space g t"),
    "split": (fused, "g space space space g t 2 enter j"),
    "many_keys": (many_keys, "G v g t 1 enter"),
    "doubted_by_name": (lambda: reordered("order"), "y n n"),
    "matched_again": (lambda: reordered("order"), "y a enter"),
    "without_partner": (without_partner, ""),
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
