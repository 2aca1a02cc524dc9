"""Taking entries out of rows, gaps, and trust in what is left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from s2p_tui.core.edits import CloseGap, OpenGap, SendToBench, Trust
from s2p_tui.core.rows import Row
from s2p_tui.core.verdict import Fit
from s2p_tui.tui.amounts import many
from s2p_tui.tui.moves import ImpossibleError, Move, Said, hands_free, one_edit
from s2p_tui.tui.text import inert

if TYPE_CHECKING:
    from s2p_tui.core.alignment import Alignment
    from s2p_tui.session import Session
    from s2p_tui.tui.cursor import Cursor

_MOST_NAMED = 8


def toggle_gap(session: Session, cursor: Cursor) -> Move:
    """Put gaps in the chosen rows, or take them away if all of them are gaps.

    In a folded block rows that take no entry anyway are left as they are.
    """
    hands_free(cursor)
    rows = [(position, session.row(position)) for position in cursor.chosen()]
    if any(row is None for _, row in rows):
        raise ImpossibleError("A gap belongs to a leaf; this entry is on the bench.")
    if cursor.is_block and not cursor.marked():
        rows = [(position, row) for position, row in rows if row and not row.fixed] or rows
    for position, row in rows:
        if row is not None and row.fixed and not row.gap:
            raise ImpossibleError(f"Row {position + 1} is filled by its layer's rule: {row.why}.")
    gaps = [position for position, row in rows if row is not None and row.gap]
    if len(gaps) == len(rows):
        closed = one_edit([CloseGap(position) for position in gaps])
        return Move(closed, cursor.position, said=_flowed("up", len(gaps)))
    new = [position for position, row in rows if row and not row.gap]
    opened = one_edit([OpenGap(position) for position in new])
    return Move(opened, cursor.position, said=_flowed("down", len(new)))


def _flowed(way: str, gaps: int) -> Said:
    """How far the entries below flowed, and which fell to the bench or came from it."""

    def said(before: Alignment, after: Alignment, changed: range) -> str:
        # Between two gaps there may be rows that nothing flowed through.
        rows, is_one = after.rows, gaps == 1
        moved = rows.count_flowing(changed) if is_one else rows.count_new(before.rows, changed)
        benched = set(before.bench)
        fell = [key for key in after.bench if key not in benched]
        words = f"{many(moved, 'entry', 'entries')} moved {way}" if moved else "Nothing else moved"
        return f"{words}; {_named(fell)} went to the bench." if fell else f"{words}."

    return said


def _named(keys: Sequence[str]) -> str:
    if len(keys) > _MOST_NAMED:
        return many(len(keys), "entry", "entries")
    return inert(", ".join(keys))


def to_bench(session: Session, cursor: Cursor) -> Move:
    """Send the chosen rows' entries, or those picked up, to the bench."""
    chosen = cursor.chosen() if cursor.picked is None else cursor.picked_span
    return empty(session, chosen, cursor.position)


def empty(session: Session, chosen: Sequence[int], position: int) -> Move:
    """Send what these rows take to the bench and leave the cursor at a position."""
    rows = session.alignment.rows
    here = [place for place in chosen if place < len(rows)]
    full = tuple(place for place in here if rows.takes_entry(place))
    if not full:
        if not here:
            raise ImpossibleError("It is on the bench already.")
        raise ImpossibleError("There is nothing to send to the bench: no entry feeds this leaf.")
    count = len(full)
    said = "Sent to the bench." if count == 1 else f"Sent {count:,} entries to the bench."
    if not all(isinstance(rows.held[place], str) for place in full):
        said = f"Emptied {many(count, 'row')}."
    return Move(SendToBench(full), position, frozenset(), said)


def toggle_trust(session: Session, cursor: Cursor) -> Move:
    """Trust the doubtful rows among the chosen; take the trust back if all of them have it."""
    hands_free(cursor)
    doubtful: list[tuple[int, Row]] = []
    for position in cursor.chosen():
        row = session.row(position)
        if row is not None and session.verdicts.fit(position) is Fit.DOUBTFUL:
            doubtful.append((position, row))
    if not doubtful:
        verdict = session.verdict(cursor.position)
        what = f"this one is {verdict.fit}" if verdict is not None else "this is a benched entry"
        what = "there is none here" if cursor.is_block else what
        raise ImpossibleError(f"Only a doubtful row can be trusted; {what}.")
    trusted = not all(row.trusted for _, row in doubtful)
    said = "Trusted: it no longer stands in the way." if trusted else "No longer trusted."
    if trusted and len(doubtful) > 1:
        said = f"Trusted {many(len(doubtful), 'row')}: they no longer stand in the way."
    edit = Trust(tuple(position for position, _ in doubtful), trusted)
    return Move(edit, cursor.position, said=said)
