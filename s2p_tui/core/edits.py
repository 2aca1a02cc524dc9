"""The edits that change an alignment, and the one function that makes them: `apply`.

Keys, the matcher, Claude, rules and replayed mapping files all speak in these.

Moving works on *movable* rows. A gap is a property of its leaf (the leaf takes nothing), so entries
flow around gaps and gaps stay where they were put.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from s2p_tui.core.alignment import EMPTY, Alignment, Row
from s2p_tui.core.transform import Take


@dataclass(frozen=True, slots=True)
class Swap:
    """Exchange what two rows take."""

    first: int
    second: int


@dataclass(frozen=True, slots=True)
class MoveBlock:
    """Move the movable rows of `start:stop` past `steps` movable neighbours (negative: upwards)."""

    start: int
    stop: int
    steps: int


@dataclass(frozen=True, slots=True)
class MoveTo:
    """Take the source out of row `start` and put it in row `to`; those between shift by one."""

    start: int
    to: int


@dataclass(frozen=True, slots=True)
class OpenGap:
    """Put a gap at the row; entries from there on flow down by one, around other gaps."""

    row: int


@dataclass(frozen=True, slots=True)
class CloseGap:
    """Take the gap away; entries below flow up by one, the first benched entry fills the end."""

    row: int


@dataclass(frozen=True, slots=True)
class SendToBench:
    """Empty the rows; their entries go to the end of the bench."""

    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PlaceFromBench:
    """Put a benched entry in the row.

    With `shift`, entries from the row on flow down to the next empty row (or the last falls to the
    bench); without, what the row held goes to the bench in its stead.
    """

    key: str
    row: int
    shift: bool = True


@dataclass(frozen=True, slots=True)
class SetRows:
    """Give rows new contents; entries taken from other rows leave those empty.

    What a proposal, a rule, a mapping file or a chosen transform amounts to.
    """

    rows: tuple[tuple[int, Row], ...]


@dataclass(frozen=True, slots=True)
class Trust:
    """Take doubtful rows for right (or take the trust back)."""

    rows: tuple[int, ...]
    trusted: bool = True


@dataclass(frozen=True, slots=True)
class Several:
    """Make edits one after the other, as one step of the history."""

    edits: tuple[Edit, ...]


Edit = (
    Swap
    | MoveBlock
    | MoveTo
    | OpenGap
    | CloseGap
    | SendToBench
    | PlaceFromBench
    | SetRows
    | Trust
    | Several
)


def apply(alignment: Alignment, edit: Edit) -> Alignment:
    """The alignment after one edit. An edit that changes nothing returns the same object.

    It depends on values alone, never on which rows are one object, so that a journal's edits read
    from a file make what they made before. Whoever changes what an edit makes counts up
    `s2p_tui.core.journal.VERSION`.

    Raises:
        IndexError: The edit names a row that does not exist.
        KeyError: The edit takes an entry from the bench that is not there.
    """
    new = _applied(alignment, edit)
    return alignment if new == alignment else new


def _applied(alignment: Alignment, edit: Edit) -> Alignment:
    match edit:
        case Swap(first, second):
            return _swap(alignment, first, second)
        case MoveBlock(start, stop, steps):
            return _move_block(alignment, start, stop, steps)
        case MoveTo(start, to):
            return _move_to(alignment, start, to)
        case OpenGap(row):
            return _open_gap(alignment, row)
        case CloseGap(row):
            return _close_gap(alignment, row)
        case SendToBench(rows):
            return _send_to_bench(alignment, rows)
        case PlaceFromBench(key, row, shift):
            return _place_from_bench(alignment, key, row, shift)
        case SetRows(rows):
            return _set_rows(alignment, rows)
        case Trust(rows, trusted):
            return _changed(
                alignment,
                rows,
                lambda row: replace(row, trusted=trusted) if row.source or row.gap else row,
            )
        case Several(edits):
            for part in edits:
                alignment = apply(alignment, part)
            return alignment


def _moved(row: Row) -> Row:
    """The row's content at another leaf: a user's act, and no longer vouched for."""
    if row.source is None and not row.fixed:
        return row
    return replace(row, by="user", why="", trusted=False, fixed=False)


def _changed(
    alignment: Alignment, positions: Iterable[int], change: Callable[[Row], Row]
) -> Alignment:
    rows = list(alignment.rows)
    for position in positions:
        rows[position] = change(rows[position])
    return alignment if rows == list(alignment.rows) else replace(alignment, rows=tuple(rows))


def _swap(alignment: Alignment, first: int, second: int) -> Alignment:
    rows = list(alignment.rows)
    if first == second or rows[first] == rows[second]:
        return alignment
    rows[first], rows[second] = _moved(rows[second]), _moved(rows[first])
    return replace(alignment, rows=tuple(rows))


def _flow(rows: list[Row], positions: Sequence[int], contents: Sequence[Row]) -> None:
    for position, content in zip(positions, contents, strict=True):
        if rows[position] != content:
            rows[position] = _moved(content)


def _move_block(alignment: Alignment, start: int, stop: int, steps: int) -> Alignment:
    rows = list(alignment.rows)
    block = [i for i in range(start, stop) if not rows[i].fixed]
    if not block or not steps:
        return alignment
    if steps > 0:
        others = [i for i in range(stop, len(rows)) if not rows[i].fixed][:steps]
        order = [*others, *block]
    else:
        others = [i for i in range(start - 1, -1, -1) if not rows[i].fixed][:-steps][::-1]
        order = [*block, *others]
    if not others:
        return alignment
    _flow(rows, sorted(order), [rows[i] for i in order])
    return replace(alignment, rows=tuple(rows))


def _move_to(alignment: Alignment, start: int, to: int) -> Alignment:
    rows = list(alignment.rows)
    picked = rows[start]
    if start == to or picked.source is None:
        return alignment
    low, high = min(start, to), max(start, to)
    path = [i for i in range(low, high + 1) if i in (start, to) or not rows[i].stays]
    if rows[to].stays:
        rows[start], rows[to] = rows[to], _moved(picked)
        return replace(alignment, rows=tuple(rows))
    contents = [rows[i] for i in path]
    turn = 1 if start < to else -1
    contents = [*contents[turn:], *contents[:turn]]
    _flow(rows, path, contents)
    return replace(alignment, rows=tuple(rows))


def _flow_down(
    rows: list[Row], bench: tuple[str, ...], row: int, incoming: Row | None
) -> tuple[str, ...]:
    """Push contents from `row` on down by one, around gaps, to the first empty row or the bench."""
    carried = incoming
    for i in range(row, len(rows)):
        if rows[i].stays and i != row:
            continue
        displaced = rows[i]
        if carried is not None:
            rows[i] = _moved(carried)
        if displaced.source is None:
            return bench
        carried = displaced
    return (*carried.keys, *bench) if carried is not None else bench


def _open_gap(alignment: Alignment, row: int) -> Alignment:
    rows = list(alignment.rows)
    if rows[row].gap:
        return alignment
    bench = alignment.bench
    if rows[row].source is not None and not rows[row].fixed:
        bench = _flow_down(rows, bench, row, None)
    elif rows[row].keys:
        bench = (*rows[row].keys, *bench)
    rows[row] = Row(gap=True, by="user")
    if bench is alignment.bench:
        return replace(alignment, rows=tuple(rows))
    return _with_bench(rows, bench)


def _close_gap(alignment: Alignment, row: int) -> Alignment:
    rows = list(alignment.rows)
    if not rows[row].gap:
        return alignment
    path = [row, *(i for i in range(row + 1, len(rows)) if not rows[i].stays)]
    bench = alignment.bench
    last = EMPTY
    if bench:
        last, bench = Row(Take(bench[0]), by="user"), bench[1:]
    hole = next((n for n, i in enumerate(path) if n and rows[i].source is None), None)
    if hole is not None:
        path, last, bench = path[: hole + 1], EMPTY, alignment.bench
    _flow(rows, path, [*(rows[i] for i in path[1:]), last])
    return Alignment(tuple(rows), bench)


def _send_to_bench(alignment: Alignment, positions: tuple[int, ...]) -> Alignment:
    rows = list(alignment.rows)
    sent: list[str] = []
    for position in positions:
        if rows[position].source is not None:
            sent.extend(rows[position].keys)
            rows[position] = Row(by="user")
    return _with_bench(rows, (*alignment.bench, *sent))


def _place_from_bench(alignment: Alignment, key: str, row: int, shift: bool) -> Alignment:
    if key not in alignment.bench:
        raise KeyError(key)
    rows = list(alignment.rows)
    bench = tuple(other for other in alignment.bench if other != key)
    placed = Row(Take(key), by="user")
    if rows[row].source is None or rows[row].fixed:
        bench = (*rows[row].keys, *bench)
        rows[row] = placed
    elif shift:
        bench = _flow_down(rows, bench, row, placed)
    else:
        bench = (*rows[row].keys, *bench)
        rows[row] = placed
    return _with_bench(rows, bench)


def _set_rows(alignment: Alignment, changes: tuple[tuple[int, Row], ...]) -> Alignment:
    rows = list(alignment.rows)
    taken = {key for _, row in changes for key in row.keys}
    touched = {position for position, _ in changes}
    for position, row in enumerate(rows):
        if position not in touched and row.source is not None and taken.intersection(row.keys):
            rows[position] = Row(by="user")
    for position, row in changes:
        rows[position] = row
    if tuple(rows) == alignment.rows:
        return alignment
    before = [key for row in alignment.rows for key in row.keys]
    return _with_bench(rows, (*alignment.bench, *before))


def _with_bench(rows: Sequence[Row], candidates: Iterable[str]) -> Alignment:
    used = {key for row in rows for key in row.keys}
    bench = tuple(key for key in dict.fromkeys(candidates) if key not in used)
    return Alignment(tuple(rows), bench)
