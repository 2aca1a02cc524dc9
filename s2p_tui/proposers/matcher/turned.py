"""Weights turned for a layer that keeps PyTorch's layout, which few checkpoints have otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from s2p_tui.core.pytree import Leaf
from s2p_tui.core.transform import Shape
from s2p_tui.proposers.matcher.pieces import Piece

_MATRIX = 2


def turned(found: Mapping[int, tuple[Leaf, Piece]], shapes: Iterable[Shape]) -> dict[int, str]:
    """The pairs of which the entry is turned although nothing shows that it has to be, and why.

    It has to be where one of them has no entry of its leaf's shape at all.

    Args:
        found: Leaves and what they take, by place.
        shapes: The shapes of all that leaves could take.
    """
    pairs = {place: pair for place, pair in found.items() if _is_turned(*pair)}
    if not pairs:
        return {}
    held = {*shapes}
    if any(leaf.shape not in held for leaf, _ in pairs.values()):
        return {}
    why = "this layer keeps PyTorch's layout, and entries of its shape are there"
    return {n: why for n, (_, piece) in pairs.items() if not piece.is_input_first}


def _is_turned(leaf: Leaf, piece: Piece) -> bool:
    return (
        (leaf.owner or "").startswith("equinox.nn.")
        and len(leaf.shape) == _MATRIX
        and piece.shape == leaf.shape[::-1] != leaf.shape
    )
