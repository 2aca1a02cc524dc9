"""Rearrangements of a tensor that leave its shape: candidates that no shape can tell apart.

Heads lie outside or inside on an axis, parts of a fused layer one after the other or head by head
or in another order, rotary halves as halves or as pairs; a list of stacked layers runs backwards; a
scale is stored less one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

from s2p_tui.alignment.transform import (
    Concat,
    Constant,
    Expr,
    Flip,
    Permute,
    Reshape,
    Shape,
    Split,
    Stack,
    Sum,
    Take,
)

Rearranged = tuple[Expr, str]
"""The expression, and what was done in words."""
_MATRIX = 2
# Queries, keys and values; gate and up.
_FUSED = (2, 3)
# More heads than that have no model of today in one layer.
_MOST_HEADS = 128
# Nobody fuses layers with fewer outputs.
_SMALLEST_PART = 2
_MOST_ORDERED = 3


def rearranged(whole: Expr, shape: Shape) -> Iterator[Rearranged]:
    """The same elements in other orders along one axis, the likeliest first."""
    for axis, size in enumerate(shape[:_MATRIX]):
        for heads in heads_of(size):
            rows = size // heads
            if rows % 2 == 0 and rows > 2:
                each = f" of each of {heads} heads" if heads > 1 else ""
                halves = (heads, 2, rows // 2)
                words = f"halves{each} to pairs on axis {axis}: "
                yield regrouped(whole, shape, axis, halves, (0, 2, 1)), words
                pairs = (heads, rows // 2, 2)
                words = f"pairs{each} to halves on axis {axis}: "
                yield regrouped(whole, shape, axis, pairs, (0, 2, 1)), words
        for heads in heads_of(size)[1:]:
            words = f"{heads} heads from outside to inside on axis {axis}: "
            yield regrouped(whole, shape, axis, (heads, size // heads), (1, 0)), words
            words = f"{heads} heads from inside to outside on axis {axis}: "
            yield regrouped(whole, shape, axis, (size // heads, heads), (1, 0)), words
    size = shape[0] if shape else 0
    for count in _FUSED if len(shape) <= _MATRIX else ():
        if size % count or size < _SMALLEST_PART * count:
            continue
        for heads in heads_of(size // count)[1:]:
            rows = size // count // heads
            words = f"its {count} parts dealt out to {heads} heads: "
            yield regrouped(whole, shape, 0, (count, heads, rows), (1, 0, 2)), words


def heads_of(size: int) -> list[int]:
    """Return the numbers of heads, or groups, that an axis may be cut into; 1 first."""
    most = min(size // 2, _MOST_HEADS)
    return [1, *(heads for heads in range(2, most + 1) if size % heads == 0)] if size > 1 else []


def offset(whole: Expr, shape: Shape) -> Iterator[Expr]:
    """A vector plus 1, and less 1: scales are stored both ways."""
    if len(shape) == 1:
        for amount in (1.0, -1.0):
            yield Sum((whole, Constant(amount, shape)))


def regrouped(
    whole: Expr, shape: Shape, axis: int, sizes: tuple[int, ...], order: tuple[int, ...]
) -> Expr:
    """One axis taken as several of these sizes, put into another order, and as one again."""
    split = (*shape[:axis], *sizes, *shape[axis + 1 :])
    moved = [axis + place for place in order]
    behind = range(axis + len(sizes), len(split))
    return Reshape(Permute(Reshape(whole, split), (*range(axis), *moved, *behind)), shape)


def alternatives(source: Expr, shape: Shape) -> Iterator[Rearranged]:
    """Other sources over the same entries with the same shape, the likeliest first.

    Args:
        source: The source.
        shape: The shape of its result.
    """
    for other, words in _joined_otherwise(source):
        yield other, words
    if len(shape) == _MATRIX and shape[0] == shape[1] and shape[0] > 1:
        yield Permute(source, (1, 0)), "transposed: "
    if len(shape) > _MATRIX:
        spatial = tuple(axis for axis in range(2, len(shape)) if shape[axis] > 1)
        if spatial:
            yield Flip(source, spatial), "its kernel flipped: "
        if shape[0] == shape[1] > 1:
            yield Permute(source, (1, 0, *range(2, len(shape)))), "its channels exchanged: "
            if spatial:
                turned = Permute(Flip(source, spatial), (1, 0, *range(2, len(shape))))
                yield turned, "its kernel flipped and its channels exchanged: "
        last = tuple(range(len(shape)))[:-2]
        if shape[-1] == shape[-2] > 1:
            turned = Permute(source, (*last, len(shape) - 1, len(shape) - 2))
            yield turned, "its last axes exchanged: "
    yield from ((other, "") for other in offset(source, shape))
    size = shape[0] if shape else 0
    for count in _FUSED if len(shape) <= _MATRIX else ():
        if size % count or size < _SMALLEST_PART * count:
            continue
        length = size // count
        parts = [Split(source, 0, n * length, (n + 1) * length) for n in range(count)]
        for order in permutations(range(count)):
            if order != tuple(range(count)):
                names = ", ".join(str(number + 1) for number in order)
                yield Concat(tuple(parts[n] for n in order), 0), f"its parts as {names}: "
        for heads in heads_of(length):
            rows = length // heads
            words = f"its {count} parts of each of {heads} heads together: "
            yield regrouped(source, shape, 0, (heads, count, rows), (1, 0, 2)), words
    yield from rearranged(source, shape)


def _joined_otherwise(source: Expr) -> Iterator[Rearranged]:
    """The same with what a step joins in another order: exchanged, or the list reversed."""
    if isinstance(source, Take):
        return
    of = source.operands
    if isinstance(source, Stack | Concat) and len(of) > 1:
        if len(of) <= _MOST_ORDERED:
            orders = [list(order) for order in permutations(of)][1:]
        else:
            orders = [list(reversed(of))]
            for place in range(len(of) - 1):
                crossed = list(of)
                crossed[place], crossed[place + 1] = crossed[place + 1], crossed[place]
                orders.append(crossed)
        for order in orders:
            yield source.with_operands(tuple(order)), "joined in another order: "
    if len(of) == 1:
        for inner, words in _joined_otherwise(of[0]):
            yield source.with_operands((inner,)), words
    elif isinstance(source, Stack | Concat):
        # All operands alike, as layers stacked for a scan are.
        lists = [list(_joined_otherwise(operand)) for operand in of]
        for alike in zip(*lists, strict=False):
            yield source.with_operands(tuple(one for one, _ in alike)), alike[0][1]
