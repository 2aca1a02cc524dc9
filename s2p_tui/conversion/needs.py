"""The regions of entries that a region of an expression is made of, and their bytes in files.

`Needs` works on shapes alone, so that a conversion of any size can be planned without reading or
allocating anything; a test compares it with what the evaluator reads. `Fetched` reads such regions
once and gives them to the evaluator, which asks for smaller parts in whatever order it likes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from s2p_tui.alignment.dtypes import dtype_named
from s2p_tui.alignment.judge import same_but_ones
from s2p_tui.alignment.transform import (
    Broadcast,
    Concat,
    Constant,
    EntryShape,
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
from s2p_tui.conversion.evaluate import boxes_of, flat_runs, regrouped
from s2p_tui.formats.base import ByteRange, Extent, Region, Tensors
from s2p_tui.formats.tensors import spans_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Need(NamedTuple):
    """A region of an entry.

    Attributes:
        key: The entry.
        region: The box.
        for_norm: True if only a norm is computed of it, which reads it bit by bit and forgets it.
    """

    key: str
    region: Region
    for_norm: bool = False


class Needs:
    """Finds what regions of expressions over the entries of one state dict are made of.

    Args:
        entry_shape: Gives the shape of the entry of a key.
    """

    def __init__(self, entry_shape: EntryShape) -> None:
        self._entry_shape = entry_shape
        # By identity, as hashing an expression over hundreds of entries goes through all of them.
        self._shapes: dict[int, tuple[Expr, Shape]] = {}
        self._stops: dict[int, tuple[Expr, list[int]]] = {}

    def entry_shape(self, key: str) -> Shape:
        """The shape of the entry of a key."""
        return self._entry_shape(key)

    def of(self, expr: Expr, region: Region) -> list[Need]:
        """The regions that evaluating a region of the expression reads; none that are empty."""
        if any(stop <= start for start, stop in region):
            return []
        return list(self._needs(expr, region))

    def _shape(self, expr: Expr) -> Shape:
        if isinstance(expr, Take):
            return self._entry_shape(expr.key)
        found = self._shapes.get(id(expr))
        if found is None:
            found = self._shapes[id(expr)] = expr, shape_of(expr, self._entry_shape)
        return found[1]

    def _ends(self, expr: Concat) -> list[int]:
        """The places along the axis at which the operands end."""
        found = self._stops.get(id(expr))
        if found is None:
            ends = list(accumulate(self._shape(one)[expr.axis] for one in expr.of))
            found = self._stops[id(expr)] = expr, ends
        return found[1]

    def _needs(self, expr: Expr, region: Region) -> Iterator[Need]:
        match expr:
            case Take(key):
                yield Need(key, region)
            case Constant():
                return
            case Permute(of, axes):
                inner = tuple(region[axes.index(axis)] for axis in range(len(axes)))
                yield from self._needs(of, inner)
            case Flip(of, axes):
                sizes = self._shape(of)
                inner = tuple(
                    (sizes[axis] - stop, sizes[axis] - start) if axis in axes else (start, stop)
                    for axis, (start, stop) in enumerate(region)
                )
                yield from self._needs(of, inner)
            case Split(of, axis, first, _):
                start, stop = region[axis]
                yield from self._needs(of, _with(region, axis, (start + first, stop + first)))
            case Stack(of, axis):
                inner = (*region[:axis], *region[axis + 1 :])
                for operand in of[region[axis][0] : region[axis][1]]:
                    yield from self._needs(operand, inner)
            case Concat():
                yield from self._concat(expr, region)
            case Sum(of):
                for operand in of:
                    yield from self._needs(operand, region)
            case Scale(of):
                yield from self._needs(of, region)
            case Broadcast(of, shape):
                before = self._shape(of)
                yield from self._needs(of, _held(before, region[len(shape) - len(before) :]))
            case Reshape(of, shape):
                yield from self._reshape(of, shape, region)
            case Norm(of, axes):
                yield from self._norm(of, axes, region)
            case WeightNorm((magnitude, direction)):
                yield from self._needs(direction, region)
                sizes = self._shape(magnitude)
                inner = _held(sizes or (1,) * len(region), region)
                yield from self._needs(magnitude, inner if sizes else ())
                summed = sizes or (1,) * len(region)
                axes = tuple(axis for axis, size in enumerate(summed) if size == 1)
                yield from self._norm(direction, axes, inner)
            case SpectralNorm((weight, *vectors)):
                yield from self._needs(weight, region)
                for whole in (weight, *vectors):
                    everything = tuple((0, size) for size in self._shape(whole))
                    for need in self._needs(whole, everything):
                        yield need._replace(for_norm=True)
            case _:
                raise AssertionError(expr)

    def _concat(self, expr: Concat, region: Region) -> Iterator[Need]:
        axis, position = expr.axis, 0
        start, stop = region[axis]
        for operand, end in zip(expr.of, self._ends(expr), strict=True):
            low, high = max(start, position), min(stop, end)
            if low < high:
                bounds = low - position, high - position
                yield from self._needs(operand, _with(region, axis, bounds))
            position = end

    def _reshape(self, of: Expr, shape: Shape, region: Region) -> Iterator[Need]:
        before = self._shape(of)
        if same_but_ones(before, shape):
            kept = iter(part for part, size in zip(region, shape, strict=True) if size != 1)
            yield from self._needs(of, tuple((0, 1) if n == 1 else next(kept) for n in before))
            return
        for box in boxes_of(regrouped(before, shape, region)):
            yield from self._needs(of, box)

    def _norm(self, of: Expr, axes: tuple[int, ...], region: Region) -> Iterator[Need]:
        sizes = self._shape(of)
        whole = tuple((0, sizes[n]) if n in axes else part for n, part in enumerate(region))
        for need in self._needs(of, whole):
            yield need._replace(for_norm=True)


def _with(region: Region, axis: int, bounds: tuple[int, int]) -> Region:
    return (*region[:axis], bounds, *region[axis + 1 :])


def _held(sizes: Shape, region: Region) -> Region:
    """The region with axes of size 1, which are repeated or summed, as they are."""
    return tuple((0, 1) if size == 1 else part for size, part in zip(sizes, region, strict=True))


class Reads(NamedTuple):
    """The reads of files that some regions take.

    Attributes:
        nbytes: Bytes read.
        requests: Reads.
    """

    nbytes: int
    requests: int


def reads_of(tensors: Tensors, key: str, region: Region, shape: Shape, dtype: str) -> Reads:
    """Return the reads that one region of a tensor takes; none where it is in memory."""
    if tensors.in_memory:
        return Reads(0, 0)
    extent = tensors.extent(key)
    if extent is not None:
        count, length = spans_of(extent, region)
        return Reads(count * length, count)
    size = prod(stop - start for start, stop in region) * dtype_named(dtype).itemsize
    found: list[ByteRange] = []
    for low, high in flat_runs(shape, region):
        found += tensors.byte_ranges(key, low, high) or ()
    return Reads(size, max(1, len(found)))


_BOXES = 8
"""Boxes of one entry that are looked through for each part of a region."""
_WASTE, _WASTE_OF_SMALL = 1.05, 2
_SMALL = 1 << 11
"""A box around many may have that many times their elements; more if these are so small that
reading each takes longer."""


def gathered(needs: Sequence[Need]) -> list[Need]:
    """The regions that are read at once, each once, neighbours as one; of an entry with very many
    one around all, if that is little more. What only norms need is left out.
    """
    by_key: dict[str, dict[Region, None]] = {}
    for need in needs:
        if not need.for_norm:
            by_key.setdefault(need.key, {})[need.region] = None
    found: list[Need] = []
    for key, several in by_key.items():
        regions = _joined(list(several))
        if len(regions) > _BOXES:
            around = tuple(
                (min(start for start, _ in bounds), max(stop for _, stop in bounds))
                for bounds in zip(*regions, strict=True)
            )
            wanted = sum(map(_size, regions))
            waste = _WASTE_OF_SMALL if wanted < _SMALL * len(regions) else _WASTE
            if _size(around) <= waste * wanted:
                regions = [around]
        found += (Need(key, region) for region in regions)
    return found


def normed_elsewhere(needs: Sequence[Need], read: Sequence[Need]) -> list[Need]:
    """The regions that norms need beside those that are read at once."""
    return [
        need
        for need in needs
        if need.for_norm
        and not any(one.key == need.key and _holds(one.region, need.region) for one in read)
    ]


def _holds(box: Region, region: Region) -> bool:
    inside = zip(box, region, strict=True)
    return all(low <= start and stop <= high for (low, high), (start, stop) in inside)


def _joined(regions: list[Region]) -> list[Region]:
    """Join boxes that touch or overlap along one axis and are the same along the others."""
    axes = range(len(regions[0]) - 1, -1, -1)
    for axis in axes if len(regions) > 1 else ():
        lots: dict[Region, list[tuple[int, int]]] = {}
        for region in regions:
            lots.setdefault((*region[:axis], *region[axis + 1 :]), []).append(region[axis])
        regions = []
        for rest, lot in lots.items():
            whole: list[tuple[int, int]] = []
            for start, stop in sorted(lot):
                if whole and start <= whole[-1][1]:
                    whole[-1] = whole[-1][0], max(whole[-1][1], stop)
                else:
                    whole.append((start, stop))
            regions += [(*rest[:axis], bounds, *rest[axis:]) for bounds in whole]
    return regions


def _size(region: Region) -> int:
    return prod(stop - start for start, stop in region)


class Fetched(Tensors):
    """Regions of tensors that were read at once; others are read when they are asked for.

    Args:
        tensors: Reads them.
        needs: The regions to read.
    """

    def __init__(self, tensors: Tensors, needs: Sequence[Need]) -> None:
        self._tensors = tensors
        self._parts: dict[str, list[tuple[Region, NDArray[np.generic]]]] = {}
        with tensors.held(
            lambda: [one for need in needs for one in tensors.ranges_in(need.key, need.region)]
        ):
            for need in needs:
                part = need.region, tensors.read(need.key, need.region)
                self._parts.setdefault(need.key, []).append(part)

    def read(self, name: str, region: Region) -> NDArray[np.generic]:
        for box, array in self._parts.get(name, ()):
            if _holds(box, region):
                places = zip(box, region, strict=True)
                within = (slice(start - low, stop - low) for (low, _), (start, stop) in places)
                return array[(..., *within)]
        return self._tensors.read(name, region)

    @property
    def in_memory(self) -> bool:
        return True

    def extent(self, name: str) -> Extent | None:
        return self._tensors.extent(name)

    def byte_ranges(self, name: str, start: int, stop: int) -> Sequence[ByteRange] | None:
        return self._tensors.byte_ranges(name, start, stop)

    def descriptor(self, extent: Extent) -> int | None:
        return self._tensors.descriptor(extent)

    def fill(self, extent: Extent, buffer: memoryview, position: int) -> None:
        self._tensors.fill(extent, buffer, position)

    def check_unchanged(self) -> None:
        self._tensors.check_unchanged()

    def close(self) -> None:
        return
