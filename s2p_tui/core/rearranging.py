"""What edits do to the rows of a draft, in time that grows with what changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import compress, count, islice, pairwise, repeat
from operator import attrgetter, is_, is_not

from s2p_tui.core.alignment import EMPTY, Row
from s2p_tui.core.draft import Draft
from s2p_tui.core.transform import Take

# A gap far up in a long list moves all below it: no step of Python for each of these.
_SOURCE, _GAP, _FIXED = attrgetter("source"), attrgetter("gap"), attrgetter("fixed")


def _moved(row: Row) -> Row:
    """The row's content at another leaf: a user's act, and no longer vouched for."""
    if row.source is None and not row.fixed:
        return row
    if row.by == "user" and not (row.why or row.trusted or row.fixed):
        return row
    return Row(row.source, row.gap, "user")


def _all_moved(rows: Sequence[Row]) -> list[Row]:
    """`_moved` of many, most of which have been moved before."""
    return [
        row
        if row.by == "user" and not row.fixed and not row.trusted and not row.why
        else _moved(row)
        for row in rows
    ]


def swap(draft: Draft, first: int, second: int) -> None:
    """Exchange what two rows take."""
    one, other = draft.rows[first], draft.rows[second]
    if first != second and one != other:
        draft.put(first, _moved(other))
        draft.put(second, _moved(one))


def _flow(draft: Draft, positions: Sequence[int], contents: Sequence[Row]) -> None:
    there, flowed = _at(draft.rows, positions), _all_moved(contents)
    # Rows are equal only if their sources are, which is quickly told of whole entries.
    for number, (old, new) in enumerate(zip(there, contents, strict=True)):
        one, other = old.source, new.source
        if type(one) is Take and type(other) is Take and one.key != other.key:
            continue
        if old == new:
            flowed[number] = old
    draft.put_all(positions, flowed)


def _at(rows: Sequence[Row], positions: Sequence[int]) -> Sequence[Row]:
    if isinstance(positions, range):
        return rows[positions.start : positions.stop]
    return [rows[position] for position in positions]


def _movable(rows: Sequence[Row], start: int, stop: int) -> Sequence[int]:
    """Positions of `start:stop` that entries flow through."""
    part = rows[start:stop]
    if any(map(_GAP, part)) or any(map(_FIXED, part)):
        return [i for i, row in enumerate(part, start) if not row.gap and not row.fixed]
    return range(start, start + len(part))


def _holes(contents: Sequence[Row]) -> Iterator[int]:
    """Numbers of the contents that take nothing."""
    return compress(count(), map(is_, map(_SOURCE, contents), repeat(None)))


def move_block(draft: Draft, start: int, stop: int, steps: int) -> None:
    """Move the movable rows of `start:stop` past `steps` movable neighbours."""
    rows = draft.rows
    block = [i for i in range(start, stop) if not rows[i].fixed]
    if not block or not steps:
        return
    beyond = range(stop, len(rows)) if steps > 0 else range(start - 1, -1, -1)
    others = list(islice((i for i in beyond if not rows[i].fixed), abs(steps)))
    order = [*others, *block] if steps > 0 else [*block, *others[::-1]]
    if others:
        _flow(draft, sorted(order), [rows[i] for i in order])


def move_to(draft: Draft, start: int, to: int) -> None:
    """Take the source out of row `start` and put it in row `to`."""
    rows = draft.rows
    picked, there = rows[start], rows[to]
    if start == to or picked.source is None:
        return
    if there.stays:
        draft.put(start, there)
        draft.put(to, _moved(picked))
        return
    low, high = min(start, to), max(start, to)
    path = [i for i in range(low, high + 1) if i in (start, to) or not rows[i].stays]
    contents = [rows[i] for i in path]
    turn = 1 if start < to else -1
    _flow(draft, path, [*contents[turn:], *contents[:turn]])


def _push(draft: Draft, start: int, stop: int, carried: list[Row]) -> list[Row]:
    """Put contents into rows of `start:stop`, whose own go down before them, around gaps.

    Each empty row takes one in for good. Returns what found no place.
    """
    rows = draft.rows
    if not carried or start >= stop:
        return carried
    path = _movable(rows, start, stop)
    contents = _at(rows, path)
    last = next(islice(_holes(contents), len(carried) - 1, None), None)
    end = len(path) if last is None else last + 1
    displaced = contents[:end]
    are_full = map(is_not, map(_SOURCE, displaced), repeat(None))
    flowing = [*carried, *compress(displaced, are_full)]
    draft.put_all(path[:end], _all_moved(flowing[:end]))
    return flowing[end:]


def open_gaps(draft: Draft, positions: Sequence[int]) -> None:
    """Gaps from top to bottom; the contents they displace flow down together."""
    rows, carried = draft.rows, list[Row]()
    benched: list[str] = []
    for position, following in pairwise([*positions, len(rows)]):
        row = rows[position]
        if not row.gap:
            if row.source is not None and not row.fixed:
                carried.append(row)
            else:
                benched = [*row.keys, *benched]
            draft.put(position, Row(gap=True, by="user"))
        carried = _push(draft, position + 1, following, carried)
    lost = [*(key for row in carried for key in row.keys), *benched]
    if lost:
        draft.settle_bench((*lost, *draft.bench), lost)


def close_gaps(draft: Draft, positions: Sequence[int]) -> None:
    """Gaps from top to bottom; what is below flows up to fill them, the bench fills the end."""
    rows, open_places = draft.rows, list[int]()
    positions = [position for position in positions if rows[position].gap]
    for position, following in pairwise([*positions, len(rows)]):
        open_places = _pull(draft, [*open_places, position], position + 1, following)
    taken = draft.bench[: len(open_places)]
    filling = [*(Row(Take(key), by="user") for key in taken)]
    filling += [EMPTY] * (len(open_places) - len(taken))
    _flow(draft, open_places, filling)
    if taken:
        draft.settle_bench(draft.bench[len(taken) :], (), taken)


def _pull(draft: Draft, places: list[int], start: int, stop: int) -> list[int]:
    """Fill the places with what is in `start:stop`, which leaves places open below.

    An empty row ends the flow: it goes up, and the places below it are empty too. Returns the
    places that are still open.
    """
    rows = draft.rows
    path = _movable(rows, start, stop)
    contents = _at(rows, path)
    hole = next(_holes(contents), None)
    if hole is not None:
        path, contents = path[: hole + 1], contents[: hole + 1]
    targets = _one_after_the_other(places, path)
    if hole is None:
        _flow(draft, targets[: len(contents)], contents)
        return list(targets[len(contents) :])
    _flow(draft, targets, [*contents, *([EMPTY] * len(places))])
    return []


def _one_after_the_other(places: Sequence[int], path: Sequence[int]) -> Sequence[int]:
    if isinstance(path, range):
        whole = range(path.start - len(places), path.stop)
        if list(whole[: len(places)]) == places:
            return whole
    return [*places, *path]


def send_to_bench(draft: Draft, positions: Sequence[int]) -> None:
    """Empty the rows; their entries go to the end of the bench."""
    sent: list[str] = []
    for position in positions:
        row = draft.rows[position]
        if row.source is not None:
            sent.extend(row.keys)
            draft.put(position, Row(by="user"))
    draft.settle_bench((*draft.bench, *sent), sent)


def place_from_bench(draft: Draft, key: str, position: int, shift: bool) -> None:
    """Put a benched entry in the row."""
    if key not in draft.bench:
        raise KeyError(key)
    rows = draft.rows
    there, placed = rows[position], Row(Take(key), by="user")
    if there.source is not None and not there.fixed and shift:
        left = _push(draft, position, len(rows), [placed])
    else:
        left = [there]
        draft.put(position, placed)
    lost = [key for row in left for key in row.keys]
    draft.settle_bench((*lost, *(other for other in draft.bench if other != key)), lost, (key,))


def set_rows(draft: Draft, changes: Sequence[tuple[int, Row]]) -> None:
    """Give rows new contents; rows that other rows' new contents are taken from are left empty."""
    rows = draft.rows
    touched = {position for position, _ in changes}
    taken = {key for _, row in changes for key in row.keys}
    before = {position: rows[position] for position in touched}
    for position in _takers(rows, taken, touched):
        before[position] = rows[position]
        draft.put(position, Row(by="user"))
    for position, row in changes:
        draft.put(position, row)
    if all(rows[position] == row for position, row in before.items()):
        return
    lost = [key for position in sorted(before) for key in before[position].keys]
    gained = [key for position in before for key in rows[position].keys]
    draft.settle_bench((*draft.bench, *lost), lost, gained)


def _takers(rows: Sequence[Row], keys: set[str], touched: set[int]) -> Iterator[int]:
    """Rows that take one of the keys, those that are touched aside."""
    if not keys or len(touched) == len(rows):
        return
    for position, row in enumerate(rows):
        source = row.source
        if source is None or position in touched:
            continue
        if source.key in keys if type(source) is Take else keys.intersection(row.keys):
            yield position


def trust(draft: Draft, positions: Sequence[int], trusted: bool) -> None:
    """Take rows for right, or take the trust back."""
    for position in positions:
        row = draft.rows[position]
        if (row.source is not None or row.gap) and row.trusted != trusted:
            draft.put(position, replace(row, trusted=trusted))
