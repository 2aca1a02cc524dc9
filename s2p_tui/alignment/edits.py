"""The edits that change an alignment, and the one function that makes them: `apply`.

Keys, the matcher, Claude, rules and replayed mapping files all speak in these.

Moving works on *movable* rows. A gap is a property of its leaf (the leaf takes nothing), so entries
flow around gaps and gaps stay where they were put.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from s2p_tui.alignment.alignment import Alignment, Row, Rows, numbers_of
from s2p_tui.alignment.numbering import BY_ORDER, GAP, MOVED, NOTHING, Numbers, are_in
from s2p_tui.alignment.transform import Take

_Indexes = NDArray[np.intp]
_Contents = NDArray[np.int32]
"""What rows hold: sources in its first row, decisions in its second."""
_NONE: _Contents = np.empty((2, 0), np.int32)
_EMPTY: _Contents = np.array([[NOTHING], [BY_ORDER]], np.int32)


class _Change:
    """An alignment while edits are made to it."""

    def __init__(self, alignment: Alignment) -> None:
        self._before = alignment
        rows = alignment.rows
        self.numbering = rows.numbering
        self.held: _Contents = np.stack([rows.sources, rows.in_force()])
        self.bench = alignment.bench

    def __len__(self) -> int:
        return self.held.shape[1]

    def require(self, *indexes: int) -> None:
        """Make sure that rows exist.

        Raises:
            IndexError: One does not.
        """
        for index in indexes:
            if not -len(self) <= index < len(self):
                raise IndexError(index)

    def contents(self, row: Row) -> _Contents:
        """Return what makes a row."""
        return np.array(numbers_of(row, self.numbering), np.int32).reshape(2, 1)

    def put(self, index: int, row: Row) -> None:
        """Replace one row."""
        self.held[:, index] = numbers_of(row, self.numbering)

    def fixed(self, start: int = 0, stop: int | None = None) -> NDArray[np.bool_]:
        """Return which rows of a range are fixed."""
        return self.numbering.fixed(self.held[1, start:stop])

    def passed(self, start: int, stop: int) -> _Indexes:
        """Return the rows of a range that entries flow through."""
        stays = self.fixed(start, stop) | (self.held[0, start:stop] == GAP)
        return np.flatnonzero(~stays) + start

    def moved(self, contents: _Contents) -> _Contents:
        """Return the same at other leaves: a user's act, and no longer vouched for.

        Where there is none, and nothing is fixed, there is nothing to move.
        """
        sources, decisions = contents
        alone = ((sources == NOTHING) | (sources == GAP)) & ~self.numbering.fixed(decisions)
        return np.stack([sources, np.where(alone, decisions, MOVED)])

    def flow(self, indexes: _Indexes | Sequence[int], contents: _Contents) -> None:
        """Put contents into rows; where a row has an equal one already, nothing has moved."""
        there = self.held[:, indexes]
        same = (there == contents).all(0)
        self.held[:, indexes] = np.where(same, there, self.moved(contents))

    def keys(self, sources: Numbers) -> list[str]:
        """Return the keys of the entries that sources read, source after source."""
        return [key for number in sources.tolist() for key in self.numbering.keys_of(number)]

    def settle_bench(
        self, lost: Sequence[str], gained: Sequence[str] = (), *, first: bool = False
    ) -> None:
        """Bench what rows lost and take from there what they gained.

        Args:
            lost: Keys of contents that rows gave up, in the order they come to the bench.
            gained: Keys of contents that came to rows.
            first: Put what was lost before what was on the bench.
        """
        used = self._used({*lost, *gained})
        came = used.intersection(gained)
        bench = [key for key in self.bench if key not in came] if came else self.bench
        new = [key for key in lost if key not in used]
        if new or came:
            self.bench = tuple(dict.fromkeys((*new, *bench) if first else (*bench, *new)))

    def _used(self, keys: set[str]) -> set[str]:
        """Return those of some keys whose entries a row takes."""
        entries = np.fromiter(map(self.numbering.entry, keys), np.int32)
        taking = are_in(self.held[0], self.numbering.reading(entries))
        used = self.numbering.read_by(np.unique(self.held[0, taking]))
        names: list[str] = [self.numbering.keys[number] for number in used.tolist()]
        return keys.intersection(names)

    def done(self) -> tuple[Alignment, range]:
        """Return the new alignment and the rows from the first to the last that differ.

        The same alignment and no rows if nothing differs.
        """
        before = self._before
        sources, decisions = self.held
        rows = Rows(self.numbering, sources, sources, decisions)
        changed = np.flatnonzero(rows.differ(before.rows))
        if len(changed):
            span = range(int(changed[0]), int(changed[-1]) + 1)
            return Alignment(rows, self.bench), span
        if self.bench == before.bench:
            return before, range(0)
        return Alignment(before.rows, self.bench), range(len(self), len(self))


def _joined(*contents: _Contents) -> _Contents:
    return np.concatenate(contents, axis=1)


def swap(change: _Change, first: int, second: int) -> None:
    """Exchange what two rows take."""
    change.require(first, second)
    if first != second:
        change.flow([first, second], change.held[:, [second, first]])


def move_block(change: _Change, start: int, stop: int, steps: int) -> None:
    """Move the movable rows of `start:stop` past `steps` movable neighbours."""
    if stop > len(change):
        raise IndexError(stop)
    free = np.flatnonzero(~change.fixed())
    first, last = np.searchsorted(free, [start, max(start, stop)])
    if first == last or not steps:
        return
    block = free[first:last]
    if steps > 0:
        others = free[last : last + steps]
        order = np.concatenate([others, block])
    else:
        others = free[max(0, first + steps) : first]
        order = np.concatenate([block, others])
    if len(others):
        change.flow(np.sort(order), change.held[:, order])


def move_to(change: _Change, start: int, to: int) -> None:
    """Take the source out of row `start` and put it in row `to`."""
    change.require(start, to)
    picked, there = change.held[:, [start]], change.held[:, [to]]
    if start == to or picked[0, 0] in (NOTHING, GAP):
        return
    if there[0, 0] == GAP or change.fixed()[to]:
        change.held[:, [start]] = there
        change.held[:, [to]] = change.moved(picked)
        return
    low, high = min(start, to), max(start, to)
    path = np.concatenate([[low], change.passed(low + 1, high), [high]])
    change.flow(path, change.held[:, np.roll(path, -1 if start < to else 1)])


def _push(change: _Change, start: int, stop: int, carried: _Contents) -> _Contents:
    """Put contents into rows of `start:stop`, whose own go down before them, around gaps.

    Each empty row takes one in for good. Returns what found no room.
    """
    path, count = change.passed(start, stop), carried.shape[1]
    contents = change.held[:, path]
    empty = np.flatnonzero(contents[0] == NOTHING)
    end = int(empty[count - 1]) + 1 if count and len(empty) >= count else len(path)
    flowing = contents[:, :end]
    flowing, room = flowing[:, flowing[0] != NOTHING], max(0, end - count)
    change.held[:, path[: end - room]] = change.moved(carried[:, :end])
    change.held[:, path[end - room : end]] = change.moved(flowing[:, :room])
    return _joined(carried[:, end:], flowing[:, room:])


def open_gaps(change: _Change, indexes: Sequence[int]) -> None:
    """Gaps from top to bottom; the contents they displace flow down together."""
    carried = _NONE
    # Gaps one below the other displace very many before anything flows.
    displaced, benched = list[_Contents](), list[str]()
    change.require(*indexes)
    gap = Row(gap=True, by="user")
    for index, following in pairwise([*indexes, len(change)]):
        here = change.held[:, [index]]
        if here[0, 0] != GAP:
            if here[0, 0] != NOTHING and not change.numbering.fixed(here[1])[0]:
                displaced.append(here)
            else:
                benched = [*change.keys(here[0]), *benched]
            change.put(index, gap)
        if index + 1 < following and (carried.size or displaced):
            carried = _push(change, index + 1, following, _joined(carried, *displaced))
            displaced = []
    lost = [*change.keys(_joined(carried, *displaced)[0]), *benched]
    if lost:
        change.settle_bench(lost, first=True)


def close_gaps(change: _Change, indexes: Sequence[int]) -> None:
    """Gaps from top to bottom; what is below flows up to fill them, the bench fills the end."""
    change.require(*indexes)
    room = np.empty(0, np.intp)
    gaps = [index for index in indexes if change.held[0, index] == GAP]
    for index, following in pairwise([*gaps, len(change)]):
        room = np.append(room, index)
        if index + 1 < following:
            room = _pull(change, room, index + 1, following)
    taken = change.bench[: len(room)]
    filling = [change.contents(Row(Take(key), by="user")) for key in taken]
    empty = np.repeat(_EMPTY, len(room) - len(taken), axis=1)
    change.flow(room, _joined(*filling, empty))
    if taken:
        change.settle_bench((), taken)


def _pull(change: _Change, room: _Indexes, start: int, stop: int) -> _Indexes:
    """Fill rows with what is below them in `start:stop`, which leaves rows open there.

    An empty row ends the flow: it goes up, and the rows below it are empty too. Returns the rows
    that are still open.
    """
    path = change.passed(start, stop)
    contents = change.held[:, path]
    holes = np.flatnonzero(contents[0] == NOTHING)
    if not len(holes):
        targets = np.concatenate([room, path])
        change.flow(targets[: len(path)], contents)
        return targets[len(path) :]
    end = int(holes[0]) + 1
    targets = np.concatenate([room, path[:end]])
    empty = np.repeat(_EMPTY, len(room), axis=1)
    change.flow(targets, _joined(contents[:, :end], empty))
    return np.empty(0, np.intp)


def send_to_bench(change: _Change, indexes: Sequence[int]) -> None:
    """Empty the rows; their entries go to the end of the bench."""
    change.require(*indexes)
    chosen = np.array(list(dict.fromkeys(indexes)), np.intp)
    sources = change.held[0, chosen]
    full = chosen[(sources != NOTHING) & (sources != GAP)]
    sent = change.keys(change.held[0, full])
    change.held[:, full] = change.contents(Row(by="user"))
    change.settle_bench(sent)


def place_from_bench(change: _Change, key: str, index: int, shift: bool) -> None:
    """Put a benched entry in the row."""
    if key not in change.bench:
        raise KeyError(key)
    change.require(index)
    placed = Row(Take(key), by="user")
    there = change.held[:, [index]]
    is_full = there[0, 0] not in (NOTHING, GAP) and not change.numbering.fixed(there[1])[0]
    if is_full and shift:
        there = _push(change, index, len(change), change.contents(placed))
    else:
        change.put(index, placed)
    change.settle_bench(change.keys(there[0]), (key,), first=True)


def set_rows(change: _Change, changes: Sequence[tuple[int, Row]]) -> None:
    """Give rows new contents; rows that other rows' new contents are taken from are left empty."""
    change.require(*(index for index, _ in changes))
    touched = dict.fromkeys(index for index, _ in changes)
    numbering = change.numbering
    taken = {numbering.entry(key) for _, row in changes for key in row.keys}
    if taken and len(touched) < len(change):
        takers = np.flatnonzero(are_in(change.held[0], numbering.reading(taken)))
        losing = [index for index in takers.tolist() if index not in touched]
    else:
        losing = []
    concerned = [*touched, *losing]
    before = change.held[:, concerned]
    if losing:
        change.held[:, losing] = change.contents(Row(by="user"))
    for index, row in changes:
        change.put(index, row)
    after = change.held[:, concerned]
    if (before == after).all():
        return
    change.settle_bench(change.keys(before[0, np.argsort(concerned)]), change.keys(after[0]))


def trust(change: _Change, indexes: Sequence[int], trusted: bool) -> None:
    """Take rows for right, or take the trust back."""
    change.require(*indexes)
    numbering = change.numbering
    for index in indexes:
        if change.held[0, index] != NOTHING:
            decision = numbering.decisions[int(change.held[1, index])]
            change.held[1, index] = numbering.decision(decision._replace(trusted=trusted))


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
    change = _Change(alignment)
    _make(change, edit)
    return change.done()


def _make(change: _Change, edit: Edit) -> None:
    match edit:
        case Swap(first, second):
            swap(change, first, second)
        case MoveBlock(start, stop, steps):
            move_block(change, start, stop, steps)
        case MoveTo(start, to):
            move_to(change, start, to)
        case OpenGap(row):
            open_gaps(change, (row,))
        case CloseGap(row):
            close_gaps(change, (row,))
        case SendToBench(rows):
            send_to_bench(change, rows)
        case PlaceFromBench(key, row, shift):
            place_from_bench(change, key, row, shift)
        case SetRows(rows):
            set_rows(change, rows)
        case Trust(rows, trusted):
            trust(change, rows, trusted)
        case Several(edits):
            _several(change, edits)


def _several(change: _Change, edits: Sequence[Edit]) -> None:
    """One after the other; gaps from top to bottom in one pass, as that is the same."""
    opened = [edit.row for edit in edits if isinstance(edit, OpenGap)]
    closed = [edit.row for edit in edits if isinstance(edit, CloseGap)]
    if len(opened) == len(edits) > 1 and _ascend(opened):
        open_gaps(change, opened)
    elif len(closed) == len(edits) > 1 and _ascend(closed):
        close_gaps(change, closed)
    else:
        for part in edits:
            _make(change, part)


def _ascend(indexes: Sequence[int]) -> bool:
    return indexes[0] >= 0 and all(one < other for one, other in pairwise(indexes))
