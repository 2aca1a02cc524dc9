"""What a key amounts to: an edit and where the cursor goes, or the reason why not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

from s2p_tui.alignment.alignment import Row, Rows
from s2p_tui.alignment.edits import (
    AcceptUnused,
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
)
from s2p_tui.alignment.fit import Fit
from s2p_tui.app.text import inert, many

if TYPE_CHECKING:
    from s2p_tui.alignment.alignment import Alignment
    from s2p_tui.app.cursor import Cursor
    from s2p_tui.session.session import Session

Step = Literal[1, -1]
Said = Callable[["Alignment", "Alignment", range], str]
"""Words about an edit from the alignments before and after it and the rows that changed."""


_MOST_NAMED = 8


EDGE: tuple[int, ...] = (-1,)
"""Where a block lands that has no room to move."""


class ImpossibleError(Exception):
    """An edit that makes no sense where the cursor is; its text says why."""


@dataclass(frozen=True, slots=True)
class Move:
    """An edit to make, and what the screen does after it.

    Attributes:
        edit: The edit.
        position: Where the cursor goes.
        marks: The rows that are marked afterwards; None leaves the marks alone.
        said: What was done, in words; or what says it of the alignments before and after.
        reveals: Whether what hides that position is unfolded.
    """

    edit: Edit
    position: int
    marks: frozenset[int] | None = None
    said: str | Said = ""
    reveals: bool = False


def shift(session: Session, cursor: Cursor, step: Step) -> Move:
    """Move the entry under the cursor, or the marked rows, one row up or down.

    A folded block moves past its neighbour: by one row, or past all of another block.
    """
    hands_free(cursor)
    chosen = cursor.chosen()
    if any(session.row(position) is None for position in (chosen[0], chosen[-1])):
        raise ImpossibleError("A benched entry has no neighbours: pick it up with m and place it.")
    rows = session.alignment.rows
    is_block = cursor.is_block and not cursor.marked()
    steps = _steps_past_neighbour(session, cursor, step) if is_block else 1
    runs = list(_runs(chosen))
    moves = [(start, stop, block_after(rows, start, stop, step, steps)) for start, stop in runs]
    if not any(after for _, _, after in moves):
        raise ImpossibleError(f"This stays where it is: {rows[chosen[0]].why}.")
    if any(after == EDGE for *_, after in moves):
        which = "last" if step > 0 else "first"
        raise ImpossibleError(f"It is in the {which} row already.")
    moves = [move for move in moves if move[2]]
    edits = [MoveBlock(start, stop, step * steps) for start, stop, _ in moves[::-step]]
    after = [position for *_, block in moves for position in block]
    if is_block:
        return landed_block(cursor, one_edit(edits), after)
    landed = _follow(cursor.position, moves, after)
    marks = frozenset(after) if cursor.marked() else None
    return Move(one_edit(edits), landed, marks, reveals=True)


def _steps_past_neighbour(session: Session, cursor: Cursor, step: Step) -> int:
    here, rows = cursor.here, session.alignment.rows
    neighbour = here.stop if step > 0 else here.start - 1
    if not 0 <= neighbour < len(rows):
        return 1
    line = cursor.line_at(neighbour)
    if (folding := cursor.folding) is not None and (fold := folding.shut_at(here.start)):
        other = folding.block_like(fold, neighbour)
        line = range(other.start, other.stop) if other else line
    return max(1, len(list(rows.unfixed(line)))) if len(line) > 1 else 1


def landed_block(cursor: Cursor, edit: Edit, places: Sequence[int], said: str = "") -> Move:
    """A block's move: where it lands across folds they open and its rows are marked."""
    line = cursor.line_at(places[0])
    if places[-1] in line:
        return Move(edit, places[0], said=said)
    return Move(edit, places[0], frozenset(places), said, reveals=True)


def block_after(rows: Rows, start: int, stop: int, step: Step, steps: int = 1) -> tuple[int, ...]:
    """Where a block lands when it is moved; `EDGE` if there is no room, () if it cannot."""
    block = list(rows.unfixed(range(start, stop)))
    if not block:
        return ()
    beyond = range(stop, len(rows)) if step > 0 else range(start - 1, -1, -1)
    others = list(islice(rows.unfixed(beyond), steps))
    if not others:
        return EDGE
    places = sorted((*block, *others))
    return tuple(places[len(others) :] if step > 0 else places[: -len(others)])


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


def one_edit(edits: Sequence[Edit]) -> Edit:
    """Edits as a single step."""
    return edits[0] if len(edits) == 1 else Several(tuple(edits))


def hands_free(cursor: Cursor) -> None:
    """Make sure that nothing is picked up.

    Raises:
        ImpossibleError: Something is.
    """
    if cursor.picked is not None:
        raise ImpossibleError("Put the picked-up entry down first: Enter, x or Esc.")


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
    chosen = cursor.chosen()
    if accepted := _accepted(session, chosen):
        return Move(accepted, cursor.position, said=_said_of_unused(accepted))
    doubtful: list[tuple[int, Row]] = []
    for position in chosen:
        row = session.row(position)
        if row is not None and session.verdicts.fit(position) is Fit.DOUBTFUL:
            doubtful.append((position, row))
    if not doubtful:
        verdict = session.verdict(cursor.position)
        if verdict is None and (account := session.account(cursor.position)) is not None:
            raise ImpossibleError(f"It does not stand in the way: {inert(account.why)}.")
        what = f"this one is {verdict.fit}" if verdict is not None else "there is none here"
        what = "there is none here" if cursor.is_block else what
        raise ImpossibleError(f"Only a doubtful row can be trusted; {what}.")
    trusted = not all(row.trusted for _, row in doubtful)
    said = "Trusted: it no longer stands in the way." if trusted else "No longer trusted."
    if trusted and len(doubtful) > 1:
        said = f"Trusted {many(len(doubtful), 'row')}: they no longer stand in the way."
    edit = Trust(tuple(position for position, _ in doubtful), trusted)
    return Move(edit, cursor.position, said=said)


def _accepted(session: Session, chosen: Sequence[int]) -> AcceptUnused | None:
    """Accept the chosen entries that no row uses; take that back if all of them are accepted.

    A row stands for the entries of which it takes a part and no row the rest, once it is not
    doubtful itself.
    """
    rows = session.alignment.rows
    benched = [key for place in chosen if (key := session.benched(place)) is not None]
    doubtful = any(
        session.verdicts.fit(place) is Fit.DOUBTFUL for place in chosen if place < len(rows)
    )
    if doubtful and not benched:
        return None
    taken = [key for place in chosen if place < len(rows) for key in rows[place].keys]
    here = {*benched, *taken}
    keys = tuple(one.key for one in session.blocking_entries if one.key in here)
    if keys:
        return AcceptUnused(keys)
    left = {one.key for one in session.left_over}
    back = tuple(sorted(session.alignment.accepted & here & left))
    return AcceptUnused(back, accept=False) if back else None


def _said_of_unused(edit: AcceptUnused) -> str:
    if not edit.accept:
        return "No longer accepted as unused."
    if len(edit.keys) == 1:
        return "Accepted as unused: it no longer stands in the way."
    count = many(len(edit.keys), "entry", "entries")
    return f"Accepted {count} as unused: they no longer stand in the way."


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
