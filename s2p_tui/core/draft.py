"""An alignment while one step changes it: copied once, then changed in place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from s2p_tui.core.alignment import Alignment, Row


class Draft:
    """Rows and bench to change.

    Attributes:
        rows: Changed through `put`, or directly with `touch` told of it.
        bench: The keys that no row uses, once `settle_bench` was called.
    """

    def __init__(self, alignment: Alignment) -> None:
        self._from = alignment
        self.rows = list(alignment.rows)
        self.bench = alignment.bench
        self._low, self._high = len(self.rows), 0
        self._uses = alignment.known_uses

    def touch(self, start: int, stop: int) -> None:
        """Remember that rows of `start:stop` may have changed."""
        self._low, self._high = min(self._low, start), max(self._high, stop)

    def put(self, position: int, row: Row) -> None:
        """Replace one row."""
        self.rows[position] = row
        self.touch(position, position + 1)

    def put_all(self, positions: Sequence[int], rows: Iterable[Row]) -> None:
        """Replace rows at ascending positions."""
        if not positions:
            return
        mine, start, stop = self.rows, positions[0], positions[-1] + 1
        if stop - start == len(positions):
            mine[start:stop] = rows
        else:
            for position, row in zip(positions, rows, strict=True):
                mine[position] = row
        self.touch(start, stop)

    def settle_bench(
        self, candidates: Iterable[str], lost: Iterable[str], gained: Iterable[str] = ()
    ) -> None:
        """Bench those candidates that no row takes now.

        Args:
            candidates: Keys in the order they would have on the bench.
            lost: Keys of contents that rows gave up, each as often as it was taken.
            gained: Keys of contents that came to rows.
        """
        uses = (self._uses or self._from.uses).after(lost, gained)
        self._uses = uses
        self.bench = tuple(key for key in dict.fromkeys(candidates) if not uses.count(key))

    def done(self) -> tuple[Alignment, range]:
        """The new alignment and the rows between the first and the last that differ.

        The same alignment and no rows if nothing differs.
        """
        before, after = self._from.rows, self.rows
        start, stop = self._low, self._high
        while start < stop and _same(before[start], after[start]):
            after[start] = before[start]
            start += 1
        while stop > start and _same(before[stop - 1], after[stop - 1]):
            stop -= 1
            after[stop] = before[stop]
        if start >= stop and self.bench == self._from.bench:
            return self._from, range(0)
        if start >= stop:
            end = len(before)
            return Alignment(before, self.bench).hand_on(self._uses), range(end, end)
        return Alignment(tuple(after), self.bench).hand_on(self._uses), range(start, stop)


def _same(old: Row, new: Row) -> bool:
    return old is new or old == new
