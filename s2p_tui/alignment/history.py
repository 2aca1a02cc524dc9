"""Undo and redo: the alignments before and after each edit, sharing what did not change."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from msgspec import Struct

from s2p_tui.alignment.alignment import Alignment, Rows
from s2p_tui.alignment.edits import Edit, MoveBlock, Several, applied


class Change(Struct, frozen=True):
    """The rows an edit touched: from `start` on there were `before` and now are `after`.

    These are more than the `changed` ones where sharing all rows takes less than copying most.
    """

    edit: Edit
    changed: range
    start: int
    before: Rows
    after: Rows
    bench_before: tuple[str, ...]
    bench_after: tuple[str, ...]
    accepted_before: frozenset[str]
    accepted_after: frozenset[str]


@dataclass(slots=True, eq=False)
class History:
    """The edits made so far and those undone. Memory grows with rows touched, not with rows."""

    _done: list[Change] = field(default_factory=list[Change], init=False)
    _undone: list[Change] = field(default_factory=list[Change], init=False)
    _tried: tuple[Alignment, Edit, tuple[Alignment, range]] | None = field(default=None, init=False)

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

    @property
    def undo_goes_on(self) -> bool:
        """True if the last edit and the one before it are one move, made row by row."""
        return len(self._done) > 1 and _is_one_move(*self._done[-2:])

    @property
    def redo_goes_on(self) -> bool:
        """True if the next edit to make again goes on with the move that the last one made."""
        return bool(self._done and self._undone) and _is_one_move(self._done[-1], self._undone[-1])

    def make(self, alignment: Alignment, edit: Edit) -> tuple[Alignment, range]:
        """Apply an edit and remember it; what was undone is forgotten.

        Returns:
            The new alignment and the rows that may have changed (empty if nothing did).
        """
        new, changed = self._applied(alignment, edit)
        self._tried = None
        if new is alignment:
            return alignment, range(0)
        start, before, after = 0, alignment.rows, new.rows
        if len(changed) < len(before) // 2:
            start = changed.start
            before, after = before.copied(changed), after.copied(changed)
        benches = alignment.bench, new.bench, alignment.accepted, new.accepted
        self._done.append(Change(edit, changed, start, before, after, *benches))
        self._undone.clear()
        return new, changed

    def preview(self, alignment: Alignment, edit: Edit) -> Alignment:
        """Return the alignment after an edit; `make` takes it over if it makes that edit next."""
        return self._applied(alignment, edit)[0]

    def _applied(self, alignment: Alignment, edit: Edit) -> tuple[Alignment, range]:
        tried = self._tried
        if tried is None or tried[0] is not alignment or tried[1] != edit:
            tried = self._tried = alignment, edit, applied(alignment, edit)
        return tried[2]

    def undo(self, alignment: Alignment) -> tuple[Alignment, range]:
        """Take the last edit back; the same alignment and no rows when there is none."""
        if not self._done:
            return alignment, range(0)
        change = self._done.pop()
        self._undone.append(change)
        return _replaced(
            alignment, change, change.before, change.bench_before, change.accepted_before
        )

    def redo(self, alignment: Alignment) -> tuple[Alignment, range]:
        """Make the last undone edit again; the same alignment and no rows when there is none."""
        if not self._undone:
            return alignment, range(0)
        change = self._undone.pop()
        self._done.append(change)
        return _replaced(alignment, change, change.after, change.bench_after, change.accepted_after)


def _is_one_move(first: Change, second: Change) -> bool:
    """Return True if the second edit moves on what the first one moved, the same way."""
    one, other = _first_move(first.edit), _first_move(second.edit)
    if one is None or other is None or type(first.edit) is not type(second.edit):
        return False
    size = one.stop - one.start
    if other.stop - other.start != size or (one.steps > 0) is not (other.steps > 0):
        return False
    if isinstance(first.edit, Several):
        # What goes along makes the changed rows more than the block's.
        return other.start == one.start + one.steps
    changed = first.changed
    return other.start == (changed.stop - size if one.steps > 0 else changed.start)


def _first_move(edit: Edit) -> MoveBlock | None:
    if isinstance(edit, Several) and all(isinstance(one, MoveBlock) for one in edit.edits):
        edit = edit.edits[0]
    return edit if isinstance(edit, MoveBlock) else None


def _replaced(
    alignment: Alignment,
    change: Change,
    rows: Rows,
    bench: tuple[str, ...],
    accepted: frozenset[str],
) -> tuple[Alignment, range]:
    rows = alignment.rows.replaced(change.start, rows)
    return replace(alignment, rows=rows, bench=bench, accepted=accepted), change.changed
