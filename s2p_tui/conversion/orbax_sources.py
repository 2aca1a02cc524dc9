"""The places of chunks in their sources' files: how arrays are cut, and which are made together.

Columns of one fused weight that go to several arrays lie between each other, as do an embedding
and a head that are tied. Such arrays are cut at the same places, and their chunks made together of
stretches that are read once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf

from s2p_tui.alignment.transform import Expr, Shape, keys_of
from s2p_tui.conversion.needs import Need, Needs
from s2p_tui.formats.base import Region, Tensors, row_major


@dataclass(frozen=True, slots=True)
class Stretch:
    """The bytes of an entry from the first that is needed to behind the last.

    Attributes:
        key: The entry.
        start: The first element, as the file has them.
        stop: The one behind the last.
    """

    key: str
    start: int
    stop: int


class Sources:
    """Finds what arrays are made of.

    Args:
        tensors: Where entries lie.
        needs: The regions of entries that regions of expressions need.
    """

    def __init__(self, tensors: Tensors, needs: Needs) -> None:
        self._tensors, self._needs = tensors, needs

    def _strides(self, key: str) -> Shape:
        extent = self._tensors.extent(key)
        return row_major(self._needs.entry_shape(key)) if extent is None else extent.strides

    def _first(self, need: Need) -> int:
        pairs = zip(need.region, self._strides(need.key), strict=True)
        return sum(start * stride for (start, _), stride in pairs)

    def stretches(self, expr: Expr, region: Region) -> list[Stretch]:
        """The stretches that a region of an array is made of, one per entry."""
        found: dict[str, tuple[int, int]] = {}
        for need in self._needs.of(expr, region):
            if need.for_norm:
                continue
            first = self._first(need)
            pairs = zip(need.region, self._strides(need.key), strict=True)
            last = first + sum((stop - start - 1) * stride for (start, stop), stride in pairs) + 1
            low, high = found.get(need.key, (first, last))
            found[need.key] = min(low, first), max(high, last)
        return [Stretch(key, *bounds) for key, bounds in found.items()]

    def steps(self, expr: Expr, shape: Shape) -> list[float]:
        """The distance in the sources of neighbours along each axis; infinite between entries."""
        origin = [(0, 1)] * len(shape)
        here = [need for need in self._needs.of(expr, tuple(origin)) if not need.for_norm]
        found: list[float] = []
        for axis, size in enumerate(shape):
            if size < 2:
                found.append(0)
                continue
            place = tuple((1, 2) if at == axis else one for at, one in enumerate(origin))
            there = [need for need in self._needs.of(expr, place) if not need.for_norm]
            same = [need.key for need in here] == [need.key for need in there]
            pairs = zip(here, there, strict=True) if same else ()
            apart = (abs(self._first(b) - self._first(a)) for a, b in pairs)
            found.append(max(apart, default=0) if same else inf)
        return found


def families(stretches: Sequence[Iterable[Stretch]]) -> list[list[int]]:
    """The arrays, by number, whose stretches of an entry overlap; none that is alone."""
    by_key: defaultdict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for number, lot in enumerate(stretches):
        for one in lot:
            by_key[one.key].append((one.start, one.stop, number))
    above = list(range(len(stretches)))

    def root(number: int) -> int:
        while above[number] != number:
            above[number] = above[above[number]]
            number = above[number]
        return number

    for lot in by_key.values():
        end, holder = -1, -1
        for start, stop, number in sorted(lot):
            if start < end:
                above[root(number)] = root(holder)
            if stop > end:
                end, holder = stop, number
    found: defaultdict[int, list[int]] = defaultdict(list)
    for number in range(len(stretches)):
        found[root(number)].append(number)
    return [lot for lot in found.values() if len(lot) > 1]


def shared_keys(exprs: Iterable[Expr]) -> set[str]:
    """The entries that more than one array takes."""
    seen: set[str] = set()
    shared: set[str] = set()
    for expr in exprs:
        keys = set(keys_of(expr))
        shared |= seen & keys
        seen |= keys
    return shared


def together(
    chunks: Iterable[tuple[int, int, Sequence[Stretch]]], limit: int
) -> Iterator[list[int]]:
    """Group chunks that overlap in their sources.

    Args:
        chunks: Their numbers, bytes and stretches.
        limit: Bytes of a group at the most, unless one chunk alone is larger.
    """
    placed = [(min((s.key, s.start) for s in lot), number, size, lot)
              for number, size, lot in chunks if lot]  # fmt: skip
    waiting: list[int] = []
    ends: dict[str, int] = {}
    total = 0
    for _, number, size, lot in sorted(placed, key=lambda one: one[:2]):
        overlaps = any(one.start < ends.get(one.key, 0) for one in lot)
        if waiting and (not overlaps or total + size > limit):
            yield waiting
            waiting, ends, total = [], {}, 0
        waiting.append(number)
        total += size
        for one in lot:
            ends[one.key] = max(ends.get(one.key, 0), one.stop)
    if waiting:
        yield waiting
