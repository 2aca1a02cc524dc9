"""Which elements of an entry a source reads, so that none feeds two leaves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from s2p_tui.core.transform import Expr, Split, Take, operands


@dataclass(frozen=True, slots=True)
class Reading:
    """A part of an entry along one axis.

    Attributes:
        key: The entry.
        axis: The axis, -1 for the whole entry.
        start: First index.
        stop: Index after the last.
    """

    key: str
    axis: int = -1
    start: int = 0
    stop: int = 0

    def overlaps(self, other: Reading) -> bool:
        """Whether two readings of one entry may share elements."""
        if self.axis < 0 or self.axis != other.axis:
            return True
        return self.start < other.stop and other.start < self.stop


def readings_of(expr: Expr) -> Iterator[Reading]:
    """What an expression reads, each entry's whole or one split of it."""
    match expr:
        case Take(key):
            yield Reading(key)
        case Split(Take(key), axis, start, stop):
            yield Reading(key, axis, start, stop)
        case _:
            for operand in operands(expr):
                yield from readings_of(operand)


class Used:
    """Readings by leaf.

    Args:
        sources: Leaf places and what they take for good.
    """

    def __init__(self, sources: Iterable[tuple[int, Expr]]) -> None:
        self._by_key: dict[str, list[tuple[int, Reading]]] = defaultdict(list)
        for place, source in sources:
            self.add(place, source)

    def add(self, place: int, source: Expr) -> None:
        """Note what a leaf takes."""
        for reading in readings_of(source):
            self._by_key[reading.key].append((place, reading))

    def others(self, place: int, source: Expr) -> tuple[str, int] | None:
        """A key that another leaf reads too, and that leaf's place; None if there is none."""
        for reading in readings_of(source):
            for other, theirs in self._by_key.get(reading.key, ()):
                if other != place and reading.overlaps(theirs):
                    return reading.key, other
        return None
