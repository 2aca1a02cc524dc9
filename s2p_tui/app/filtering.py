"""A view of the list that shows some rows alone: those that a search found."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from s2p_tui.app.folding import Fold, Folding


class Filtering:
    """Shows each of some indices on a line of its own; nothing in it is folded.

    Args:
        found: The indices to show.
        rows: How many rows there are before the bench.
        unfiltered: What was shown before, and will be again.
    """

    def __init__(self, found: Iterable[int], rows: int, unfiltered: Folding) -> None:
        self.unfiltered = unfiltered
        self._rows = rows
        self._shown = sorted(found)

    @property
    def lines(self) -> int:
        """The number of lines."""
        return len(self._shown)

    def set_bench(self, count: int) -> None:
        """Set the number of benched entries; those that are gone are not shown."""
        self.unfiltered.set_bench(count)
        del self._shown[bisect_left(self._shown, self._rows + count) :]

    def show(self, found: Iterable[int]) -> None:
        """Show what is found now, and of the rows those that were; benched entries have moved."""
        kept = self._shown[: bisect_left(self._shown, self._rows)]
        self._shown = sorted({*kept, *found})

    def reveal(self, index: int) -> range:
        """Show an index too; return the indices whose lines changed, empty if it was shown."""
        if self.is_shown(index):
            return range(0)
        self._shown.insert(bisect_left(self._shown, index), index)
        return range(index, index + 1)

    def is_shown(self, index: int) -> bool:
        """Return True if an index has a line."""
        line = bisect_left(self._shown, index)
        return line < len(self._shown) and self._shown[line] == index

    def span(self, index: int) -> range:
        """The indices that are shown on one line with this one."""
        return range(index, index + 1)

    def above(self, index: int) -> int | None:
        """The index in the line above; None where there is none."""
        line = bisect_left(self._shown, index)
        return self._shown[line - 1] if line else None

    def line_of(self, index: int) -> int:
        """The line that shows an index, or the next one that is shown."""
        return min(bisect_left(self._shown, index), max(0, len(self._shown) - 1))

    def index_of(self, line: int) -> int:
        """The index that a line shows.

        Raises:
            IndexError: There is no such line.
        """
        if not 0 <= line < len(self._shown):
            raise IndexError(line)
        return self._shown[line]

    def shut_at(self, index: int) -> Fold | None:
        """None: nothing is folded."""
        del index
        return None

    def block_like(self, fold: Fold, index: int) -> Fold | None:
        """The block around a row that is of the same list as a single block."""
        return self.unfiltered.block_like(fold, index)

    def unfold(self, index: int) -> range:
        """Return an empty range: there is nothing to unfold."""
        del index
        return range(0)

    def fold(self, index: int) -> range:
        """Return an empty range: nothing folds while rows are hidden."""
        del index
        return range(0)

    def fold_all(self) -> None:
        """Do nothing."""

    def unfold_all(self) -> None:
        """Do nothing."""
