"""The records of the output, placed before anything is written, and the elements of each.

Elements come region by region, in the dtype they are written in.

Both the writer and the verification ask here, so that they agree on what should be in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache, cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from s2p_tui.alignment.dtypes import dtype_named, numpy_dtype
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import (
    Concat,
    Expr,
    Permute,
    Reshape,
    Shape,
    Split,
    Stack,
    Take,
    shape_of,
)
from s2p_tui.conversion.evaluate import EntryShape, Evaluator, source_axes, tiles
from s2p_tui.conversion.evaluate import tiles as in_cache
from s2p_tui.conversion.needs import Needs
from s2p_tui.conversion.plan import Instruction, Plan
from s2p_tui.conversion.sources import axes_in_order, regions_along
from s2p_tui.errors import AlignmentError, Code, Hint, OutputError
from s2p_tui.formats import npy
from s2p_tui.formats.base import ByteRange, Checkpoint, Extent, Locator, Region, Tensors
from s2p_tui.formats.remote.ranges import joined
from s2p_tui.formats.safetensors import header_for
from s2p_tui.formats.skeleton_file import Target

if TYPE_CHECKING:
    from numpy.typing import NDArray


class OutputRecord(Struct, frozen=True):
    """One leaf in the output.

    Attributes:
        instruction: Its source.
        head: Bytes that go before its elements.
        start: Byte at which `head` starts.
        nbytes: Bytes of its elements, which follow `head`.
        column_major: True if the elements are laid out in column-major order, as Equinox does for
            a kept NumPy array of that order.
    """

    instruction: Instruction
    head: bytes
    start: int
    nbytes: int
    column_major: bool = False

    @property
    def data(self) -> int:
        """Byte at which the elements start."""
        return self.start + len(self.head)

    @property
    def stop(self) -> int:
        """Byte behind the last element."""
        return self.data + self.nbytes


class RecordTable(Struct, frozen=True):
    """The whole output: what precedes the leaves, then the leaves."""

    head: bytes
    records: tuple[OutputRecord, ...]
    size: int


def record_table(plan: Plan, target: Target) -> RecordTable:
    """Place every leaf of a plan. Reads the headers of kept values, no data.

    Raises:
        UsageError: The file format cannot hold one of the dtypes.
    """
    if plan.format == "safetensors":
        head = header_for([(i.leaf.path, i.leaf.shape, i.dtype) for i in plan.instructions])
    else:
        head = b""
    position = len(head)
    records: list[OutputRecord] = []
    for instruction in plan.instructions:
        column_major = plan.format == "eqx" and _is_kept_column_major(instruction, target)
        leaf_head = b""
        if plan.format == "eqx":
            leaf_head = npy.header(instruction.leaf.shape, instruction.dtype, column_major)
        nbytes = prod(instruction.leaf.shape) * dtype_named(instruction.dtype).itemsize
        record = OutputRecord(instruction, leaf_head, position, nbytes, column_major)
        records.append(record)
        position = record.stop
    return RecordTable(head, tuple(records), position)


def _is_kept_column_major(instruction: Instruction, target: Target) -> bool:
    leaf = instruction.leaf
    if instruction.source is not None or len(leaf.shape) < 2:
        return False
    extent = target.values.extent(leaf.path)
    if extent is not None:
        return not extent.is_contiguous
    array = target.values.read(leaf.path, tuple((0, size) for size in leaf.shape))
    return array.flags.f_contiguous and not array.flags.c_contiguous


_IN_CACHE = 1 << 17
"""Elements of a part: that many, and what is made of them, fit in a core's own cache."""
_CACHE_LINE = 64
_PAGE = 1 << 12
_FEW_LINES, _MANY_LINES = 16, 64
_IN_ROWS = 1 << 22
"""Bytes of a region whose rows are those of the entry; larger ones cost new pages each time."""
_LOSSES_SHOWN = 5
_TIMES_NORMED = 2
"""Bytes that only a norm is computed of, of those of a region."""
_TIMES_SHARE = 2
"""A thread's share of memory that the sources of a region may take."""
_WRITES_COST = 4
"""A write of a few kB takes about four times as long as such a read."""


class Run(Struct, frozen=True):
    """Bytes of a file that go to the output unchanged."""

    tensors: Tensors
    extent: Extent
    start: int
    nbytes: int


class CastLoss(Struct):
    """Losses of a narrowing cast.

    Attributes:
        overflowed: Finite numbers that became infinite.
        new_nan: Numbers that became NaN.
        flushed: Numbers that became zero.
    """

    overflowed: int = 0
    new_nan: int = 0
    flushed: int = 0

    def __bool__(self) -> bool:
        return bool(self.overflowed or self.new_nan or self.flushed)

    @property
    def is_overflow(self) -> bool:
        """True if numbers became infinite or NaN, which makes a model useless."""
        return bool(self.overflowed or self.new_nan)

    def add(self, other: CastLoss) -> None:
        """Add the losses of another part of the same leaf."""
        self.overflowed += other.overflowed
        self.new_nan += other.new_nan
        self.flushed += other.flushed

    @property
    def words(self) -> str:
        """The losses: `2 numbers became infinite, 1 became NaN, 3 became zero`."""
        kinds = {"infinite": self.overflowed, "NaN": self.new_nan, "zero": self.flushed}
        found = [(count, name) for name, count in kinds.items() if count]
        first = found[0][0] if found else 0
        words = [f"{count:,} became {name}" for count, name in found]
        return ", ".join(words).replace(" became", f" number{'s' * (first != 1)} became", 1)


def refuse_overflow(
    losses: Mapping[str, CastLoss],
    units: tuple[str, str] = ("leaf", "leaves"),
    way_out: Code = Code.ALLOW_OVERFLOW,
) -> None:
    """Make sure that casts made no number infinite or NaN.

    Args:
        losses: By key path or key.
        units: One and several of what the losses are of.
        way_out: The way out.

    Raises:
        OutputError: They did; the leaves are named.
    """
    one, several = units
    lost = [f"{path}: {loss.words}" for path, loss in losses.items() if loss.is_overflow]
    if lost:
        said = f"1 {one} do" if len(lost) == 1 else f"{len(lost):,} {several} do"
        left = len(lost) - _LOSSES_SHOWN
        more = f"; and {left:,} more {several}" if left > 0 else ""
        raise OutputError(
            f"Numbers of {said} not fit their dtype: {'; '.join(lost[:_LOSSES_SHOWN])}{more}.",
            Hint(way_out),
        )


class Rounding(Struct):
    """The largest change of a leaf's numbers by a cast.

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


class Made:
    """The elements of one leaf that are computed, any region of them in any thread.

    Args:
        record: The leaf.
        expr: Its source.
        shape: The shape it is laid out in.
        evaluator: Computes it.
        tensors: Those that the evaluator reads.
        share: Bytes a region may have at the most.
    """

    def __init__(
        self,
        record: OutputRecord,
        expr: Expr,
        shape: Shape,
        evaluator: Evaluator,
        tensors: Tensors,
        share: int,
    ) -> None:
        self.shape = shape
        self._tensors = tensors
        self._in_memory = isinstance(expr, Take) and tensors.in_memory
        self._share = share
        self._needs = Needs(evaluator.entry_shape)
        self._piece = record
        self._expr = expr
        self._evaluator = evaluator
        self._dtype = numpy_dtype(record.instruction.dtype)
        self._along = frozenset(source_axes(expr, evaluator.entry_shape))
        self._limit = max(1, share // self._dtype.itemsize)
        run = prod(shape[axis] for axis in self._along)
        is_short = run * self._dtype.itemsize < _PAGE
        self._in_cache = frozenset(range(len(shape))) if is_short else self._along

    def regions(self) -> Iterator[Region]:
        """Regions that cover the leaf as it is laid out, in row-major order."""
        if self._tensors.is_remote:
            return regions_along(self.shape, self._order, self._limit)
        own = {len(self.shape) - 1} if self.shape else set[int]()
        limit = self._limit
        if self._along <= own:
            limit = max(1, min(limit, _IN_ROWS // self._dtype.itemsize))
        return iter(tiles(self.shape, self._along | own, limit, _WRITES_COST))

    def elements(
        self, region: Region, loss: CastLoss | None = None, rounding: Rounding | None = None
    ) -> NDArray[Any]:
        """The elements of a region, contiguous and in the dtype written; not to be changed.

        Computed in parts that stay in the processor's cache.

        Args:
            region: Of the leaf as it is laid out.
            loss: Counts what the cast loses, if given.
            rounding: Measures how far the cast moves the numbers, if given.

        Raises:
            AlignmentError: A whole number does not fit the target's dtype.
            InputError: The source became shorter during the conversion.
        """
        if self._in_memory:
            there = self._evaluator.region(self._expr, region)
            if there.dtype == self._dtype and there.flags.c_contiguous:
                return there
        sizes = tuple(stop - start for start, stop in region)
        found = np.empty(sizes, self._dtype)
        evaluator = self._evaluator.again()
        for block, ranges in self._blocks(region):
            with self._tensors.held(ranges):
                self._put(evaluator, block, _within(found, region, block), loss, rounding)
        if loss is not None:
            loss.overflowed += evaluator.take_overflowed()
        return found

    def _put(
        self,
        evaluator: Evaluator,
        region: Region,
        found: NDArray[Any],
        loss: CastLoss | None,
        rounding: Rounding | None,
    ) -> None:
        for part in in_cache(found.shape, self._in_cache, min(_IN_CACHE, self._limit)):
            place = tuple(
                (start + low, start + high)
                for (start, _), (low, high) in zip(region, part, strict=True)
            )
            into = found[(*(slice(*bounds) for bounds in part), ...)]
            array = evaluator.region(self._expr, place)
            if array.dtype == self._dtype:
                _copy(into, array)
                continue
            cast = _cast(array, self._dtype, self._piece, loss)
            if rounding is not None:
                rounding.add(array, cast)
            _copy(into, cast)

    def sources(self, region: Region) -> list[ByteRange]:
        """The byte ranges that a region is made of; empty for what is in memory."""
        found: tuple[list[ByteRange], list[ByteRange]] = [], []
        for need in self._needs.of(self._expr, region):
            found[need.for_norm].extend(self._tensors.ranges_in(need.key, need.region))
        plain, normed = found
        # Of what is far more than the region, a norm is computed once for all regions.
        is_little = _bytes(normed) <= _TIMES_NORMED * _bytes(plain)
        return plain + normed if is_little else plain

    def _blocks(self, region: Region) -> Iterator[tuple[Region, Callable[[], list[ByteRange]]]]:
        """The region in parts whose sources fit in memory, and these sources."""
        if not self._tensors.is_remote:
            yield region, list
            return
        ranges = self.sources(region)
        sizes = tuple(stop - start for start, stop in region)
        times = sum(stop - start for _, start, stop in requests(ranges)) // max(1, self._share)
        if times < _TIMES_SHARE:
            yield region, lambda: ranges
            return
        for part in regions_along(sizes, self._order, max(1, prod(sizes) // times)):
            block = tuple(
                (first + start, first + stop)
                for (first, _), (start, stop) in zip(region, part, strict=True)
            )
            yield block, lambda block=block: self.sources(block)

    @cached_property
    def _order(self) -> tuple[int, ...]:
        return axes_in_order(
            self.shape,
            self._limit,
            lambda region: [(start, stop) for _, start, stop in requests(self.sources(region))],
        )


def _bytes(ranges: Iterable[ByteRange]) -> int:
    return sum(one.nbytes for one in ranges)


def _within(found: NDArray[Any], region: Region, block: Region) -> NDArray[Any]:
    """The part of a region's elements that are a block's."""
    return found[
        (
            *(
                slice(start - first, stop - first)
                for (first, _), (start, stop) in zip(region, block, strict=True)
            ),
            ...,
        )
    ]


def requests(ranges: Iterable[ByteRange]) -> list[tuple[Locator, int, int]]:
    """The requests that byte ranges are asked for with: file, first byte and the one behind."""
    spans: dict[Locator, list[tuple[int, int]]] = {}
    for extent, start, nbytes in ranges:
        spans.setdefault(extent.file, []).append((start, start + nbytes))
    return [(file, *one) for file, parts in spans.items() for one in joined(parts)]


class Contents:
    """Gives the elements of any leaf of a plan.

    Args:
        checkpoint: Source of rows.
        target: Source of kept values.
        chunk_bytes: Memory to stay within, about.
        jobs: Threads that share it.

    Attributes:
        chunk_bytes: Memory to stay within, about.
        share: The part of it each thread may use.
    """

    def __init__(
        self, checkpoint: Checkpoint, target: Target, chunk_bytes: int, jobs: int = 1
    ) -> None:
        self.chunk_bytes = chunk_bytes
        self.share = chunk_bytes // jobs
        self._checkpoint = checkpoint
        self._kept_tensors = target.values
        self._kept = StateDict(
            tuple(Entry(leaf.path, leaf.shape, leaf.dtype) for leaf in target.skeleton)
        )

    def runs(self, record: OutputRecord) -> list[Run] | None:
        """The leaf as unchanged byte ranges of files, or None if it is not that simple."""
        expr, _, entries, tensors = self.source_of(record)
        ranges = runs_of(expr, entries.shape)
        if ranges is None:
            return None
        found: list[Run] = []
        for key, start, stop in ranges:
            if entries[key].dtype != record.instruction.dtype:
                return None
            ranges_of_it = tensors.byte_ranges(key, start, stop)
            if ranges_of_it is None:
                return None
            found += (Run(tensors, *one) for one in ranges_of_it)
        return found

    def made(self, record: OutputRecord) -> Made:
        """The leaf as something to compute."""
        expr, shape, entries, tensors = self.source_of(record)
        return Made(record, expr, shape, Evaluator(entries, tensors), tensors, self.share)

    def held(self, records: Iterable[OutputRecord]) -> AbstractContextManager[None]:
        """Have the sources of some leaves fetched together, if they are on another machine."""
        tensors = self._checkpoint.tensors
        if not tensors.is_remote:
            return nullcontext()
        rows = (record for record in records if record.instruction.source is not None)
        return tensors.held(lambda: [one for record in rows for one in self._sources(record)])

    def _sources(self, record: OutputRecord) -> list[ByteRange]:
        runs = self.runs(record)
        if runs is not None:
            return [ByteRange(run.extent, run.start, run.nbytes) for run in runs]
        made = self.made(record)
        return made.sources(tuple((0, size) for size in made.shape))

    def source_of(self, record: OutputRecord) -> tuple[Expr, Shape, StateDict, Tensors]:
        """Return the leaf's source, the shape it is laid out in, and what the source is over."""
        leaf, expr = record.instruction.leaf, record.instruction.source
        if expr is not None:
            return expr, leaf.shape, self._checkpoint.state_dict, self._checkpoint.tensors
        expr = Take(leaf.path)
        shape = leaf.shape
        if record.column_major:
            expr = Permute(expr, tuple(reversed(range(len(shape)))))
            shape = shape[::-1]
        return expr, shape, self._kept, self._kept_tensors


def _cast(
    array: NDArray[Any], dtype: np.dtype[Any], record: OutputRecord, loss: CastLoss | None
) -> NDArray[Any]:
    with np.errstate(all="ignore"):
        cast = array.astype(dtype, order="K")
    source, target = dtype_named(str(array.dtype)), dtype_named(record.instruction.dtype)
    if not target.is_floating:
        same = np.array_equal(cast.astype(array.dtype), array)
        if not same or not np.array_equal(cast < 0, array < 0):
            raise AlignmentError(
                f"{record.instruction.leaf.path}: its {source.name} numbers do not fit "
                f"{target.name}.",
                hint=f"Give the leaf a wider dtype than {target.name} in the skeleton.",
            )
    elif loss is not None and not source.is_floating:
        loss.overflowed += int(np.count_nonzero(~np.isfinite(cast)))
    elif loss is not None and _may_lose(array.dtype, dtype) and not np.isfinite(cast).all():
        loss.flushed += _flushed(array, cast)
        finite = np.isfinite(array)
        nan = np.isnan(cast)
        loss.overflowed += int(np.count_nonzero(finite & ~np.isfinite(cast) & ~nan))
        loss.new_nan += int(np.count_nonzero(nan & ~np.isnan(array)))
    elif loss is not None:
        loss.flushed += _flushed(array, cast)
    return cast


def _flushed(array: NDArray[Any], cast: NDArray[Any]) -> int:
    """Count the numbers other than zero of which a cast made zero."""
    if not _may_flush(array.dtype, cast.dtype):
        return 0
    if cast.dtype.itemsize == np.uint16(0).itemsize and (cast.view(np.uint16) << 1).all():
        # Without their signs as whole numbers: NumPy compares those 15 times as fast as halves.
        return 0
    left = int(np.count_nonzero(cast))
    return int(np.count_nonzero(array)) - left if left < cast.size else 0


@cache
def _may_flush(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Return True if the target's smallest number is larger than a normal one of the source."""
    import ml_dtypes

    finfo: Any = ml_dtypes.finfo
    if source.kind == "c" or target.kind == "c":
        source, target = (_real(dtype) for dtype in (source, target))
    return float(finfo(target).smallest_subnormal) > float(finfo(source).tiny)


def _real(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype


def _copy(into: NDArray[Any], array: NDArray[Any]) -> None:
    """Copy, a few cache lines' width of the last axis at a time.

    NumPy copies row by row; where the source runs along another axis, that fetches each of its
    cache lines once per element. Fewer fit where they share places of the cache.
    """
    if array.ndim == 0 or abs(array.strides[-1]) < _CACHE_LINE:
        into[...] = array
        return
    lines = _FEW_LINES if array.strides[-1] % _PAGE == 0 else _MANY_LINES
    for start in range(0, array.shape[-1], lines):
        into[..., start : start + lines] = array[..., start : start + lines]


@cache
def _may_lose(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Return True if a number of the source can become infinite, or NaN, in the target."""
    import ml_dtypes

    finfo: Any = ml_dtypes.finfo
    with np.errstate(all="ignore"):
        probes = np.array([float(finfo(source).max), -1.0, np.inf]).astype(source)
        cast = probes.astype(target)
    became_nan = np.isnan(cast) & ~np.isnan(probes)
    return bool(np.any(np.isfinite(probes) != np.isfinite(cast)) or np.any(became_nan))


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
