"""The edits that change an alignment, and the one function that makes them: `apply`.

Keys, the matcher, Claude, rules and replayed mapping files all speak in these.

Moving works on *movable* rows. A gap is a property of its leaf (the leaf takes nothing), so entries
flow around gaps and gaps stay where they were put.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise

from s2p_tui.alignment.alignment import EMPTY, Alignment, Draft, Row, Rows
from s2p_tui.alignment.transform import Take

_NONE = Rows.of(())


def _moved(row: Row) -> Row:
    return Rows.of((row,)).moved()[0]


def swap(draft: Draft, first: int, second: int) -> None:
    """Exchange what two rows take."""
    one, other = draft[first], draft[second]
    if first != second and one != other:
        draft.put(first, _moved(other))
        draft.put(second, _moved(one))


def _flow(draft: Draft, positions: Sequence[int], contents: Rows) -> None:
    """Put contents into rows; where a row has an equal one already, nothing has moved."""
    there = draft.pick(positions)
    draft.put_all(positions, contents.moved())
    for number in there.alike(contents):
        draft.put(positions[number], there[number])


def move_block(draft: Draft, start: int, stop: int, steps: int) -> None:
    """Move the movable rows of `start:stop` past `steps` movable neighbours."""
    if stop > len(draft):
        raise IndexError(stop)
    block = list(draft.unfixed(range(start, stop)))
    if not block or not steps:
        return
    beyond = range(stop, len(draft)) if steps > 0 else range(start - 1, -1, -1)
    others = list(islice(draft.unfixed(beyond), abs(steps)))
    order = [*others, *block] if steps > 0 else [*block, *others[::-1]]
    if others:
        _flow(draft, sorted(order), draft.pick(order))


def move_to(draft: Draft, start: int, to: int) -> None:
    """Take the source out of row `start` and put it in row `to`."""
    picked, there = draft[start], draft[to]
    if start == to or picked.source is None:
        return
    if there.stays:
        draft.put(start, there)
        draft.put(to, _moved(picked))
        return
    turn = 1 if start < to else -1
    between = draft.passed(range(min(start, to) + 1, max(start, to)))
    path = [min(start, to), *between, max(start, to)]
    _flow(draft, path, draft.pick([*path[turn:], *path[:turn]]))


def _push(draft: Draft, start: int, stop: int, carried: Rows) -> Rows:
    """Put contents into rows of `start:stop`, whose own go down before them, around gaps.

    Each empty row takes one in for good. Returns what found no place.
    """
    path = draft.passed(range(start, stop))
    contents = draft.pick(path)
    last = next(islice(contents.empty(), len(carried) - 1, None), None)
    end = len(path) if last is None else last + 1
    # Each copy of very many rows takes its time.
    flowing, room = contents[:end].full(), max(0, end - len(carried))
    draft.put_all(path[: end - room], carried[:end].moved())
    draft.put_all(path[end - room : end], flowing[:room].moved())
    return carried[end:] + flowing[room:]


def open_gaps(draft: Draft, positions: Sequence[int]) -> None:
    """Gaps from top to bottom; the contents they displace flow down together."""
    carried = _NONE
    # Gaps one below the other displace very many before anything flows.
    displaced, benched = list[Row](), list[str]()
    for position, following in pairwise([*positions, len(draft)]):
        row = draft[position]
        if not row.gap:
            if row.source is not None and not row.fixed:
                displaced.append(row)
            else:
                benched = [*row.keys, *benched]
            draft.put(position, Row(gap=True, by="user"))
        if position + 1 < following and (carried or displaced):
            carried = _push(draft, position + 1, following, carried + Rows.of(displaced))
            displaced = []
    lost = [*(carried + Rows.of(displaced)).keys, *benched]
    if lost:
        draft.settle_bench((*lost, *draft.bench), lost)


def close_gaps(draft: Draft, positions: Sequence[int]) -> None:
    """Gaps from top to bottom; what is below flows up to fill them, the bench fills the end."""
    open_places = list[int]()
    positions = [position for position in positions if draft[position].gap]
    for position, following in pairwise([*positions, len(draft)]):
        open_places.append(position)
        if position + 1 < following:
            open_places = _pull(draft, open_places, range(position + 1, following))
    taken = draft.bench[: len(open_places)]
    filling = Rows.of(Row(Take(key), by="user") for key in taken)
    _flow(draft, open_places, filling + _empty(len(open_places) - len(taken)))
    if taken:
        draft.settle_bench(draft.bench[len(taken) :], (), taken)


def _empty(count: int) -> Rows:
    return Rows.repeated(EMPTY, count)


def _pull(draft: Draft, places: list[int], below: range) -> list[int]:
    """Fill the places with what is below, which leaves places open there.

    An empty row ends the flow: it goes up, and the places below it are empty too. Returns the
    places that are still open.
    """
    path = draft.passed(below)
    contents = draft.pick(path)
    hole = next(contents.empty(), None)
    if hole is not None:
        path, contents = path[: hole + 1], contents[: hole + 1]
    targets = _one_after_the_other(places, path)
    if hole is None:
        _flow(draft, targets[: len(contents)], contents)
        return list(targets[len(contents) :])
    _flow(draft, targets, contents + _empty(len(places)))
    return []


def _one_after_the_other(places: Sequence[int], path: Sequence[int]) -> Sequence[int]:
    if isinstance(path, range):
        whole = range(path.start - len(places), path.stop)
        if list(whole[: len(places)]) == places:
            return whole
    return [*places, *path]


def send_to_bench(draft: Draft, positions: Sequence[int]) -> None:
    """Empty the rows; their entries go to the end of the bench."""
    full = draft.full(dict.fromkeys(positions))
    sent = draft.pick(full).keys
    draft.put_all(sorted(full), Rows.repeated(Row(by="user"), len(full)))
    draft.settle_bench((*draft.bench, *sent), sent)


def place_from_bench(draft: Draft, key: str, position: int, shift: bool) -> None:
    """Put a benched entry in the row."""
    if key not in draft.bench:
        raise KeyError(key)
    there, placed = draft[position], Row(Take(key), by="user")
    if there.source is not None and not there.fixed and shift:
        left = _push(draft, position, len(draft), Rows.of((placed,)))
    else:
        left = Rows.of((there,))
        draft.put(position, placed)
    draft.settle_bench(
        (*left.keys, *(other for other in draft.bench if other != key)), left.keys, (key,)
    )


def set_rows(draft: Draft, changes: Sequence[tuple[int, Row]]) -> None:
    """Give rows new contents; rows that other rows' new contents are taken from are left empty."""
    touched = {position for position, _ in changes}
    taken = {key for _, row in changes for key in row.keys}
    before = {position: draft[position] for position in touched}
    for position in _takers(draft, taken, touched):
        before[position] = draft[position]
        draft.put(position, Row(by="user"))
    for position, row in changes:
        draft.put(position, row)
    if all(draft[position] == row for position, row in before.items()):
        return
    lost = [key for position in sorted(before) for key in before[position].keys]
    gained = [key for position in before for key in draft[position].keys]
    draft.settle_bench((*draft.bench, *lost), lost, gained)


def _takers(draft: Draft, keys: set[str], touched: set[int]) -> Iterable[int]:
    """Rows that take one of the keys, those that are touched aside."""
    if not keys or len(touched) == len(draft):
        return ()
    return [position for position in draft.takers(keys) if position not in touched]


def trust(draft: Draft, positions: Sequence[int], trusted: bool) -> None:
    """Take rows for right, or take the trust back."""
    for position in positions:
        row = draft[position]
        if (row.source is not None or row.gap) and row.trusted != trusted:
            draft.put(position, replace(row, trusted=trusted))


def accept_unused(draft: Draft, keys: Sequence[str], accept: bool) -> None:
    """Accept entries as unused, or take that back."""
    draft.accepted = draft.accepted.union(keys) if accept else draft.accepted.difference(keys)


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
class AcceptUnused:
    """Accept that entries, or the parts of them that no row uses, are left out (or no longer)."""

    keys: tuple[str, ...]
    accept: bool = True


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
    | AcceptUnused
    | Several
)


def apply(alignment: Alignment, edit: Edit) -> Alignment:
    """The alignment after one edit. An edit that changes nothing returns the same object.

    It depends on values alone, never on which rows are one object, so that a journal's edits read
    from a file make what they made before. Whoever changes what an edit makes counts up
    `s2p_tui.session.journal_lines.VERSION`.

    Raises:
        IndexError: The edit names a row that does not exist.
        KeyError: The edit takes an entry from the bench that is not there.
    """
    return applied(alignment, edit)[0]


def applied(alignment: Alignment, edit: Edit) -> tuple[Alignment, range]:
    """`apply`, and the rows from the first to the last that differ.

    Raises:
        IndexError: As `apply`.
        KeyError: As `apply`.
    """
    draft = Draft(alignment)
    _make(draft, edit)
    return draft.done()


def _make(draft: Draft, edit: Edit) -> None:
    match edit:
        case Swap(first, second):
            swap(draft, first, second)
        case MoveBlock(start, stop, steps):
            move_block(draft, start, stop, steps)
        case MoveTo(start, to):
            move_to(draft, start, to)
        case OpenGap(row):
            open_gaps(draft, (row,))
        case CloseGap(row):
            close_gaps(draft, (row,))
        case SendToBench(rows):
            send_to_bench(draft, rows)
        case PlaceFromBench(key, row, shift):
            place_from_bench(draft, key, row, shift)
        case SetRows(rows):
            set_rows(draft, rows)
        case Trust(rows, trusted):
            trust(draft, rows, trusted)
        case AcceptUnused(keys, accept):
            accept_unused(draft, keys, accept)
        case Several(edits):
            _several(draft, edits)


def _several(draft: Draft, edits: Sequence[Edit]) -> None:
    """One after the other; gaps from top to bottom in one pass, as that is the same."""
    opened = [edit.row for edit in edits if isinstance(edit, OpenGap)]
    closed = [edit.row for edit in edits if isinstance(edit, CloseGap)]
    if len(opened) == len(edits) > 1 and _ascend(opened):
        open_gaps(draft, opened)
    elif len(closed) == len(edits) > 1 and _ascend(closed):
        close_gaps(draft, closed)
    else:
        for part in edits:
            _make(draft, part)


def _ascend(positions: Sequence[int]) -> bool:
    return positions[0] >= 0 and all(one < other for one, other in pairwise(positions))
