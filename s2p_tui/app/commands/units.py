"""Layers that are marked or folded move as units: weight, bias and running statistics together.

Statistics may be in another tree, as Equinox keeps those of `[0].norm` at `[1].norm`. Where rows
are all that a layer has in its own tree, what is done to them is done to its statistics too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from s2p_tui.alignment.alignment import Rows
from s2p_tui.alignment.edits import Swap
from s2p_tui.alignment.layers import ALONE, is_statistic, role_of
from s2p_tui.alignment.skeleton import Skeleton


class Unit(NamedTuple):
    """The rows of one layer that entries can be put in.

    Attributes:
        own: Those in its own tree.
        apart: Its statistics in another tree.
        roles: What each is called in the layer.
    """

    own: tuple[int, ...]
    apart: tuple[int, ...]
    roles: tuple[str, ...]


class Units:
    """The layers of a pytree as units.

    Args:
        skeleton: The leaves.
        rows: The rows, of which the fixed ones are in no unit.
    """

    def __init__(self, skeleton: Skeleton, rows: Rows) -> None:
        self._skeleton, self._rows = skeleton, rows
        layers, fixed = skeleton.layers, rows.fixed()
        members = np.flatnonzero((layers != ALONE) & ~fixed)
        members = members[np.argsort(layers[members], kind="stable")]
        self._members, self._layers = members, layers
        self._sorted = layers[members]

    def of(self, index: int) -> Unit | None:
        """Return the unit that a row belongs to."""
        layer = self._layers[index]
        if layer == ALONE:
            return None
        start, stop = np.searchsorted(self._sorted, [layer, layer + 1])
        indices: list[int] = self._members[start:stop].tolist()
        paths = {one: self._skeleton[one].path for one in indices}
        root = next((_root(path) for path in paths.values() if not is_statistic(path)), "")
        own = tuple(one for one in indices if not root or _root(paths[one]) == root)
        apart = tuple(one for one in indices if one not in own)
        return Unit(own, apart, tuple(role_of(paths[one]) for one in (*own, *apart)))

    def whole(self, chosen: Iterable[int]) -> list[Unit]:
        """Return the units of which all own rows are among some rows."""
        rows = set(chosen)
        found = {layer: row for row in sorted(rows) if (layer := int(self._layers[row])) != ALONE}
        units = (self.of(row) for row in found.values())
        return [unit for unit in units if unit and unit.own and rows.issuperset(unit.own)]

    def apart(self, chosen: Sequence[int]) -> list[int]:
        """Return the statistics in another tree that belong to whole units among some rows."""
        return sorted(index for unit in self.whole(chosen) for index in unit.apart)

    def along(self, moved: dict[int, int]) -> dict[int, int] | None:
        """Return where statistics in other trees go when rows do, so that units stay whole.

        Args:
            moved: Where the entry of each row goes.

        Returns:
            None where some of those units would not stay whole.
        """
        found: dict[int, int] = {}
        units = [unit for unit in self.whole(moved) if unit.apart]
        for unit in units:
            there = self.of(moved[unit.own[0]])
            targets = tuple(moved[index] for index in unit.own)
            if there is None or there.own != targets or there.roles != unit.roles:
                return None
            found |= dict(zip(unit.apart, there.apart, strict=True))
        return found if found.keys() == set(found.values()) else None

    def swapped_along(self, swaps: Sequence[Swap]) -> list[Swap]:
        """Return the swaps of statistics in other trees that go with swaps of rows."""
        moved = {swap.first: swap.second for swap in swaps}
        moved |= {swap.second: swap.first for swap in swaps}
        along = self.along(moved) or {}
        ours = self.apart([swap.first for swap in swaps])
        return [Swap(index, along[index]) for index in ours if index in along]

    def neighbour(self, start: int, stop: int, step: Literal[1, -1]) -> Unit | None:
        """Return the unit beside whole units of its kind; None if something else is there.

        Args:
            start: The first of their rows.
            stop: The row after the last.
            step: Whether to look below or above them.
        """
        block = list(self._rows.unfixed(range(start, stop)))
        ours = self.whole(block)
        beyond = range(stop, len(self._rows)) if step > 0 else range(start - 1, -1, -1)
        beside = next(self._rows.unfixed(beyond), None)
        there = None if beside is None else self.of(beside)
        if there is None or sorted(index for unit in ours for index in unit.own) != block:
            return None
        is_near = there.own[0 if step > 0 else -1] == beside
        return there if is_near and all(unit.roles == there.roles for unit in ours) else None


def _root(path: str) -> str:
    return path[: path.find("]") + 1] if path.startswith("[") else path[:1]
