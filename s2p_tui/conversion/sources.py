"""The regions of entries that expressions are made of, and cuts that take few reads of files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import permutations, product
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
from s2p_tui.conversion.evaluate import EntryShape, boxes, flat_runs
from s2p_tui.formats.base import Region

_MOST_NORMED = 2
"""Elements that a norm is over, of those of the region along the same axes."""
_MOST_AXES = 5


def needs(expr: Expr, region: Region, entry_shape: EntryShape) -> Iterator[tuple[str, Region]]:
    """Yield what the evaluator reads for a region of the result, by key.

    What norms alone read is left out where it is far more than the region, as the evaluator reads
    it once for all regions.
    """
    if any(stop <= start for start, stop in region):
        return
    match expr:
        case Take(key):
            yield key, region
        case Constant():
            return
        case Permute(of, axes):
            inner = tuple(region[axes.index(axis)] for axis in range(len(axes)))
            yield from needs(of, inner, entry_shape)
        case Flip(of, axes):
            sizes = shape_of(of, entry_shape)
            inner = tuple(
                (sizes[axis] - stop, sizes[axis] - start) if axis in axes else (start, stop)
                for axis, (start, stop) in enumerate(region)
            )
            yield from needs(of, inner, entry_shape)
        case Split(of, axis, first, _):
            start, stop = region[axis]
            inner = (*region[:axis], (start + first, stop + first), *region[axis + 1 :])
            yield from needs(of, inner, entry_shape)
        case Stack(of, axis):
            inner = (*region[:axis], *region[axis + 1 :])
            for operand in of[slice(*region[axis])]:
                yield from needs(operand, inner, entry_shape)
        case Concat(of, axis):
            yield from _of_concat(of, axis, region, entry_shape)
        case Sum(of):
            for operand in of:
                yield from needs(operand, region, entry_shape)
        case Scale(of):
            yield from needs(of, region, entry_shape)
        case Reshape(of, shape):
            before = shape_of(of, entry_shape)
            if same_but_ones(before, shape):
                kept = iter(part for part, size in zip(region, shape, strict=True) if size != 1)
                inner = tuple((0, 1) if size == 1 else next(kept) for size in before)
                yield from needs(of, inner, entry_shape)
                return
            for start, stop in flat_runs(shape, region):
                for box in boxes(before, start, stop):
                    yield from needs(of, box, entry_shape)
        case Broadcast(of, shape):
            before = shape_of(of, entry_shape)
            tail = region[len(shape) - len(before) :]
            inner = tuple(
                (0, 1) if size == 1 else bounds for size, bounds in zip(before, tail, strict=True)
            )
            yield from needs(of, inner, entry_shape)
        case Norm(of, axes):
            sizes = shape_of(of, entry_shape)
            whole = tuple(
                (0, size) if axis in axes else bounds
                for axis, (size, bounds) in enumerate(zip(sizes, region, strict=True))
            )
            yield from needs(of, whole, entry_shape)
        case WeightNorm(of):
            sizes = shape_of(of[0], entry_shape) or (1,) * len(region)
            magnitude = of[0] if shape_of(of[0], entry_shape) else Reshape(of[0], sizes)
            inner = tuple(
                (0, 1) if size == 1 else bounds for size, bounds in zip(sizes, region, strict=True)
            )
            axes = tuple(axis for axis, size in enumerate(sizes) if size == 1)
            yield from needs(magnitude, inner, entry_shape)
            yield from needs(of[1], region, entry_shape)
            weight = shape_of(of[1], entry_shape)
            normed = prod(weight[axis] for axis in axes)
            if normed <= _MOST_NORMED * prod(region[axis][1] - region[axis][0] for axis in axes):
                yield from needs(Norm(of[1], axes), inner, entry_shape)
        case SpectralNorm(of):
            yield from needs(of[0], region, entry_shape)


def axes_in_order(
    shape: Shape, limit: int, requests: Callable[[Region], Iterable[tuple[int, int]]]
) -> tuple[int, ...]:
    """Return the axes by how long a region should be along them, so that it takes few requests.

    Args:
        shape: Of the result.
        limit: Elements of a region.
        requests: Returns the byte ranges to ask for, for the sources of a region.
    """
    usual = tuple(reversed(range(len(shape))))
    if prod(shape) <= limit or sum(size > 1 for size in shape) > _MOST_AXES:
        return usual
    long = [axis for axis in usual if shape[axis] > 1]
    short = tuple(axis for axis in usual if shape[axis] <= 1)

    def cost(order: tuple[int, ...]) -> tuple[int, int]:
        first = next(regions_along(shape, order, limit))
        asked = [stop - start for start, stop in requests(first)]
        return len(asked), sum(asked)

    return (*min(permutations(long), key=cost), *short)


def regions_along(shape: Shape, order: Iterable[int], limit: int) -> Iterator[Region]:
    """Yield regions that cover the shape, in row-major order.

    Args:
        shape: To be covered.
        order: The axes, those first along which regions should be long.
        limit: Elements of a region.
    """
    sizes = [1] * len(shape)
    for axis in order:
        sizes[axis] = max(1, min(shape[axis], limit))
        limit //= sizes[axis]
    steps = (range(0, size, step) for size, step in zip(shape, sizes, strict=True))
    for corner in product(*steps):
        yield tuple(
            (start, min(start + step, size))
            for start, step, size in zip(corner, sizes, shape, strict=True)
        )


def _of_concat(
    of: tuple[Expr, ...], axis: int, region: Region, entry_shape: EntryShape
) -> Iterator[tuple[str, Region]]:
    start, stop = region[axis]
    position = 0
    for operand in of:
        size = shape_of(operand, entry_shape)[axis]
        low, high = max(start, position), min(stop, position + size)
        if low < high:
            inner = (low - position, high - position)
            yield from needs(operand, (*region[:axis], inner, *region[axis + 1 :]), entry_shape)
        position += size
