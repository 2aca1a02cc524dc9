"""Folding against a model that knows nothing of chunks and counts: a list of lines."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from s2p_tui.app.folding import Fold, Folding, find_folds

PARTS = (".weight", ".bias", ".attn.q", ".mlp.up", ".norm.weight")


def titles(paths: list[str]) -> list[object]:
    def tree(folds: tuple[Fold, ...]) -> list[object]:
        found: list[object] = []
        for fold in folds:
            found.append((fold.title(), fold.start, fold.stop, fold.blocks))
            found.extend(tree(fold.inner))
        return found

    return tree(find_folds(paths))


def test_lists_and_their_blocks_are_found() -> None:
    paths = [
        ".embed.weight",
        *(f".layers[{n}].{part}" for n in range(3) for part in ("w", "b")),
        ".norm.weight",
    ]
    assert titles(paths) == [
        (".layers[0 … 2]", 1, 7, 3),
        (".layers[0]", 1, 3, 1),
        (".layers[1]", 3, 5, 1),
        (".layers[2]", 5, 7, 1),
    ]


def test_lists_within_blocks_are_found() -> None:
    paths = [f".layers[{n}].experts[{e}].{p}" for n in (0, 1) for e in (0, 1) for p in "ab"]
    assert titles(paths) == [
        (".layers[0 … 1]", 0, 8, 2),
        (".layers[0]", 0, 4, 1),
        (".layers[0].experts[0 … 1]", 0, 4, 2),
        (".layers[0].experts[0]", 0, 2, 1),
        (".layers[0].experts[1]", 2, 4, 1),
        (".layers[1]", 4, 8, 1),
        (".layers[1].experts[0 … 1]", 4, 8, 2),
        (".layers[1].experts[0]", 4, 6, 1),
        (".layers[1].experts[1]", 6, 8, 1),
    ]


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        ([f"[{n}]" for n in range(9)], []),
        (["[0].a.w", "[0].a.b", "[1].a.w", "[1].a.b"], []),
        (["[0].l[0].w", "[0].l[0].b", "[0].l[1].w", "[1].s"], [("[0].l[0 … 1]", 0, 3, 2)]),
        ([".b.index[0]", ".b.index[1]"], []),
        ([f".w[{n}]" for n in range(3)], [(".w[0 … 2]", 0, 3, 3)]),
        ([f".w.{n}" for n in range(3)], [(".w.0 … 2", 0, 3, 3)]),
        ([f"['w']['{n}']" for n in range(3)], [("['w']['0' … '2']", 0, 3, 3)]),
        ([".l[1].w", ".l[1].b", ".l[10].w", ".l[10].b"], [(".l[1 … 10]", 0, 4, 2)]),
        ([".l[0].m[0].w", ".l[0].m[1].w", ".l[0].m[2].w"], [(".l[0].m[0 … 2]", 0, 3, 3)]),
        ([".layer1.w", ".layer1.b", ".layer2.w"], []),
        ([], []),
    ],
)
def test_what_is_a_list_of_blocks(paths: list[str], found: list[object]) -> None:
    outermost = [(f.title(), f.start, f.stop, f.blocks) for f in find_folds(paths)]
    assert outermost == found


trees = st.recursive(
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=4, unique=True),
    lambda inner: st.lists(inner, min_size=1, max_size=4),
    max_leaves=30,
)


def paths_of(tree: object, prefix: str = ".top") -> list[str]:
    assert isinstance(tree, list)
    if isinstance(tree[0], str):
        return [prefix + part for part in tree]
    return [p for n, inner in enumerate(tree) for p in paths_of(inner, f"{prefix}[{n}]")]


@given(trees)
@pytest.mark.slow("drives the app through many screens")
def test_folds_are_nested_and_hold_what_begins_with_their_path(tree: object) -> None:
    paths = [".first", *paths_of(tree), ".last"]

    def check(folds: tuple[Fold, ...], low: int, high: int) -> None:
        for fold in folds:
            assert low <= fold.start < fold.stop <= high
            low = fold.stop
            assert all(paths[n].startswith(fold.prefix) for n in range(fold.start, fold.stop))
            numbers = {re.match(r"\[\d+\]", paths[n][len(fold.prefix) :])[0] for n in _rows(fold)}
            assert len(numbers) == fold.blocks
            outside = [p for n, p in enumerate(paths) if n not in _rows(fold)]
            begin = fold.prefix + (fold.first if fold.blocks == 1 else "[")
            assert not any(p.startswith(begin) for p in outside)
            check(fold.inner, fold.start, fold.stop)

    check(find_folds(paths), 0, len(paths))


def _rows(fold: Fold) -> range:
    return range(fold.start, fold.stop)


class Naive:
    """Folding as it is meant, line by line."""

    def __init__(self, folds: tuple[Fold, ...], rows: int) -> None:
        self.folds, self.rows, self.bench, self.bench_shut = folds, rows, 0, False
        self.shut: set[Fold] = set()

    def lines(self) -> list[range]:
        lines: list[range] = []

        def add(folds: tuple[Fold, ...], start: int, stop: int) -> None:
            for fold in folds:
                lines.extend(range(n, n + 1) for n in range(start, fold.start))
                if fold in self.shut:
                    lines.append(_rows(fold))
                else:
                    add(fold.inner, fold.start, fold.stop)
                start = fold.stop
            lines.extend(range(n, n + 1) for n in range(start, stop))

        add(self.folds, 0, self.rows)
        end = self.rows + self.bench
        if self.bench_shut and self.bench > 1:
            return [*lines, range(self.rows, end)]
        return [*lines, *(range(n, n + 1) for n in range(self.rows, end))]

    def around(self, position: int) -> list[Fold]:
        found, folds = [], self.folds
        while inside := [fold for fold in folds if position in _rows(fold)]:
            found.append(inside[0])
            folds = inside[0].inner
        return found


class Foldings(RuleBasedStateMachine):
    @initialize(tree=trees, repeated=st.integers(1, 40), bench=st.integers(0, 4))
    def begin(self, tree: list[object], repeated: int, bench: int) -> None:
        paths = [".first", *paths_of([tree] * repeated), ".last"]
        folds = find_folds(paths)
        self.naive, self.folding = Naive(folds, len(paths)), Folding(folds, len(paths))
        self.set_bench(bench)

    @rule(bench=st.integers(0, 4))
    def set_bench(self, bench: int) -> None:
        self.naive.bench = bench
        self.folding.set_bench(bench)

    def position(self, place: float) -> int:
        return int(place * (self.naive.rows + self.naive.bench - 1))

    @rule(place=st.floats(0, 1))
    def unfold(self, place: float) -> None:
        position, naive = self.position(place), self.naive
        changed = self.folding.unfold(position)
        hiding = next((f for f in naive.around(position) if f in naive.shut), None)
        if position >= naive.rows:
            assert bool(changed) == (naive.bench_shut and naive.bench > 1)
            naive.bench_shut = naive.bench_shut and not changed
        else:
            assert changed == (range(0) if hiding is None else _rows(hiding))
            naive.shut.discard(hiding)

    @rule(place=st.floats(0, 1))
    def fold(self, place: float) -> None:
        position, naive = self.position(place), self.naive
        changed = self.folding.fold(position)
        if position >= naive.rows:
            naive.bench_shut = naive.bench_shut or bool(changed)
            return
        around = naive.around(position)
        hidden = next((n for n, f in enumerate(around) if f in naive.shut), len(around))
        assert changed == (_rows(around[hidden - 1]) if hidden else range(0))
        naive.shut.update(around[hidden - 1 : hidden] if hidden else ())

    @rule(place=st.floats(0, 1))
    def reveal(self, place: float) -> None:
        position, naive = self.position(place), self.naive
        self.folding.reveal(position)
        if position >= naive.rows:
            naive.bench_shut = naive.bench_shut and naive.bench < 2
        naive.shut.difference_update(naive.around(position))
        assert len(self.folding.span(position)) == 1

    @rule()
    def fold_all(self) -> None:
        self.folding.fold_all()
        self.naive.bench_shut = True

        def add(folds: tuple[Fold, ...]) -> None:
            for fold in folds:
                self.naive.shut.add(fold)
                add(fold.inner)

        add(self.naive.folds)

    @rule()
    def unfold_all(self) -> None:
        self.folding.unfold_all()
        self.naive.shut.clear()
        self.naive.bench_shut = False

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "naive"):
            return
        lines = self.naive.lines()
        assert self.folding.lines == len(lines)
        assert list(self.folding.spans(0, len(lines) + 9)) == lines
        for line, span in enumerate(lines):
            assert self.folding.index_of(line) == span.start
            assert {self.folding.line_of(position) for position in span} == {line}
            assert self.folding.span(span[-1]) == span
            fold = self.folding.shut_at(span[-1])
            assert (fold is not None) == (len(span) > 1)
            assert fold is None or _rows(fold) == span


TestFoldings = pytest.mark.slow("folds and edits at random")(Foldings.TestCase)
TestFoldings.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_there_is_no_line_beyond_the_last() -> None:
    folding = Folding((), 3)
    for line in (-1, 3):
        with pytest.raises(IndexError):
            folding.index_of(line)
