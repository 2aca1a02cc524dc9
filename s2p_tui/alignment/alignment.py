"""Which entries feed which leaf: one row per leaf.

Edits (`s2p_tui.alignment.edits`) make the next alignment from one; nothing else does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field
from itertools import compress, count, filterfalse
from operator import eq, ne
from typing import Literal, TypeVar, get_args, overload

from s2p_tui.alignment.layer_rules import constant_for
from s2p_tui.alignment.skeleton import Skeleton
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import Expr, Take, keys_of

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


_MOST_DIFFERING = 500


class Uses:
    """Rows per key: a large table that alignments share, and a small one of what differs from it.

    Neither is ever changed, so an alignment keeps its own through every edit and undo.
    """

    __slots__ = ("_base", "_differing")

    def __init__(self, base: dict[str, int], differing: dict[str, int]) -> None:
        self._base = base
        self._differing = differing

    @classmethod
    def of(cls, rows: Rows) -> Uses:
        """Count them all."""
        return cls(Counter(rows.keys), {})

    def count(self, key: str) -> int:
        """Rows that take the entry."""
        differing = self._differing.get(key)
        return self._base.get(key, 0) if differing is None else differing

    def after(self, lost: Iterable[str], gained: Iterable[str]) -> Uses:
        """The same once rows have lost and gained these keys, each as often as it is named."""
        changes = Counter(gained)
        changes.subtract(lost)
        differing = dict(self._differing)
        for key, change in changes.items():
            if change:
                differing[key] = self.count(key) + change
        if len(differing) <= _MOST_DIFFERING:
            return Uses(self._base, differing)
        return Uses({**self._base, **differing}, {})


@dataclass(frozen=True, slots=True)
class Alignment:
    """One row per leaf, in leaf order, and the keys no row uses, in state-dict order or as sent.

    Attributes:
        rows: In leaf order.
        bench: The keys no row uses.
        accepted: Keys of entries that the user accepted as unused, wholly or in part.
    """

    rows: Rows
    bench: tuple[str, ...] = ()
    accepted: frozenset[str] = frozenset()
    _uses: Uses | None = field(default=None, init=False, compare=False, repr=False)

    @classmethod
    def of(cls, rows: Iterable[Row], bench: Sequence[str] = ()) -> Alignment:
        """An alignment of these rows."""
        return cls(Rows.of(rows), tuple(bench))

    @property
    def uses(self) -> Uses:
        """How many rows take each entry; counted once, then handed on from edit to edit."""
        if self._uses is None:
            object.__setattr__(self, "_uses", Uses.of(self.rows))
        assert self._uses is not None
        return self._uses

    def hand_on(self, uses: Uses | None) -> Alignment:
        """Be told what is known of `uses` already; returns itself."""
        object.__setattr__(self, "_uses", uses)
        return self

    @property
    def known_uses(self) -> Uses | None:
        """`uses` if they were counted or handed on."""
        return self._uses


def in_order(state_dict: StateDict, skeleton: Skeleton) -> Alignment:
    """Strictly by order: the n-th entry feeds the n-th array leaf. Reads no tensor data.

    Leaves no entry belongs to are skipped: Python scalars are gaps, and what a layer's rule fills
    is filled. Entries left over go to the bench; leaves left over stay empty.
    """
    fixed: dict[int, Row] = {}
    for place, leaf in enumerate(skeleton):
        if leaf.owner is not None and (constant := constant_for(leaf)):
            source, why = constant
            fixed[place] = Row(source, by="rule", fixed=True, why=why)
        elif leaf.kind == "scalar":
            why = "a Python scalar, which no entry of the order belongs to"
            fixed[place] = Row(gap=True, by="rule", fixed=True, why=why)
    keys = [entry.key for entry in state_dict]
    room = len(skeleton) - len(fixed)
    return Alignment(Rows.of_keys(keys[:room], len(skeleton), fixed), tuple(keys[room:]))


_T = TypeVar("_T")


class Draft:
    """Rows and bench to change.

    Attributes:
        bench: The keys that no row uses, once `settle_bench` was called.
        accepted: The keys that are accepted as unused.
    """

    def __init__(self, alignment: Alignment) -> None:
        rows = alignment.rows
        self._from = alignment
        self._held = list(rows.held)
        self._marks = bytearray(rows.marks)
        # As in `Rows`, none at all while no row has one.
        self._whys = list(rows.whys)
        self.bench = alignment.bench
        self.accepted = alignment.accepted
        self._low, self._high = len(rows), 0
        self._uses = alignment.known_uses

    def __len__(self) -> int:
        return len(self._held)

    def __getitem__(self, position: int) -> Row:
        why = self._whys[position] if self._whys else ""
        return row_from(self._held[position], self._marks[position], why)

    def pick(self, positions: Sequence[int]) -> Rows:
        """The rows at some positions, in that order."""
        held, marks, whys = self._held, self._marks, self._whys
        if isinstance(positions, range):
            there = slice(positions.start, positions.stop)
            if positions.start >= self._high or positions.stop <= self._low:
                return self._from.rows[there]
            return Rows(tuple(held[there]), bytes(marks[there]), whys[there])
        return Rows(
            tuple(map(held.__getitem__, positions)),
            bytes(map(marks.__getitem__, positions)),
            whys and tuple(map(whys.__getitem__, positions)),
        )

    def passed(self, span: range) -> Sequence[int]:
        """Positions of an ascending range that entries flow through."""
        return passed(self._marks, span)

    def unfixed(self, span: range) -> Iterator[int]:
        """Positions of a range that entries can be moved to one by one, in its order."""
        return unfixed(self._marks, span)

    def full(self, positions: Iterable[int]) -> list[int]:
        """Those of some positions whose rows take something, in their order."""
        return [position for position in positions if self._held[position] is not None]

    def takers(self, keys: set[str]) -> list[int]:
        """Positions of the rows that take one of these entries."""
        taken = self.pick(range(len(self))).taken()
        return list(dict.fromkeys(position for position, key in taken if key in keys))

    def put(self, position: int, row: Row) -> None:
        """Replace one row."""
        self._held[position], self._marks[position] = held_and_mark(row)
        if row.why and not self._whys:
            self._whys = [""] * len(self)
        if self._whys:
            self._whys[position] = row.why
        self._touch(position, position + 1)

    def put_all(self, positions: Sequence[int], rows: Rows) -> None:
        """Replace rows at ascending positions."""
        if not positions:
            return
        _put_all(self._held, positions, rows.held)
        _put_all(self._marks, positions, rows.marks)
        if rows.whys and not self._whys:
            self._whys = [""] * len(self)
        if self._whys:
            _put_all(self._whys, positions, rows.reasons)
        self._touch(positions[0], positions[-1] + 1)

    def _touch(self, start: int, stop: int) -> None:
        self._low, self._high = min(self._low, start), max(self._high, stop)

    def settle_bench(
        self, candidates: Iterable[str], lost: Iterable[str], gained: Iterable[str] = ()
    ) -> None:
        """Bench those candidates that no row takes now.

        Args:
            candidates: Keys in the order they would have on the bench.
            lost: Keys of contents that rows gave up, each as often as it was taken.
            gained: Keys of contents that came to rows.
        """
        came = tuple(gained)
        uses = (self._uses or self._from.uses).after(lost, came)
        self._uses = uses
        # A bench may be very long, and what was on it is still unused unless a row gained it.
        unused = set(self.bench).difference(came)
        self.bench = tuple(
            key for key in dict.fromkeys(candidates) if key in unused or not uses.count(key)
        )

    def done(self) -> tuple[Alignment, range]:
        """The new alignment and the rows between the first and the last that differ.

        The same alignment and no rows if nothing differs.
        """
        before = self._from.rows
        start, stop = self._low, self._high
        while start < stop and before[start] == self[start]:
            start += 1
        while stop > start and before[stop - 1] == self[stop - 1]:
            stop -= 1
        kept = self.bench == self._from.bench and self.accepted == self._from.accepted
        if start >= stop and kept:
            return self._from, range(0)
        if start >= stop:
            end = len(before)
            after = Alignment(before, self.bench, self.accepted)
            return after.hand_on(self._uses), range(end, end)
        rows = Rows(tuple(self._held), bytes(self._marks), tuple(self._whys))
        after = Alignment(rows, self.bench, self.accepted)
        return after.hand_on(self._uses), range(start, stop)


def _put_all(column: MutableSequence[_T], positions: Sequence[int], new: Sequence[_T]) -> None:
    start, stop = positions[0], positions[-1] + 1
    if stop - start == len(positions):
        column[start:stop] = new
    else:
        for position, value in zip(positions, new, strict=True):
            column[position] = value
