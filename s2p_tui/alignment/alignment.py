"""The alignment: one row per leaf, with the entries that feed it.

Edits (`s2p_tui.alignment.edits`) make the next alignment from one; nothing else does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import overload

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from s2p_tui.alignment.layer_rules import RULED, constant_for
from s2p_tui.alignment.numbering import (
    BY_ORDER,
    GAP,
    MOVED,
    NOTHING,
    Author,
    Decision,
    Flags,
    Numbering,
    Numbers,
    are_in,
)
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import Expr, keys_of


class Row(Struct, frozen=True):
    """One leaf's part of an alignment. Exactly one of: a source, a gap, or nothing yet.

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
        """True if entries flow around the row instead of through it."""
        return self.gap or self.fixed

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the entries the row takes, each once."""
        return keys_of(self.source) if self.source is not None else ()


EMPTY = Row()


def numbers_of(row: Row, numbering: Numbering) -> tuple[int, int]:
    """Return the numbers of a row's source and of the decision about it.

    Raises:
        KeyError: It takes an entry that does not exist.
    """
    decision = numbering.decision(Decision(row.by, row.why, row.trusted, row.fixed))
    if row.source is None:
        return GAP if row.gap else NOTHING, decision
    return numbering.number(row.source), decision


_PIECE = 1024
_MOST_NEW = 64


class Earlier(Mapping[tuple[int, int], int]):
    """Numbers of decisions by leaf and source. It is never changed: `updated` returns another.

    Both then share all but the last few items: with a dict for every edit, 2,000 edits took 83 MB.
    """

    __slots__ = ("_new", "_old", "_size")

    def __init__(
        self, old: dict[tuple[int, int], int], new: dict[tuple[int, int], int] | None = None
    ) -> None:
        self._old, self._new = old, new or {}
        self._size = len(old) + sum(key not in old for key in self._new)

    def updated(self, items: Mapping[tuple[int, int], int]) -> Earlier:
        """Return the same with some items added, or in place of those that there are."""
        new = {**self._new, **items}
        return Earlier(self._old | new) if len(new) > _MOST_NEW else Earlier(self._old, new)

    def __getitem__(self, key: tuple[int, int]) -> int:
        return self._new[key] if key in self._new else self._old[key]

    def __contains__(self, key: object) -> bool:
        return key in self._new or key in self._old

    def __iter__(self) -> Iterator[tuple[int, int]]:
        yield from self._old
        yield from (key for key in self._new if key not in self._old)

    def __len__(self) -> int:
        return self._size


_NONE_EARLIER = Earlier({})


class Rows(Sequence[Row]):
    """Rows in leaf order as arrays that are never changed; a single one is made when asked for.

    A decision belongs to a leaf and a source: it holds while the leaf takes the source that was
    decided. A row whose source came there otherwise is undecided.

    Attributes:
        numbering: Gives the numbers.
        sources: What each takes: an entry, nothing, a gap or an expression.
        decided: The source that the last decision about each leaf is for.
        decisions: That decision.
        earlier: Decisions before it that hold again if their sources come back, by leaf and source;
            never changed either.
    """

    __slots__ = ("decided", "decisions", "earlier", "numbering", "sources")

    def __init__(
        self,
        numbering: Numbering,
        sources: Numbers,
        decided: Numbers,
        decisions: Numbers,
        earlier: Earlier = _NONE_EARLIER,
    ) -> None:
        self.numbering = numbering
        self.sources = sources
        self.decided = decided
        self.decisions = decisions
        self.earlier = earlier
        for column in (sources, decided, decisions):
            column.flags.writeable = False

    @classmethod
    def of(cls, rows: Iterable[Row], numbering: Numbering | None = None) -> Rows:
        """These rows as arrays; without a numbering they get one of their own.

        Raises:
            KeyError: A row takes an entry that does not exist.
        """
        numbering = numbering or Numbering()
        if isinstance(rows, Rows) and rows.numbering is numbering:
            return rows
        pairs = np.array([numbers_of(row, numbering) for row in rows], np.int32).reshape(-1, 2)
        sources = pairs[:, 0].copy()
        return cls(numbering, sources, sources, pairs[:, 1].copy())

    def __len__(self) -> int:
        return len(self.sources)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Row | Rows:
        if isinstance(index, slice):
            columns = self.sources[index], self.decided[index], self.decisions[index]
            return Rows(self.numbering, *columns)
        source = int(self.sources[index])
        if int(self.decided[index]) == source:
            return self._row(source, int(self.decisions[index]))
        return self._row(source, BY_ORDER if source == NOTHING else MOVED)

    def __iter__(self) -> Iterator[Row]:
        return map(self._row, self.sources.tolist(), self.in_force().tolist())

    def _row(self, source: int, decision: int) -> Row:
        by, why, trusted, fixed = self.numbering.decisions[decision]
        return Row(self.numbering.source(source), source == GAP, by, why, trusted, fixed)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rows) or len(self) != len(other):
            return NotImplemented if not isinstance(other, Rows) else False
        if self.numbering is not other.numbering:
            return all(map(Row.__eq__, self, other))
        return not np.any(self.differ(other))

    def __hash__(self) -> int:
        return hash(len(self))

    def __repr__(self) -> str:
        return f"Rows.of({tuple(self)!r})"

    def in_force(self, index: int | slice | NDArray[np.integer] = slice(None)) -> Numbers:
        """Return the decisions on rows, which are none where their sources came by moves."""
        sources, decisions = self.sources[index], self.decisions[index]
        if self.decided is self.sources:
            return decisions
        # With Python's numbers it would be of twice the size, and copied.
        undecided = np.where(sources == NOTHING, np.int32(BY_ORDER), np.int32(MOVED))
        return np.where(self.decided[index] == sources, decisions, undecided)

    def differ(self, other: Rows) -> Flags:
        """Return which rows differ from as many others of the same numbering."""
        found = self.sources != other.sources
        if self.decided is not other.decided or self.decisions is not other.decisions:
            redecided = (self.decided != other.decided) | (self.decisions != other.decisions)
            some = np.flatnonzero(redecided & ~found)
            found[some] = self.in_force(some) != other.in_force(some)
        return found

    def copied(self, span: range) -> Rows:
        """Return rows of a range that keep no others in memory."""
        there = slice(span.start, span.stop)
        sources, decided, decisions = (
            column[there].copy() for column in (self.sources, self.decided, self.decisions)
        )
        return Rows(self.numbering, sources, decided, decisions, self.earlier)

    def replaced(self, start: int, rows: Rows) -> Rows:
        """Return all rows, those from `start` on replaced by as many others."""
        if len(rows) == len(self):
            return rows
        there = slice(start, start + len(rows))
        sources, decided, decisions = (
            column.copy() for column in (self.sources, self.decided, self.decisions)
        )
        sources[there], decided[there] = rows.sources, rows.decided
        decisions[there] = rows.decisions
        return Rows(self.numbering, sources, decided, decisions, rows.earlier)

    def memory(self) -> tuple[list[tuple[int, Row]], list[tuple[int, Row]]]:
        """Return the decisions not in force: the last one on each leaf, and earlier ones."""
        apart = np.flatnonzero(self.decided != self.sources).tolist()
        last = [
            (index, self._row(int(self.decided[index]), int(self.decisions[index])))
            for index in apart
        ]
        return last, [(index, self._row(n, made)) for (index, n), made in self.earlier.items()]

    def remembering(
        self, last: Iterable[tuple[int, Row]], earlier: Iterable[tuple[int, Row]]
    ) -> Rows:
        """Return these rows with decisions that are not in force; inverse of `memory`.

        Raises:
            KeyError: A decision is about an entry that does not exist.
            IndexError: It is about a leaf that does not exist.
        """
        decided, decisions = self.decided.copy(), self.decisions.copy()
        for index, row in last:
            decided[index], decisions[index] = numbers_of(row, self.numbering)
        known: dict[tuple[int, int], int] = {}
        for index, row in earlier:
            number, decision = numbers_of(row, self.numbering)
            known[index, number] = decision
        return Rows(self.numbering, self.sources, decided, decisions, Earlier(known))

    def fixed(self, index: slice = slice(None)) -> Flags:
        """Return which rows are `fixed`."""
        return self.numbering.fixed(self.in_force(index))

    def takes_entry(self, index: int) -> bool:
        """Return True if a row takes an entry or parts: not a gap, nothing, or a constant."""
        return bool(self.numbering.keys_of(int(self.sources[index])))

    def gaps(self) -> list[int]:
        """Indexes of the gaps, except those that are fixed."""
        return np.flatnonzero((self.sources == GAP) & ~self.fixed()).tolist()

    def has_made(self, span: range) -> bool:
        """Return True if one of a range takes something else than a whole entry as it is."""
        return bool(np.any(self.sources[span.start : span.stop] < GAP))

    def made(self, span: range) -> Iterator[Expr]:
        """Sources of a range that are something else than a whole entry as it is."""
        sources = self.sources[span.start : span.stop]
        for number in sources[sources < GAP].tolist():
            source = self.numbering.source(number)
            assert source is not None
            yield source

    def unfixed(self, span: range) -> Iterator[int]:
        """Indexes of a range that entries can be moved to one by one, in its order."""
        if not span:
            return
        low, high = sorted((span[0], span[-1]))
        # In pieces, as most callers take the first few of very many.
        starts = range(low, high + 1, _PIECE)
        for start in starts if span.step > 0 else reversed(starts):
            there = slice(start, min(start + _PIECE, high + 1))
            found = (np.flatnonzero(~self.fixed(there)) + start).tolist()
            yield from found if span.step > 0 else reversed(found)

    def taken(self) -> Iterator[tuple[int, str]]:
        """The key of each entry a row takes, behind the row's index, row after row."""
        for index, number in enumerate(self.sources.tolist()):
            yield from zip(repeat(index), self.numbering.keys_of(number))

    @property
    def keys(self) -> list[str]:
        """Keys of the entries they take, row after row."""
        return [key for _, key in self.taken()]

    def taking(self, entries: Iterable[int]) -> list[int]:
        """Indexes of the rows that take one of these entries."""
        return np.flatnonzero(are_in(self.sources, self.numbering.reading(entries))).tolist()

    def take(self, key: str) -> bool:
        """Return True if a row takes a whole entry as it is."""
        return bool(np.any(self.sources == self.numbering.entry(key)))

    def emptied(self, before: Rows) -> list[int]:
        """Indexes of the rows that took something before and neither do now nor are gaps."""
        took = (before.sources != NOTHING) & (before.sources != GAP)
        return np.flatnonzero(took & (self.sources == NOTHING)).tolist()

    def displaced(self, before: Rows) -> Numbers:
        """Indexes of the rows that took something before and do not take that now."""
        took = (before.sources != NOTHING) & (before.sources != GAP)
        return np.flatnonzero(took & (self.sources != before.sources)).astype(np.int32)

    def count_flowing(self, span: range) -> int:
        """Number of rows of a range that take something that flows with what is above."""
        there = slice(span.start, span.stop)
        sources = self.sources[there]
        takes = (sources != NOTHING) & (sources != GAP)
        return int(np.count_nonzero(takes & ~self.fixed(there)))

    def count_new(self, before: Rows, span: range) -> int:
        """Number of rows of a range that take something that they did not take before."""
        there = slice(span.start, span.stop)
        sources = self.sources[there]
        takes = (sources != NOTHING) & (sources != GAP)
        return int(np.count_nonzero(takes & (sources != before.sources[there])))


@dataclass(frozen=True, slots=True)
class Alignment:
    """One row per leaf, in leaf order, and the keys no row uses, in state-dict order or as sent.

    Attributes:
        rows: The rows.
        bench: Keys no row uses.
        accepted: Keys on the bench that the user accepted as unused.
        layers: A number per leaf, equal for the leaves of one layer; None if that is not known.
    """

    rows: Rows
    bench: tuple[str, ...] = ()
    layers: Numbers | None = field(default=None, compare=False, repr=False)
    accepted: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        rows: Iterable[Row],
        bench: Sequence[str] = (),
        numbering: Numbering | None = None,
        layers: Numbers | None = None,
        accepted: Iterable[str] = (),
    ) -> Alignment:
        """An alignment of these rows; see `Rows.of`."""
        known = frozenset(accepted).intersection(bench) if accepted else frozenset[str]()
        return cls(Rows.of(rows, numbering), tuple(bench), layers, known)

    def says_as(self, other: Alignment) -> bool:
        """Return True if another one settles the same, whatever the order of the bench."""
        return self.accepted == other.accepted and self.rows == other.rows


def in_order(state_dict: StateDict, skeleton: Skeleton) -> Alignment:
    """Strictly by order: the n-th entry feeds the n-th array leaf. Reads no tensor data.

    Leaves no entry belongs to are skipped: Python scalars are gaps, and what a layer's rule fills
    is filled. Entries left over go to the bench; leaves left over stay empty.
    """
    numbering = state_dict.numbering
    sources = np.full(len(skeleton), NOTHING, np.int32)
    decisions = np.full(len(skeleton), BY_ORDER, np.int32)
    free = np.ones(len(skeleton), np.bool_)
    for index, leaf in enumerate(skeleton):
        row = fixed_row(leaf) if leaf.owner in RULED or leaf.kind == "scalar" else None
        if row is not None:
            free[index] = False
            sources[index], decisions[index] = numbers_of(row, numbering)
    room = np.flatnonzero(free)[: len(state_dict)]
    sources[room] = np.arange(len(room))
    rows = Rows(numbering, sources, sources, decisions)
    return Alignment(rows, tuple(numbering.keys[len(room) :]), skeleton.layers)


def fixed_row(leaf: Leaf) -> Row | None:
    """The row of a leaf that no entry belongs to; None if entries feed it."""
    if leaf.owner is not None and (constant := constant_for(leaf)):
        source, why = constant
        return Row(source, by="rule", fixed=True, why=why)
    if leaf.kind == "scalar":
        why = "a Python scalar is never in a state dict"
        return Row(gap=True, by="rule", fixed=True, why=why)
    return None
