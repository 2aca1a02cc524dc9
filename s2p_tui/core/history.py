"""Undo and redo: the alignments before and after each edit, sharing what did not change."""

from __future__ import annotations

from dataclasses import dataclass

from s2p_tui.core.alignment import Alignment, Row
from s2p_tui.core.edits import Edit, apply


@dataclass(frozen=True, slots=True)
class Change:
    """The rows an edit touched: `start:start + len(before)` held `before` and now hold `after`."""

    edit: Edit
    start: int
    before: tuple[Row, ...]
    after: tuple[Row, ...]
    bench_before: tuple[str, ...]
    bench_after: tuple[str, ...]


class History:
    """The edits made so far and those undone. Memory grows with rows touched, not with rows."""

    def __init__(self) -> None:
        self._done: list[Change] = []
        self._undone: list[Change] = []

    def __len__(self) -> int:
        return len(self._done)

    @property
    def edits(self) -> tuple[Edit, ...]:
        """All edits in force, oldest first."""
        return tuple(change.edit for change in self._done)

    @property
    def undone(self) -> tuple[Edit, ...]:
        """All edits that can be made again, the next one first."""
        return tuple(change.edit for change in reversed(self._undone))

    def make(self, alignment: Alignment, edit: Edit) -> tuple[Alignment, range]:
        """Apply an edit and remember it; what was undone is forgotten.

        Returns:
            The new alignment and the rows that may have changed (empty if nothing did).
        """
        new = apply(alignment, edit)
        if new is alignment:
            return alignment, range(0)
        change = _change(edit, alignment, new)
        self._done.append(change)
        self._undone.clear()
        return _replaced(alignment, change, change.after, change.bench_after)

    def undo(self, alignment: Alignment) -> tuple[Alignment, range]:
        """Take the last edit back; the same alignment and no rows when there is none."""
        if not self._done:
            return alignment, range(0)
        change = self._done.pop()
        self._undone.append(change)
        return _replaced(alignment, change, change.before, change.bench_before)

    def redo(self, alignment: Alignment) -> tuple[Alignment, range]:
        """Make the last undone edit again; the same alignment and no rows when there is none."""
        if not self._undone:
            return alignment, range(0)
        change = self._undone.pop()
        self._done.append(change)
        return _replaced(alignment, change, change.after, change.bench_after)


def _change(edit: Edit, old: Alignment, new: Alignment) -> Change:
    start, stop = 0, len(old.rows)
    while start < stop and _same(old.rows[start], new.rows[start]):
        start += 1
    while stop > start and _same(old.rows[stop - 1], new.rows[stop - 1]):
        stop -= 1
    return Change(edit, start, old.rows[start:stop], new.rows[start:stop], old.bench, new.bench)


def _same(old: Row, new: Row) -> bool:
    return old is new or old == new


def _replaced(
    alignment: Alignment, change: Change, rows: tuple[Row, ...], bench: tuple[str, ...]
) -> tuple[Alignment, range]:
    stop = change.start + len(rows)
    merged = (*alignment.rows[: change.start], *rows, *alignment.rows[stop:])
    return Alignment(merged, bench), range(change.start, stop)
