"""What the screens look like on which something is reviewed, chosen or looked at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from s2p_tui.app.screens.look import Look
from s2p_tui.app.screens.main import Workspace
from s2p_tui.session.session import Session
from tests.app.pairs import blocks, hostile, layers
from tests.app.reading import opened_on_a_swap
from tests.helpers.running_app import make_app, until
from tests.helpers.sessions import linears, reordered

pytestmark = pytest.mark.slow("draws every screen in every size")
SIZES = {"120x40": (120, 40), "80x24": (80, 24), "40x10": (40, 10)}
SIZE_OF = {"match_part": "80x24", "choose_leaf": "80x24", "choose_hostile": "40x10"}
"""The size a scene is about, where that is not the largest."""
SCENES: dict[str, tuple[Callable[[], Session], str]] = {
    "match": (lambda: reordered("order"), "a"),
    "match_part": (lambda: reordered("order"), "a space j h"),
    "match_taken": (lambda: reordered("order"), "a space enter"),
    "choose": (lambda: reordered("order"), "G enter"),
    "choose_filtered": (lambda: reordered("order"), "G enter w e i down"),
    "choose_none": (linears, "g enter z z z z z z"),
    "choose_leaf": (linears, "G enter"),
    "choose_hostile": (hostile, "enter down"),
    "chosen": (lambda: reordered("order"), "G enter enter"),
    "lift": (lambda: layers(6, odd=4), "g J g t 1 enter L"),
    "look": (linears, "g i"),
    "look_below": (linears, "g i pagedown"),
}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the folder of a run is on the screen: whether a file will be replaced."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("scene", "size"), [(scene, SIZE_OF.get(scene, "120x40")) for scene in SCENES]
)
def test_scene(snap_compare, scene: str, size: str) -> None:
    make, pressed = SCENES[scene]

    async def before(pilot: Pilot[object]) -> None:
        await until(pilot, lambda: isinstance(pilot.app.screen, Workspace))
        for key in pressed.split():
            await pilot.press(key)
            screen = pilot.app.screen
            if isinstance(screen, Look):
                await until(pilot, lambda: "reading" not in _text(pilot))
        await pilot.pause()

    assert snap_compare(make_app(make()), terminal_size=SIZES[size], run_before=before)


@pytest.mark.parametrize(("ascii_only", "size"), [(False, "120x40"), (True, "80x24")])
def test_notes_objection_and_confidence(snap_compare, size: str, ascii_only: bool) -> None:
    async def before(pilot: Pilot[object]) -> None:
        await until(pilot, lambda: isinstance(pilot.app.screen, Workspace))
        assert isinstance(pilot.app.screen, Workspace)
        opened_on_a_swap(pilot.app.screen)
        await pilot.pause()
        await pilot.press("space", "k")
        await pilot.pause()

    app = make_app(blocks(), ascii_only=ascii_only)
    assert snap_compare(app, terminal_size=SIZES[size], run_before=before)


def _text(pilot: Pilot[object]) -> str:
    return str(pilot.app.screen.query_one("#look", Static).content)
