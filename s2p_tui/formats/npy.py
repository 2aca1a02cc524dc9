"""`.npy` records, which an `.eqx` file is a sequence of.

Format: `numpy.lib.format`. NumPy itself writes the headers, so that they equal, byte for byte,
what the installed Equinox would write.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from s2p_tui.alignment.dtypes import numpy_dtype
from s2p_tui.alignment.untrusted import MOST_AXES, is_possible
from s2p_tui.errors import InputError

_DAMAGED = "It is damaged or no such file: copy or write it again."
_MAGIC = b"\x93NUMPY"
_FIRST_READ = 256
_AHEAD = 1 << 15
_MAX_HEADER = 1 << 16
_LENGTH_OF = {b"\1\0": (2, "<H"), b"\2\0": (4, "<I"), b"\3\0": (4, "<I")}
"""Of each version of the format, the bytes and layout of the header's length."""
_HEADER = re.compile(
    rb"\{'descr': '(?P<descr>[<|][biufcV]\d{1,2})', 'fortran_order': (?P<order>True|False), "
    rb"'shape': \((?P<shape>(?:\d{1,18}(?:, \d{1,18})*,?)?)\), \} *\n"
)
"""NumPy's spelling of numbers. NumPy's own reader evaluates more, warns and raises at random."""


class Record(NamedTuple):
    """One array in a file.

    Attributes:
        start: Byte at which its header starts.
        data: Byte at which its elements start.
        stop: Byte behind its last element.
        shape: Its shape.
        descr: NumPy's type string: `<f4`, or `<V2` for types NumPy has no string for.
        fortran_order: Whether elements lie in column-major order.
    """

    start: int
    data: int
    stop: int
    shape: tuple[int, ...]
    descr: str
    fortran_order: bool

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return int(self.descr[2:])


@lru_cache(maxsize=4096)
def header(shape: tuple[int, ...], dtype: str, column_major: bool = False) -> bytes:
    """Magic, length and header that `numpy.save` writes before such an array."""
    buffer = io.BytesIO()
    described = {"descr": _descr(dtype), "fortran_order": column_major, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


def iter_records(
    descriptor: int, start: int, file: Path, likely: Iterable[tuple[tuple[int, ...], str]] = ()
) -> Iterator[Record]:
    """The records from a position to the end of the file. Reads headers only.

    Args:
        descriptor: The file, open for reading.
        start: Byte at which the first record starts.
        file: Its name, for messages.
        likely: Shape and dtype that each record probably has; saves time where it is right.

    Raises:
        InputError: A header is damaged, describes objects, or promises more than the file holds.
    """
    size = os.fstat(descriptor).st_size
    number = 0
    guesses = iter(likely)
    window = _Window(descriptor)
    while start < size:
        record = _guessed(window, start, next(guesses, None))
        if record is None:
            record = _record_at(descriptor, start, file, number)
        if record.stop > size:
            raise InputError(
                f"{file}: record {number} claims {record.stop - record.data:,} bytes of data, "
                f"{size - record.data:,} are left.",
                "The file was cut short: copy it again.",
            )
        yield record
        start, number = record.stop, number + 1


class _Window:
    """Reads ahead a little, so that a file of many small records takes few reads."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._start = 0
        self._bytes = b""

    def holds(self, expected: bytes, start: int) -> bool:
        """Return True if these bytes stand at an offset of the file."""
        begin = start - self._start
        if begin < 0 or begin + len(expected) > len(self._bytes):
            self._bytes = os.pread(self._descriptor, max(_AHEAD, len(expected)), start)
            self._start, begin = start, 0
        return self._bytes.startswith(expected, begin)


def _guessed(
    window: _Window, start: int, guess: tuple[tuple[int, ...], str] | None
) -> Record | None:
    """The record at a position if it has just the header that such an array has."""
    if guess is None:
        return None
    head = header(*guess)
    if not window.holds(head, start):
        return None
    shape, dtype = guess
    data = start + len(head)
    return Record(start, data, data + size_in_bytes(shape, dtype), shape, _descr(dtype), False)


@cache
def _descr(dtype: str) -> str:
    return str(np.lib.format.dtype_to_descr(numpy_dtype(dtype)))


@lru_cache(maxsize=4096)
def size_in_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of the elements of such an array."""
    return prod(shape) * numpy_dtype(dtype).itemsize


def _record_at(descriptor: int, start: int, file: Path, number: int) -> Record:
    head = os.pread(descriptor, _FIRST_READ, start)
    version = head[6:8]
    width, layout = _LENGTH_OF.get(version, (0, ""))
    begin = 8 + width
    if head[:6] != _MAGIC or len(head) < begin:
        raise InputError(f"{file}: record {number} at byte {start:,} is not an array.", _DAMAGED)
    if not layout:
        raise InputError(
            f"{file}: record {number} at byte {start:,} is of .npy version {version[0]}."
            f"{version[1]}, of which nothing is known here (1.0, 2.0 and 3.0 are).",
            "It is damaged, or was written by a newer NumPy: write it again with an older one.",
        )
    length = struct.unpack(layout, head[8:begin])[0]
    if length > _MAX_HEADER:
        raise InputError(
            f"{file}: the header of record {number} claims {length:,} bytes, at most "
            f"{_MAX_HEADER:,} were expected.",
            _DAMAGED,
        )
    if begin + length > len(head):
        head = os.pread(descriptor, begin + length, start)
    shape, descr, fortran_order = _parse(head[begin : begin + length], str(file), number)
    data = start + begin + length
    nbytes = prod(shape) * int(descr[2:])
    return Record(start, data, data + nbytes, shape, descr, fortran_order)


@lru_cache(maxsize=4096)
def _parse(text: bytes, file: str, number: int) -> tuple[tuple[int, ...], str, bool]:
    found = _HEADER.fullmatch(text)
    shape = tuple(map(int, found["shape"].replace(b",", b" ").split())) if found else ()
    if found is None or len(shape) > MOST_AXES or not is_possible(shape):
        raise InputError(
            f"{file}: the header of record {number} does not describe an array of plain numbers.",
            _DAMAGED,
        )
    return shape, found["descr"].decode(), found["order"] == b"True"
