"""Weights with as many elements but other axes, such as dense layers and pointwise convolutions,
that each would fill where the other fits as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from s2p_tui.core.transform import Shape


def crossed(
    pairs: Mapping[int, tuple[Shape, Shape]],
    left: Iterable[Shape],
    steps: Mapping[int, tuple[str, ...]],
) -> dict[int, str]:
    """The pairs of unlike axes for which one of like axes is to be had, by number, and why.

    With each the rest of its layer.

    Args:
        pairs: The shapes of a leaf and of what it takes.
        left: The shapes of what no leaf takes.
        steps: The steps of the leaves.
    """
    unlike = {n: shapes for n, shapes in pairs.items() if _is_weight(shapes) and _unlike(*shapes)}
    if not unlike:
        return {}
    entries = {*left, *(entry for _, entry in unlike.values())}
    leaves = {leaf for leaf, _ in unlike.values()}
    found = {n for n, (leaf, entry) in unlike.items() if leaf in entries or entry in leaves}
    layers = {steps[n][:-1] for n in found} - {()}
    why = "another one has the very shape that is wanted here"
    return {n: why for n in pairs if n in found or steps[n][:-1] in layers}


def _is_weight(shapes: tuple[Shape, Shape]) -> bool:
    return sum(size != 1 for size in shapes[0]) > 1


def _unlike(leaf: Shape, entry: Shape) -> bool:
    return len(leaf) != len(entry) and _wide(leaf) == _wide(entry)


def _wide(shape: Shape) -> list[int]:
    return sorted(size for size in shape if size != 1)
