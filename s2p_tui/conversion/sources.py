"""Cuts of a leaf into regions of which the sources take few requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import permutations, product
from math import prod

from s2p_tui.alignment.transform import Shape
from s2p_tui.formats.base import Region

_MOST_AXES = 5


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
