"""Folded blocks: the rows that each line of the list shows, and the line of each row.

Positions are a session's: rows, then benched entries. Every line shows a range of them, and the
lines in their order show all.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from msgspec import Struct, field

if TYPE_CHECKING:
    from s2p_tui.session.session import Session

_NUMBER = re.compile(r"\[(?:\d+|'\d+')\]|\.\d+(?=[.\[]|$)")
_FEWEST_ROWS = 3


class Fold(Struct, frozen=True, eq=False, gc=False):
    """Rows that can be shown as one line: all blocks of a list, or one of them.

    Attributes:
        start: The first row.
        stop: The row after the last.
        prefix: The list's key path; empty for the bench.
        first: The first block's number as it is written: `[0]`, `['0']`, `.0`.
        last: The last block's; the same for a single block.
        blocks: How many there are.
        inner: Folds within, ascending.
    """

    start: int
    stop: int
    prefix: str
    first: str
    last: str
    blocks: int
    inner: tuple[Fold, ...] = ()

    def __len__(self) -> int:
        return self.stop - self.start

    def title(self, ellipsis: str = "…") -> str:
        """`.layers[0 … 60]`, or `.layers[3]` for a single block."""
        if self.blocks == 1:
            return f"{self.prefix}{self.first}"
        if self.first.startswith("["):
            return f"{self.prefix}{self.first[:-1]} {ellipsis} {self.last[1:]}"
        return f"{self.prefix}{self.first} {ellipsis} {self.last[1:]}"


class _List(Struct):
    """A list whose end is not found yet, and its last block, whose path ends with its number."""

    start: int
    prefix: str
    first: str
    last: str
    block_start: int
    block_path: str
    blocks: int = 1
    done: list[Fold] = field(default_factory=lambda: list[Fold]())
    inner: list[Fold] = field(default_factory=lambda: list[Fold]())

    def next_block(self, row: int, number: str, path: str) -> None:
        self.end_block(row)
        self.last, self.block_start, self.block_path = number, row, path
        self.blocks += 1

    def end_block(self, row: int) -> None:
        """Keep the last block if it can be folded."""
        if row - self.block_start > 1:
            inner, self.inner = tuple(self.inner), []
            fold = Fold(self.block_start, row, self.prefix, self.last, self.last, 1, inner)
            self.done.append(fold)

    def folds(self, row: int) -> Iterable[Fold]:
        """Return the folds of the list, once it has ended."""
        self.end_block(row)
        if self.blocks == 1:
            return (fold for block in self.done for fold in block.inner)
        if row - self.start < _FEWEST_ROWS:
            return ()
        name = self.prefix, self.first, self.last
        return (Fold(self.start, row, *name, self.blocks, tuple(self.done)),)


def find_folds(paths: Sequence[str]) -> tuple[Fold, ...]:
    """The outermost folds of leaves in flatten order.

    A list folds where it has two blocks or more and three leaves or more, a block where it has
    two leaves or more. A number that a path begins with tells `(model, state)` apart, or is all
    there is of a plain `.eqx`: neither is a list of blocks.
    """
    found: list[Fold] = []
    lists: list[_List] = []
    innermost: _List | None = None
    search, match = _NUMBER.search, _NUMBER.match
    for row, path in enumerate(paths):
        begin = 1
        while innermost is not None:
            begin = len(innermost.block_path)
            if path.startswith(innermost.block_path) and (path[begin : begin + 1] or ".") in ".[":
                break
            number = None
            if path.startswith(innermost.prefix):
                number = match(path, len(innermost.prefix))
            if number is not None:
                begin = number.end()
                innermost.next_block(row, number[0], path[:begin])
                break
            lists.pop()
            ended, innermost = innermost, lists[-1] if lists else None
            (found if innermost is None else innermost.inner).extend(ended.folds(row))
            begin = 1
        while (number := search(path, begin)) is not None:
            begin = number.end()
            name = number[0]
            innermost = _List(row, path[: number.start()], name, name, row, path[:begin])
            lists.append(innermost)
    while lists:
        ended = lists.pop()
        (lists[-1].inner if lists else found).extend(ended.folds(len(paths)))
    return tuple(found)


_CHUNK = 256
_START, _REST = b"\1", b"\0"


class Folding:
    """A view of a list that changes in length at its end alone, where the bench is.

    Looking a line or index up takes logarithmic time and a few hundred steps in C at most;
    folding takes time for the rows that come or go.

    Args:
        folds: What can be folded, outermost, ascending.
        rows: How many rows there are before the bench.
    """

    def __init__(self, folds: Sequence[Fold], rows: int) -> None:
        self._folds = tuple(folds)
        self._rows = rows
        self._shut: set[Fold] = set()
        # One byte a row, 1 where a line starts; line starts before each chunk of them.
        self._starts = bytearray(_START * rows)
        self._before = list[int]()
        self._bench = 0
        self._bench_shut = False
        self._count()

    @property
    def lines(self) -> int:
        """The number of lines."""
        return self._before[-1] + (1 if self._bench_is_shut else self._bench)

    @property
    def _bench_is_shut(self) -> bool:
        return self._bench_shut and self._bench > 1

    def set_bench(self, count: int) -> None:
        """Set the number of benched entries."""
        self._bench = count

    def span(self, index: int) -> range:
        """The indices that are shown on one line with this one."""
        if index >= self._rows:
            if self._bench_is_shut:
                return range(self._rows, self._rows + self._bench)
            return range(index, index + 1)
        start = self._starts.rfind(_START, 0, index + 1)
        stop = self._starts.find(_START, index + 1)
        return range(start, self._rows if stop < 0 else stop)

    def above(self, index: int) -> int | None:
        """The index in the line above; None where that is a folded block, or there is none."""
        return index - 1 if index and len(self.span(index - 1)) == 1 else None

    def line_of(self, index: int) -> int:
        """The line that shows an index."""
        if index >= self._rows:
            return self._before[-1] + (0 if self._bench_is_shut else index - self._rows)
        chunk = index // _CHUNK
        begun = self._starts.count(_START, chunk * _CHUNK, index + 1)
        return self._before[chunk] + begun - 1

    def index_of(self, line: int) -> int:
        """The first index that a line shows.

        Raises:
            IndexError: There is no such line.
        """
        if not 0 <= line < self.lines:
            raise IndexError(line)
        beyond = line - self._before[-1]
        if beyond >= 0:
            return self._rows + beyond
        chunk = bisect_right(self._before, line) - 1
        if self._before[chunk + 1] - self._before[chunk] == _CHUNK:
            # Nothing in it is folded.
            return chunk * _CHUNK + line - self._before[chunk]
        index = chunk * _CHUNK - 1
        for _ in range(line - self._before[chunk] + 1):
            index = self._starts.find(_START, index + 1)
        return index

    def spans(self, line: int, count: int) -> Iterator[range]:
        """Yield the indices that each of some lines shows."""
        stop = min(self.lines, line + count)
        if line >= stop:
            return
        index = self.index_of(line)
        for _ in range(line, stop):
            span = self.span(index)
            yield span
            index = span.stop

    def shut_at(self, index: int) -> Fold | None:
        """The fold that is the line of an index; None where a row is shown by itself."""
        if index >= self._rows:
            stop = self._rows + self._bench
            return Fold(self._rows, stop, "", "", "", 0) if self._bench_is_shut else None
        return next((fold for fold in self._around(index) if fold in self._shut), None)

    def block_like(self, fold: Fold, index: int) -> Fold | None:
        """The block around a row, folded or not, that is of the same list as a single block."""
        alike = (one for one in self._around(index) if one.prefix == fold.prefix)
        return next((one for one in alike if one.blocks == fold.blocks == 1), None)

    def unfold(self, index: int) -> range:
        """Unfold the line of an index by one level.

        Returns:
            The indices whose lines changed; empty if it was a single row.
        """
        fold = self.shut_at(index)
        if fold is None:
            return range(0)
        if index >= self._rows:
            self._bench_shut = False
            return range(fold.start, fold.stop)
        self._shut.discard(fold)
        return self._laid(fold)

    def fold(self, index: int) -> range:
        """Fold the innermost block around the line of an index.

        Returns:
            The indices whose lines changed; empty if nothing is around it.
        """
        if index >= self._rows:
            if self._bench < 2 or self._bench_shut:
                return range(0)
            self._bench_shut = True
            return range(self._rows, self._rows + self._bench)
        around: Fold | None = None
        for fold in self._around(index):
            if fold in self._shut:
                break
            around = fold
        if around is None:
            return range(0)
        self._shut.add(around)
        return self._laid(around)

    def reveal(self, index: int) -> range:
        """Unfold what hides an index, and no more.

        Returns:
            The indices whose lines changed; empty if it was in sight.
        """
        if index >= self._rows:
            return self.unfold(index)
        hiding = [fold for fold in self._around(index) if fold in self._shut]
        if not hiding:
            return range(0)
        self._shut.difference_update(hiding)
        return self._laid(hiding[0])

    def _laid(self, fold: Fold) -> range:
        """Lay out a fold's lines again; the indices whose lines may have changed."""
        self._lay(fold)
        return range(fold.start, fold.stop)

    def fold_all(self) -> None:
        """Show every outermost list as one line; unfolded, its blocks are folded."""
        self._shut = set(_all(self._folds))
        self._bench_shut = True
        for fold in self._folds:
            self._lay(fold)

    def unfold_all(self) -> None:
        """Show every index by itself."""
        self._shut.clear()
        self._bench_shut = False
        self._starts[:] = _START * self._rows
        self._count()

    def _around(self, index: int) -> Iterator[Fold]:
        """The folds that hold a row, outermost first."""
        folds = self._folds
        while folds:
            number = bisect_right(folds, index, key=lambda fold: fold.start) - 1
            if number < 0 or folds[number].stop <= index:
                return
            yield folds[number]
            folds = folds[number].inner

    def _lay(self, fold: Fold) -> None:
        """Bring the line starts of a fold in sight up to date."""
        self._mark(fold)
        self._count(fold.start)

    def _mark(self, fold: Fold) -> None:
        size = len(fold)
        if fold in self._shut:
            self._starts[fold.start : fold.stop] = _START + _REST * (size - 1)
            return
        self._starts[fold.start : fold.stop] = _START * size
        for inner in fold.inner:
            self._mark(inner)

    def _count(self, since: int = 0) -> None:
        """Count line starts per chunk, those before a row as they were."""
        first = since // _CHUNK
        chunks = range(first * _CHUNK, self._rows, _CHUNK)
        counts = (self._starts.count(_START, start, start + _CHUNK) for start in chunks)
        known = self._before[: first + 1] or [0]
        self._before = [*known[:-1], *accumulate(counts, initial=known[-1])]


def _all(folds: Sequence[Fold]) -> Iterator[Fold]:
    for fold in folds:
        yield fold
        yield from _all(fold.inner)


_FOLDED_FROM = 300
"""Rows and benched entries from which on the list opens folded."""


def folding_of(session: Session) -> Folding:
    """Return the folds of a session's rows and bench, as they are when it is opened."""
    paths = [leaf.path for leaf in session.target.skeleton]
    folding = Folding(find_folds(paths), len(paths))
    folding.set_bench(len(session.alignment.bench))
    if len(session) > _FOLDED_FROM:
        folding.fold_all()
    return folding
