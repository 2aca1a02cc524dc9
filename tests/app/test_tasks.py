"""Whole tasks through key presses, each in a stated number of keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from textual.pilot import Pilot

from s2p_tui.alignment.edits import Edit, SendToBench, Several, Swap
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry
from s2p_tui.app.screens.convert import Result
from s2p_tui.session.session import Arrangement, Session
from tests.app.reading import keys, status
from tests.helpers.running_app import Opened, until
from tests.helpers.sessions import make_session

SQUARE = ("mixer.q.weight", "mixer.k.weight", "mixer.v.weight", "mlp.up.weight", "mlp.down.weight")
LAYERS = 40


def layered(
    entries: Mapping[str, tuple[int, ...]],
    leaves: Mapping[str, tuple[int, ...]] | None = None,
    layers: int = LAYERS,
    arrange: Arrangement = "auto",
) -> Session:
    """`h.N.…` beside `.blocks[N].…`, of a class that nothing is known of."""
    return make_session(
        (
            Entry(f"h.{n}.{name}", shape, "float32")
            for n in range(layers)
            for name, shape in entries.items()
        ),
        (
            Leaf(f".blocks[{n}].{name}", shape, "float32", owner="mynet.Layer")
            for n in range(layers)
            for name, shape in (leaves or entries).items()
        ),
        arrange=arrange,
    )


def doubtful() -> Session:
    """Six kinds of weights, 240 rows, of which nothing shows whether they are transposed."""
    square = dict.fromkeys((*SQUARE, "out.weight"), (4, 4))
    return layered({"norm.scale": (4,), **square, "out.bias": (4,)})


async def pressed(pilot: Pilot[object], wanted: str, most: int) -> None:
    """Press keys, given with spaces between, that may be no more than so many."""
    assert len(wanted.split()) <= most
    await pilot.press(*wanted.split())
    await pilot.pause()


@pytest.mark.slow("drives the app through many screens")
async def test_six_kinds_of_doubt_are_settled_trusted_and_converted(
    opened: Opened, tmp_path: Path
) -> None:
    session = doubtful()
    assert session.blocking == 6 * LAYERS
    async with opened(session, output=tmp_path / "m.eqx") as (pilot, workspace):
        # The third kind is to be transposed, in all layers.
        await pressed(pilot, "o y y t 2 enter y y y", 9)
        assert session.is_complete
        turned = [row for row in session.alignment.rows if row.by == "user"]
        assert len(turned) == LAYERS
        await pressed(pilot, "c enter", 2)
        await until(pilot, lambda: isinstance(pilot.app.screen, Result))
        assert (tmp_path / "m.eqx").exists()
        assert len(session.history) == 6
        assert workspace.converted is not None


def residual() -> dict[str, tuple[int, ...]]:
    return {"conv1": (3, 2), "norm1": (3,), "conv2": (2, 3), "norm2": (2,)}


async def test_two_neighbouring_blocks_that_are_swapped_are_put_right(opened: Opened) -> None:
    session = layered(residual(), layers=6, arrange="order")
    session.edit(swapped(4, 8))
    async with opened(session, resume="afresh") as (pilot, workspace):
        await pressed(pilot, "g n tab J", 4)
        assert keys(workspace) == [f"h.{n}.{name}" for n in range(6) for name in residual()]


async def test_two_blocks_far_apart_that_are_swapped_are_put_right(opened: Opened) -> None:
    session = layered(residual(), layers=6, arrange="order")
    session.edit(swapped(4, 16))
    async with opened(session, resume="afresh") as (pilot, workspace):
        await pressed(pilot, "tab m 1 7 x", 6)
        assert keys(workspace) == [f"h.{n}.{name}" for n in range(6) for name in residual()]


def swapped(first: int, second: int) -> Edit:
    """The edit that exchanges two blocks."""
    return Several(tuple(Swap(first + n, second + n) for n in range(4)))


async def test_all_that_blocks_is_looked_at_alone_and_trusted(opened: Opened) -> None:
    session = doubtful()
    async with opened(session) as (pilot, workspace):
        await pressed(pilot, "f", 1)
        assert workspace.view.line_count == 6 * LAYERS
        assert "/blocking: 1 of 240, others hidden" in status(workspace)
        await pressed(pilot, "asterisk y escape", 3)
        assert session.is_complete
        assert workspace.cursor.filtering is None


@pytest.mark.slow("drives the app through several screens")
async def test_rows_of_one_pattern_become_gaps(opened: Opened) -> None:
    session = doubtful()
    async with opened(session) as (pilot, workspace):
        await pressed(pilot, "slash asterisk b i a s enter asterisk s", 9)
        if "again does it" in status(workspace):
            await pressed(pilot, "s", 1)
        gaps = [n for n, row in enumerate(session.alignment.rows) if row.gap]
        assert {session.target.skeleton[n].path[-9:] for n in gaps} == {".out.bias"}
        assert len(gaps) == LAYERS


async def test_an_entry_of_the_bench_feeds_the_leaf_it_fits(opened: Opened) -> None:
    session = make_session(
        [Entry("a", (2,), "float32"), Entry("odd_name", (7, 3), "float32")],
        [Leaf(".a", (2,), "float32"), Leaf(".b", (2,), "float32"), Leaf(".c", (7, 3), "float32")],
    )
    async with opened(session) as (pilot, workspace):
        # It is picked up where it is, and goes to the one row where it fits.
        await pressed(pilot, "m n enter", 3)
        assert keys(workspace) == ["a", "-", "odd_name"]


@pytest.mark.slow("drives the app through many screens")
async def test_a_held_key_is_taken_back_by_one(opened: Opened) -> None:
    session = layered({"w": (2,)}, layers=30, arrange="order")
    async with opened(session) as (pilot, workspace):
        before = keys(workspace)
        await pilot.press("g", *["J"] * 20)
        assert keys(workspace)[20] == "h.0.w"
        await pressed(pilot, "u", 1)
        assert keys(workspace) == before
        await pressed(pilot, "ctrl+y", 1)
        assert keys(workspace)[20] == "h.0.w"


async def test_all_rows_of_a_kind_take_their_entries_by_number(opened: Opened) -> None:
    session = layered({"gamma": (4,), "w": (4, 3)}, {"scale": (4,), "w": (4, 3)}, arrange="order")
    rows = session.alignment.rows
    session.edit(SendToBench(tuple(range(0, len(rows), 2))))
    async with opened(session, resume="afresh") as (pilot, workspace):
        assert session.counts[Fit.MISMATCHED] == LAYERS
        await pressed(pilot, "o e enter", 3)
        assert keys(workspace)[::2] == [f"h.{n}.gamma" for n in range(LAYERS)]
        assert not workspace.session.alignment.bench


async def test_left_over_entries_of_one_kind_are_accepted(opened: Opened) -> None:
    session = layered({"w": (4, 3), "gamma": (4,), "odd": (5,)}, {"w": (4, 3)})
    async with opened(session) as (pilot, workspace):
        await pressed(pilot, "o y y", 3)
        accepted = workspace.session.alignment.accepted
        assert accepted == {f"h.{n}.gamma" for n in range(LAYERS)}
        await pressed(pilot, "y", 1)
        assert session.is_complete
