"""The fits of all rows at once are those of judging each."""

from __future__ import annotations

import random
from itertools import product
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2p_tui.alignment.alignment import EMPTY, Author, Row, Rows
from s2p_tui.alignment.evidence import Evidence, Suggestion, Suggestions, weigh
from s2p_tui.alignment.fit import Fit, Verdict
from s2p_tui.alignment.judge import judge
from s2p_tui.alignment.proof import UNPROVEN, Answer, proven_by
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Constant, Expr, Permute, Reshape, Stack, Sum, Take
from s2p_tui.alignment.verdicts import Verdicts

KEYS = ("h.1.m.a", "h.2.m.a", "square", "half", "layer.weight_g", "layer.weight_v")
SHAPES = ((2, 3), (2, 3), (3, 3), (2, 3), (2, 1), (2, 3))
ENTRIES = StateDict(
    tuple(
        Entry(key, shape, "float16" if key == "half" else "float32")
        for key, shape in zip(KEYS, SHAPES, strict=True)
    )
)
CONFIG = {"momentum": 0.9}
LEAVES = (
    Leaf(".mine", (2, 3), "float32"),
    Leaf(".linear.weight", (2, 3), "float32", owner="equinox.nn.Linear"),
    Leaf(".square", (3, 3), "float32"),
    Leaf(".cell.bias", (2, 3), "float32", owner="equinox.nn.LSTMCell"),
    Leaf(".bn.batch_counter", (2, 3), "float32", owner="equinox.nn.BatchNorm", config=CONFIG),
    Leaf(".none", (2, 3), "int32", has_value=False),
)
MADE: tuple[Expr, ...] = (
    Permute(Take("square"), (1, 0)),
    Reshape(Take("h.1.m.a"), (3, 2)),
    Sum((Take("h.1.m.a"), Take("h.2.m.a"))),
    Constant(0.0, (2, 3)),
    Stack((Take("layer.weight_v"), Take("half")), 0),
)
PROVEN = proven_by(Answer.CHOSEN)
STANDING = ((False, False), (True, False), (False, True))
"""Trusted and fixed."""
SOURCES: tuple[Expr | None, ...] = (None, *map(Take, KEYS), *MADE)


def said(verdicts: Verdicts, index: int) -> tuple[Fit, bool]:
    return verdicts.fit(index), verdicts.blocking_in(range(index, index + 1)) is not None


def judge_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember what is judged of a row by itself, which is the same whatever is suggested."""
    known: dict[tuple[int, Row], Verdict] = {}

    def judged(leaf: Leaf, row: Row, state_dict: StateDict) -> Verdict:
        key = id(leaf), row
        if key not in known:
            known[key] = judge(leaf, row, state_dict)
        return known[key]

    monkeypatch.setattr("s2p_tui.alignment.evidence.judge", judged)


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.path)
@pytest.mark.parametrize("by", get_args(Author))
@pytest.mark.slow("judges every kind of row in both ways")
def test_every_kind_of_row_is_judged_as_it_is_alone(
    leaf: Leaf, by: Author, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many leaves of one kind with all that can be true of a row, judged in one go."""
    judge_once(monkeypatch)
    either = False, True
    suggested = list(product(SOURCES, SOURCES, either, either, STANDING))
    unknown = list(product(SOURCES, [None], [False], either, STANDING))
    for elsewhere, said_of in ((None, unknown), (Take(KEYS[0]), suggested)):
        rows = [
            Row(source, source is None and placed, by, "so" * placed, trusted, fixed)
            for source, _, _, placed, (trusted, fixed) in said_of
        ]
        here = [
            # Numbers change the words of a doubt alone.
            Suggestion(wanted, PROVEN if certain else UNPROVEN, "so", placed, numbered=certain)
            for _, wanted, certain, placed, _ in said_of
        ]
        there = Suggestion(elsewhere, PROVEN, "there")
        skeleton = Skeleton((*[leaf] * len(rows), Leaf(".other", (2, 3), "float32")))
        all_rows = Rows.of((*rows, EMPTY), ENTRIES.numbering)
        known = Evidence(Suggestions((*here, there)), {}) if elsewhere else None
        verdicts = Verdicts(ENTRIES, skeleton, all_rows, known)
        for index, row in enumerate(rows):
            one = verdicts.of(index, all_rows)
            assert said(verdicts, index) == (one.fit, one.blocks), (row, here[index])


ALL = (
    (Row(Take("h.1.m.a")), (2, 3)),
    (Row(Take("half")), (2, 3)),
    (Row(gap=True), (2, 3)),
    (Row(Reshape(Take("h.1.m.a"), (3, 2)), trusted=True), (3, 2)),
    (Row(Take("square")), (9, 1, 1, 1)),
    (EMPTY, (2, 3)),
)


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=40),
    st.lists(st.tuples(st.integers(0, 39), st.integers(0, 40)), max_size=8),
    st.integers(-1, 41),
    st.integers(0, 2**16),
)
def test_what_is_counted_and_found_is_what_the_rows_are(
    numbers: list[int], changes: list[tuple[int, int]], index: int, seed: int
) -> None:
    source = random.Random(seed)
    skeleton = Skeleton(tuple(Leaf(f".{n}", ALL[k][1], "float32") for n, k in enumerate(numbers)))
    rows = [ALL[number][0] for number in numbers]
    verdicts = Verdicts(ENTRIES, skeleton, Rows.of(rows, ENTRIES.numbering), None)
    for start, stop in changes:
        span = range(min(start, len(rows)), min(stop, len(rows)))
        for n in span:
            rows[n] = source.choice(ALL)[0]
        verdicts.changed(Rows.of(rows, ENTRIES.numbering), span)
    all_rows = Rows.of(rows, ENTRIES.numbering)
    judged = [verdicts.of(n, all_rows) for n in range(len(rows))]
    assert [verdicts.at(n) for n in range(len(rows))] == judged
    assert [verdicts.fit(n) for n in range(len(rows))] == [one.fit for one in judged]
    blocking = [n for n, one in enumerate(judged) if one.blocks]
    assert verdicts.blocking == len(blocking)
    trusted = [one.fit is Fit.DOUBTFUL and not one.blocks for one in judged]
    assert verdicts.trusted_in(range(len(verdicts))) == sum(trusted)
    assert sum(verdicts.counts.values()) == len(rows)
    after = [n for n in blocking if n > min(index, len(rows))] + blocking
    before = [n for n in blocking if n < min(index, len(rows))]
    assert verdicts.next_blocking(index, 1) == (after[0] if after else None)
    last = (before or blocking)[-1] if blocking else None
    assert verdicts.next_blocking(index, -1) == last
    low, high = sorted((source.randrange(len(rows)), source.randrange(len(rows))))
    found = verdicts.worst(range(low, high + 1))
    assert found is not None
    assert found.blocks == any(one.blocks for one in judged[low : high + 1])
    assert found.fit in {one.fit for one in judged[low : high + 1]}


def test_reasons_are_those_of_judging_a_row() -> None:
    skeleton = Skeleton((Leaf(".a", (2, 3), "float32"),))
    verdicts = Verdicts(ENTRIES, skeleton, Rows.of((EMPTY,), ENTRIES.numbering), None)
    assert verdicts.at(0) == weigh(0, EMPTY, ENTRIES, skeleton, None)
    rows = Rows.of((Row(Take("half")),), ENTRIES.numbering)
    verdicts.changed(rows, range(1))
    assert verdicts.at(0) == Verdict(Fit.TRANSFORMED, "cast float16 to float32")
