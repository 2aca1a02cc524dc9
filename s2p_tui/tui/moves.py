"""What a key amounts to: an edit and where the cursor goes, or the reason why not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

from s2p_tui.core.edits import Edit, MoveBlock, Several
from s2p_tui.core.rows import Rows

if TYPE_CHECKING:
    from s2p_tui.core.alignment import Alignment
    from s2p_tui.session import Session
    from s2p_tui.tui.cursor import Cursor

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
