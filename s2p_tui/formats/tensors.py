"""Reading regions of tensors, from files with few large reads or from arrays in memory."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from s2p_tui.alignment.dtypes import dtype_named, numpy_dtype
from s2p_tui.errors import InputError
from s2p_tui.formats.base import ByteRange, Extent, Locator, Region, Tensors
from s2p_tui.formats.remote.file import RemoteFile
from s2p_tui.formats.remote.held import Held

if TYPE_CHECKING:
    from numpy.typing import NDArray

GONE = "Put it back, or start again with the files that are there."
"""The way out where a file that was listed is not there when its tensors are wanted."""
_MAX_WASTE = 2
_LEAST_RUN, _MAX_GAP, _WITH_GAPS, _MAX_WASTE_IN_GAPS = 1 << 10, 1 << 14, 1 << 21, 8
"""A read costs as much time as some ten kB that are read along with others. In bytes."""
_PAGE = 1 << 12
_CACHE_LINE = 64
_OPEN_AT_ONCE = 64
_LOOPING = threading.Lock()
"""Loops of short reads take turns: two at once hand the interpreter's lock to and fro at each."""


class FileTensors(Tensors):
    """Tensors that lie in files, of which only a few are open at a time.

    Any thread may read.

    Args:
        extent: Says where a tensor lies, None if it is not there.
        files: All files they lie in.
        flags: To open them with.
    """

    def __init__(
        self,
        extent: Callable[[str], Extent | None],
        files: Iterable[Locator],
        flags: int = os.O_RDONLY | os.O_CLOEXEC,
    ) -> None:
        self._extent = extent
        self._flags = flags
        self._descriptors: OrderedDict[Path, int] = OrderedDict()
        # A caller that meets an error may never come to close them.
        weakref.finalize(self, _close_all, self._descriptors).atexit = False
        self._in_hand: dict[int, Path] = {}
        self._opening = threading.Lock()
        self._states: dict[Path, tuple[int, ...]] = {}
        self._held: Held | None = None
        for file in files:
            if isinstance(file, RemoteFile):
                self._held = self._held or Held()
            else:
                self._states[file] = _state(os.stat(file))

    @property
    def in_memory(self) -> bool:
        return False

    @property
    def is_remote(self) -> bool:
        return self._held is not None

    def extent(self, name: str) -> Extent | None:
        return self._extent(name)

    def descriptor(self, extent: Extent) -> int | None:
        return None if isinstance(extent.file, RemoteFile) else self._descriptor(extent.file)

    def _descriptor(self, file: Path) -> int:
        with self._opening:
            # Another thread must not close it while this one reads.
            self._in_hand[threading.get_ident()] = file
            if file in self._descriptors:
                self._descriptors.move_to_end(file)
                return self._descriptors[file]
            self._close_some()
            try:
                self._descriptors[file] = os.open(file, self._flags)
            except OSError as error:
                raise InputError(f"{file} can no longer be read: {error.strerror}.", GONE) from None
            return self._descriptors[file]

    def _close_some(self) -> None:
        """Close those that were not asked for lately, as processes may open a thousand or so."""
        if len(self._descriptors) >= _OPEN_AT_ONCE:
            idle = (file for file in self._descriptors if file not in self._in_hand.values())
            oldest = next(idle, None)
            if oldest is not None:
                os.close(self._descriptors.pop(oldest))

    def read(self, name: str, region: Region) -> NDArray[np.generic]:
        extent = self._extent(name)
        if extent is None:
            raise KeyError(name)
        return self.read_extent(extent, region)

    def read_extent(self, extent: Extent, region: Region) -> NDArray[np.generic]:
        """The elements of a region of an extent of any of the files."""
        if not isinstance(extent.file, RemoteFile):
            descriptor, file = self._descriptor(extent.file), extent.file
            return _read_region(
                lambda buffer, position: pread_into(descriptor, buffer, position, file),
                extent,
                region,
            )

        def fill(buffer: memoryview, position: int) -> None:
            self.fill(extent, buffer, position)

        return _read_region(fill, extent, region, exactly=True)

    def fill(self, extent: Extent, buffer: memoryview, position: int) -> None:
        file = extent.file
        if not isinstance(file, RemoteFile):
            pread_into(self._descriptor(file), buffer, position, file)
            return
        assert self._held is not None
        self._held.fill(file, buffer, position, _end(extent))

    def ranges_in(self, name: str, region: Region) -> Iterable[ByteRange]:
        extent = self.extent(name)
        return () if extent is None else _runs(extent, region)

    @contextmanager
    def held(self, ranges: Callable[[], Iterable[ByteRange]]) -> Generator[None, None, None]:
        if self._held is None:
            yield
            return
        with self._held.having(
            (one.extent.file, one.start, one.start + one.nbytes)
            for one in ranges()
            if isinstance(one.extent.file, RemoteFile)
        ):
            yield

    def byte_ranges(self, name: str, start: int, stop: int) -> Sequence[ByteRange] | None:
        extent = self.extent(name)
        if extent is None or not extent.is_contiguous:
            return None
        size = dtype_named(extent.dtype).itemsize
        return (ByteRange(extent, extent.offset + start * size, (stop - start) * size),)

    def check_unchanged(self) -> None:
        for file, state in self._states.items():
            try:
                now = _state(os.stat(file))
            except OSError as error:
                raise InputError(f"{file} can no longer be read: {error.strerror}.", GONE) from None
            if now != state:
                raise InputError(
                    f"{file} was changed while it was open.",
                    "Wait until nothing writes to it, then start again.",
                )

    def close(self) -> None:
        _close_all(self._descriptors)


class ArrayTensors(Tensors):
    """Tensors that are NumPy arrays in memory; regions are views, never copies."""

    def __init__(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        self._arrays = arrays

    @property
    def in_memory(self) -> bool:
        return True

    def extent(self, name: str) -> Extent | None:
        return None

    def byte_ranges(self, name: str, start: int, stop: int) -> Sequence[ByteRange] | None:
        return None

    def descriptor(self, extent: Extent) -> int | None:
        raise KeyError(extent.file)

    def fill(self, extent: Extent, buffer: memoryview, position: int) -> None:
        raise KeyError(extent.file)

    def read(self, name: str, region: Region) -> NDArray[np.generic]:
        # The dots make of a number, too, an array that is a view.
        return self._arrays[name][(..., *(slice(start, stop) for start, stop in region))]

    def check_unchanged(self) -> None:
        return

    def close(self) -> None:
        return


def _close_all(descriptors: OrderedDict[Path, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])


def _state(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def pread_into(descriptor: int, buffer: memoryview, position: int, file: Path) -> None:
    """Fill the buffer from a position in the file.

    Raises:
        InputError: The file ends before the buffer is full.
    """
    filled = 0
    while filled < len(buffer):
        count = os.preadv(descriptor, [buffer[filled:]], position + filled)
        if count == 0:
            raise InputError(
                f"{file} ends before byte {position + len(buffer):,}: it was cut short.",
                "Copy or download it again.",
            )
        filled += count


def _end(extent: Extent) -> int:
    """The byte behind the last element."""
    if not prod(extent.shape):
        return extent.offset
    last = sum(
        (size - 1) * stride for size, stride in zip(extent.shape, extent.strides, strict=True)
    )
    return extent.offset + (last + 1) * dtype_named(extent.dtype).itemsize


def _runs(extent: Extent, region: Region) -> Iterator[ByteRange]:
    """The byte ranges of the elements of a region, each as long as possible."""
    sizes = tuple(stop - start for start, stop in region)
    if prod(sizes) == 0:
        return
    itemsize = dtype_named(extent.dtype).itemsize
    first = sum(start * stride for (start, _), stride in zip(region, extent.strides, strict=True))
    outer_axes, _, span = _spans(extent, sizes, itemsize, exactly=True)
    steps = [(sizes[axis], extent.strides[axis] * itemsize) for axis in outer_axes]
    start = extent.offset + first * itemsize
    for offset in _offsets(steps):
        yield ByteRange(extent, start + offset, span * itemsize)


def _read_region(
    fill: Callable[[memoryview, int], None],
    extent: Extent,
    region: Region,
    *,
    exactly: bool = False,
) -> NDArray[np.generic]:
    """Read the elements of a region with as few reads as waste little.

    Args:
        fill: Fills a buffer from a position in the file.
        extent: Their tensor.
        region: Of it.
        exactly: Read nothing else.
    """
    dtype = numpy_dtype(extent.dtype)
    sizes = tuple(stop - start for start, stop in region)
    if prod(sizes) == 0:
        return np.empty(sizes, dtype)
    first = sum(start * stride for (start, _), stride in zip(region, extent.strides, strict=True))
    position = extent.offset + first * dtype.itemsize
    outer_axes, inner_axes, span = _spans(extent, sizes, dtype.itemsize, exactly=exactly)
    inner_sizes = [sizes[axis] for axis in inner_axes]
    inner_strides = [extent.strides[axis] * dtype.itemsize for axis in inner_axes]
    length = span * dtype.itemsize
    # Rows a multiple of a page apart share few places of the processor's cache.
    pitch = length if length % _PAGE else length + _CACHE_LINE
    count = prod(sizes[axis] for axis in outer_axes)
    buffer = np.empty(count * pitch, np.uint8).data
    steps = [(sizes[axis], extent.strides[axis] * dtype.itemsize) for axis in outer_axes]
    with _LOOPING if count > 1 else nullcontext():
        for row, offset in enumerate(_offsets(steps)):
            into = buffer[row * pitch : row * pitch + length]
            fill(into, position + offset)
    axes = [*outer_axes, *inner_axes]
    table: NDArray[np.generic] = np.ndarray(
        (count, *inner_sizes), dtype, buffer, 0, (pitch, *inner_strides)
    ).reshape([sizes[axis] for axis in axes])
    return _in_axis_order(table, axes, sizes)


def spans_of(extent: Extent, region: Region) -> tuple[int, int]:
    """Return how many reads a region of an extent takes, and the bytes of each."""
    sizes = tuple(stop - start for start, stop in region)
    itemsize = dtype_named(extent.dtype).itemsize
    if prod(sizes) == 0:
        return 0, 0
    outer_axes, _, span = _spans(extent, sizes, itemsize)
    return prod(sizes[axis] for axis in outer_axes), span * itemsize


def _spans(
    extent: Extent, sizes: tuple[int, ...], itemsize: int, *, exactly: bool = False
) -> tuple[list[int], list[int], int]:
    """Return the axes to loop over, those read as one span, and the elements of a span.

    Axes are ordered by stride. The inner ones are read as one span as long as at least half of it
    is wanted, or an eighth and the gaps are short; over the outer ones it loops. So contiguous
    parts take one read, columns of a wide matrix take one read a row, and a transposed tensor
    takes one read too. Exactly, nothing is read that is not wanted.
    """
    axes = [axis for axis, size in enumerate(sizes) if size > 1 and extent.strides[axis] > 0]
    axes.sort(key=lambda axis: extent.strides[axis], reverse=True)
    inner = len(axes)
    span = wanted = 1
    while inner:
        axis = axes[inner - 1]
        wider = span + (sizes[axis] - 1) * extent.strides[axis]
        gap = (extent.strides[axis] - span) * itemsize
        is_cheap = (
            span * itemsize >= _LEAST_RUN and gap <= _MAX_GAP and wider * itemsize <= _WITH_GAPS
        )
        waste = 1 if exactly else _MAX_WASTE_IN_GAPS if is_cheap else _MAX_WASTE
        if wider > waste * wanted * sizes[axis]:
            break
        inner, span, wanted = inner - 1, wider, wanted * sizes[axis]
    return axes[:inner], axes[inner:], span


def _offsets(steps: list[tuple[int, int]]) -> list[int]:
    """Return the offset of each index of some axes, the last one fastest, from size and stride."""
    offsets = np.zeros(1, np.int64)
    for size, stride in steps:
        offsets = (offsets[:, None] + np.arange(size) * stride).reshape(-1)
    return offsets.tolist()


def _in_axis_order(
    table: NDArray[np.generic], axes: list[int], sizes: tuple[int, ...]
) -> NDArray[np.generic]:
    """Put axes sorted by stride back in order; broadcast those that were dropped."""
    ordered = table.transpose([axes.index(axis) for axis in sorted(axes)])
    index = tuple(slice(None) if axis in axes else None for axis in range(len(sizes)))
    return np.broadcast_to(ordered[index], sizes)
