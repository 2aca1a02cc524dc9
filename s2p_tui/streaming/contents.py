"""The elements of one leaf, in the dtype they are written in, region by region.

Both the writer and the verification ask here, so that they agree on what should be in the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from s2p_tui.core.dtypes import dtype_named, numpy_dtype
from s2p_tui.core.errors import AlignmentError
from s2p_tui.core.state_dict import Entry, StateDict
from s2p_tui.core.transform import Expr, Permute, Shape, Take, keys_of
from s2p_tui.formats.base import Checkpoint, Extent, Region, Tensors
from s2p_tui.formats.target import Target
from s2p_tui.streaming.evaluate import Evaluator
from s2p_tui.streaming.layout import Piece
from s2p_tui.streaming.tiles import fast_axes, runs_of, tiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BUFFERS_PER_CHUNK = 4
_FOR_NORMS = 4 * 8
"""Bytes of a chunk per element read for a norm: a few float64 buffers beside the others."""
_CACHE_LINE = 64


@dataclass(frozen=True, slots=True)
class Run:
    """Bytes of a file that go to the output unchanged."""

    tensors: Tensors
    extent: Extent
    start: int
    nbytes: int


@dataclass(slots=True)
class CastLoss:
    """What narrowing a leaf's dtype lost: finite numbers turned infinite, and new NaNs."""

    overflowed: int = 0
    new_nan: int = 0

    def __bool__(self) -> bool:
        return bool(self.overflowed or self.new_nan)


@dataclass(slots=True)
class Rounding:
    """How far a leaf's numbers moved when they were cast.

    Attributes:
        largest: The largest difference of a number from what was made of it, over those that are
            finite on both sides; `CastLoss` counts the others.
    """

    largest: float = 0.0

    def add(self, before: NDArray[Any], after: NDArray[Any]) -> None:
        """Take account of an array and what its cast gave."""
        wide = np.complex128 if np.iscomplexobj(before) or np.iscomplexobj(after) else np.float64
        with np.errstate(all="ignore"):
            moved = np.abs(after.astype(wide) - before.astype(wide))
        finite = moved[np.isfinite(moved)]
        if finite.size:
            self.largest = max(self.largest, float(finite.max()))


@dataclass(frozen=True, slots=True)
class _Source:
    """An expression, what its keys stand for, and the shape it is laid out in."""

    expr: Expr
    entries: StateDict
    tensors: Tensors
    shape: Shape


class Contents:
    """Gives the elements of any leaf of a plan.

    Args:
        checkpoint: Source of rows.
        target: Source of kept values.
        chunk_bytes: Memory to stay within, about.
    """

    def __init__(self, checkpoint: Checkpoint, target: Target, chunk_bytes: int) -> None:
        self.chunk_bytes = chunk_bytes
        self._checkpoint = checkpoint
        self._kept_tensors = target.values
        self._kept = StateDict(
            tuple(Entry(leaf.path, leaf.shape, leaf.dtype) for leaf in target.skeleton)
        )

    def runs(self, piece: Piece) -> list[Run] | None:
        """The leaf as unchanged byte ranges of files, or None if it is not that simple."""
        source = self._source(piece)
        ranges = runs_of(source.expr, source.entries.shape)
        if ranges is None:
            return None
        found: list[Run] = []
        for key, start, stop in ranges:
            extent = source.tensors.extent(key)
            if extent is None or extent.dtype != piece.instruction.dtype:
                return None
            if not extent.is_contiguous:
                return None
            size = dtype_named(extent.dtype).itemsize
            begin = extent.offset + start * size
            found.append(Run(source.tensors, extent, begin, (stop - start) * size))
        return found

    def regions(
        self, piece: Piece, loss: CastLoss | None = None, rounding: Rounding | None = None
    ) -> Iterator[tuple[Shape, Region, NDArray[Any]]]:
        """Every region of the leaf as it is laid out: whole shape, region, elements.

        The elements are contiguous and in the dtype written.

        Args:
            piece: The leaf.
            loss: Counts what the cast loses, if given.
            rounding: Measures how far the cast moves the numbers, if given.

        Raises:
            AlignmentError: A whole number does not fit the target's dtype.
            InputError: The source was cut short meanwhile.
        """
        source = self._source(piece)
        dtype = numpy_dtype(piece.instruction.dtype)
        fast = fast_axes(source.expr, source.entries.shape)
        dtypes = [source.entries[key].dtype for key in keys_of(source.expr)]
        widest = max([dtype.itemsize, *(dtype_named(name).itemsize for name in dtypes)])
        limit = max(1, self.chunk_bytes // _BUFFERS_PER_CHUNK // widest)
        evaluator = Evaluator(source.entries, source.tensors, self.chunk_bytes // _FOR_NORMS)
        for region in tiles(source.shape, fast, limit):
            # No name holds what was read while the next region is read.
            uncast = evaluator.region(source.expr, region)
            array = _cast(uncast, dtype, piece, loss)
            if rounding is not None and uncast.dtype != dtype:
                rounding.add(uncast, array)
            del uncast
            if loss is not None:
                loss.overflowed += evaluator.take_overflowed()
            yield source.shape, region, array
            del array

    def _source(self, piece: Piece) -> _Source:
        leaf, expr = piece.instruction.leaf, piece.instruction.source
        if expr is not None:
            entries, tensors = self._checkpoint.state_dict, self._checkpoint.tensors
            return _Source(expr, entries, tensors, leaf.shape)
        expr = Take(leaf.path)
        shape = leaf.shape
        if piece.column_major:
            expr = Permute(expr, tuple(reversed(range(len(shape)))))
            shape = shape[::-1]
        return _Source(expr, self._kept, self._kept_tensors, shape)


def _cast(
    array: NDArray[Any], dtype: np.dtype[Any], piece: Piece, loss: CastLoss | None
) -> NDArray[Any]:
    if array.dtype == dtype:
        return _contiguous(array)
    with np.errstate(all="ignore"):
        cast = _contiguous(array.astype(dtype, order="K"))
    source, target = dtype_named(str(array.dtype)), dtype_named(piece.instruction.dtype)
    if not target.is_floating:
        same = np.array_equal(cast.astype(array.dtype), array)
        if not same or not np.array_equal(cast < 0, array < 0):
            raise AlignmentError(
                f"{piece.instruction.leaf.path}: its {source.name} numbers do not fit "
                f"{target.name}.",
                hint="Give the leaf a wider dtype in the skeleton.",
            )
    elif loss is not None and not source.is_floating:
        loss.overflowed += int(np.count_nonzero(~np.isfinite(cast)))
    elif loss is not None and _may_lose(array.dtype, dtype):
        finite = np.isfinite(array)
        nan = np.isnan(cast)
        loss.overflowed += int(np.count_nonzero(finite & ~np.isfinite(cast) & ~nan))
        loss.new_nan += int(np.count_nonzero(nan & ~np.isnan(array)))
    return cast


def _contiguous(array: NDArray[Any]) -> NDArray[Any]:
    """The array in row-major order, a cache line's width of the last axis at a time.

    NumPy copies row by row; where the source runs along another axis, that fetches each of its
    cache lines once per element.
    """
    if array.flags.c_contiguous or abs(array.strides[-1]) < _CACHE_LINE:
        return np.ascontiguousarray(array).reshape(array.shape)
    found = np.empty(array.shape, array.dtype)
    width = _CACHE_LINE // array.itemsize
    for start in range(0, array.shape[-1], width):
        found[..., start : start + width] = array[..., start : start + width]
    return found


@cache
def _may_lose(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Whether a number of the source can become infinite, or NaN, in the target."""
    import ml_dtypes

    finfo: Any = ml_dtypes.finfo
    with np.errstate(all="ignore"):
        probes = np.array([float(finfo(source).max), -1.0, np.inf]).astype(source)
        cast = probes.astype(target)
    became_nan = np.isnan(cast) & ~np.isnan(probes)
    return bool(np.any(np.isfinite(probes) != np.isfinite(cast)) or np.any(became_nan))
