"""Undo and redo: the alignments before and after each edit, sharing what did not change."""

from __future__ import annotations

from dataclasses import dataclass, field

from s2p_tui.alignment.alignment import Alignment, Rows, Uses
from s2p_tui.alignment.edits import Edit, applied


@dataclass(frozen=True, slots=True)
class Change:
    """The rows an edit touched: from `start` on there were `before` and now are `after`.

    These are more than the `changed` ones where sharing all rows takes less than copying most.

    What was known of the uses goes along, so that nothing is counted again after an undo.
    """

    edit: Edit
    changed: range
    start: int
    before: Rows
    after: Rows
    bench_before: tuple[str, ...]
    bench_after: tuple[str, ...]
    accepted_before: frozenset[str] = frozenset()
    accepted_after: frozenset[str] = frozenset()
    uses_before: Uses | None = field(default=None, compare=False, repr=False)
    uses_after: Uses | None = field(default=None, compare=False, repr=False)


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
        new, changed = applied(alignment, edit)
        if new is alignment:
            return alignment, range(0)
        start, before, after = 0, alignment.rows, new.rows
        if len(changed) < len(before) // 2:
            start, rows = changed.start, slice(changed.start, changed.stop)
            before, after = before[rows].lean(), after[rows].lean()
        uses = alignment.known_uses, new.known_uses
        self._done.append(
            Change(
                edit,
                changed,
                start,
                before,
                after,
                alignment.bench,
                new.bench,
                alignment.accepted,
                new.accepted,
                *uses,
            )
        )
        self._undone.clear()
        return new, changed

    def undo(self, alignment: Alignment) -> tuple[Alignment, range]:
        """Take the last edit back; the same alignment and no rows when there is none."""
        if not self._done:
            return alignment, range(0)
        change = self._done.pop()
        self._undone.append(change)
        rest = change.bench_before, change.accepted_before, change.uses_before
        return _replaced(alignment, change, change.before, *rest)

    def redo(self, alignment: Alignment) -> tuple[Alignment, range]:
        """Make the last undone edit again; the same alignment and no rows when there is none."""
        if not self._undone:
            return alignment, range(0)
        change = self._undone.pop()
        self._done.append(change)
        rest = change.bench_after, change.accepted_after, change.uses_after
        return _replaced(alignment, change, change.after, *rest)


def _replaced(
    alignment: Alignment,
    change: Change,
    rows: Rows,
    bench: tuple[str, ...],
    accepted: frozenset[str],
    uses: Uses | None,
) -> tuple[Alignment, range]:
    merged = alignment.rows.replaced(change.start, rows)
    return Alignment(merged, bench, accepted).hand_on(uses), change.changed
