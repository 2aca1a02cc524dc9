"""The result of every reader: a description of the tensors, and a way to read parts of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from msgspec import Struct

from s2p_tui.alignment.dtypes import dtype_named
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.errors import some
from s2p_tui.formats.remote.file import RemoteFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_EXTRA_STATE = "_extra_state"
FileKind = Literal[
    "torch",
    "torch-legacy",
    "safetensors",
    "sharded",
    "chunks",
    "pytree chunks",
    "skeleton",
    "eqx",
    "mapping",
    "recipe",
    "dcp",
]
"""File kinds by content."""
Locator = Path | RemoteFile
"""A file, on this machine or another one."""
Region = tuple[tuple[int, int], ...]
"""A box in a tensor: `(start, stop)` per axis."""


class Extent(Struct, frozen=True):
    """The location of a tensor's elements in a file, little-endian.

    Attributes:
        file: The file.
        offset: Byte at which the first element starts.
        shape: Shape of the tensor.
        strides: Elements from one index to the next, per axis, never negative.
        dtype: The dtype's name.
    """

    file: Locator
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str

    @property
    def is_contiguous(self) -> bool:
        """True if the elements lie in row-major order without holes."""
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected:
                return prod(self.shape) == 0
            expected *= size
        return True

    @property
    def nbytes(self) -> int:
        """Bytes of its elements, were they stored contiguously."""
        return prod(self.shape) * dtype_named(self.dtype).itemsize


class ByteRange(NamedTuple):
    """Elements that lie in a row in a file.

    Attributes:
        extent: Of the tensor, or of the piece of it, that they are of.
        start: Byte of the file at which the first one starts.
        nbytes: Their bytes.
    """

    extent: Extent
    start: int
    nbytes: int


@lru_cache(maxsize=4096)
def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a contiguous row-major tensor."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return tuple(strides)


def strides_of(shape: tuple[int, ...], *, is_fortran: bool) -> tuple[int, ...]:
    """Strides, in elements, of a contiguous tensor in row-major or column-major order."""
    return row_major(shape[::-1])[::-1] if is_fortran else row_major(shape)


class Tensors(Protocol):
    """The numbers behind the names: an open checkpoint, a state dict in memory, kept values."""

    def read(self, name: str, region: Region) -> NDArray[np.generic]:
        """The elements of a region, in the stored dtype, possibly not contiguous.

        Raises:
            InputError: The file has been truncated or removed meanwhile.
        """
        ...

    @property
    def in_memory(self) -> bool:
        """True if regions are views of what is in memory anyway."""
        ...

    def extent(self, name: str) -> Extent | None:
        """Return the tensor's location in a file; None if it is in memory, or in several pieces."""
        ...

    def byte_ranges(self, name: str, start: int, stop: int) -> Sequence[ByteRange] | None:
        """Return the byte ranges of elements `start` to `stop` in row-major order.

        None if they are in memory, or not all in byte_ranges of that order.
        """
        ...

    def descriptor(self, extent: Extent) -> int | None:
        """An open file descriptor of the extent's file, until the thread asks for another.

        None if the file is on another machine.
        """
        ...

    def fill(self, extent: Extent, buffer: memoryview, position: int) -> None:
        """Fill a buffer with the bytes from a position in the extent's file.

        Raises:
            InputError: The file ends before, or cannot be read.
        """
        ...

    @property
    def is_remote(self) -> bool:
        """True if the files are on another machine, so that each read is a request."""
        return False

    def ranges_in(self, name: str, region: Region) -> Iterable[ByteRange]:
        """Return the byte ranges of the elements of a region, in any order; none in memory."""
        del name, region
        return ()

    def held(self, ranges: Callable[[], Iterable[ByteRange]]) -> AbstractContextManager[None]:
        """Have byte ranges fetched with few requests, for what this thread reads meanwhile.

        Args:
            ranges: Asked for them if files are on another machine.
        """
        del ranges
        return nullcontext()

    def check_unchanged(self) -> None:
        """Make sure that no file changed since it was opened.

        Raises:
            InputError: One did.
        """
        ...

    def close(self) -> None:
        """Close the files. Reading afterwards is an error."""
        ...


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint.

    Attributes:
        label: What to call it: the file's name.
        files: All files it consists of; empty for a state dict in memory.
        size: Their bytes together.
        state_dict: Its entries.
        tensors: Their numbers.
        key: Where in the file the state dict was found, dotted; empty at the top.
        notes: What the user should know, e.g. which items are not tensors.
        kind: What it was read from, None for a state dict in memory.
    """

    label: str
    files: tuple[Locator, ...]
    size: int
    state_dict: StateDict
    tensors: Tensors
    key: str = ""
    notes: tuple[str, ...] = field(default=())
    kind: FileKind | None = None


def without_extra_state(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without what modules save beside their tensors by `get_extra_state`."""
    ending = [e.key for e in checkpoint.state_dict if e.key.endswith(_EXTRA_STATE)]
    extra = [key for key in ending if key.rpartition(".")[2] == _EXTRA_STATE]
    if not extra:
        return checkpoint
    kept = (e for e in checkpoint.state_dict if e.key.rpartition(".")[2] != _EXTRA_STATE)
    note = f"passed over, as no layer's weights are in them: {some(extra)}"
    return replace(checkpoint, state_dict=StateDict(tuple(kept)), notes=(*checkpoint.notes, note))
