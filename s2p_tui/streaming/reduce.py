"""Sums over whole tensors, part by part, for the norms that weights are divided by.

A sum must not depend on the region that is asked for, or a file written in regions of one size
would differ in its last bits from what is expected in regions of another.
"""

from __future__ import annotations

import threading
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from s2p_tui.core.transform import Expr, Reshape, Shape, SpectralNorm
from s2p_tui.formats.base import Region
from s2p_tui.streaming.tiles import tiles

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Regions(Protocol):
    """Gives shapes and regions of expressions."""

    def shape(self, expr: Expr) -> Shape:
        """Shape of an expression's result."""
        ...

    def region(self, expr: Expr, region: Region) -> NDArray[Any]:
        """The elements of a region of the result."""
        ...


class Reduced:
    """Norms of expressions, read `limit` elements at a time, added up in float64 and remembered.

    Any thread may ask.

    Args:
        source: Gives the numbers.
        limit: Elements read at once, and remembered at most.
    """

    def __init__(self, source: Regions, limit: int) -> None:
        self._source = source
        self._limit = max(1, limit)
        self._norms: dict[tuple[Expr, tuple[int, ...], Region], NDArray[Any]] = {}
        self._sigmas: dict[SpectralNorm, float] = {}
        self._lock = threading.RLock()

    def norm(self, of: Expr, axes: tuple[int, ...], region: Region) -> NDArray[Any]:
        """The Euclidean norms over `axes`, kept at size 1, of a region of the others; float64."""
        key = (of, axes, region)
        with self._lock:
            if key not in self._norms:
                if sum(array.size for array in self._norms.values()) > self._limit:
                    self._norms.clear()
                self._norms[key] = self._norm(of, axes, region)
            return self._norms[key]

    def _norm(self, of: Expr, axes: tuple[int, ...], region: Region) -> NDArray[Any]:
        shape = self._source.shape(of)
        kept = [axis for axis in range(len(shape)) if axis not in axes]
        summed = tuple(shape[axis] for axis in axes)
        sizes = tuple(region[axis][1] - region[axis][0] for axis in kept)
        total = np.zeros(sizes)
        row = frozenset((len(summed) - 1,) if summed else ())
        for box in tiles(summed, row, self._limit) if prod(sizes) * prod(summed) else ():
            count = prod(stop - start for start, stop in box)
            last = frozenset((len(sizes) - 1,) if sizes else ())
            for part in tiles(sizes, last, max(1, self._limit // count)):
                place = list(region)
                for axis, bounds in zip(axes, box, strict=True):
                    place[axis] = bounds
                for axis, (start, stop) in zip(kept, part, strict=True):
                    place[axis] = (region[axis][0] + start, region[axis][0] + stop)
                numbers = _wide(np.abs(self._source.region(of, tuple(place))))
                # One contiguous row per sum: NumPy then adds it up in an order of its own only.
                rows = np.ascontiguousarray(numbers.transpose(*kept, *axes)).reshape(-1, count)
                where = tuple(slice(*bounds) for bounds in part)
                total[where] += np.square(rows).sum(1).reshape(total[where].shape)
        return np.sqrt(total).reshape(
            [1 if axis in axes else stop - start for axis, (start, stop) in enumerate(region)]
        )

    def sigma(self, expr: SpectralNorm) -> float:
        """The `uᵀ W v` a spectrally normed weight is divided by."""
        with self._lock:
            if expr not in self._sigmas:
                self._sigmas[expr] = self._sigma(expr)
            return self._sigmas[expr]

    def _sigma(self, expr: SpectralNorm) -> float:
        weight, u, v = expr.of
        shape, axis = self._source.shape(weight), expr.axis
        columns = Reshape(v, (*shape[:axis], *shape[axis + 1 :]))
        total = 0.0
        for box in tiles(shape, frozenset((len(shape) - 1,)), self._limit):
            part = np.moveaxis(_wide(self._source.region(weight, box)), axis, 0)
            left = _wide(self._source.region(u, (box[axis],)))
            right = _wide(self._source.region(columns, (*box[:axis], *box[axis + 1 :])))
            total += float(np.sum(np.tensordot(left, part, 1) * right))
        return total


def _wide(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float64)
