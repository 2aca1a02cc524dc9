"""`t` on a folded block: keys in, alignment and history out."""

from __future__ import annotations

import pytest
from textual.pilot import Pilot
from textual.widgets import Label, OptionList

from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry
from s2p_tui.alignment.transform import Permute, Take
from s2p_tui.app.screens.choose_transform import ChooseTransform
from s2p_tui.session.session import Session
from tests.app.reading import status
from tests.helpers.running_app import Opened
from tests.helpers.sessions import make_session

_SWAPPED = "permute axes"


def layers(count: int = 4, *, wide: bool = True) -> Session:
    """Per layer two square weights of which nothing tells the layout, a bias, and a scalar."""
    parts = ("q", "k", "bias") if wide else ("bias",)
    shapes = {"q": (3, 3), "k": (4, 4), "bias": (3,)}
    entries = [
        Entry(f"h.{n}.{part}", shapes[part], "float32") for n in range(count) for part in parts
    ]
    leaves: list[Leaf] = []
    for n in range(count):
        leaves += [Leaf(f".h[{n}].{part}", shapes[part], "float32") for part in parts]
        leaves.append(Leaf(f".h[{n}].drop.p", (), "float64", kind="scalar"))
    return make_session(entries, leaves)


def offered(pilot: Pilot[object]) -> list[str]:
    screen = pilot.app.screen
    assert isinstance(screen, ChooseTransform)
    options = screen.query_one(OptionList)
    return [str(options.get_option_at_index(n).prompt) for n in range(options.option_count)]


def line_of(lines: list[str], *words: str) -> str:
    """The number of the first line that has all these words."""
    return next(str(n) for n, line in enumerate(lines, 1) if all(word in line for word in words))


def sources(session: Session, part: str) -> list[object]:
    return [
        row.source
        for row, leaf in zip(session.alignment.rows, session.target.skeleton, strict=True)
        if leaf.path.endswith(part)
    ]


async def test_all_rows_that_allow_it_in_one_step(opened: Opened) -> None:
    session = layers()
    async with opened(session) as (pilot, workspace):
        await pilot.press("F", "g", "t")
        heading = str(pilot.app.screen.query_one(Label).render())
        assert "8 of 16 rows" in heading
        assert ".h[0 … 3]" in heading
        lines = offered(pilot)
        assert "(now)" in lines[int(line_of(lines, "as it is", "8 rows")) - 1]
        await pilot.press(line_of(lines, _SWAPPED, "8 rows"), "enter")
        for part in ("q", "k"):
            wanted = [Permute(Take(f"h.{n}.{part}"), (1, 0)) for n in range(4)]
            assert sources(session, part) == wanted
        assert sources(session, "bias") == [Take(f"h.{n}.bias") for n in range(4)]
        assert "8 rows changed" in status(workspace)
        assert len(session.history) == 1
        await pilot.press("u")
        assert sources(session, "q") == [Take(f"h.{n}.q") for n in range(4)]


@pytest.mark.slow("drives the app through several screens")
async def test_one_kind_of_rows(opened: Opened) -> None:
    session = layers()
    async with opened(session) as (pilot, _):
        await pilot.press("F", "g", "t")
        await pilot.press(*line_of(offered(pilot), ".k:", _SWAPPED, "4 rows"), "enter")
        assert sources(session, "k") == [Permute(Take(f"h.{n}.k"), (1, 0)) for n in range(4)]
        assert sources(session, "q") == [Take(f"h.{n}.q") for n in range(4)]
        # What is so already is left alone, and turned back with the others.
        await pilot.press("t")
        await pilot.press(line_of(offered(pilot), _SWAPPED, "8 rows"), "enter")
        assert sources(session, "q") == [Permute(Take(f"h.{n}.q"), (1, 0)) for n in range(4)]
        assert len(session.history) == 2
        await pilot.press("t")
        await pilot.press(line_of(offered(pilot), "as it is", "8 rows"), "enter")
        assert sources(session, "k") == [Take(f"h.{n}.k") for n in range(4)]


async def test_one_block_of_several(opened: Opened) -> None:
    session = layers()
    async with opened(session) as (pilot, _):
        await pilot.press("F", "g", "tab", "j", "t")
        assert ".h[1]" in str(pilot.app.screen.query_one(Label).render())
        await pilot.press(line_of(offered(pilot), _SWAPPED, "2 rows"), "enter")
        assert sources(session, "q") == [
            Permute(Take("h.1.q"), (1, 0)) if n == 1 else Take(f"h.{n}.q") for n in range(4)
        ]


async def test_blocks_without_a_choice_say_so(opened: Opened) -> None:
    async with opened(layers(wide=False)) as (pilot, workspace):
        await pilot.press("F", "g", "t")
        assert pilot.app.screen is workspace
        assert "No row of .h[0 … 3] leaves a choice" in status(workspace)


async def test_escape_leaves_all_as_it_is(opened: Opened) -> None:
    session = layers()
    async with opened(session) as (pilot, workspace):
        await pilot.press("F", "g", "t", "2", "escape")
        assert pilot.app.screen is workspace
        assert not len(session.history)
