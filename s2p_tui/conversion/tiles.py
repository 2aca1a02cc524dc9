"""Cutting a leaf into regions that fit in memory and read and write long runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from math import prod

from s2p_tui.alignment.judge import same_but_ones
from s2p_tui.alignment.transform import (
    Broadcast,
    Concat,
    Constant,
    Expr,
    Flip,
    Norm,
    Permute,
    Reshape,
    Scale,
    Shape,
    SpectralNorm,
    Split,
    Stack,
    Sum,
    Take,
    WeightNorm,
    shape_of,
)
from s2p_tui.formats.base import Region

EntryShape = Callable[[str], Shape]


def tiles(shape: Shape, fast: frozenset[int], limit: int, longer: int = 1) -> Iterator[Region]:
    """Regions that cover the shape, each of at most `limit` elements, in row-major order.

    Args:
        shape: The shape to cover.
        fast: Axes that should be long: those along which source or target are contiguous.
        limit: Elements per region, at least 1.
        longer: Ratio of the last fast axis to the others.
    """
    sizes = _tile_sizes(shape, fast, limit, longer)
    steps = (range(0, size, step) for size, step in zip(shape, sizes, strict=True))
    for corner in product(*steps):
        yield tuple(
            (start, min(start + step, size))
            for start, step, size in zip(corner, sizes, shape, strict=True)
        )


def _tile_sizes(shape: Shape, fast: frozenset[int], limit: int, longer: int) -> list[int]:
    sizes: list[int] = [1] * len(shape)
    weights = [1] * len(shape)
    weights[-1:] = [longer] * len(weights[-1:])
    growing: list[int] = [axis for axis in sorted(fast, reverse=True) if shape[axis] > 1]
    while growing and prod(sizes) * 2 <= limit:
        axis = min(growing, key=lambda at: (sizes[at] / weights[at], -at))
        sizes[axis] = min(sizes[axis] * 2, shape[axis])
        growing = [axis for axis in growing if sizes[axis] < shape[axis]]
    for axis in range(len(shape) - 1, -1, -1):
        room = limit // max(1, prod(sizes) // sizes[axis])
        sizes[axis] = max(1, min(shape[axis], room))
    return sizes


def fast_axes(expr: Expr, entry_shape: EntryShape) -> frozenset[int]:
    """The axes of the result along which it, or an entry it reads, is contiguous."""
    shape = shape_of(expr, entry_shape)
    own: set[int] = {len(shape) - 1} if shape else set()
    return frozenset(own | source_axes(expr, entry_shape))


def source_axes(expr: Expr, entry_shape: EntryShape) -> set[int]:
    """The axes of the result along which an entry it reads is contiguous."""
    match expr:
        case Take(key):
            return {len(entry_shape(key)) - 1} if entry_shape(key) else set()
        case Constant():
            return set()
        case Permute(of, axes):
            inner = source_axes(of, entry_shape)
            return {position for position, axis in enumerate(axes) if axis in inner}
        case Flip(of) | Split(of) | Scale(of):
            return source_axes(of, entry_shape)
        case Norm(of, axes):
            return source_axes(of, entry_shape).difference(axes)
        case Broadcast(of, shape):
            before = shape_of(of, entry_shape)
            added = len(shape) - len(before)
            inner = source_axes(of, entry_shape)
            return {axis + added for axis in inner if before[axis] != 1}
        case WeightNorm(of):
            return source_axes(of[1], entry_shape)
        case SpectralNorm(of):
            return source_axes(of[0], entry_shape)
        case Sum(of) | Concat(of):
            return {axis for operand in of for axis in source_axes(operand, entry_shape)}
        case Stack(of, axis):
            found = {axis for operand in of for axis in source_axes(operand, entry_shape)}
            return {inner + (inner >= axis) for inner in found}
        case Reshape(of, shape):
            before = shape_of(of, entry_shape)
            if not same_but_ones(before, shape):
                return {len(shape) - 1} if shape else set()
            places = [axis for axis, size in enumerate(before) if size != 1]
            targets = [axis for axis, size in enumerate(shape) if size != 1]
            moved = dict(zip(places, targets, strict=True))
            inner = source_axes(of, entry_shape)
            return {moved[axis] for axis in inner if axis in moved}


def runs_of(expr: Expr, entry_shape: EntryShape) -> list[tuple[str, int, int]] | None:
    """The result as row-major element ranges `(key, start, stop)` of entries laid end to end.

    None if it is not that simple: if elements are reordered, computed or made up.
    """
    match expr:
        case Take(key):
            return [(key, 0, prod(entry_shape(key)))]
        case Reshape(of):
            return runs_of(of, entry_shape)
        case Permute(of, axes):
            shape = shape_of(of, entry_shape)
            moved = [axis for axis in axes if shape[axis] != 1]
            return runs_of(of, entry_shape) if moved == sorted(moved) else None
        case Split(of, axis, start, stop):
            shape = shape_of(of, entry_shape)
            inner = runs_of(of, entry_shape)
            if inner is None or prod(shape[:axis]) != 1:
                return None
            row = prod(shape[axis + 1 :])
            return _cut(inner, start * row, stop * row)
        case Stack(of, axis) | Concat(of, axis):
            shape = shape_of(expr, entry_shape)
            parts = [runs_of(operand, entry_shape) for operand in of]
            if prod(shape[:axis]) != 1 or any(part is None for part in parts):
                return None
            return [run for part in parts if part is not None for run in part]
        case _:
            return None


def _cut(runs: list[tuple[str, int, int]], start: int, stop: int) -> list[tuple[str, int, int]]:
    found: list[tuple[str, int, int]] = []
    position = 0
    for key, low, high in runs:
        begin, end = max(start - position, 0), min(stop - position, high - low)
        if begin < end:
            found.append((key, low + begin, low + end))
        position += high - low
    return found
