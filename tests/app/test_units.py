"""Layers that are marked or folded move with their statistics, also those of another tree."""

from __future__ import annotations

import pytest

from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry
from s2p_tui.session.session import Session
from tests.app.reading import bench, keys, status
from tests.helpers.running_app import Opened
from tests.helpers.sessions import make_session

OWN, APART = ("weight", "bias"), ("running_mean", "running_var")
OWNER = "equinox.nn.BatchNorm"


def with_state(count: int = 4, order: tuple[int, ...] = ()) -> Session:
    """`(model, state)` with a norm in each block; by order all rows line up.

    Args:
        count: Blocks.
        order: The order of their states.
    """
    order = order or tuple(range(count))
    entries = [Entry(f"m{n}.{role}", (4,), "float32") for n in range(count) for role in OWN]
    entries += [Entry(f"m{n}.{role}", (4,), "float32") for n in order for role in APART]
    leaves: list[Leaf] = []
    for n in range(count):
        at = f"[0].blocks[{n}].norm"
        leaves += [Leaf(f"{at}.{role}", (4,), "float32", owner=OWNER) for role in OWN]
        leaves.append(Leaf(f"{at}.inference", (), "bool", "scalar", owner=OWNER))
    for n in order:
        at = f"[1].blocks[{n}].norm"
        leaves.append(Leaf(f"{at}.ema_first_time_index", (), "bool", owner=OWNER))
        leaves += [
            Leaf(f"{at}.ema_state_index[{number}]", (4,), "float32", owner=OWNER)
            for number in range(2)
        ]
    session = make_session(entries, leaves)
    assert modules(session) == {n: {f"m{n}"} for n in range(count)}
    return session


def modules(session: Session) -> dict[int, set[str]]:
    """The modules that the rows of each block take their entries from; `-` for none."""
    found: dict[int, set[str]] = {}
    for leaf, row in zip(session.target.skeleton, session.alignment.rows, strict=True):
        if not row.fixed:
            number = int(leaf.path.partition("blocks[")[2].partition("]")[0])
            name = row.keys[0].partition(".")[0] if row.keys else "." if row.gap else "-"
            found.setdefault(number, set()).add(name)
    return found


MARKED = ["1", "G", "space", "space"]


@pytest.mark.parametrize("picked", [MARKED, ["1", "G", "tab"]])
@pytest.mark.parametrize(
    ("pressed", "after"),
    [
        ("m 7 G x", "2 1 0 3"),
        ("m 7 G enter", "1 2 0 3"),
        ("J", "1 0 2 3"),
        ("J J", "1 2 0 3"),
        ("J J K", "1 0 2 3"),
        ("delete", "- 1 2 3"),
    ],
)
@pytest.mark.slow("opens the app for every case")
async def test_statistics_go_along(
    opened: Opened, picked: list[str], pressed: str, after: str
) -> None:
    session = with_state()
    async with opened(session) as (pilot, workspace):
        await pilot.press(*picked, *pressed.split())
        wanted = {n: {m if m == "-" else f"m{m}"} for n, m in enumerate(after.split())}
        assert modules(session) == wanted
        assert len(session.history) == (sum(key in "JK" for key in pressed.split()) or 1)
        assert "statistics" in status(workspace) or pressed == "delete"
        assert Fit.DOUBTFUL not in session.counts
        if pressed == "delete":
            assert set(bench(workspace)) == {f"m0.{role}" for role in (*OWN, *APART)}
        for _ in range(3):
            await pilot.press("u")
        assert modules(session) == {n: {f"m{n}"} for n in range(4)}


@pytest.mark.parametrize("row", [7, 8, 20, 21])
@pytest.mark.slow("opens the app for every case")
async def test_a_unit_lands_on_a_layer_of_its_kind_wherever_the_cursor_is(
    opened: Opened, row: int
) -> None:
    session = with_state()
    async with opened(session) as (pilot, _):
        await pilot.press(*MARKED, "m", *str(row), "G", "x")
        assert modules(session) == {0: {"m2"}, 1: {"m1"}, 2: {"m0"}, 3: {"m3"}}


async def test_marks_of_all_of_a_layer_are_picked_up_together(opened: Opened) -> None:
    session = with_state()
    async with opened(session) as (pilot, workspace):
        await pilot.press(*MARKED, "1", "4", "G", "space", "space", "m")
        assert workspace.cursor.picked == 0
        await pilot.press("1", "0", "G", "x")
        assert modules(session) == {0: {"m3"}, 1: {"m1"}, 2: {"m2"}, 3: {"m0"}}


async def test_a_gap_in_a_layer_is_one_in_its_statistics(opened: Opened) -> None:
    session = with_state()
    async with opened(session) as (pilot, workspace):
        await pilot.press("4", "G", "tab", "delete", "1", "G", "tab")
        assert modules(session)[1] == {"-"}
        await pilot.press("s")
        assert "4 rows that line up, from row 1 on" in status(workspace)
        await pilot.press("s")
        assert modules(session) == {0: {"."}, 1: {"m0"}, 2: {"m2"}, 3: {"m3"}}
        await pilot.press("u")
        assert modules(session) == {0: {"m0"}, 1: {"-"}, 2: {"m2"}, 3: {"m3"}}


async def test_a_part_of_a_layer_goes_alone_and_is_doubtful(opened: Opened) -> None:
    session = with_state()
    async with opened(session) as (pilot, workspace):
        await pilot.press("1", "G", "m", "7", "G", "x")
        assert modules(session)[0] == {"m0", "m2"}
        assert "statistics" not in status(workspace)
        assert session.counts[Fit.DOUBTFUL] == 8


@pytest.mark.slow("drives the app through many screens")
async def test_statistics_in_another_order_are_left_and_make_doubt(opened: Opened) -> None:
    session = with_state(order=(1, 3, 0, 2))
    async with opened(session) as (pilot, workspace):
        await pilot.press(*MARKED, "J")
        assert modules(session)[0] == {"m1", "m0"}
        assert "statistics" not in status(workspace)
        assert session.counts[Fit.DOUBTFUL] == 8
        await pilot.press("u", "escape", *MARKED, "m", "4", "G", "x")
        assert modules(session) == {0: {"m1"}, 1: {"m0"}, 2: {"m2"}, 3: {"m3"}}


async def test_a_marked_layer_moves_past_a_layer_of_its_kind_only(opened: Opened) -> None:
    shapes = {"weight": (4,), "bias": (4,)}
    leaves = [Leaf(f".n{n}.{r}", s, "float32") for n in range(2) for r, s in shapes.items()]
    leaves.append(Leaf(".scale", (4,), "float32"))
    session = make_session((Entry(f"e{n}", (4,), "float32") for n in range(5)), leaves)
    async with opened(session) as (pilot, workspace):
        await pilot.press(*MARKED, "J")
        assert keys(workspace) == ["e2", "e3", "e0", "e1", "e4"]
        await pilot.press("J")
        assert keys(workspace) == ["e2", "e3", "e4", "e0", "e1"]
