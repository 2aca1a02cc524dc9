"""An alignment while one step changes it: copied once, then changed in place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from typing import TypeVar

from s2p_tui.core.alignment import Alignment
from s2p_tui.core.rows import Row, Rows, held_and_mark, passed, row_from, unfixed

_T = TypeVar("_T")


class Draft:
    """Rows and bench to change.

    Attributes:
        bench: The keys that no row uses, once `settle_bench` was called.
    """

    def __init__(self, alignment: Alignment) -> None:
        rows = alignment.rows
        self._from = alignment
        self._held = list(rows.held)
        self._marks = bytearray(rows.marks)
        # As in `Rows`, none at all while no row has one.
        self._whys = list(rows.whys)
        self.bench = alignment.bench
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
        if start >= stop and self.bench == self._from.bench:
            return self._from, range(0)
        if start >= stop:
            end = len(before)
            return Alignment(before, self.bench).hand_on(self._uses), range(end, end)
        after = Rows(tuple(self._held), bytes(self._marks), tuple(self._whys))
        return Alignment(after, self.bench).hand_on(self._uses), range(start, stop)


def _put_all(column: MutableSequence[_T], positions: Sequence[int], new: Sequence[_T]) -> None:
    start, stop = positions[0], positions[-1] + 1
    if stop - start == len(positions):
        column[start:stop] = new
    else:
        for position, value in zip(positions, new, strict=True):
            column[position] = value
