"""What each edit does, in letters: `ab-_` takes a, takes b, is a gap, takes nothing yet."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec import structs

from s2p_tui.alignment.alignment import Alignment, Row, in_order
from s2p_tui.alignment.edits import (
    CloseGap,
    Edit,
    MoveBlock,
    MoveTo,
    OpenGap,
    PlaceFromBench,
    SendToBench,
    SetRows,
    Several,
    Swap,
    Trust,
    apply,
)
from s2p_tui.alignment.history import History
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Stack, Take
from tests.helpers.edit_model import compare
from tests.helpers.sessions import lettered, letters

EXAMPLES: list[tuple[str, str, Edit, str, str]] = [
    # before, bench, edit, after, bench after
    ("abc", "", Swap(0, 2), "cba", ""),
    ("a-c", "", Swap(0, 1), "-ac", ""),
    ("abcd", "", MoveBlock(0, 1, 1), "bacd", ""),
    ("abcd", "", MoveBlock(1, 3, -1), "bcad", ""),
    ("abcd", "", MoveBlock(0, 2, 9), "cdab", ""),
    ("ab=cd", "", MoveBlock(1, 2, 1), "ac=bd", ""),
    ("ab=cd", "", MoveBlock(3, 4, -2), "ca=bd", ""),
    ("a-bc", "", MoveBlock(0, 1, 1), "-abc", ""),
    ("abcd", "", MoveTo(0, 2), "bcad", ""),
    ("abcd", "", MoveTo(3, 1), "adbc", ""),
    ("a-bc", "", MoveTo(0, 3), "b-ca", ""),
    ("ab-", "", MoveTo(0, 2), "-ba", ""),
    ("abc", "", OpenGap(1), "a-b", "c"),
    ("abc_", "", OpenGap(0), "-abc", ""),
    ("ab=c_", "xy", OpenGap(1), "a-=bc", "xy"),
    ("abc", "xy", OpenGap(0), "-ab", "cxy"),
    ("a_c", "", OpenGap(1), "a-c", ""),
    ("a-b=c", "xy", CloseGap(1), "abc=x", "y"),
    ("a-b", "", CloseGap(1), "ab_", ""),
    ("-ab_c", "xy", CloseGap(0), "ab__c", "xy"),
    ("abc", "x", SendToBench((0, 2)), "_b_", "xac"),
    ("abc", "xy", PlaceFromBench("y", 1), "ayb", "cx"),
    ("ab_c", "xy", PlaceFromBench("x", 0), "xabc", "y"),
    ("a=b", "x", PlaceFromBench("x", 0), "x=a", "b"),
    ("abc", "xy", PlaceFromBench("y", 1, shift=False), "ayc", "bx"),
    ("a-", "x", PlaceFromBench("x", 1), "ax", ""),
    ("a_", "x", PlaceFromBench("x", 1), "ax", ""),
    ("a#bc", "", MoveBlock(0, 1, 1), "b#ac", ""),
    ("a#bc", "", MoveTo(0, 2), "b#ac", ""),
    ("a#bc", "", OpenGap(0), "-#ab", "c"),
    ("a#bc", "", OpenGap(1), "a-bc", ""),
    ("-#bc", "x", CloseGap(0), "b#cx", ""),
    ("a#bc", "x", PlaceFromBench("x", 0), "x#ab", "c"),
    ("a#bc", "x", PlaceFromBench("x", 1), "axbc", ""),
    ("a#", "", SendToBench((1,)), "a_", ""),
    ("abc", "", Several((Swap(0, 1), OpenGap(0))), "-ba", "c"),
    ("abc", "x", SetRows(((0, Row(Take("c"))),)), "cb_", "xa"),
    ("abc", "x", SetRows(((0, Row(Take("b"))), (1, Row(Take("a"))))), "bac", "x"),
    ("abc", "", SetRows(((1, Row(gap=True)),)), "a-c", "b"),
]


@pytest.mark.parametrize(("before", "bench", "edit", "after", "bench_after"), EXAMPLES)
def test_edits(before: str, bench: str, edit: Edit, after: str, bench_after: str) -> None:
    assert letters(apply(lettered(before, bench), edit)) == (after, bench_after)


NO_EFFECT: list[tuple[str, Edit]] = [
    ("ab", Swap(1, 1)),
    ("__", Swap(0, 1)),
    ("ab", MoveBlock(0, 1, 0)),
    ("ab", MoveBlock(0, 2, 1)),
    ("=b", MoveBlock(1, 2, -1)),
    ("=b", MoveBlock(0, 1, 1)),
    ("a__", MoveBlock(1, 2, 1)),
    ("_b", MoveTo(0, 1)),
    ("-b", OpenGap(0)),
    ("ab", CloseGap(0)),
    ("-_", SendToBench((0, 1))),
    ("ab", SetRows(((0, Row(Take("a"))),))),
    ("a_", Trust((1,))),
    ("ab", Several((Swap(1, 1),))),
    ("ab", Several(())),
]


@pytest.mark.parametrize(("before", "edit"), NO_EFFECT)
def test_an_edit_without_effect_returns_the_same_object(before: str, edit: Edit) -> None:
    alignment = lettered(before)
    assert apply(alignment, edit) is alignment


OUTSIDE: list[Edit] = [
    Swap(0, 3), MoveBlock(2, 4, 1), MoveTo(3, 0), MoveTo(0, 3), OpenGap(3), CloseGap(3),
    SendToBench((3,)), PlaceFromBench("x", 3), SetRows(((3, Row()),)), Trust((3,)),
]  # fmt: skip


@pytest.mark.parametrize("edit", OUTSIDE)
def test_rows_that_do_not_exist_are_refused(edit: Edit) -> None:
    with pytest.raises(IndexError):
        apply(lettered("abc", "x"), edit)


def test_only_benched_entries_can_be_placed() -> None:
    with pytest.raises(KeyError):
        apply(lettered("ab", "x"), PlaceFromBench("a", 1))


def test_a_swap_chooses_both_rows_and_leaves_the_trust_and_the_reason_behind() -> None:
    judged = Row(Take("a"), by="matcher", why="same name", trusted=True)
    alignment = Alignment.of((judged, Row(Take("b"))))
    swapped = apply(alignment, Swap(0, 1))
    assert list(swapped.rows) == [Row(Take("b"), by="user"), Row(Take("a"), by="user")]
    back = apply(swapped, Swap(0, 1)).rows
    assert list(back) == [structs.replace(judged, trusted=False), Row(Take("b"))]


def test_only_the_row_that_was_placed_is_chosen() -> None:
    rows = apply(lettered("abcd"), MoveTo(0, 2)).rows
    assert [row.by for row in rows] == ["moved", "moved", "user", "order"]
    rows = apply(lettered("abcd"), OpenGap(1)).rows
    assert [row.by for row in rows] == ["order", "user", "moved", "moved"]
    rows = apply(lettered("abcd"), MoveBlock(0, 2, 1)).rows
    assert [row.by for row in rows] == ["moved", "user", "user", "order"]


def test_a_decision_is_there_again_with_its_source() -> None:
    alignment = Alignment.of([Row(Take(key), by="user", why=key) for key in "abc"])
    there = apply(alignment, OpenGap(0))
    assert [row.by for row in there.rows] == ["user", "moved", "moved"]
    back = apply(there, CloseGap(0))
    assert list(back.rows)[:2] == list(alignment.rows)[:2]
    passed = apply(apply(alignment, MoveBlock(0, 1, 1)), MoveBlock(1, 2, -1))
    assert passed == alignment


@pytest.mark.parametrize("edit", [Swap(0, 1), Swap(1, 2), MoveTo(0, 1), MoveTo(1, 2)])
def test_what_a_layer_rule_fills_is_never_moved(edit: Edit) -> None:
    ruled = Row(Take("b"), by="rule", why="so", fixed=True)
    alignment = Alignment.of([Row(Take("a")), ruled, Row(Take("c"))])
    assert apply(alignment, edit) is alignment


def test_trust_lapses_with_a_sibling_and_is_kept_otherwise() -> None:
    layers = np.array([0, 0, 0, 1, -1], np.int32)
    rows = [Row(Take(key), by="matcher", trusted=True) for key in "abcde"]
    alignment = Alignment.of(rows, "x", layers=layers)
    for edit in (Swap(1, 3), SendToBench((1,)), SetRows(((1, Row(Take("x"))),)), OpenGap(1)):
        after = apply(alignment, edit).rows
        assert not after[0].trusted
        assert not after[2].trusted
        assert after[4].trusted or isinstance(edit, OpenGap)
    assert [row.trusted for row in apply(alignment, Swap(3, 4)).rows] == [True] * 3 + [False] * 2
    together = apply(alignment, SetRows(((1, Row(Take("x"), trusted=True)), (2, rows[2]))))
    assert [row.trusted for row in together.rows] == [False, True, True, True, True]


@pytest.mark.parametrize("start", range(0, 2000, 500))
@pytest.mark.slow("makes thousands of random edits")
def test_edits_are_what_they_mean_row_by_row(start: int) -> None:
    for seed in range(start, start + 500):
        compare(seed)


@pytest.mark.parametrize("edit", [Swap(0, 1), MoveBlock(0, 1, 1), MoveTo(0, 1), MoveTo(0, 2)])
def test_an_edit_does_not_tell_one_object_from_its_equal(edit: Edit) -> None:
    first, second, other = (Row(Take(key), by="matcher", trusted=True) for key in "aab")
    same, equal = Alignment.of((first, first, other)), Alignment.of((first, second, other))
    assert apply(same, edit) == apply(equal, edit)


def test_a_gap_or_an_entry_in_place_of_a_fixed_one_sends_that_to_the_bench() -> None:
    alignment = Alignment.of((Row(Take("a"), by="rule", fixed=True),), ("x",))
    assert letters(apply(alignment, OpenGap(0))) == ("-", "ax")
    assert letters(apply(alignment, PlaceFromBench("x", 0))) == ("x", "a")


def test_trust_is_given_and_taken_back() -> None:
    alignment = lettered("ab-")
    trusted = apply(alignment, Trust((0, 2)))
    assert [row.trusted for row in trusted.rows] == [True, False, True]
    assert apply(trusted, Trust((0, 2), trusted=False)) == alignment


def test_a_row_of_several_entries_goes_to_the_bench_whole() -> None:
    stacked = Row(Stack((Take("a"), Take("b")), 0))
    alignment = Alignment.of((stacked, Row(Take("c"))), ("x",))
    assert letters(apply(alignment, SendToBench((0,)))) == ("_c", "xab")
    assert letters(apply(alignment, SetRows(((1, Row(Take("b"))),)))) == ("_b", "xac")


def test_in_order_skips_scalars_and_benches_the_rest() -> None:
    entries = StateDict(tuple(Entry(key, (1,), "float32") for key in "abc"))
    kinds = ["array", "scalar", "array", "array", "array"]
    leaves = Skeleton(
        tuple(
            Leaf(f".{n}", (1,) if kind == "array" else (), "float32", kind)
            for n, kind in enumerate(kinds)
        )
    )
    assert letters(in_order(entries, leaves)) == ("a=bc_", "")
    assert letters(in_order(entries, Skeleton(leaves.leaves[:2]))) == ("a=", "bc")


KEYS = "abcdefgh"
ROWS = 9
row_numbers = st.integers(0, ROWS - 1)


class Editing(RuleBasedStateMachine):
    """Any edits in any order lose no entry, use none twice, and can be undone and redone."""

    def __init__(self) -> None:
        super().__init__()
        self.alignment = lettered("ab=c#-de_", "fgh")
        self.history = History()
        self.past: list[Alignment] = [self.alignment]
        self.future: list[Alignment] = []

    def make(self, edit: Edit) -> None:
        before = self.alignment
        self.alignment, changed = self.history.make(before, edit)
        if self.alignment is before:
            assert not changed
            return
        assert self.alignment != before
        self.past.append(self.alignment)
        self.future.clear()
        outside = set(range(len(before.rows))) - set(changed)
        assert all(before.rows[n] == self.alignment.rows[n] for n in outside)

    @rule(first=row_numbers, second=row_numbers)
    def swap(self, first: int, second: int) -> None:
        self.make(Swap(first, second))

    @rule(start=row_numbers, length=st.integers(0, 4), steps=st.integers(-9, 9))
    def move_block(self, start: int, length: int, steps: int) -> None:
        fixed = [n for n, row in enumerate(self.alignment.rows) if row.fixed]
        self.make(MoveBlock(start, min(start + length, ROWS), steps))
        assert fixed == [n for n, row in enumerate(self.alignment.rows) if row.fixed]

    @rule(start=row_numbers, to=row_numbers)
    def move_to(self, start: int, to: int) -> None:
        before = self.alignment
        self.make(MoveTo(start, to))
        if before.rows[start].fixed or before.rows[to].fixed:
            assert self.alignment is before
            return
        if not before.rows[to].stays:
            assert _gaps(before) == _gaps(self.alignment)
        if before.rows[start].source is not None:
            assert self.alignment.rows[to].source == before.rows[start].source

    @rule(first=row_numbers, second=row_numbers, row=row_numbers)
    def several(self, first: int, second: int, row: int) -> None:
        self.make(Several((Swap(first, second), OpenGap(row))))

    @rule(row=row_numbers)
    def open_gap(self, row: int) -> None:
        before = _gaps(self.alignment)
        self.make(OpenGap(row))
        assert _gaps(self.alignment) == before | {row}

    @rule(row=row_numbers)
    def close_gap(self, row: int) -> None:
        before, start = _gaps(self.alignment), self.alignment
        self.make(CloseGap(row))
        if start.rows[row].fixed:
            assert self.alignment is start
            return
        assert _gaps(self.alignment) == before - {row}

    @rule(rows=st.lists(row_numbers, max_size=3))
    def send_to_bench(self, rows: list[int]) -> None:
        self.make(SendToBench(tuple(rows)))
        assert all(self.alignment.rows[row].source is None for row in rows)

    @precondition(lambda self: self.alignment.bench)
    @rule(data=st.data(), row=row_numbers, shift=st.booleans())
    def place_from_bench(self, data: st.DataObject, row: int, shift: bool) -> None:
        key = data.draw(st.sampled_from(self.alignment.bench))
        before = _gaps(self.alignment)
        self.make(PlaceFromBench(key, row, shift))
        assert self.alignment.rows[row].source == Take(key)
        assert _gaps(self.alignment) == before - {row}

    @rule(
        keys=st.lists(st.sampled_from(KEYS), unique=True, max_size=3),
        rows=st.lists(row_numbers, unique=True, min_size=3, max_size=3),
    )
    def set_rows(self, keys: list[str], rows: list[int]) -> None:
        self.make(SetRows(tuple(zip(rows, (Row(Take(key)) for key in keys), strict=False))))

    @rule(row=row_numbers, trusted=st.booleans())
    def trust(self, row: int, trusted: bool) -> None:
        self.make(Trust((row,), trusted))

    @rule()
    def undo(self) -> None:
        self.alignment, _ = self.history.undo(self.alignment)
        if len(self.past) > 1:
            self.future.append(self.past.pop())

    @rule()
    def redo(self) -> None:
        self.alignment, _ = self.history.redo(self.alignment)
        if self.future:
            self.past.append(self.future.pop())

    @invariant()
    def holds(self) -> None:
        rows, bench = self.alignment.rows, self.alignment.bench
        assert len(rows) == ROWS
        assert sorted((*bench, *(key for row in rows for key in row.keys))) == sorted(KEYS)
        assert not any(row.gap and row.source for row in rows)
        assert self.alignment == self.past[-1]


def _gaps(alignment: Alignment) -> set[int]:
    return {n for n, row in enumerate(alignment.rows) if row.gap}


@given(
    st.text("ab-=_#", min_size=1, max_size=12),
    st.sets(st.integers(0, 11)),
    st.integers(0, 3),
    st.data(),
)
def test_gaps_from_top_to_bottom_are_the_same_as_one_by_one(
    pattern: str, wanted: set[int], benched: int, data: st.DataObject
) -> None:
    letters_left = iter("abcdefghijkl")
    rows = "".join(next(letters_left) if char in "ab" else char for char in pattern)
    before = lettered(rows, "xyz"[:benched])
    kind = data.draw(st.sampled_from((OpenGap, CloseGap)))
    edits = [kind(row) for row in sorted(wanted) if row < len(rows)]
    one_by_one = before
    for edit in edits:
        one_by_one = apply(one_by_one, edit)
    assert apply(before, Several(tuple(edits))) == one_by_one


TestEditing = Editing.TestCase
TestEditing.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
