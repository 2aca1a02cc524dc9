"""`L`: keys in; review screen, alignment and history out."""

from __future__ import annotations

import pytest

from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry
from s2p_tui.alignment.transform import Permute, Take
from s2p_tui.app.screens.choose_transform import ChooseTransform
from s2p_tui.app.screens.review import Review
from s2p_tui.session.session import Session
from tests.app.pairs import layers
from tests.app.reading import bench, keys, reviewed, shown, status
from tests.helpers.running_app import Opened
from tests.helpers.sessions import linears, make_session


@pytest.mark.slow("drives the app through several screens")
async def test_one_layer_done_by_hand_and_the_others_by_l(opened: Opened) -> None:
    session = layers(6, odd=4)
    async with opened(session, size=(120, 40)) as (pilot, workspace):
        await pilot.press("g", "J", "g", "t")
        assert isinstance(pilot.app.screen, ChooseTransform)
        await pilot.press("1", "enter")
        assert session.alignment.rows[0].source == Permute(Take("h.0.w"), (1, 0))
        assert keys(workspace)[:4] == ["h.0.w", "h.0.b", "h.1.b", "h.1.w"]
        edits = len(session.history)
        await pilot.press("L")
        screen = reviewed(pilot)
        assert screen.reviewing.total == 8
        note = shown(screen)[0].strip()
        assert note == (
            "note: 4 of 5 agree with .layers[0], .layers[4] differs: "
            "h.4.w is 3×3 for 5×3, h.0.w is 3×5"
        )
        assert "proposed by you" in screen.query_one("#top").texts[0]
        await pilot.press("enter")
        assert len(session.history) == edits + 1
        for n in (1, 2, 3, 5):
            weight, bias = session.alignment.rows[2 * n : 2 * n + 2]
            assert weight.source == Permute(Take(f"h.{n}.w"), (1, 0))
            assert bias.source == Take(f"h.{n}.b")
            assert weight.why == "as in .layers[0]"
        assert keys(workspace)[8:10] == ["h.4.b", "h.4.w"]
        assert bench(workspace) == ()
        assert workspace.cursor.index == 0
        await pilot.press("u")
        assert keys(workspace)[2:4] == ["h.1.b", "h.1.w"]


async def test_lifted_again_nothing_changes_and_that_is_said(opened: Opened) -> None:
    async with opened(layers(3)) as (pilot, workspace):
        await pilot.press("g", "J", "g", "t", "1", "enter", "L", "enter", "L")
        assert pilot.app.screen is workspace
        assert "No sibling of .layers[0] changes: 2 of 2 agree" in status(workspace)


def experts() -> Session:
    """Two layers of three experts each."""
    order = [(a, b) for a in range(2) for b in range(3)]
    return make_session(
        (Entry(f"h.{a}.e.{b}.w", (2,), "float32") for a, b in order),
        (Leaf(f".h[{a}].e[{b}].w", (2,), "float32") for a, b in order),
    )


def places(screen: Review) -> list[int]:
    return [change.index for change in screen.reviewing.proposal.changes]


@pytest.mark.slow("drives the app through many screens")
async def test_the_innermost_block_first_and_the_outer_one_by_l_again(opened: Opened) -> None:
    session = experts()
    straight = session.alignment
    async with opened(session) as (pilot, workspace):
        await pilot.press("g", "v", "G", "delete", "g", "enter", "enter", "j", "enter", "enter")
        assert keys(workspace) == ["h.0.e.0.w", "h.0.e.1.w", "-", "-", "-", "-"]
        await pilot.press("L")
        assert places(reviewed(pilot)) == [2]
        await pilot.press("L")
        assert places(reviewed(pilot)) == [3, 4]
        await pilot.press("L")
        assert places(reviewed(pilot)) == [3, 4]
        await pilot.press("escape", "L", "enter", "L", "enter")
        assert [row.source for row in session.alignment.rows] == [
            row.source for row in straight.rows
        ]
        assert bench(workspace) == ()


async def test_where_there_is_nothing_to_lift_it_says_why(opened: Opened) -> None:
    async with opened(linears(), size=(140, 30)) as (pilot, workspace):
        await pilot.press("g", "L")
        assert "no numbered block here that has siblings" in status(workspace)
        await pilot.press("G", "L")
        assert "A benched entry is in no block" in status(workspace)
    async with opened(layers(2), size=(140, 30)) as (pilot, workspace):
        await pilot.press("g", "space", "space", "delete", "g", "L")
        assert "Nothing in .layers[0] feeds a leaf yet." in status(workspace)


def with_state(count: int = 3) -> Session:
    """`(model, state)`: norms whose biases come from modules of their own, so all are doubtful."""
    owner = "equinox.nn.BatchNorm"
    keys = [key for n in range(count) for key in (f"m.{n}.weight", f"x.{n}.bias")]
    keys += [f"m.{n}.running_{name}" for n in range(count) for name in ("var", "mean")]
    paths = [f"[0].blocks[{n}].norm.{role}" for n in range(count) for role in ("weight", "bias")]
    paths += [
        f"[1].blocks[{n}].norm.ema_state_index[{number}]"
        for n in range(count)
        for number in range(2)
    ]
    return make_session(
        (Entry(key, (4,), "float32") for key in keys),
        (Leaf(path, (4,), "float32", owner=owner) for path in paths),
    )


@pytest.mark.slow("drives the app through many screens")
async def test_trust_and_statistics_of_another_tree_are_lifted(opened: Opened) -> None:
    session = with_state()
    async with opened(session, size=(120, 30)) as (pilot, _):
        assert session.blocking == len(session.alignment.rows) == 12
        await pilot.press("7", "G", "m", "8", "G", "x")
        for row in ("1", "2", "7", "8"):
            await pilot.press(row, "G", "y")
        assert session.blocking == 8
        await pilot.press("1", "G", "L")
        assert "8 rows are trusted as in [0].blocks[0]" in "\n".join(shown(reviewed(pilot)))
        await pilot.press("enter")
        rows = session.alignment.rows
        for n in range(3):
            names = [rows[6 + 2 * n + number].keys for number in range(2)]
            assert names == [(f"m.{n}.running_mean",), (f"m.{n}.running_var",)]
        assert all(row.trusted for row in rows)
        assert session.blocking == 0
        await pilot.press("u")
        assert session.blocking == 8
        # Another sibling in one block: its trust alone lapses.
        await pilot.press("ctrl+y", "4", "G", "m", "6", "G", "x")
        assert {n for n, row in enumerate(session.alignment.rows) if not row.trusted} >= {
            2,
            4,
            8,
            10,
        }
