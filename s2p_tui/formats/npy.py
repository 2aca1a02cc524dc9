"""`.npy` records, which an `.eqx` file is a sequence of.

Format: `numpy.lib.format`. NumPy itself writes the headers, so that they equal, byte for byte,
what the installed Equinox would write.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from s2p_tui.core.dtypes import numpy_dtype
from s2p_tui.core.errors import InputError

_MAGIC = b"\x93NUMPY"
_FIRST_READ = 256
_MAX_HEADER = 1 << 16


@dataclass(frozen=True, slots=True)
class Record:
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
        return np.dtype(self.descr).itemsize


@lru_cache(maxsize=4096)
def header(shape: tuple[int, ...], dtype: str, column_major: bool = False) -> bytes:
    """Magic, length and header that `numpy.save` writes before such an array."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer,
        {
            "descr": np.lib.format.dtype_to_descr(numpy_dtype(dtype)),
            "fortran_order": column_major,
            "shape": shape,
        },
    )
    return buffer.getvalue()


def iter_records(descriptor: int, start: int, file: Path) -> Iterator[Record]:
    """The records from a position to the end of the file. Reads headers only.

    Raises:
        InputError: A header is damaged, describes objects, or promises more than the file holds.
    """
    size = os.fstat(descriptor).st_size
    number = 0
    while start < size:
        record = _record_at(descriptor, start, file, number)
        if record.stop > size:
            raise InputError(
                f"{file}: record {number} claims {record.stop - record.data:,} bytes of data, "
                f"{size - record.data:,} are left.",
                "The file was cut short: copy it again.",
            )
        yield record
        start, number = record.stop, number + 1


def _record_at(descriptor: int, start: int, file: Path, number: int) -> Record:
    head = os.pread(descriptor, _FIRST_READ, start)
    width, layout = (2, "<H") if head[6:7] == b"\x01" else (4, "<I")
    begin = 8 + width
    if head[:6] != _MAGIC or len(head) < begin:
        raise InputError(
            f"{file}: record {number} at byte {start:,} is not an array.",
            "The file is damaged, or it is not a plain .eqx file.",
        )
    length = struct.unpack(layout, head[8:begin])[0]
    if length > _MAX_HEADER:
        raise InputError(f"{file}: the header of record {number} claims {length:,} bytes.")
    if begin + length > len(head):
        head = os.pread(descriptor, begin + length, start)
    shape, descr, fortran_order = _parse(head[: begin + length], str(file), number)
    data = start + begin + length
    nbytes = prod(shape) * np.dtype(descr).itemsize
    return Record(start, data, data + nbytes, shape, descr, fortran_order)


@lru_cache(maxsize=4096)
def _parse(head: bytes, file: str, number: int) -> tuple[tuple[int, ...], str, bool]:
    stream = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(stream)
        read: Any = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran_order, dtype = read(stream, max_header_size=_MAX_HEADER)
    except (ValueError, TypeError, SyntaxError, RecursionError, OverflowError):
        raise InputError(f"{file}: the header of record {number} is damaged.") from None
    if dtype.hasobject or dtype.names or dtype.subdtype or any(size < 0 for size in shape):
        raise InputError(
            f"{file}: record {number} is not an array of plain numbers ({dtype}).",
            "Only arrays of numbers can be leaves.",
        )
    return shape, dtype.str, fortran_order
