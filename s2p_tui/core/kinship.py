"""Whether a checkpoint and a skeleton can be of the same model at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import prod

from s2p_tui.core.pytree import Skeleton
from s2p_tui.core.state_dict import StateDict


def could_line_up(state_dict: StateDict, skeleton: Skeleton) -> bool:
    """Whether some array leaf could take something from the checkpoint, by number of elements.

    An entry of the leaf's size, several entries of one size that make it up together, or a share
    of an entry that several leaves of one size make up. True where either side has nothing.
    """
    entries = _per_size(entry.shape for entry in state_dict)
    leaves = _per_size(leaf.shape for leaf in skeleton if leaf.kind == "array")
    if not entries or not leaves:
        return True
    return any(
        _makes_up(entry, entries[entry], leaf) or _makes_up(leaf, leaves[leaf], entry)
        for entry in entries
        for leaf in leaves
    )


def _per_size(shapes: Iterable[tuple[int, ...]]) -> Counter[int]:
    sizes = Counter[int]()
    for shape, count in Counter(shapes).items():
        sizes[prod(shape)] += count
    return sizes


def _makes_up(part: int, count: int, whole: int) -> bool:
    return part == whole or (0 < part <= whole and whole % part == 0 and whole // part <= count)
