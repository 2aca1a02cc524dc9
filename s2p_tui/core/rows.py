"""What leaves take: a frozen row each, and very many of them as columns.

A gap far up in a hundred thousand rows moves all below it. As columns these are moved without a
step of Python for each, and take a seventh of the memory of as many objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, count, filterfalse
from operator import eq, ne
from typing import Literal, get_args, overload

from s2p_tui.core.transform import Expr, Take, keys_of

Author = Literal["order", "user", "matcher", "claude", "rule", "moved"]
"""Who decided what a leaf takes. `user` chose it for this leaf; `moved` came here by moves of the
user's, maybe of other rows."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one leaf takes. Exactly one of: a source, a gap, or nothing yet.

    Attributes:
        source: The expression over entries that fills the leaf, or None.
        gap: True if the leaf deliberately keeps the skeleton's value.
        by: Who decided it.
        why: The reason, in words.
        trusted: The user takes a doubtful row for right.
        fixed: No entry belongs here: a Python scalar such as `Dropout.p`, or a leaf whose layer's
            rule says what it holds. Entries are moved past it even one by one.
    """

    source: Expr | None = None
    gap: bool = False
    by: Author = "order"
    why: str = ""
    trusted: bool = False
    fixed: bool = False

    @property
    def stays(self) -> bool:
        """Whether entries flow around the row instead of through it."""
        return self.gap or self.fixed

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the entries the row takes, each once."""
        return keys_of(self.source) if self.source is not None else ()


EMPTY = Row()

Held = str | Expr | None
"""A row's source; of a whole entry the key alone."""

_GAP, _FIXED, _TRUSTED, _WHOLE, _MADE, _AUTHOR = 1, 2, 4, 8, 16, 32
"""Bits of a mark: what a row is; whether it takes an entry as it is or makes something of entries;
from the last one on the author's place."""
_AUTHORS: tuple[Author, ...] = get_args(Author)
_PLACES = {author: place * _AUTHOR for place, author in enumerate(_AUTHORS)}
_FACTS: tuple[tuple[bool, Author, bool, bool], ...] = tuple(
    (bool(mark & _GAP), author, bool(mark & _TRUSTED), bool(mark & _FIXED))
    for author in _AUTHORS
    for mark in range(_AUTHOR)
)


def _table(of: Callable[[int], int]) -> bytes:
    """What `bytes.translate` makes of each mark."""
    return bytes(of(mark) if mark < len(_FACTS) else 0 for mark in range(256))


_TAKES = _WHOLE | _MADE
_MOVED = _table(lambda mark: mark & (_GAP | _TAKES) | _PLACES["moved"])
_IS_UNFIXED = _table(lambda mark: not mark & _FIXED)
_IS_PASSED = _table(lambda mark: not mark & (_GAP | _FIXED))
_IS_EMPTY = _table(lambda mark: not mark & _TAKES)
_IS_FULL = _table(lambda mark: bool(mark & _TAKES))
_IS_FLOWING = _table(lambda mark: bool(mark & _TAKES) and not mark & (_GAP | _FIXED))
_IS_MADE = _table(lambda mark: bool(mark & _MADE))
_IS_LEFT_ALONE = _table(lambda mark: not mark & (_TAKES | _FIXED))


def held_and_mark(row: Row) -> tuple[Held, int]:
    """A row's source and all else that is true of it, its reason aside."""
    source, mark = row.source, row.gap * _GAP | row.fixed * _FIXED | row.trusted * _TRUSTED
    mark |= _PLACES[row.by]
    if isinstance(source, Take):
        return source.key, mark | _WHOLE
    return source, mark if source is None else mark | _MADE


def row_from(held: Held, mark: int, why: str) -> Row:
    """Inverse of `held_and_mark`."""
    gap, by, trusted, fixed = _FACTS[mark]
    return Row(Take(held) if isinstance(held, str) else held, gap, by, why, trusted, fixed)


class Rows(Sequence[Row]):
    """Rows in leaf order, never changed; a single one is made anew whenever somebody asks.

    Attributes:
        held: What each takes.
        marks: All else that is true of each, a byte; `facts` and the questions below read them.
        whys: Reasons in words; maybe none at all if no row has one.
    """

    __slots__ = ("held", "marks", "whys")

    def __init__(self, held: tuple[Held, ...], marks: bytes, whys: Sequence[str]) -> None:
        self.held = held
        self.marks = marks
        self.whys = tuple(whys)

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Rows:
        """These rows as columns."""
        if isinstance(rows, Rows):
            return rows
        held: list[Held] = []
        marks = bytearray()
        whys: list[str] = []
        for row in rows:
            source, mark = held_and_mark(row)
            held.append(source)
            marks.append(mark)
            whys.append(row.why)
        return cls(tuple(held), bytes(marks), whys).lean()

    @classmethod
    def of_keys(cls, keys: Iterable[str], count: int, fixed: Mapping[int, Row]) -> Rows:
        """So many rows, some of them given; the others take whole entries while there are any."""
        held: list[Held] = [None] * count
        marks = bytearray(count)
        whys = [""] * count if fixed else []
        for place, row in fixed.items():
            held[place], marks[place] = held_and_mark(row)
            whys[place] = row.why
        for place, key in zip(filterfalse(fixed.__contains__, range(count)), keys, strict=False):
            held[place], marks[place] = key, _WHOLE
        return cls(tuple(held), bytes(marks), whys)

    @classmethod
    def repeated(cls, row: Row, count: int) -> Rows:
        """The same row so many times."""
        held, mark = held_and_mark(row)
        return cls((held,) * count, bytes((mark,)) * count, (row.why,) * count if row.why else ())

    def __len__(self) -> int:
        return len(self.held)

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> Rows: ...
    def __getitem__(self, place: int | slice) -> Row | Rows:
        if isinstance(place, slice):
            return Rows(self.held[place], self.marks[place], self.whys[place])
        return row_from(self.held[place], self.marks[place], self.whys[place] if self.whys else "")

    def __iter__(self) -> Iterator[Row]:
        return map(row_from, self.held, self.marks, self.reasons)

    def __add__(self, other: Rows) -> Rows:
        whys = () if not (self.whys or other.whys) else (*self.reasons, *other.reasons)
        return Rows(self.held + other.held, self.marks + other.marks, whys)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rows):
            return NotImplemented
        if self.marks != other.marks or self.held != other.held:
            return False
        if self.whys and other.whys:
            return self.whys == other.whys
        return not any(self.whys or other.whys)

    def __hash__(self) -> int:
        return hash(self.marks)

    def __repr__(self) -> str:
        return f"Rows.of({tuple(self)!r})"

    def lean(self) -> Rows:
        """The same in the least memory, worth its time for what is kept for long."""
        return Rows(self.held, self.marks, ()) if self.whys and not any(self.whys) else self

    @property
    def reasons(self) -> Sequence[str]:
        """The reason of each row."""
        return self.whys or ("",) * len(self.held)

    def takes_entry(self, place: int) -> bool:
        """Whether a row takes an entry or a part of one: no gap, nothing yet, no constant."""
        held = self.held[place]
        return isinstance(held, str) or (held is not None and bool(keys_of(held)))

    def facts(self, place: int) -> tuple[bool, Author, bool, bool]:
        """A row's `gap`, `by`, `trusted` and `fixed`."""
        return _FACTS[self.marks[place]]

    def gaps(self) -> list[int]:
        """Places of the gaps, those that are fixed aside."""
        return [place for place, mark in enumerate(self.marks) if mark & (_GAP | _FIXED) == _GAP]

    def replaced(self, start: int, rows: Rows) -> Rows:
        """All rows, those from `start` on replaced by as many others."""
        stop = start + len(rows)
        return self[:start] + rows + self[stop:]

    def moved(self) -> Rows:
        """The same contents at other leaves: a user's act, and no longer vouched for.

        Where there is none, and nothing is fixed, there is nothing to move.
        """
        marks = bytearray(self.marks.translate(_MOVED))
        alone = list(_where(self.marks, _IS_LEFT_ALONE))
        for place in alone:
            marks[place] = self.marks[place]
        whys: Sequence[str] = ()
        if self.whys and alone:
            whys = [""] * len(self)
            for place in alone:
                whys[place] = self.whys[place]
        return Rows(self.held, bytes(marks), whys)

    def empty(self) -> Iterator[int]:
        """Places of the rows that take no entry."""
        return _where(self.marks, _IS_EMPTY)

    def full(self) -> Rows:
        """Those rows that take something."""
        are_full = self.marks.translate(_IS_FULL)
        if are_full.find(0) < 0:
            return self
        held, whys = compress(self.held, are_full), compress(self.whys, are_full)
        return Rows(tuple(held), bytes(compress(self.marks, are_full)), tuple(whys))

    def made(self, span: range) -> Iterator[Expr]:
        """Sources of a range that are something else than a whole entry as it is."""
        marks = self.marks[span.start : span.stop].translate(_IS_MADE)
        made = compress(self.held[span.start : span.stop], marks) if marks.find(1) >= 0 else ()
        return (source for source in made if not (source is None or isinstance(source, str)))

    def unfixed(self, span: range) -> Iterator[int]:
        """Places of a range that entries can be moved to one by one, in its order."""
        return unfixed(self.marks, span)

    def taken(self) -> Iterator[tuple[int, str]]:
        """The key of each entry a row takes, behind the row's place, row after row."""
        for place, held in enumerate(self.held):
            if isinstance(held, str):
                yield place, held
            elif held is not None:
                for key in keys_of(held):
                    yield place, key

    @property
    def keys(self) -> list[str]:
        """Keys of the entries they take, row after row."""
        return [key for _, key in self.taken()]

    def count_flowing(self, span: range) -> int:
        """How many rows of a range take something that flows with what is above."""
        return self.marks[span.start : span.stop].translate(_IS_FLOWING).count(1)

    def count_new(self, before: Rows, span: range) -> int:
        """How many rows of a range take something that they did not take before."""
        there = slice(span.start, span.stop)
        differ = map(ne, self.held[there], before.held[there])
        return sum(compress(differ, self.marks[there].translate(_IS_FULL)))

    def alike(self, other: Rows) -> Iterator[int]:
        """Places at which another list of the same length has an equal row."""
        for place in compress(count(), map(eq, self.held, other.held)):
            if self[place] == other[place]:
                yield place


def unfixed(marks: bytes | bytearray, span: range) -> Iterator[int]:
    """Places of a range that entries can be moved to one by one, in its order."""
    return compress(span, _of(marks, span).translate(_IS_UNFIXED))


def passed(marks: bytes | bytearray, span: range) -> Sequence[int]:
    """Places of an ascending range that entries flow through."""
    there = _of(marks, span).translate(_IS_PASSED)
    return span if there.find(0) < 0 else list(compress(span, there))


def _of(marks: bytes | bytearray, span: range) -> bytes | bytearray:
    if span.step < 0:
        return marks[span.stop + 1 : span.start + 1][::-1]
    return marks[span.start : span.stop]


def _where(marks: bytes, table: bytes) -> Iterator[int]:
    """Places of the few marks that a table makes 1 of."""
    there = marks.translate(table)
    place = there.find(1)
    while place >= 0:
        yield place
        place = there.find(1, place + 1)
