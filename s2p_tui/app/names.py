"""Names shortened where they are alike, so that those of one block stay apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain

from rich.cells import cell_len

from s2p_tui.app.text import shorten

_SEGMENT = re.compile(r"\[[^\]]*\]|[./][^./\[]+|[^./\[]+|.", re.DOTALL)
_NUMBER = re.compile(r"\d+")
_WHOLE_NUMBER = re.compile(r"(?:^|[./])\d+(?=[./\[])|\['?\d+'?\]")
# Names that a row is compared with lie beside it; those farther away are of other blocks.
_REACH = 96
# Pairs of cuts grow with the fourth power: 14 segments have 1,365.
_MOST_SEGMENTS = 14
_MOST_KEPT = 20_000


class ShortNames:
    """The names of one side in the cells that a column has.

    Args:
        count: How many names there are.
        name_at: Gives each, as it is shown, in the order of its side.
        ellipsis: Where a name was cut.
    """

    def __init__(self, count: int, name_at: Callable[[int], str], ellipsis: str) -> None:
        self._count, self._name_at, self._ellipsis = count, name_at, ellipsis
        self._kept: dict[tuple[int, int], str] = {}

    def at(self, number: int, width: int) -> str:
        """Return a name in at most `width` cells, unlike its neighbours' in those cells."""
        name = self._name_at(number)
        if len(name) <= width and name.isascii():
            return name
        kept = self._kept.get((number, width))
        if kept is None:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            kept = shorten_among(name, self._beside(number), width, ellipsis=self._ellipsis)
            self._kept[number, width] = kept
        return kept

    def _beside(self, number: int) -> list[str]:
        near = range(max(0, number - _REACH), min(self._count, number + _REACH + 1))
        return [self._name_at(other) for other in near if other != number]


def shorten_among(name: str, others: Sequence[str], width: int, *, ellipsis: str = "…") -> str:
    """Return a name in at most `width` cells, cut so that no other one could be read in it.

    Whole segments are left out first, numbers last; where no cut tells it from the others, the
    usual one is made.
    """
    if cell_len(name) <= width:
        return name
    if not name.isascii():
        return shorten(name, width, ellipsis=ellipsis)
    near, block = [other for other in others if other != name], _block(name)
    tried = [cuts(name, width, ellipsis) for cuts in (_by_segments, _within_block, _by_characters)]
    # Where no cut tells a name from all others, it must at least not read as one of its block.
    for unlike in (near, [other for other in near if other.startswith(block)]):
        for parts in chain.from_iterable(tried):
            if not any(_reads_as(parts, other) for other in unlike):
                first, *rest = parts
                return ellipsis.join((first, *(part.lstrip(".") for part in rest)))
    return shorten(name, width, ellipsis=ellipsis)


def alike(name: str, above: str) -> int:
    """Return how many characters a name shares with the one above, in whole segments."""
    pairs = zip(name, above, strict=False)
    end = min(len(name), len(above))
    shared = next((at for at, (one, other) in enumerate(pairs) if one != other), end)
    if shared == len(name):
        return shared if shared == len(above) else 0
    while shared and name[shared - 1].isalnum() | (name[shared - 1] in "_'"):
        shared -= 1
    return shared


def _block(name: str) -> str:
    """Return the beginning that the names of a block share: up to its last number, but no end."""
    found = [one.end() for one in _WHOLE_NUMBER.finditer(name) if one.end() < len(name)]
    return name[: found[-1]] if found else ""


def _by_segments(name: str, width: int, ellipsis: str) -> list[tuple[str, ...]]:
    """Return the name without one or two runs of segments, preferably without its beginning."""
    pieces = _SEGMENT.findall(name)
    if len(pieces) > _MOST_SEGMENTS:
        first = len(pieces) - _MOST_SEGMENTS + 1
        pieces = ["".join(pieces[:first]), *pieces[first:]]
    ends = list(accumulate(map(len, pieces), initial=0))
    numbers = list(accumulate((bool(_NUMBER.search(one)) for one in pieces), initial=0))
    room, count = width - len(ellipsis), len(pieces)
    ranked: list[tuple[tuple[int, ...], tuple[str, ...]]] = []
    for start, stop in _runs(0, count):
        kept, lost = ends[-1] - ends[stop] + ends[start], numbers[stop] - numbers[start]
        # A point behind the ellipsis is not shown.
        kept -= pieces[stop].startswith(".")
        if kept <= room:
            parts = name[: ends[start]], name[ends[stop] :]
            ranked.append(((lost, start > 0, -kept), parts))
            continue
        if start:
            continue
        for again, end in _runs(stop + 1, count):
            both = kept - (ends[end] - ends[again]) - pieces[end].startswith(".")
            if both <= room - len(ellipsis):
                more = lost + numbers[end] - numbers[again]
                parts = "", name[ends[stop] : ends[again]], name[ends[end] :]
                ranked.append(((more, 2, -both), parts))
    return [parts for _, parts in sorted(ranked)]


def _runs(start: int, count: int) -> Iterator[tuple[int, int]]:
    """Yield runs of segments that can be left out; the last segment stays."""
    for first in range(start, count - 1):
        yield from ((first, stop) for stop in range(first + 1, count))


def _within_block(name: str, width: int, ellipsis: str) -> list[tuple[str, ...]]:
    """Return the name from its block's number on, without one run of characters behind that."""
    block = _block(name)
    start = max(block.rfind(sign) for sign in "[./") + (not block.endswith("]"))
    if not start:
        return []
    rest = _by_characters(name[start:], width - len(ellipsis), ellipsis)
    least = len(block) - start
    return [("", *parts) for parts in rest if len(parts[0]) >= least]


def _by_characters(name: str, width: int, ellipsis: str) -> list[tuple[str, ...]]:
    """Return the name without one run of characters, those without digits first."""
    room = width - len(ellipsis)
    lost, digits = len(name) - room, [0, *accumulate(map(str.isdigit, name))]
    if room < 2 or lost <= 0:
        return []
    starts = sorted(
        range(room), key=lambda at: (digits[at + lost] - digits[at], abs(at - room // 3))
    )
    return [(name[:at], name[at + lost :]) for at in starts]


def _reads_as(parts: tuple[str, ...], name: str) -> bool:
    """Return True if a name could be what was cut into these parts."""
    *before, last = parts
    at = 0
    for number, part in enumerate(before):
        if not number:
            if not name.startswith(part):
                return False
            at = len(part)
        else:
            found = name.find(part, at)
            if found < 0:
                return False
            at = found + len(part)
    return name.endswith(last) and len(name) - len(last) >= at
