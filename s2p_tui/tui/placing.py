"""Picking an entry or a folded block up, and putting it down elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s2p_tui.core.edits import MoveBlock, MoveTo, PlaceFromBench, Swap
from s2p_tui.tui.amounts import many
from s2p_tui.tui.gaps_and_bench import empty
from s2p_tui.tui.moves import EDGE, ImpossibleError, Move, Step, block_after, landed_block, one_edit

if TYPE_CHECKING:
    from s2p_tui.session import Session
    from s2p_tui.tui.cursor import Cursor


def pick_up(session: Session, cursor: Cursor) -> None:
    """Take the entry under the cursor in hand."""
    row = session.row(cursor.position)
    here = cursor.here
    if row is not None and not any(
        held.keys for held in session.alignment.rows[here.start : here.stop]
    ):
        raise ImpossibleError("There is nothing to pick up: no entry feeds this leaf.")
    if cursor.position >= len(session):
        raise ImpossibleError("There is nothing here.")
    if row is None and cursor.is_block:
        raise ImpossibleError("The bench is folded: Tab unfolds it.")
    cursor.pick_up()


def place(session: Session, cursor: Cursor, *, swap: bool) -> Move:
    """Put what was picked up at the typed row, or at the one under the cursor."""
    picked = cursor.picked
    if picked is None:
        raise ImpossibleError("Pick an entry up first, with m.")
    to = typed_row(session, cursor)
    said = f"{'Swapped' if swap else 'Placed'} at row {to + 1}."
    key = session.benched(picked)
    row = session.row(to)
    if row is None:
        if key is not None:
            raise ImpossibleError("It is on the bench already: go to a row.")
        return empty(session, cursor.picked_span, picked)
    if to in cursor.picked_span:
        raise ImpossibleError("It is here already: go to another row, or press Esc.")
    if cursor.picked_rows > 1:
        return _swap_blocks(session, cursor, to) if swap else _place_block(session, cursor, to)
    if row.fixed:
        way_out = " If it should, press s on it." if row.gap else ""
        raise ImpossibleError(f"Row {to + 1} takes no entry: {row.why}.{way_out}")
    if key is not None:
        return Move(PlaceFromBench(key, to, shift=not swap), to, said=said, reveals=True)
    edit = Swap(picked, to) if swap else MoveTo(picked, to)
    return Move(edit, to, said=said, reveals=True)


def _place_block(session: Session, cursor: Cursor, to: int) -> Move:
    """A block's first row to a row; those between flow around it."""
    rows, picked = session.alignment.rows, cursor.picked_span
    step: Step = 1 if to > picked.start else -1
    stop = min(len(rows), to + len(picked))
    between = range(picked.stop, stop) if step > 0 else range(to, picked.start)
    steps = len(list(rows.unfixed(between)))
    after = block_after(rows, picked.start, picked.stop, step, steps) if steps else ()
    if not after or after == EDGE:
        raise ImpossibleError("It cannot go there: the rows between stay where they are.")
    edit = MoveBlock(picked.start, picked.stop, step * steps)
    return landed_block(cursor, edit, after, f"Placed from row {after[0] + 1} on.")


def _swap_blocks(session: Session, cursor: Cursor, to: int) -> Move:
    rows, picked = session.alignment.rows, cursor.picked_span
    there = cursor.line_at(to)
    first, second = list(rows.unfixed(picked)), list(rows.unfixed(there))
    if len(first) != len(second):
        raise ImpossibleError(
            f"{many(len(first), 'row')} and {many(len(second), 'row')} cannot be swapped: "
            "go to a folded block of the same size, or put it there with Enter."
        )
    swaps = [Swap(one, other) for one, other in zip(first, second, strict=True)]
    return Move(one_edit(swaps), there.start, said=f"Swapped {many(len(first), 'row')}.")


def typed_row(session: Session, cursor: Cursor) -> int:
    """The row whose number was typed; the cursor's own if none was.

    Raises:
        ImpossibleError: There is no such row.
    """
    typed = cursor.typed_position
    if typed is None:
        return cursor.position
    count = len(session.alignment.rows)
    if not 0 <= typed < count:
        raise ImpossibleError(f"There is no row {typed + 1:,}: rows go from 1 to {count:,}.")
    return typed
