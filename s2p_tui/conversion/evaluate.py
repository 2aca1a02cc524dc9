"""The numbers of an expression, one region at a time: a region of the result asks its operands for
the regions it is made of, so that memory depends on the region, not on the tensors.

`tiles` cuts a leaf into regions that fit in memory and read and write long runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from itertools import accumulate, pairwise, product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from s2p_tui.alignment.dtypes import dtype_named
from s2p_tui.alignment.judge import same_but_ones
from s2p_tui.alignment.state_dict import StateDict
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
    keys_of,
    shape_of,
)
from s2p_tui.errors import TransformError
from s2p_tui.formats.base import Region, Tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray


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


class Reduced:
    """Norms of expressions, read `limit` elements at a time, added up in float64 and remembered.

    Any thread may ask.

    Args:
        source: Gives the numbers.
        limit: Elements read at once, and remembered at most.
    """

    def __init__(self, source: Evaluator, limit: int) -> None:
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
        u, shape = expr.of[1], self._source.shape(expr.of[0])
        left = _wide(self._source.region(u, ((0, shape[expr.axis]),)))
        rows = self._rows(expr)
        if len(shape) > 1 and shape[0] == shape[1]:
            other = SpectralNorm(expr.of, 1 - expr.axis)
            off, otherwise = (1 - _cosine(left, found) for found in (rows, self._rows(other)))
            if otherwise < min(_ALONG, off * _NEARER):
                raise TransformError(
                    f"{' and '.join(keys_of(expr.of[0]))} is spectrally normed along axis "
                    f"{other.axis} (`dim={other.axis}` in PyTorch), not axis {expr.axis}: its "
                    "vectors fit that one."
                )
        return float(left @ rows)

    def _rows(self, expr: SpectralNorm) -> NDArray[np.float64]:
        """The `W v` of a spectral norm; power iteration makes `u` of it."""
        weight, _, v = expr.of
        shape, axis = self._source.shape(weight), expr.axis
        columns = Reshape(v, (*shape[:axis], *shape[axis + 1 :]))
        rows = np.zeros(shape[axis])
        for box in tiles(shape, frozenset((len(shape) - 1,)), self._limit):
            part = np.moveaxis(_wide(self._source.region(weight, box)), axis, 0)
            right = _wide(self._source.region(columns, (*box[:axis], *box[axis + 1 :])))
            rows[slice(*box[axis])] += np.tensordot(part, right, right.ndim)
        return rows


def _wide(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float64)


def _cosine(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return how nearly two vectors lie along one line: 1 if they do."""
    sizes = float(np.linalg.norm(first) * np.linalg.norm(second))
    return abs(float(first @ second)) / sizes if sizes else 0.0


# How far from 1 the cosine of a spectral norm's vectors may be along the axis they are of, and the
# largest share of that along the other one. Vectors that were never iterated fit neither axis.
_ALONG, _NEARER = 0.1, 0.1

NORM_LIMIT = 1 << 15
"""Elements."""


class Evaluator:
    """Computes regions of expressions over the entries of one state dict.

    Args:
        state_dict: Gives the entries' shapes.
        tensors: Gives their numbers.
        limit: Elements that norms, which need more than the region, read at once. A norm may
            differ in its last bit where this differs.
        reduced: Norms already computed by another evaluator of the same entries.
    """

    def __init__(
        self,
        state_dict: StateDict,
        tensors: Tensors,
        limit: int = NORM_LIMIT,
        reduced: Reduced | None = None,
    ) -> None:
        self._state_dict = state_dict
        self._tensors = tensors
        self._overflowed = 0
        self._reduced = reduced or Reduced(self, limit)

    def again(self, tensors: Tensors | None = None) -> Evaluator:
        """One for another thread, which shares the norms found so far.

        Args:
            tensors: The same numbers, read in another way.
        """
        return Evaluator(self._state_dict, tensors or self._tensors, reduced=self._reduced)

    def with_norms_of(self, tensors: Tensors) -> Evaluator:
        """One that reads norms, too, from these tensors; none found so far are known to it.

        No cycle refers to the tensors: they are forgotten with it.
        """
        inner = self.again(tensors)
        return Evaluator(self._state_dict, tensors, reduced=Reduced(inner, NORM_LIMIT))

    def take_overflowed(self) -> int:
        """Return how often finite numbers gave a sum or product that is not finite.

        Counted since the last call.
        """
        count, self._overflowed = self._overflowed, 0
        return count

    def entry_shape(self, key: str) -> Shape:
        """Shape of the entry of that key."""
        return self._state_dict.shape(key)

    def shape(self, expr: Expr) -> Shape:
        """Shape of an expression's result."""
        return shape_of(expr, self._state_dict.shape)

    def region(self, expr: Expr, region: Region) -> NDArray[Any]:
        """The elements of a region of the result; reads the tensor data it needs.

        The dtype is that of the entry, or for sums, products, quotients and entries of
        several dtypes joined one that holds them all: float32, int64 or wider; float64 for norms.
        """
        match expr:
            case Take(key):
                return self._tensors.read(key, region)
            case Constant(value):
                return np.full([stop - start for start, stop in region], value)
            case Permute(of, axes):
                inner = tuple(region[axes.index(axis)] for axis in range(len(axes)))
                return self.region(of, inner).transpose(axes)
            case Flip(of, axes):
                sizes = self.shape(of)
                inner = tuple(
                    (sizes[axis] - stop, sizes[axis] - start) if axis in axes else (start, stop)
                    for axis, (start, stop) in enumerate(region)
                )
                return np.flip(self.region(of, inner), axes)
            case Split(of, axis, first, _):
                start, stop = region[axis]
                inner = (*region[:axis], (start + first, stop + first), *region[axis + 1 :])
                return self.region(of, inner)
            case Stack(of, axis):
                inner = (*region[:axis], *region[axis + 1 :])
                parts = [self.region(of[i], inner) for i in range(*region[axis])]
                return np.stack(_alike(parts), axis) if parts else self._empty(region)
            case Concat(of, axis):
                return self._concat(of, axis, region)
            case Sum(of):
                parts = [_computable(self.region(operand, region)) for operand in of]
                return self._counted(reduce(_added, parts), parts)
            case Scale(of, factor):
                part = _computable(self.region(of, region))
                return self._counted(_scaled(part, factor), [part])
            case Reshape(of, shape):
                return self._reshape(of, shape, region)
            case Broadcast(of, shape):
                return self._broadcast(of, shape, region)
            case Norm(of, axes):
                found = self._reduced.norm(of, axes, region)
                return found[tuple(slice(0, stop - start) for start, stop in region)]
            case WeightNorm(of):
                return self._weight_norm(of, region)
            case SpectralNorm(of):
                part = _computable(self.region(of[0], region))
                sigma = part.dtype.type(self._reduced.sigma(expr))
                return self._counted(_divided(part, sigma), [part])

    def _broadcast(self, of: Expr, shape: Shape, region: Region) -> NDArray[Any]:
        before = self.shape(of)
        tail = region[len(shape) - len(before) :]
        inner = tuple(
            (0, min(1, stop - start)) if size == 1 else (start, stop)
            for size, (start, stop) in zip(before, tail, strict=True)
        )
        sizes = [stop - start for start, stop in region]
        return np.broadcast_to(self.region(of, inner), sizes)

    def _weight_norm(self, of: tuple[Expr, ...], region: Region) -> NDArray[Any]:
        sizes = self.shape(of[0])
        part = _computable(self.region(of[1], region))
        if not sizes:
            sizes = (1,) * len(region)
            magnitude: Expr = Reshape(of[0], sizes)
        else:
            magnitude = of[0]
        inner = tuple(
            (0, 1) if size == 1 else bounds for size, bounds in zip(sizes, region, strict=True)
        )
        axes = tuple(axis for axis, size in enumerate(sizes) if size == 1)
        norm = self._reduced.norm(of[1], axes, inner)
        factor = _divided(_computable(self.region(magnitude, inner)), norm).astype(part.dtype)
        return self._counted(_scaled(part, factor), [part])

    def _counted(self, result: NDArray[Any], parts: list[NDArray[Any]]) -> NDArray[Any]:
        lost = ~np.isfinite(result)
        if lost.any():
            for part in parts:
                lost &= np.isfinite(part)
            self._overflowed += int(np.count_nonzero(lost))
        return result

    def _empty(self, region: Region) -> NDArray[Any]:
        return np.empty([stop - start for start, stop in region], np.float32)

    def _concat(self, of: tuple[Expr, ...], axis: int, region: Region) -> NDArray[Any]:
        start, stop = region[axis]
        parts: list[NDArray[Any]] = []
        position = 0
        for operand in of:
            size = self.shape(operand)[axis]
            low, high = max(start, position), min(stop, position + size)
            if low < high:
                inner = (low - position, high - position)
                parts.append(self.region(operand, (*region[:axis], inner, *region[axis + 1 :])))
            position += size
        return np.concatenate(_alike(parts), axis) if parts else self._empty(region)

    def _reshape(self, of: Expr, shape: Shape, region: Region) -> NDArray[Any]:
        before = self.shape(of)
        sizes = tuple(stop - start for start, stop in region)
        if same_but_ones(before, shape):
            kept = iter(part for part, size in zip(region, shape, strict=True) if size != 1)
            inner = tuple((0, 1) if size == 1 else next(kept) for size in before)
            if prod(sizes) == 0:
                return self._empty(region)
            return self.region(of, inner).reshape(sizes)
        if prod(sizes) == 0:
            return self._empty(region)
        groups = regrouped(before, shape, region)
        parts = _alike([self.region(of, box) for box in boxes_of(groups)])
        flat = [group.count for group in groups]
        if len(parts) == 1:
            found = parts[0].reshape(flat)
        else:
            found = np.empty(flat, np.result_type(*parts))
            for place, part in zip(product(*(one.places for one in groups)), parts, strict=True):
                found[place] = part.reshape([one.stop - one.start for one in place])
        whole = found.reshape([size for group in groups for size in group.sizes])
        return whole[tuple(part for group in groups for part in group.wanted)]


def _added(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(all="ignore"):
        return first + second


def _divided(array: NDArray[Any], divisor: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(all="ignore"):
        return array / divisor


def _scaled(array: NDArray[Any], factor: float | NDArray[Any]) -> NDArray[Any]:
    with np.errstate(all="ignore"):
        return array * factor


def _computable(array: NDArray[Any]) -> NDArray[Any]:
    """The array in a dtype that additions and products lose little in."""
    dtype = dtype_named(str(array.dtype))
    if dtype.kind == "float" and dtype.bits < 32:
        return array.astype(np.float32)
    if dtype.kind in ("bool", "int", "uint") and dtype.bits < 64:
        return array.astype(np.int64)
    return array


def _alike(arrays: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
    """The arrays as they are if of one dtype, else in dtypes NumPy can join."""
    if all(array.dtype == arrays[0].dtype for array in arrays):
        return arrays
    return [_computable(array) for array in arrays]


_FEW_RUNS, _TIMES_WANTED = 8, 4
"""Of an axis with more runs than that strewn over it, all is taken, if it is that little."""


class Regrouped(Struct, frozen=True):
    """A region of neighbouring axes of a reshape that hold the same elements on both sides.

    Attributes:
        boxes: The regions before it that are taken, in row-major order.
        sizes: The sizes after it of what is taken.
        wanted: What of these is wanted.
    """

    boxes: list[Region]
    sizes: Shape
    wanted: tuple[slice, ...]

    @property
    def count(self) -> int:
        """The number of elements taken."""
        return prod(self.sizes)

    @property
    def places(self) -> list[slice]:
        """The places of the boxes among the elements taken."""
        sizes = (prod(stop - start for start, stop in box) for box in self.boxes)
        ends = list(accumulate(sizes, initial=0))
        return [slice(*ends) for ends in pairwise(ends)]


def boxes_of(groups: Sequence[Regrouped]) -> Iterator[Region]:
    """The regions of all axes that are taken before a reshape; see `regrouped`."""
    for parts in product(*(group.boxes for group in groups)):
        yield tuple(bounds for part in parts for bounds in part)


def regrouped(before: Shape, after: Shape, region: Region) -> list[Regrouped]:
    """The regions that a region after a reshape is made of, for each group of axes.

    Of an axis with many short runs all is taken, so that a part of a region never takes more than
    the region does. No axis may be of size 0.
    """
    found: list[Regrouped] = []
    i = j = 0
    while i < len(before) or j < len(after):
        first, start = i, j
        i, j = min(i + 1, len(before)), min(j + 1, len(after))
        while (ahead := prod(before[first:i]) - prod(after[start:j])) != 0:
            i, j = i + (ahead < 0), j + (ahead > 0)
        found.append(_regrouped(before[first:i], after[start:j], region[start:j]))
    return found


def _regrouped(before: Shape, after: Shape, region: Region) -> Regrouped:
    taken: list[tuple[int, int]] = []
    outer = 1
    for (start, stop), size in zip(region, after, strict=True):
        is_whole = outer > _FEW_RUNS and (stop - start) * _TIMES_WANTED >= size
        taken.append((0, size) if is_whole else (start, stop))
        outer *= stop - start
    runs = flat_runs(after, tuple(taken))
    found = [box for low, high in runs for box in boxes(before, low, high)]
    wanted = (
        slice(start - low, stop - low)
        for (start, stop), (low, _) in zip(region, taken, strict=True)
    )
    return Regrouped(found, tuple(stop - start for start, stop in taken), tuple(wanted))


def flat_runs(shape: Shape, region: Region) -> list[tuple[int, int]]:
    """The region as ranges of row-major element numbers, ascending, each as long as possible."""
    if any(stop <= start for start, stop in region):
        return []
    inner = len(shape)
    run = 1
    while inner and region[inner - 1] == (0, shape[inner - 1]):
        inner -= 1
        run *= shape[inner]
    starts = np.zeros(1, np.int64)
    step = run
    if inner:
        inner -= 1
        low, high = region[inner]
        starts = starts + low * step
        step, run = step * shape[inner], run * (high - low)
    for axis in range(inner - 1, -1, -1):
        low, high = region[axis]
        starts = (np.arange(low, high)[:, None] * step + starts[None, :]).reshape(-1)
        step *= shape[axis]
    return [(start, start + run) for start in starts.tolist()]


def boxes(shape: Shape, start: int, stop: int) -> list[Region]:
    """The row-major range `start:stop` as boxes, in order; at most `2 * len(shape) - 1` of them."""
    if start >= stop:
        return []
    if not shape:
        return [()]
    row = prod(shape[1:])
    first, last = start // row, (stop - 1) // row
    rest = shape[1:]
    whole = tuple((0, size) for size in rest)
    if first == last:
        return [((first, first + 1), *box) for box in boxes(rest, start % row, stop - first * row)]
    found: list[Region] = []
    if start % row:
        found += [((first, first + 1), *box) for box in boxes(rest, start % row, row)]
        first += 1
    end = stop // row
    if end > first:
        found.append(((first, end), *whole))
    if stop % row:
        found += [((end, end + 1), *box) for box in boxes(rest, 0, stop % row)]
    return found
