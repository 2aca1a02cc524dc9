"""The words that matter are on small screens too."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from s2p_tui.session.session import Session
from tests.app.pairs import blocks, fused, hostile, layers, turned
from tests.app.reading import opened_on_a_swap, screen_text
from tests.helpers.running_app import Opened
from tests.helpers.sessions import fitting, linears, reordered

SIZES = {"80x24": (80, 24), "40x10": (40, 10)}
SCENES: dict[str, tuple[Callable[[], Session], str, tuple[str, ...]]] = {
    "start": (linears, "", ("3 rows of 6 to line up", "model.pt", "?help")),
    "edited": (linears, "J s s", (".first", "moved down")),
    "picked": (linears, "m j", ("Picked up a", "Enterput here")),
    "marked": (linears, "space space", ("2 rows marked",)),
    "found": (linears, "slash f i enter", ("/fi: 1 of 2",)),
    "blocked": (linears, "G c", ("Row 1:", "And 2 other rows.")),
    "hostile": (hostile, "j", (r"new\nline",)),
    "transform": (turned, "t", ("permute axes to (1, 0)", "Enter takes")),
    "split": (fused, "g space space space g t", ("Transform",)),
    "help": (linears, "question_mark", ("one row down, up", "Esc closes")),
    "palette": (linears, "ctrl+p m o v e", ("move",)),
    "quit": (linears, "J q", ("Quit?", "Your edits are not saved in a mapping file")),
    "convert": (fitting, "c", ("Convert", "Output", "model.eqx")),
    "load": (linears, "ctrl+o", ("Load mapping", "model.mapping.json")),
    "review": (lambda: reordered("order"), "a", ("[x]", "lin3", "4 of 4 accepted", "Entertake")),
    "choose": (lambda: reordered("order"), "G enter", ("Source", "lin", "Enter takes")),
    "lift": (lambda: layers(6, odd=4), "g J g t 1 enter L", ("note: 4 of 5 agree",)),
    "look": (linears, "g i", ("Look", ".first")),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.slow("draws every screen")
async def test_scene(opened: Opened, tmp_path, monkeypatch, scene: str, size: str) -> None:
    monkeypatch.chdir(tmp_path)
    make, pressed, wanted = SCENES[scene]
    async with opened(make(), size=SIZES[size]) as (pilot, _):
        await pilot.press(*pressed.split())
        await pilot.pause()
        shown = screen_text(pilot)
        assert [words for words in wanted if _squeezed(words) not in _squeezed(shown)] == []


@pytest.mark.parametrize("size", SIZES)
async def test_an_objection(opened: Opened, size: str) -> None:
    async with opened(blocks(), size=SIZES[size]) as (pilot, workspace):
        opened_on_a_swap(workspace)
        await pilot.pause()
        await pilot.press("space", "k")
        shown = screen_text(pilot)
        assert "[-] .h[0]" in shown
        assert ".h[0].w left empty; h.1.w to the bench" in shown


def _squeezed(text: str) -> str:
    """The text without the spaces and frames that wrapping puts between its words."""
    return "".join(char for char in text if not (char.isspace() or char in "│|"))
