"""The edit and the cursor movement that a key asks for, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, structs

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
    SetRows,
    Several,
    Swap,
    Trust,
)
from s2p_tui.alignment.fit import Fit
from s2p_tui.app.commands.units import Units
from s2p_tui.app.text import many
from s2p_tui.errors import printable

if TYPE_CHECKING:
    from s2p_tui.alignment.alignment import Alignment
    from s2p_tui.app.cursor import Cursor
    from s2p_tui.session.fitting import Fitting
    from s2p_tui.session.session import Session

Step = Literal[1, -1]
Said = Callable[["Alignment", "Alignment", range], str]
"""Words about an edit from the alignments before and after it and the rows that changed."""


_MOST_NAMED = 8


EDGE: tuple[int, ...] = (-1,)
"""The target of a block that has no room to move."""


class ImpossibleError(Exception):
    """An edit that makes no sense where the cursor is; its text says why."""


class Move(Struct, frozen=True):
    """An edit to make, and what the screen does after it.

    Attributes:
        edit: The edit.
        index: Where the cursor goes.
        marks: The rows that are marked afterwards; None leaves the marks alone.
        said: What was done, in words; or what says it of the alignments before and after.
        reveals: Whether what hides that index is unfolded.
        warning: What has to be said before it is made, on the same key again; empty for nothing.
    """

    edit: Edit
    index: int
    marks: frozenset[int] | None = None
    said: str | Said = ""
    reveals: bool = False
    warning: str = ""


def _units(session: Session) -> Units:
    return Units(session.target.skeleton, session.alignment.rows)


def _with_statistics(session: Session, cursor: Cursor, chosen: list[int]) -> list[int]:
    """Return rows with the statistics in another tree of the layers that are marked or folded."""
    if not (cursor.marked() or cursor.is_block or cursor.picked_rows > 1):
        return chosen
    apart = _units(session).apart([row for row in chosen if row < len(session.alignment.rows)])
    return sorted({*chosen, *apart})


def _alone(session: Session, cursor: Cursor, units: Units | None = None) -> list[int]:
    """Return the rows an edit is about, without statistics that go along by themselves."""
    chosen = cursor.chosen()
    if not cursor.marked():
        return chosen
    units, count = units or _units(session), len(session.alignment.rows)
    apart = set(units.apart([row for row in chosen if row < count]))
    return [row for row in chosen if row not in apart]


def shift(session: Session, cursor: Cursor, step: Step) -> Move:
    """Move the entry under the cursor, or the marked rows, one row up or down.

    A folded block moves past its neighbour: by one row, or past all of another block. So do marked
    rows that are whole layers, with the layers' statistics.
    """
    hands_free(cursor)
    units = _units(session) if cursor.marked() or cursor.is_block else None
    chosen = _alone(session, cursor, units)
    if any(session.row(index) is None for index in (chosen[0], chosen[-1])):
        raise ImpossibleError("A benched entry has no neighbours: pick it up with m and place it.")
    rows = session.alignment.rows
    is_block = cursor.is_block and not cursor.marked()
    steps = _steps_past_neighbour(session, cursor, step) if is_block else 1
    runs = list(_runs(chosen))
    if units is not None and len(runs) == 1 and not is_block:
        beside = units.neighbour(*runs[0], step)
        steps = len(beside.own) if beside else 1
    moves = [(start, stop, block_after(rows, start, stop, step, steps)) for start, stop in runs]
    if not any(after for _, _, after in moves):
        raise ImpossibleError(f"This stays where it is: {rows[chosen[0]].why}.")
    if any(after == EDGE for *_, after in moves):
        which = "last" if step > 0 else "first"
        raise ImpossibleError(f"It is in the {which} row already.")
    moves = [move for move in moves if move[2]]
    edits = [MoveBlock(start, stop, step * steps) for start, stop, _ in moves[::-step]]
    after = [index for *_, block in moves for index in block]
    along = _moved_along(units, rows, edits[0]) if units is not None and len(edits) == 1 else []
    edit = one_edit([*edits, *along])
    if is_block:
        return landed_block(cursor, edit, after, _also("Moved.", along) if along else "")
    landed = _follow(cursor.index, moves, after)
    marks = frozenset(after) if cursor.marked() else None
    return Move(edit, landed, marks, _also("Moved.", along) if along else "", reveals=True)


def _also(said: str, along: Sequence[Edit]) -> str:
    """Return a message with what went along."""
    if not along:
        return said
    count = sum(edit.stop - edit.start if isinstance(edit, MoveBlock) else 1 for edit in along)
    return f"{said[:-1]}, with {many(count, 'row')} of statistics."


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


def landed_block(cursor: Cursor, edit: Edit, indices: Sequence[int], said: str = "") -> Move:
    """A block's move: where it lands across folds they open and its rows are marked."""
    line = cursor.line_at(indices[0])
    if indices[-1] in line:
        return Move(edit, indices[0], said=said)
    return Move(edit, indices[0], frozenset(indices), said, reveals=True)


def block_after(rows: Rows, start: int, stop: int, step: Step, steps: int = 1) -> tuple[int, ...]:
    """Return the rows a moved block lands on; `EDGE` if there is no room, () if it cannot move."""
    block = list(rows.unfixed(range(start, stop)))
    if not block:
        return ()
    beyond = range(stop, len(rows)) if step > 0 else range(start - 1, -1, -1)
    others = list(islice(rows.unfixed(beyond), steps))
    if not others:
        return EDGE
    indices = sorted((*block, *others))
    return tuple(indices[len(others) :] if step > 0 else indices[: -len(others)])


def _moved_along(units: Units, rows: Rows, move: MoveBlock) -> list[MoveBlock]:
    """Return the move of statistics in another tree that goes with a move of rows.

    There is none where some of them are in another order than their layers are.
    """
    step: Step = 1 if move.steps > 0 else -1
    after = block_after(rows, move.start, move.stop, step, abs(move.steps))
    if not after or after == EDGE:
        return []
    block = list(rows.unfixed(range(move.start, move.stop)))
    ours = units.apart(block)
    if not ours:
        return []
    path = list(rows.unfixed(range(min(*block, *after), max(*block, *after) + 1)))
    here, there = set(block), set(after)
    others = [row for row in path if row not in here]
    left = [row for row in path if row not in there]
    moved = dict(zip(block, after, strict=True)) | dict(zip(others, left, strict=True))
    along = units.along(moved)
    if not along:
        return []
    displaced = len(along) - len(ours)
    made = MoveBlock(ours[0], ours[-1] + 1, step * displaced)
    is_whole = list(rows.unfixed(range(ours[0], ours[-1] + 1))) == ours
    landed = [along[index] for index in ours]
    is_so = is_whole and landed == list(block_after(rows, made.start, made.stop, step, displaced))
    return [made] if is_so else []


def _follow(index: int, moves: list[tuple[int, int, tuple[int, ...]]], after: list[int]) -> int:
    for start, stop, block in moves:
        if start <= index < stop:
            return block[min(index - start, len(block) - 1)]
    return after[0]


def _runs(indices: Iterable[int]) -> Iterable[tuple[int, int]]:
    """Ascending indices as `(start, stop)` of neighbours."""
    start = stop = -1
    for index in indices:
        if index != stop:
            if start >= 0:
                yield start, stop
            start = index
        stop = index + 1
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
    chosen = _with_statistics(session, cursor, cursor.chosen())
    rows = [(index, session.row(index)) for index in chosen]
    if any(row is None for _, row in rows):
        raise ImpossibleError("A gap belongs to a leaf; this entry is on the bench.")
    if cursor.is_block and not cursor.marked():
        rows = [(index, row) for index, row in rows if row and not row.fixed] or rows
    for index, row in rows:
        if row is not None and row.fixed and not row.gap:
            raise ImpossibleError(f"Row {index + 1} is filled by its layer's rule: {row.why}.")
    gaps = [index for index, row in rows if row is not None and row.gap]
    unsure = [gap for gap in gaps if session.verdicts.fit(gap) is Fit.DOUBTFUL]
    if unsure and len(gaps) == len(rows):
        kept = Row(gap=True, by="user")
        said = "Confirmed: the leaf keeps the skeleton's value."
        if len(unsure) > 1:
            said = f"Confirmed {many(len(unsure), 'gap')}: these keep the skeleton's values."
        return Move(SetRows(tuple((gap, kept) for gap in unsure)), cursor.index, said=said)
    if len(gaps) == len(rows):
        closed = one_edit([CloseGap(index) for index in gaps])
        return _asking(session, Move(closed, cursor.index, said=_flowed("up", len(gaps))))
    new = [index for index, row in rows if row and not row.gap]
    opened = one_edit([OpenGap(index) for index in new])
    return _asking(session, Move(opened, cursor.index, said=_flowed("down", len(new))))


def _asking(session: Session, move: Move, again: str = "s again does it") -> Move:
    """Return a move that is announced first if rows that line up would lose their entries.

    Args:
        session: The session.
        move: The move.
        again: How it is made nevertheless.
    """
    before, after = session.alignment.rows, session.preview(move.edit).rows
    lost = session.verdicts.settled(after.displaced(before))
    if not len(lost):
        return move
    words = f"Row {lost[0] + 1} lines up and would lose its entry"
    if len(lost) > 1:
        words = (
            f"{len(lost):,} rows that line up, from row {lost[0] + 1} on, would lose their entries"
        )
    return structs.replace(move, warning=f"{words}: {again}.")


def _flowed(way: str, gaps: int) -> Said:
    """Return a message: how many entries moved, and which went to the bench."""

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
    return printable(", ".join(keys))


def to_bench(session: Session, cursor: Cursor) -> Move:
    """Send the chosen rows' entries, or those picked up, to the bench."""
    chosen = cursor.chosen() if cursor.picked is None else list(cursor.picked_span)
    return empty(session, _with_statistics(session, cursor, chosen), cursor.index)


def empty(session: Session, chosen: Sequence[int], index: int) -> Move:
    """Send what these rows take to the bench and leave the cursor at an index."""
    rows = session.alignment.rows
    here = [index for index in chosen if index < len(rows)]
    full = tuple(index for index in here if rows.takes_entry(index))
    if not full:
        if not here:
            raise ImpossibleError("It is on the bench already.")
        raise ImpossibleError("There is nothing to send to the bench: no entry feeds this leaf.")
    count = len(full)
    said = "Sent to the bench." if count == 1 else f"Sent {count:,} entries to the bench."
    if not all(rows.sources[index] >= 0 for index in full):
        said = f"Emptied {many(count, 'row')}."
    return Move(SendToBench(full), index, frozenset(), said)


def toggle_trust(session: Session, cursor: Cursor) -> Move:
    """Trust the doubtful rows among the chosen; take the trust back if all of them have it.

    Of benched entries, accept as unused those that block.
    """
    hands_free(cursor)
    if benched := [n for n in cursor.chosen() if n >= len(session.alignment.rows)]:
        if len(benched) == len(cursor.chosen()):
            return _toggle_unused(session, benched, cursor.index)
        raise ImpossibleError("Mark rows or benched entries, not both: Esc clears the marks.")
    doubtful: list[tuple[int, Row]] = []
    for index in cursor.chosen():
        row = session.row(index)
        if row is not None and session.verdicts.fit(index) is Fit.DOUBTFUL:
            doubtful.append((index, row))
    if not doubtful:
        verdict = None if cursor.is_block else session.verdict(cursor.index)
        what = f"this one is {verdict.fit}" if verdict else "there is none here"
        raise ImpossibleError(f"Only a doubtful row can be trusted; {what}.")
    trusted = not all(row.trusted for _, row in doubtful)
    said = "Trusted. This row no longer blocks the conversion." if trusted else "No longer trusted."
    if trusted and len(doubtful) > 1:
        said = f"Trusted {many(len(doubtful), 'row')}: they no longer block the conversion."
    edit = Trust(tuple(index for index, _ in doubtful), trusted)
    return Move(edit, cursor.index, frozenset(), said)


def _toggle_unused(session: Session, benched: Sequence[int], index: int) -> Move:
    accounts = [one for n in benched if (one := session.unused_at(n)) is not None]
    keys = tuple(one.key for one in accounts if one.blocks)
    if keys:
        said = "Accepted as unused. This entry no longer blocks the conversion."
        if len(keys) > 1:
            count = many(len(keys), "entry", "entries")
            said = f"Accepted {count} as unused: they no longer block the conversion."
        return Move(AcceptUnused(keys), index, frozenset(), said)
    accepted = session.alignment.accepted
    if back := tuple(one.key for one in accounts if one.key in accepted):
        return Move(AcceptUnused(back, accept=False), index, said="No longer accepted as unused.")
    if len(accounts) == 1:
        raise ImpossibleError(f"This entry does not block: {printable(accounts[0].why)}.")
    raise ImpossibleError("None of these entries blocks.")


def pick_up(session: Session, cursor: Cursor, fitting: Fitting) -> None:
    """Pick up the entry or the block under the cursor, or those of the marked rows together."""
    row = session.row(cursor.index)
    here = cursor.here
    if marked := _alone(session, cursor) if cursor.marked() else []:
        here = range(marked[0], marked[-1] + 1)
        if len(marked) != len(here) or marked[-1] >= len(session.alignment.rows):
            raise ImpossibleError("Only rows next to each other can be picked up together.")
        row = session.row(here.start)
    if row is not None and not any(
        held.keys for held in session.alignment.rows[here.start : here.stop]
    ):
        raise ImpossibleError("There is nothing to pick up: no entry feeds this leaf.")
    if cursor.index >= len(session):
        raise ImpossibleError("There is nothing here.")
    if row is None and cursor.is_block and not marked:
        raise ImpossibleError("The bench is folded: Tab unfolds it.")
    cursor.finish_range()
    cursor.pick_up(here, fitting.starts_of(here))


def put_down(session: Session, cursor: Cursor, *, swap: bool) -> Move:
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
    if cursor.picked_rows > 1:
        to = _unit_start(session, cursor.picked_span, to)
    if to in cursor.picked_span:
        raise ImpossibleError("It is here already: go to another row, or press Esc.")
    if cursor.picked_rows > 1:
        return _swap_blocks(session, cursor, to) if swap else _place_block(session, cursor, to)
    if row.fixed:
        way_out = " If it should, press s on it." if row.gap else ""
        raise ImpossibleError(f"Row {to + 1} takes no entry: {row.why}.{way_out}")
    if key is not None:
        move = Move(PlaceFromBench(key, to, shift=not swap), to, said=said, reveals=True)
        again = "Enter again does it, x exchanges it with the entry there alone"
        return move if swap else _asking(session, move, again)
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
    along = _moved_along(_units(session), rows, edit)
    said = _also(f"Placed from row {after[0] + 1} on.", along)
    return landed_block(cursor, one_edit([edit, *along]), after, said)


def _unit_start(session: Session, picked: range, to: int) -> int:
    """Return the first row of the layer that picked rows, which are a layer of its kind, go to."""
    units, rows = _units(session), session.alignment.rows
    whole, there = units.whole(picked), units.of(to)
    is_unit = [index for unit in whole for index in unit.own] == list(rows.unfixed(picked))
    if there is None or not is_unit or any(unit.roles != there.roles for unit in whole):
        return to
    return there.own[0]


def _swap_blocks(session: Session, cursor: Cursor, to: int) -> Move:
    rows, picked = session.alignment.rows, cursor.picked_span
    there = cursor.line_at(to)
    if len(there) == 1:
        there = range(to, min(len(rows), to + len(picked)))
    if there.start < picked.stop and picked.start < there.stop:
        raise ImpossibleError("It would be swapped with a part of itself: go to other rows.")
    first, second = list(rows.unfixed(picked)), list(rows.unfixed(there))
    if len(first) != len(second):
        raise ImpossibleError(
            f"{many(len(first), 'row')} and {many(len(second), 'row')} cannot be swapped: "
            "go to a folded block of the same size, or put it there with Enter."
        )
    swaps = [Swap(one, other) for one, other in zip(first, second, strict=True)]
    along = _units(session).swapped_along(swaps)
    said = _also(f"Swapped {many(len(first), 'row')}.", along)
    return Move(one_edit([*swaps, *along]), there.start, frozenset(), said)


def typed_row(session: Session, cursor: Cursor) -> int:
    """The row whose number was typed; the cursor's own if none was.

    Raises:
        ImpossibleError: There is no such row.
    """
    typed = cursor.typed_index
    if typed is None:
        return cursor.index
    count = len(session.alignment.rows)
    if not 0 <= typed < count:
        raise ImpossibleError(f"There is no row {typed + 1:,}: rows go from 1 to {count:,}.")
    return typed
