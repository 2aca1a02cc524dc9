"""The edits that change an alignment, and the one function that makes them: `apply`.

Keys, the matcher, Claude, rules and replayed mapping files all speak in these.

Moving works on *movable* rows. A gap is a property of its leaf (the leaf takes nothing), so entries
flow around gaps and gaps stay where they were put.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, pairwise

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from s2p_tui.alignment.alignment import Alignment, Earlier, Row, Rows, numbers_of
from s2p_tui.alignment.layers import ALONE
from s2p_tui.alignment.numbering import GAP, NOTHING, Decision, Numbers, are_in
from s2p_tui.alignment.transform import Take

_Indexes = NDArray[np.intp]
_NONE: Numbers = np.empty(0, np.int32)
_GAPPED = Row(gap=True, by="user")


class _Change:
    """An alignment while edits are made to it.

    To move is to change `sources` alone: decisions stay with their leaves, where they hold again as
    soon as the source they are about is back.
    """

    def __init__(self, alignment: Alignment) -> None:
        self._before = alignment
        rows = alignment.rows
        self.numbering = rows.numbering
        self.sources: Numbers = rows.sources.copy()
        self.bench, self.accepted = alignment.bench, alignment.accepted
        self._decided, self._decisions = rows.decided, rows.decisions
        self._earlier, self._kept = rows.earlier, dict[tuple[int, int], int]()
        self._chosen: set[int] = set()
        self._redecided: set[int] = set()

    def __len__(self) -> int:
        return len(self.sources)

    def require(self, *indexes: int) -> None:
        """Make sure that rows exist.

        Raises:
            IndexError: One does not.
        """
        for index in indexes:
            if not -len(self) <= index < len(self):
                raise IndexError(index)

    def put(self, index: int, row: Row) -> None:
        """Decide what a row takes."""
        source, decision = numbers_of(row, self.numbering)
        is_so = self.sources[index] == source
        self.sources[index] = source
        if is_so and self.decision(index) == self.numbering.decisions[decision]:
            self._chosen.add(index)
        else:
            self.decide(index, decision)

    def choose(self, indexes: Iterable[int]) -> None:
        """Note that the user chose what these rows take, unless that was decided before."""
        user, chosen = self.numbering.decision(Decision("user")), list(indexes)
        before_it = self._before.rows.sources[chosen].tolist()
        for index, before, source, decided in zip(
            chosen, before_it, *self._held(chosen), strict=True
        ):
            pair = index, source
            is_known = decided == source or pair in self._kept or pair in self._earlier
            if source not in (NOTHING, before) and not is_known:
                self._keep(index)
                self.decide(index, user)

    def decide(self, index: int, decision: int) -> None:
        """Note a decision about what a row takes."""
        self._chosen.add(index)
        if self.numbering.decisions[int(self._decisions[index])].by in (
            "user", "claude", "recipe", "forward",
        ):  # fmt: skip
            # What a proposer found can be asked for again; of all rows it would take much memory.
            self._keep(index)
        self._set_decision(index, int(self.sources[index]), decision)

    def _keep(self, index: int) -> None:
        """Remember the decision on a leaf, where another one takes its place."""
        source, decision = int(self._decided[index]), int(self._decisions[index])
        by, why, _, fixed = self.numbering.decisions[decision]
        if source not in (NOTHING, self.sources[index]) and by != "moved":
            self._kept[index, source] = self.numbering.decision(Decision(by, why, fixed=fixed))

    def _all_earlier(self) -> Earlier:
        """Return the decisions not in force, with those that lost their force in this edit."""
        if self._kept:
            self._earlier, self._kept = self._earlier.updated(self._kept), {}
        return self._earlier

    def _recall(self, moved: _Indexes) -> None:
        """Bring decisions back into force whose sources are back."""
        earlier = self._all_earlier()
        if not earlier:
            return
        if len(moved) < len(earlier):
            # A row that was decided within the edit may take again what it took before it.
            indexes = [*{*moved.tolist(), *self._chosen}]
            rows = zip(indexes, *self._held(indexes), strict=True)
            back = [(n, s) for n, s, decided in rows if s != decided and (n, s) in earlier]
        else:
            numbers = np.fromiter(chain.from_iterable(earlier), np.intp, 2 * len(earlier))
            leaves, sources = numbers[::2], numbers[1::2]
            is_back = (self.sources[leaves] == sources) & (self._decided[leaves] != sources)
            back = list(zip(leaves[is_back].tolist(), sources[is_back].tolist(), strict=True))
        for index, source in back:
            self._keep(index)
            self._set_decision(index, source, earlier[index, source])

    def _held(self, indexes: Sequence[int]) -> Iterator[list[int]]:
        """Yield what rows take, then the sources that the last decisions on them are about.

        Asked of the arrays row by row, 1,500 rows take three times as long.
        """
        yield from (column[indexes].tolist() for column in (self.sources, self._decided))

    def _set_decision(self, index: int, source: int, decision: int) -> None:
        if self._decisions is self._before.rows.decisions:
            self._decided, self._decisions = self._decided.copy(), self._decisions.copy()
        self._decided[index], self._decisions[index] = source, decision
        self._redecided.add(index)

    def decision(self, index: int) -> Decision:
        """Return the decision about what a row takes."""
        if self._decided[index] == self.sources[index]:
            return self.numbering.decisions[int(self._decisions[index])]
        return Decision("order" if self.sources[index] == NOTHING else "moved")

    def fixed(self, there: slice | Sequence[int] = slice(None)) -> NDArray[np.bool_]:
        """Return which of some rows are fixed."""
        is_in_force = self._decided[there] == self.sources[there]
        return self.numbering.fixed(self._decisions[there]) & is_in_force

    def free(self, start: int, stop: int) -> _Indexes:
        """Return the rows of a range that are not fixed."""
        return np.flatnonzero(~self.fixed(slice(start, stop))) + start

    def free_from(self, place: int, count: int) -> _Indexes:
        """Return the first rows from a place on that are not fixed; negative: the last before it.

        Fewer where there are no more. Rows are looked at in ever larger pieces, as most are free.
        """
        reach = abs(count)
        while True:
            start, stop = (place, place + reach) if count > 0 else (place - reach, place)
            found = self.free(max(start, 0), min(stop, len(self)))
            is_all = stop >= len(self) if count > 0 else start <= 0
            if is_all or len(found) >= abs(count):
                return found[:count] if count > 0 else found[count:]
            reach *= 4

    def passed(self, start: int, stop: int) -> _Indexes:
        """Return the rows of a range that entries flow through."""
        stays = self.fixed(slice(start, stop)) | (self.sources[start:stop] == GAP)
        return np.flatnonzero(~stays) + start

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
        taking = are_in(self.sources, self.numbering.reading(entries))
        used = self.numbering.read_by(self.sources[taking])
        names: list[str] = [self.numbering.keys[number] for number in used.tolist()]
        return keys.intersection(names)

    def done(self) -> tuple[Alignment, range]:
        """Return the new alignment and the rows from the first to the last that differ.

        The same alignment and no rows if nothing differs.
        """
        before = self._before
        moved = np.flatnonzero(self.sources != before.rows.sources)
        self._recall(moved)
        self._lapse(moved)
        columns = self.sources, self._decided, self._decisions
        rows = Rows(self.numbering, *columns, self._all_earlier())
        changed = [int(moved[0]), int(moved[-1])] if len(moved) else []
        # Only the ends count.
        first, last = (changed[0], changed[-1]) if changed else (len(self), -1)
        apart = [index for index in self._redecided if not first <= index % len(self) <= last]
        if apart:
            redecided = np.array(apart) % len(self)
            differ = rows.in_force(redecided) != before.rows.in_force(redecided)
            changed += redecided[differ].tolist()
        accepted = self._still_accepted()
        if changed:
            span = range(min(changed), max(changed) + 1)
            return Alignment(rows, self.bench, before.layers, accepted), span
        if self.bench == before.bench and accepted == before.accepted:
            return before, range(0)
        return replace(before, bench=self.bench, accepted=accepted), range(len(self), len(self))

    def _still_accepted(self) -> frozenset[str]:
        """Return the entries accepted as unused, except those that a row takes now."""
        if not self.accepted or self.bench is self._before.bench:
            return self.accepted
        return self.accepted.intersection(self.bench)

    def _lapse(self, moved: _Indexes) -> None:
        """Take back the trust in rows of whose layer another row takes something else now."""
        layers = self._before.layers
        if layers is None or not len(moved) or not self.numbering.has_trusted:
            return
        touched = layers[moved]
        touched = touched[touched != ALONE]
        trusted = self.numbering.trusted(self._decisions).nonzero()[0]
        lapsing = trusted[are_in(layers[trusted], touched)].tolist()
        if not lapsing:
            return
        counts, before = np.bincount(touched), self._before.rows.sources
        for index in lapsing:
            others = counts[layers[index]] - (self.sources[index] != before[index])
            if others and index not in self._chosen:
                decision = self.numbering.decisions[int(self._decisions[index])]
                lapsed = self.numbering.decision(decision._replace(trusted=False))
                self._set_decision(index, int(self._decided[index]), lapsed)


def swap(change: _Change, first: int, second: int) -> None:
    """Exchange what two rows take."""
    change.require(first, second)
    if not change.fixed([first, second]).any():
        change.sources[[first, second]] = change.sources[[second, first]]
        change.choose((first, second))


def move_block(change: _Change, start: int, stop: int, steps: int) -> None:
    """Move the movable rows of `start:stop` past `steps` movable neighbours."""
    if stop > len(change):
        raise IndexError(stop)
    block = change.free(max(0, start), max(0, start, stop))
    if not len(block) or not steps:
        return
    if steps > 0:
        others = change.free_from(stop, steps)
        order = np.concatenate([others, block])
    else:
        others = change.free_from(start, steps)
        order = np.concatenate([block, others])
    if len(others):
        path = np.sort(order)
        change.sources[path] = change.sources[order]
        chosen = path[len(others) :] if steps > 0 else path[: len(block)]
        change.choose(chosen.tolist())


def move_to(change: _Change, start: int, to: int) -> None:
    """Take the source out of row `start` and put it in row `to`."""
    change.require(start, to)
    sources = change.sources
    if start == to or sources[start] in (NOTHING, GAP) or change.fixed([start, to]).any():
        return
    if sources[to] == GAP:
        sources[[start, to]] = sources[[to, start]]
    else:
        low, high = min(start, to), max(start, to)
        path = np.concatenate([[low], change.passed(low + 1, high), [high]])
        sources[path] = sources[np.roll(path, -1 if start < to else 1)]
    change.choose((to,))


def _push(change: _Change, start: int, stop: int, carried: Numbers) -> Numbers:
    """Put sources into rows of `start:stop`, whose own go down before them, around gaps.

    Each empty row takes one in for good. Returns what found no room.
    """
    path, count = change.passed(start, stop), len(carried)
    contents = change.sources[path]
    empty = np.flatnonzero(contents == NOTHING)
    end = int(empty[count - 1]) + 1 if count and len(empty) >= count else len(path)
    flowing, room = contents[:end], max(0, end - count)
    if len(empty):
        flowing = flowing[flowing != NOTHING]
    change.sources[path[: end - room]] = carried[:end]
    change.sources[path[end - room : end]] = flowing[:room]
    return np.concatenate([carried[end:], flowing[room:]])


def open_gaps(change: _Change, indexes: Sequence[int]) -> None:
    """Gaps from top to bottom; the sources they displace flow down together."""
    carried = _NONE
    # Gaps one below the other displace very many before anything flows.
    displaced, benched = list[int](), list[str]()
    change.require(*indexes)
    for index, following in pairwise([*indexes, len(change)]):
        here = int(change.sources[index])
        if here != GAP:
            if here != NOTHING and not change.fixed([index])[0]:
                displaced.append(here)
            else:
                benched = [*change.numbering.keys_of(here), *benched]
            change.put(index, _GAPPED)
        if index + 1 < following and (len(carried) or displaced):
            carried = np.concatenate([carried, np.array(displaced, np.int32)])
            carried = _push(change, index + 1, following, carried)
            displaced = []
    carried = np.concatenate([carried, np.array(displaced, np.int32)])
    lost = [*change.keys(carried), *benched]
    if lost:
        change.settle_bench(lost, first=True)


def close_gaps(change: _Change, indexes: Sequence[int]) -> None:
    """Gaps from top to bottom; what is below flows up to fill them, the bench fills the end."""
    change.require(*indexes)
    room = np.empty(0, np.intp)
    fixed = change.fixed()
    gaps = [index for index in indexes if change.sources[index] == GAP and not fixed[index]]
    for index, following in pairwise([*gaps, len(change)]):
        room = np.append(room, index)
        if index + 1 < following:
            room = _pull(change, room, index + 1, following)
    taken = change.bench[: len(room)]
    change.sources[room] = NOTHING
    change.sources[room[: len(taken)]] = [change.numbering.entry(key) for key in taken]
    if taken:
        change.settle_bench((), taken)


def _pull(change: _Change, room: _Indexes, start: int, stop: int) -> _Indexes:
    """Fill rows with what is below them in `start:stop`, which leaves rows open there.

    An empty row ends the flow: it goes up, and the rows below it are empty too. Returns the rows
    that are still open.
    """
    path = change.passed(start, stop)
    contents = change.sources[path]
    holes = np.flatnonzero(contents == NOTHING)
    if not len(holes):
        targets = np.concatenate([room, path])
        change.sources[targets[: len(path)]] = contents
        return targets[len(path) :]
    end = int(holes[0]) + 1
    targets = np.concatenate([room, path[:end]])
    change.sources[targets[:end]] = contents[:end]
    change.sources[targets[end:]] = NOTHING
    return np.empty(0, np.intp)


def send_to_bench(change: _Change, indexes: Sequence[int]) -> None:
    """Empty the rows; their entries go to the end of the bench."""
    change.require(*indexes)
    chosen = np.array(list(dict.fromkeys(indexes)), np.intp)
    sources = change.sources[chosen]
    full = chosen[(sources != NOTHING) & (sources != GAP)]
    sent = change.keys(change.sources[full])
    change.sources[full] = NOTHING
    change.settle_bench(sent)


def place_from_bench(change: _Change, key: str, index: int, shift: bool) -> None:
    """Put a benched entry in the row."""
    if key not in change.bench:
        raise KeyError(key)
    change.require(index)
    there = change.sources[[index]]
    is_full = there[0] not in (NOTHING, GAP) and not change.fixed([index])[0]
    if is_full and shift:
        placed = np.array([change.numbering.entry(key)], np.int32)
        there = _push(change, index, len(change), placed)
    change.put(index, Row(Take(key), by="user"))
    change.settle_bench(change.keys(there), (key,), first=True)


def set_rows(change: _Change, changes: Sequence[tuple[int, Row]]) -> None:
    """Give rows new contents; rows that other rows' new contents are taken from are left empty."""
    change.require(*(index for index, _ in changes))
    touched = dict.fromkeys(index for index, _ in changes)
    numbering = change.numbering
    taken = {numbering.entry(key) for _, row in changes for key in row.keys}
    losing = list[int]()
    if taken and len(touched) < len(change):
        takers = np.flatnonzero(are_in(change.sources, numbering.reading(taken)))
        losing = [index for index in takers.tolist() if index not in touched]
    concerned = [*touched, *losing]
    before = change.sources[concerned]
    change.sources[losing] = NOTHING
    for index, row in changes:
        change.put(index, row)
    after = change.sources[concerned]
    if (before != after).any():
        change.settle_bench(change.keys(before[np.argsort(concerned)]), change.keys(after))


def trust(change: _Change, indexes: Sequence[int], trusted: bool) -> None:
    """Take rows for right, or take the trust back."""
    change.require(*indexes)
    for index in indexes:
        decision = change.decision(index)
        if change.sources[index] != NOTHING and decision.trusted != trusted:
            trusting = change.numbering.decision(decision._replace(trusted=trusted))
            change.decide(index, trusting)


def accept_unused(change: _Change, keys: Iterable[str], accept: bool) -> None:
    """Accept benched entries as unused, or take that back; other keys are passed over."""
    if accept:
        change.accepted = change.accepted.union(set(keys).intersection(change.bench))
    else:
        change.accepted = change.accepted.difference(keys)


class Swap(Struct, frozen=True):
    """Exchange what two rows take."""

    first: int
    second: int


class MoveBlock(Struct, frozen=True):
    """Move the movable rows of `start:stop` past `steps` movable neighbours (negative: upwards)."""

    start: int
    stop: int
    steps: int


class MoveTo(Struct, frozen=True):
    """Take the source out of row `start` and put it in row `to`; those between shift by one."""

    start: int
    to: int


class OpenGap(Struct, frozen=True):
    """Put a gap at the row; entries from there on flow down by one, around other gaps."""

    row: int


class CloseGap(Struct, frozen=True):
    """Take the gap away; entries below flow up by one, the first benched entry fills the end.

    A fixed row stays as it is: no entry belongs there.
    """

    row: int


class SendToBench(Struct, frozen=True):
    """Empty the rows; their entries go to the end of the bench."""

    rows: tuple[int, ...]


class PlaceFromBench(Struct, frozen=True):
    """Put a benched entry in the row.

    With `shift`, entries from the row on flow down to the next empty row (or the last falls to the
    bench); without, what the row held goes to the bench in its stead.
    """

    key: str
    row: int
    shift: bool = True


class SetRows(Struct, frozen=True):
    """Give rows new contents; entries taken from other rows leave those empty.

    What a proposal, a rule, a mapping file or a chosen transform amounts to.
    """

    rows: tuple[tuple[int, Row], ...]


class Trust(Struct, frozen=True):
    """Take doubtful rows for right (or take the trust back)."""

    rows: tuple[int, ...]
    trusted: bool = True


class AcceptUnused(Struct, frozen=True):
    """Accept that benched entries are left out (or take that back)."""

    keys: tuple[str, ...]
    accept: bool = True


class Several(Struct, frozen=True):
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
    """`apply`, and the rows from the first to the last that differ."""
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
        case AcceptUnused(keys, accept):
            accept_unused(change, keys, accept)
        case Several(edits):
            _several(change, edits)


def _several(change: _Change, edits: Sequence[Edit]) -> None:
    """One after the other; gaps from top to bottom in one pass, as that is the same."""
    for kind, make in ((OpenGap, open_gaps), (CloseGap, close_gaps)):
        rows = [edit.row for edit in edits if isinstance(edit, kind)]
        if len(rows) == len(edits) > 1 and rows[0] >= 0 and all(a < b for a, b in pairwise(rows)):
            make(change, rows)
            return
    for part in edits:
        _make(change, part)
