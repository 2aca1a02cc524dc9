"""Entries that several rows share: cutting them up, and what edits may do to the parts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from s2p_tui.alignment.alignment import Alignment, Row
from s2p_tui.alignment.edits import (
    CloseGap,
    Edit,
    MoveBlock,
    MoveTo,
    OpenGap,
    PlaceFromBench,
    SendToBench,
    SetRows,
    Swap,
    apply,
)
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.history import History
from s2p_tui.alignment.judge import judge, landing
from s2p_tui.alignment.sharing import divisions, parts_dropped, sharing, takes_part
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Concat, Expr, Permute, Shape, Split, Stack, Sum, Take
from tests.helpers.exprs import by_numpy
from tests.helpers.sessions import letters

QKV = StateDict((Entry("qkv", (30, 10), "float32"), Entry("b", (10,), "float32")))


def leaves(*shapes: Shape) -> list[Leaf]:
    return [Leaf(f".{number}", shape, "float32") for number, shape in enumerate(shapes)]


def part(start: int, stop: int, key: str = "qkv", axis: int = 0) -> Split:
    return Split(Take(key), axis, start, stop)


def test_a_fused_weight_is_cut_in_row_order_then_turned() -> None:
    plain, turned = divisions(leaves(*[(10, 10)] * 3), "qkv", QKV)
    assert plain.exprs == (part(0, 10), part(10, 20), part(20, 30))
    assert plain.words == "split over the 3 rows along axis 0"
    assert plain.verdict.fit is Fit.TRANSFORMED
    assert turned.exprs == tuple(Permute(expr, (1, 0)) for expr in plain.exprs)
    assert turned.words.endswith("each: permute axes to (1, 0)")


def test_parts_are_as_large_as_their_leaves() -> None:
    (division, *_) = divisions(leaves((20, 10), (5, 10), (5, 10)), "qkv", QKV)
    assert division.exprs == (part(0, 20), part(20, 25), part(25, 30))


@pytest.mark.parametrize(
    "shapes", [[(30, 10)], [(10, 10)] * 2, [(7, 10), (23, 9)], [(155,), (145,)]]
)
def test_what_does_not_add_up_is_not_cut(shapes: list[Shape]) -> None:
    assert divisions(leaves(*shapes), "qkv", QKV) == ()


@given(
    st.lists(st.integers(1, 4), min_size=2, max_size=4),
    st.lists(st.integers(1, 3), max_size=2),
    st.data(),
)
def test_parts_joined_again_are_the_entry(
    sizes: list[int], others: list[int], data: st.DataObject
) -> None:
    axis = data.draw(st.integers(0, len(others)))
    shapes = [(*others[:axis], size, *others[axis:]) for size in sizes]
    whole = (*others[:axis], sum(sizes), *others[axis:])
    state_dict = StateDict((Entry("x", whole, "float32"),))
    numbers = np.arange(np.prod(whole)).reshape(whole)
    targets = leaves(*shapes)
    joined = [
        np.concatenate(
            [
                by_numpy(landing(expr, leaf, state_dict), {"x": numbers})
                for expr, leaf in zip(division.exprs, targets, strict=True)
            ],
            axis,
        )
        for division in divisions(targets, "x", state_dict)
    ]
    assert any(np.array_equal(one, numbers) for one in joined)


@pytest.mark.parametrize(
    ("expr", "is_part"),
    [
        (Take("a"), False),
        (part(0, 1, "a"), True),
        (Permute(part(0, 1, "a"), (1, 0)), True),
        (Split(Permute(Take("a"), (1, 0)), 0, 0, 1), False),
        (Sum((part(0, 1, "a"), Take("b"))), True),
        (Sum((part(0, 1, "a"), Take("a"))), False),
    ],
)
def test_a_part_is_read_nowhere_whole(expr: Expr, is_part: bool) -> None:
    assert takes_part(expr, "a") is is_part


@pytest.mark.parametrize(
    ("shape", "fit"),
    [
        ((10, 10), Fit.TRANSFORMED),
        ((5, 20), Fit.DOUBTFUL),
        ((100,), Fit.DOUBTFUL),
        ((10, 5), Fit.MISMATCHED),
        ((30, 10), Fit.MISMATCHED),
    ],
)
def test_a_part_at_another_leaf_is_never_exact(shape: Shape, fit: Fit) -> None:
    row = Row(part(10, 20))
    (leaf,) = leaves(shape)
    assert judge(leaf, row, QKV).fit is fit


THREE = Alignment.of(
    (Row(part(0, 10)), Row(part(10, 20)), Row(part(20, 30)), Row(Take("b"))), ("c",)
)


def test_other_rows_keep_their_parts_while_one_changes_its_own() -> None:
    turned = Row(Permute(part(10, 20), (1, 0)))
    after = apply(THREE, sharing(THREE, ((1, turned),)))
    assert tuple(after.rows) == (THREE.rows[0], turned, *THREE.rows[2:])
    assert after.bench == ("c",)


def test_taking_the_whole_empties_the_rows_with_parts() -> None:
    after = apply(THREE, sharing(THREE, ((1, Row(Take("qkv"))),)))
    assert [row.source for row in after.rows] == [None, Take("qkv"), None, Take("b")]


def test_taking_a_part_of_what_another_row_takes_whole_empties_that() -> None:
    whole = Alignment.of((Row(Take("qkv")), Row(Take("b"))))
    after = apply(whole, sharing(whole, ((1, Row(part(10, 20))),)))
    assert [row.source for row in after.rows] == [None, part(10, 20)]
    assert after.bench == ("b",)


@pytest.mark.parametrize(
    ("edit", "dropped"),
    [
        (SendToBench((1,)), ["qkv"]),
        (SendToBench((0, 1, 2)), []),
        (Swap(0, 1), []),
        (MoveTo(0, 3), []),
        (OpenGap(0), []),
        (SetRows(((1, Row(Take("qkv"))),)), []),
        (sharing(THREE, ((1, Row(Permute(part(10, 20), (1, 0)))),)), []),
        (sharing(THREE, ((1, Row(part(0, 10))),)), ["qkv"]),
    ],
)
def test_parts_that_no_row_takes_any_more_are_told(edit: Edit, dropped: list[str]) -> None:
    after = apply(THREE, edit)
    assert parts_dropped(THREE.rows, after.rows, range(len(THREE.rows)), after.bench) == dropped


KEYS = "abcdef"
ROWS = 7
row_numbers = st.integers(0, ROWS - 1)
keys = st.sampled_from(KEYS)
takes = keys.map(Take)
sources = st.one_of(
    takes,
    st.builds(lambda key, n: Split(Take(key), 0, n, n + 1), keys, st.integers(0, 2)),
    st.lists(takes, min_size=1, max_size=3).map(lambda of: Stack(tuple(of), 0)),
    st.builds(lambda key, of: Concat((Split(Take(key), 0, 0, 1), of), 0), keys, takes),
)


class Sharing(RuleBasedStateMachine):
    """Whatever is split, stacked and moved: every key is in a row or on the bench, never both."""

    def __init__(self) -> None:
        super().__init__()
        rows = [Row(Split(Take("a"), 0, n, n + 1)) for n in range(3)]
        others = [Row(Stack((Take("b"), Take("c")), 0)), Row(gap=True), Row(), Row(Take("d"))]
        self.start = Alignment.of((*rows, *others), ("e", "f"))
        self.alignment = self.start
        self.history = History()

    def make(self, edit: Edit) -> None:
        self.alignment, _ = self.history.make(self.alignment, edit)

    @rule(first=row_numbers, second=row_numbers)
    def swap(self, first: int, second: int) -> None:
        before = sorted(map(repr, (row.source for row in self.alignment.rows)))
        self.make(Swap(first, second))
        assert sorted(map(repr, (row.source for row in self.alignment.rows))) == before

    @rule(start=row_numbers, length=st.integers(0, 3), steps=st.integers(-3, 3))
    def move_block(self, start: int, length: int, steps: int) -> None:
        before = sorted(map(repr, (row.source for row in self.alignment.rows)))
        self.make(MoveBlock(start, min(start + length, ROWS), steps))
        assert sorted(map(repr, (row.source for row in self.alignment.rows))) == before

    @rule(start=row_numbers, to=row_numbers)
    def move_to(self, start: int, to: int) -> None:
        before = sorted(map(repr, (row.source for row in self.alignment.rows)))
        self.make(MoveTo(start, to))
        assert sorted(map(repr, (row.source for row in self.alignment.rows))) == before

    @rule(row=row_numbers)
    def open_gap(self, row: int) -> None:
        self.make(OpenGap(row))

    @rule(row=row_numbers)
    def close_gap(self, row: int) -> None:
        self.make(CloseGap(row))

    @rule(rows=st.lists(row_numbers, max_size=3))
    def send_to_bench(self, rows: list[int]) -> None:
        self.make(SendToBench(tuple(rows)))

    @precondition(lambda self: self.alignment.bench)
    @rule(data=st.data(), row=row_numbers, shift=st.booleans())
    def place(self, data: st.DataObject, row: int, shift: bool) -> None:
        self.make(PlaceFromBench(data.draw(st.sampled_from(self.alignment.bench)), row, shift))

    @rule(
        rows=st.lists(row_numbers, unique=True, min_size=1, max_size=3),
        chosen=st.lists(sources, min_size=3, max_size=3),
        share=st.booleans(),
    )
    def choose(self, rows: list[int], chosen: list[Expr], share: bool) -> None:
        changes = tuple((row, Row(expr)) for row, expr in zip(rows, chosen, strict=False))
        before = self.alignment
        self.make(sharing(before, changes) if share else SetRows(changes))
        assert all(self.alignment.rows[row] == new for row, new in changes)
        taken = {key for _, row in changes for key in row.keys}
        for position, row in enumerate(self.alignment.rows):
            both = taken.intersection(row.keys)
            if position not in rows and both:
                assert share
                assert row == before.rows[position]
                assert all(takes_part(row.source, key) for key in both if row.source is not None)

    @rule()
    def undo(self) -> None:
        self.alignment, _ = self.history.undo(self.alignment)

    @rule()
    def redo(self) -> None:
        self.alignment, _ = self.history.redo(self.alignment)

    @invariant()
    def holds(self) -> None:
        used = {key for row in self.alignment.rows for key in row.keys}
        bench = self.alignment.bench
        assert len(set(bench)) == len(bench)
        assert used.isdisjoint(bench)
        assert used.union(bench) == set(KEYS)

    def teardown(self) -> None:
        while len(self.history):
            self.undo()
        assert self.alignment == self.start


TestSharing = Sharing.TestCase
TestSharing.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_shared_entry_is_benched_with_its_last_row() -> None:
    after = apply(THREE, SendToBench((0, 2)))
    assert letters(after) == ("_qkv_b", "c")
    assert letters(apply(after, SendToBench((1,)))) == ("___b", "cqkv")
