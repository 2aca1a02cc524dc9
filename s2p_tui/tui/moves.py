"""What a key amounts to: an edit and where the cursor goes, or the reason why not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from s2p_tui.core.alignment import Row
from s2p_tui.core.edits import (
    CloseGap,
    Edit,
    MoveBlock,
    MoveTo,
    OpenGap,
    PlaceFromBench,
    SendToBench,
    Several,
    Swap,
    Trust,
    apply,
)
from s2p_tui.core.fit import Fit
from s2p_tui.core.transform import Take
from s2p_tui.tui.text import inert
from s2p_tui.tui.words import many, name_at

if TYPE_CHECKING:
    from s2p_tui.session import Session
    from s2p_tui.tui.cursor import Cursor

Step = Literal[1, -1]


class ImpossibleError(Exception):
    """An edit that makes no sense where the cursor is; its text says why."""


@dataclass(frozen=True, slots=True)
class Move:
    """An edit to make, and what the screen does after it.

    Attributes:
        edit: The edit.
        position: Where the cursor goes.
        marks: The rows that are marked afterwards; None leaves the marks alone.
        said: What was done, in words.
    """

    edit: Edit
    position: int
    marks: frozenset[int] | None = None
    said: str = ""


def shift(session: Session, cursor: Cursor, step: Step) -> Move:
    """Move the entry under the cursor, or the marked block, one row up or down."""
    _hands_free(cursor)
    chosen = cursor.chosen()
    if any(session.row(position) is None for position in chosen):
        raise ImpossibleError("A benched entry has no neighbours: pick it up with m and place it.")
    rows = session.alignment.rows
    runs = list(_runs(chosen))
    moves = [(start, stop, _block_after(rows, start, stop, step)) for start, stop in runs]
    if not any(after for _, _, after in moves):
        raise ImpossibleError(f"This stays where it is: {rows[chosen[0]].why}.")
    if any(after == _EDGE for *_, after in moves):
        which = "last" if step > 0 else "first"
        raise ImpossibleError(f"It is in the {which} row already.")
    moves = [move for move in moves if move[2]]
    edits = [MoveBlock(start, stop, step) for start, stop, _ in moves[::-step]]
    after = [position for *_, block in moves for position in block]
    landed = _follow(cursor.position, moves, after)
    marks = frozenset(after) if cursor.marked() else None
    return Move(_one(edits), landed, marks)


_EDGE: tuple[int, ...] = (-1,)


def _block_after(rows: tuple[Row, ...], start: int, stop: int, step: Step) -> tuple[int, ...]:
    """Where a block lands when it is moved by one; `_EDGE` if there is no room, () if it cannot."""
    block = [i for i in range(start, stop) if not rows[i].fixed]
    if not block:
        return ()
    beyond = range(stop, len(rows)) if step > 0 else range(start - 1, -1, -1)
    other = next((i for i in beyond if not rows[i].fixed), None)
    if other is None:
        return _EDGE
    places = sorted((*block, other))
    return tuple(places[1:] if step > 0 else places[:-1])


def _follow(position: int, moves: list[tuple[int, int, tuple[int, ...]]], after: list[int]) -> int:
    for start, stop, block in moves:
        if start <= position < stop:
            return block[min(position - start, len(block) - 1)]
    return after[0]


def _runs(positions: Iterable[int]) -> Iterable[tuple[int, int]]:
    """Ascending positions as `(start, stop)` of neighbours."""
    start = stop = -1
    for position in positions:
        if position != stop:
            if start >= 0:
                yield start, stop
            start = position
        stop = position + 1
    if start >= 0:
        yield start, stop


def _one(edits: Sequence[Edit]) -> Edit:
    return edits[0] if len(edits) == 1 else Several(tuple(edits))


def pick_up(session: Session, cursor: Cursor) -> None:
    """Take the entry under the cursor in hand."""
    row = session.row(cursor.position)
    if row is not None and not row.keys:
        raise ImpossibleError("There is nothing to pick up: no entry feeds this leaf.")
    if cursor.position >= len(session):
        raise ImpossibleError("There is nothing here.")
    cursor.picked = cursor.position


def place(session: Session, cursor: Cursor, *, swap: bool) -> Move:
    """Put the picked-up entry at the typed row, or at the one under the cursor."""
    picked = cursor.picked
    if picked is None:
        raise ImpossibleError("Pick an entry up first, with m.")
    to = _typed_row(session, cursor)
    said = f"{'Swapped' if swap else 'Placed'} at row {to + 1}."
    key = session.benched(picked)
    row = session.row(to)
    if row is None:
        if key is not None:
            raise ImpossibleError("It is on the bench already: go to a row.")
        return Move(SendToBench((picked,)), picked, said="Sent to the bench.")
    if row.fixed:
        way_out = " If it should, press s on it." if row.gap else ""
        raise ImpossibleError(f"Row {to + 1} takes no entry: {row.why}.{way_out}")
    if key is not None:
        return Move(PlaceFromBench(key, to, shift=not swap), to, said=said)
    if picked == to:
        raise ImpossibleError("It is here already: go to another row, or press Esc.")
    return Move(Swap(picked, to) if swap else MoveTo(picked, to), to, said=said)


def _typed_row(session: Session, cursor: Cursor) -> int:
    typed = cursor.typed_position
    if typed is None:
        return cursor.position
    count = len(session.alignment.rows)
    if not 0 <= typed < count:
        raise ImpossibleError(f"There is no row {typed + 1:,}: rows go from 1 to {count:,}.")
    return typed


def toggle_gap(session: Session, cursor: Cursor) -> Move:
    """Put gaps in the chosen rows, or take them away if all of them are gaps."""
    _hands_free(cursor)
    rows = [(position, session.row(position)) for position in cursor.chosen()]
    if any(row is None for _, row in rows):
        raise ImpossibleError("A gap belongs to a leaf; this entry is on the bench.")
    for position, row in rows:
        if row is not None and row.fixed and not row.gap:
            raise ImpossibleError(f"Row {position + 1} is filled by its layer's rule: {row.why}.")
    gaps = [position for position, row in rows if row is not None and row.gap]
    if len(gaps) == len(rows):
        closed = _one([CloseGap(position) for position in gaps])
        return Move(closed, cursor.position, said=_flowed(session, closed, "up"))
    opened = _one([OpenGap(position) for position, row in rows if row and not row.gap])
    return Move(opened, cursor.position, said=_flowed(session, opened, "down"))


def _flowed(session: Session, edit: Edit, way: str) -> str:
    """How far the entries below flowed, and which fell to the bench or came from it."""
    before, after = session.alignment, apply(session.alignment, edit)
    pairs = zip(before.rows, after.rows, strict=True)
    moved = sum(1 for old, new in pairs if old is not new and new.source is not None)
    fell = [key for key in after.bench if key not in before.bench]
    said = f"{many(moved, 'entry', 'entries')} moved {way}" if moved else "Nothing else moved"
    return f"{said}; {inert(', '.join(fell))} went to the bench." if fell else f"{said}."


def to_bench(session: Session, cursor: Cursor) -> Move:
    """Send the chosen rows' entries, or the picked-up one, to the bench."""
    chosen = cursor.chosen() if cursor.picked is None else [cursor.picked]
    rows = [(position, session.row(position)) for position in chosen]
    full = tuple(position for position, row in rows if row is not None and row.keys)
    if not full:
        if all(row is None for _, row in rows):
            raise ImpossibleError("It is on the bench already.")
        raise ImpossibleError("There is nothing to send to the bench: no entry feeds this leaf.")
    count = len(full)
    said = "Sent to the bench." if count == 1 else f"Sent {count:,} entries to the bench."
    if any(session.alignment.rows[row].source != Take(name_at(session, row)) for row in full):
        said = f"Emptied {many(count, 'row')}."
    return Move(SendToBench(full), cursor.position, frozenset(), said)


def toggle_trust(session: Session, cursor: Cursor) -> Move:
    """Trust the doubtful rows among the chosen; take the trust back if all of them have it."""
    _hands_free(cursor)
    doubtful: list[tuple[int, Row]] = []
    for position in cursor.chosen():
        row, verdict = session.row(position), session.verdict(position)
        if row is not None and verdict is not None and verdict.fit is Fit.DOUBTFUL:
            doubtful.append((position, row))
    if not doubtful:
        verdict = session.verdict(cursor.position)
        what = f"this one is {verdict.fit}" if verdict is not None else "this is a benched entry"
        raise ImpossibleError(f"Only a doubtful row can be trusted; {what}.")
    trusted = not all(row.trusted for _, row in doubtful)
    said = "Trusted: it no longer stands in the way." if trusted else "No longer trusted."
    edit = Trust(tuple(position for position, _ in doubtful), trusted)
    return Move(edit, cursor.position, said=said)


def jump(session: Session, cursor: Cursor) -> int:
    """The position of the typed row."""
    return _typed_row(session, cursor)


def _hands_free(cursor: Cursor) -> None:
    if cursor.picked is not None:
        raise ImpossibleError("Put the picked-up entry down first: Enter, x or Esc.")
