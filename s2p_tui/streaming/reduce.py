"""Sums over whole tensors, part by part, for the norms that weights are divided by."""

from __future__ import annotations

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

    Args:
        source: Gives the numbers.
        limit: Elements read at once, and remembered at most.
    """

    def __init__(self, source: Regions, limit: int) -> None:
        self._source = source
        self._limit = max(1, limit)
        self._norms: dict[tuple[Expr, tuple[int, ...], Region], NDArray[Any]] = {}
        self._sigmas: dict[SpectralNorm, float] = {}

    def norm(self, of: Expr, axes: tuple[int, ...], region: Region) -> NDArray[Any]:
        """The Euclidean norms over `axes`, kept at size 1, of a region of the others; float64."""
        key = (of, axes, region)
        if key not in self._norms:
            if sum(array.size for array in self._norms.values()) > self._limit:
                self._norms.clear()
            self._norms[key] = self._norm(of, axes, region)
        return self._norms[key]

    def _norm(self, of: Expr, axes: tuple[int, ...], region: Region) -> NDArray[Any]:
        shape = self._source.shape(of)
        whole = tuple(
            (0, shape[axis]) if axis in axes else bounds for axis, bounds in enumerate(region)
        )
        sizes = tuple(stop - start for start, stop in whole)
        kept = [1 if axis in axes else size for axis, size in enumerate(sizes)]
        total = np.zeros(kept)
        last = frozenset((len(sizes) - 1,) if sizes else ())
        for box in tiles(sizes, last, self._limit) if prod(sizes) else ():
            place = tuple(
                (start + low, start + high)
                for (start, _), (low, high) in zip(whole, box, strict=True)
            )
            part = _wide(np.abs(self._source.region(of, place)))
            where = tuple(
                slice(0, 1) if axis in axes else slice(*bounds) for axis, bounds in enumerate(box)
            )
            total[where] += np.square(part).sum(axes, keepdims=True)
        return np.sqrt(total)

    def sigma(self, expr: SpectralNorm) -> float:
        """The `uᵀ W v` a spectrally normed weight is divided by."""
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
