"""Candidates for a leaf, or leaves for an entry: the likeliest names first.

Work is bounded: names are compared by `rapidfuzz` within groups of equal fit by size, and no more
are listed than someone would look through.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from math import prod

from msgspec import Struct

from s2p_tui.alignment.transform import Shape

MOST = 200
"""Candidates listed at most."""
_MOST_PARTS = 128
_MOST_FUZZY = 20_000
_FUZZY_FROM = 70


class Tier(IntEnum):
    """Fit of two sizes, best first."""

    SUGGESTED = 0
    SAME_SHAPE = 1
    SAME_SIZE = 2
    PARTS = 3
    OTHER = 4


class Candidate(Struct, frozen=True):
    """One that could be taken.

    Attributes:
        index: Its index among the pool's names.
        tier: How well its size goes with what is wanted.
    """

    index: int
    tier: Tier


class Pool:
    """Names and shapes to choose from, indexed once.

    Args:
        names: Keys, or key paths.
        shapes: The shape of each.
        whole: Whether one of these gives its parts to what is wanted; False if it takes them.
    """

    def __init__(self, names: Iterable[str], shapes: Iterable[Shape], *, whole: bool) -> None:
        self._names = [spoken(name) for name in names]
        self._whole = whole
        by_shape: defaultdict[Shape, list[int]] = defaultdict(list)
        for index, shape in enumerate(shapes):
            by_shape[shape].append(index)
        self._by_size: defaultdict[int, dict[Shape, list[int]]] = defaultdict(dict)
        for shape, indices in by_shape.items():
            self._by_size[prod(shape)][shape] = indices

    def __len__(self) -> int:
        return len(self._names)

    def ranked(
        self, name: str, shape: Shape, query: str = "", first: Sequence[int] = ()
    ) -> list[Candidate]:
        """The likeliest for a name and shape, best first.

        Args:
            name: The leaf's key path, or the entry's key.
            shape: Its shape.
            query: Words that all have to be part of a candidate's name; if no name has them,
                names that are similar to the whole of it.
            first: Places that are suggested, best first.
        """
        asked = " ".join(spoken(query).split())
        found = self._having(asked) if asked else None
        wanted = spoken(name)
        if found is not None and not found:
            found, wanted = self._similar(asked), asked
        suggested = [index for index in first if found is None or index in found]
        listed = [Candidate(index, Tier.SUGGESTED) for index in suggested]
        seen = set(suggested)
        for tier, indices in self._tiers(shape):
            if len(listed) >= MOST:
                break
            if found is not None:
                indices = [index for index in indices if index in found]
            near = self._nearest(wanted, indices, MOST + len(seen))
            listed += [Candidate(index, tier) for index in near if index not in seen]
        return listed[:MOST]

    def _tiers(self, shape: Shape) -> Iterator[tuple[Tier, list[int]]]:
        size = prod(shape)
        same: Mapping[Shape, list[int]] = self._by_size.get(size, {})
        yield Tier.SAME_SHAPE, same.get(shape, [])
        yield Tier.SAME_SIZE, _indices(same, but=shape)
        parts: list[int] = []
        others: list[int] = []
        for other, shapes in self._by_size.items():
            if other != size:
                (parts if self._divides(size, other) else others).extend(_indices(shapes))
        yield Tier.PARTS, parts
        yield Tier.OTHER, others

    def _divides(self, size: int, other: int) -> bool:
        part, whole = (size, other) if self._whole else (other, size)
        return bool(part) and whole % part == 0 and 1 < whole // part <= _MOST_PARTS

    def _having(self, query: str) -> set[int]:
        """Places of the names that have all words of a query."""
        names = self._names
        indices: Iterable[int] = range(len(names))
        for word in query.split():
            indices = [index for index in indices if word in names[index]]
        return set(indices)

    def _similar(self, query: str) -> set[int]:
        from rapidfuzz import fuzz, process

        near = self._nearest(query, range(len(self._names)), _MOST_FUZZY)
        choices = {index: self._names[index] for index in near}
        found = process.extract(
            query, choices, scorer=fuzz.partial_ratio, limit=MOST, score_cutoff=_FUZZY_FROM
        )
        return {index for _, _, index in found}

    def _nearest(self, name: str, indices: Sequence[int], limit: int) -> list[int]:
        from rapidfuzz import fuzz, process

        names = self._names
        found = process.extract(
            name, [names[index] for index in indices], scorer=fuzz.ratio, limit=limit
        )
        return [indices[number] for _, _, number in found]


def _indices(shapes: Mapping[Shape, list[int]], but: Shape | None = None) -> list[int]:
    return [index for shape, indices in shapes.items() if shape != but for index in indices]


def spoken(name: str) -> str:
    """A key, key path or query as it is compared: `layers.3.q` for `.Layers[3].q`."""
    for sign in "[]'\"":
        name = name.replace(sign, "." if sign == "[" else "")
    return name.strip(".").replace("..", ".").lower()
