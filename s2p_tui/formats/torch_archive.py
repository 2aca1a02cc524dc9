"""The layout of a `torch.save` file to be written: a zip archive of a pickle and one file a tensor.

`torch.load(file, weights_only=True)` reads it: the pickle calls nothing but what torch calls there
itself. Written by hand, as torch's own writer wants the tensors in memory, and Python's `pickle`
the classes. Format: torch/csrc/docs/serialization.md of the torch sources, and PKWARE's APPNOTE.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Hashable, Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from s2p_tui.alignment.dtypes import dtype_named
from s2p_tui.errors import UsageError, some
from s2p_tui.formats.base import Checkpoint, row_major

_ROOT = "archive"
"""The folder in the archive; torch's own name where the file has none."""
_ALIGNMENT = 64
"""Of the first byte of each tensor, as torch has it, so that the file can be mapped into memory."""
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_CHECKSUM_AT = 14
"""Byte of a local header at which the checksum stands."""
_UTF8 = 0x800
_MOST, _MOST_FILES = 0xFFFFFFFF, 0xFFFF
"""Numbers that stand for one in the zip64 fields."""
_JANUARY_1980 = 0x21
"""The date of all files, so that equal tensors give equal archives; zip knows none before it."""
_VERSION, _VERSION_64 = 20, 45
# Torch has these dtypes, but no class of storages for them: the pickle names the dtype itself.
_WITHOUT_STORAGE_CLASS = frozenset(
    (
        *("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"),
        *("float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
    )
)


class Tensor(NamedTuple):
    """A tensor of the state dict.

    Attributes:
        key: Its name.
        shape: Its shape.
        dtype: Its dtype's name.
        storage: Number of the file that holds it; tied tensors share one.
    """

    key: str
    shape: tuple[int, ...]
    dtype: str
    storage: int


class Member(Struct, frozen=True):
    """One file in the archive.

    Attributes:
        name: Its name.
        start: Byte at which its header starts.
        head: The header, padded so that what follows is aligned; its checksum is 0.
        nbytes: Bytes of the content.
    """

    name: str
    start: int
    head: bytes
    nbytes: int

    @property
    def stop(self) -> int:
        """Byte behind the last."""
        return self.start + len(self.head) + self.nbytes

    def head_with(self, checksum: int) -> bytes:
        """Return the header with the checksum of the content."""
        stored = struct.pack("<I", checksum)
        return self.head[:_CHECKSUM_AT] + stored + self.head[_CHECKSUM_AT + len(stored) :]


class Archive(Struct, frozen=True):
    """An archive up to its directory, which needs the checksums of all files.

    Attributes:
        front: The first bytes: the pickle and what says how to read it.
        members: The files in them, with their checksums.
        storages: The files of tensors that follow, by number.
    """

    front: bytes
    members: tuple[tuple[Member, int], ...]
    storages: tuple[Member, ...]

    def directory(self, checksums: Sequence[int]) -> bytes:
        """Return the end of the archive.

        Args:
            checksums: CRC-32 of each storage.
        """
        start = self.storages[-1].stop if self.storages else len(self.front)
        members = [*self.members, *zip(self.storages, checksums, strict=True)]
        entries = b"".join(_listed(member, checksum) for member, checksum in members)
        return entries + _end(len(members), len(entries), start)


def archive_for(tensors: Sequence[Tensor]) -> Archive:
    """Lay out the archive of a state dict, tensors contiguous, storages in the order of numbers.

    Raises:
        UsageError: Torch has no such dtype; the tensors are named.
    """
    wrong = [f"{one.key} is {one.dtype}" for one in tensors if not _is_known(one.dtype)]
    if wrong:
        raise UsageError(
            f"{some(wrong, '; ')}: PyTorch has no such dtype.", "Write a .safetensors file."
        )
    front = b""
    members: list[tuple[Member, int]] = []
    for name, content in (
        ("data.pkl", _pickled(tensors)),
        ("byteorder", b"little"),
        ("version", b"3\n"),
    ):
        member = _member(name, len(front), len(content))
        checksum = zlib.crc32(content)
        front += member.head_with(checksum) + content
        members.append((member, checksum))
    sizes = {one.storage: prod(one.shape) * dtype_named(one.dtype).itemsize for one in tensors}
    storages: list[Member] = []
    position = len(front)
    for number in sorted(sizes):
        storages.append(_member(f"data/{number}", position, sizes[number]))
        position = storages[-1].stop
    return Archive(front, tuple(members), tuple(storages))


def write_entries(
    checkpoint: Checkpoint, path: Path, check: Callable[[], None] = lambda: None
) -> None:
    """Write all entries of a checkpoint to a file, one in memory at a time; not synced to the disk.

    Args:
        checkpoint: The checkpoint.
        path: The file.
        check: Called before each entry; what it raises ends the writing.

    Raises:
        UsageError: Torch has no such dtype.
        OSError: The file cannot be written.
    """
    entries = checkpoint.state_dict
    first: dict[Hashable, int] = {}
    held: list[str] = []
    tensors: list[Tensor] = []
    for entry in entries:
        tied = entry.key if entry.storage is None else (entry.storage, entry.shape, entry.dtype)
        number = first.setdefault(tied, len(first))
        held += [entry.key] * (number == len(held))
        tensors.append(Tensor(entry.key, entry.shape, entry.dtype, number))
    archive = archive_for(tensors)
    checksums: list[int] = []
    with path.open("wb") as stream:
        stream.write(archive.front)
        for key, member in zip(held, archive.storages, strict=True):
            check()
            whole = tuple((0, size) for size in entries.shape(key))
            content = checkpoint.tensors.read(key, whole).tobytes()
            checksums.append(zlib.crc32(content))
            stream.write(member.head_with(checksums[-1]))
            stream.write(content)
        stream.write(archive.directory(checksums))


def _is_known(dtype: str) -> bool:
    return dtype in _WITHOUT_STORAGE_CLASS or dtype_named(dtype).torch_storage is not None


def _member(name: str, start: int, nbytes: int) -> Member:
    path = f"{_ROOT}/{name}".encode()
    is_large = nbytes >= _MOST
    extra = struct.pack("<2H2Q", 1, 16, nbytes, nbytes) if is_large else b""
    # The padding is a field of its own, as torch writes it, of four bytes at least.
    bare = start + _LOCAL.size + len(path) + len(extra) + 4
    padding = -bare % _ALIGNMENT
    extra += b"FB" + struct.pack("<H", padding) + b"Z" * padding
    size = _MOST if is_large else nbytes
    head = _LOCAL.pack(
        b"PK\3\4",
        _VERSION_64 if is_large else _VERSION,
        *(_UTF8, 0, 0, _JANUARY_1980),
        *(0, size, size),
        *(len(path), len(extra)),
    )
    return Member(path.decode(), start, head + path + extra, nbytes)


def _listed(member: Member, checksum: int) -> bytes:
    """Return the directory's entry of a file."""
    path = member.name.encode()
    large = [number for number in (member.nbytes, member.nbytes, member.start) if number >= _MOST]
    extra = struct.pack(f"<2H{len(large)}Q", 1, 8 * len(large), *large) if large else b""
    version = _VERSION_64 if large else _VERSION
    size, start = min(member.nbytes, _MOST), min(member.start, _MOST)
    fixed = _CENTRAL.pack(
        b"PK\1\2",
        *(version, version, _UTF8, 0, 0, _JANUARY_1980),
        *(checksum, size, size),
        *(len(path), len(extra), 0, 0, 0),
        *(0, start),
    )
    return fixed + path + extra


def _end(count: int, size: int, start: int) -> bytes:
    """Return what stands behind the directory: where it is, in 64 bits if that is needed."""
    end = _END.pack(
        b"PK\5\6", 0, 0,
        min(count, _MOST_FILES), min(count, _MOST_FILES),
        min(size, _MOST), min(start, _MOST), 0,
    )  # fmt: skip
    if count < _MOST_FILES and start < _MOST and size < _MOST:
        return end
    place = start + size
    rest = _END_64.size - 12
    end_64 = _END_64.pack(
        b"PK\6\6", rest, _VERSION_64, _VERSION_64, 0, 0, count, count, size, start
    )
    return end_64 + _LOCATOR.pack(b"PK\6\7", 0, place, 1) + end


def _pickled(tensors: Sequence[Tensor]) -> bytes:
    """Return the pickle of an `OrderedDict` of tensors, in the opcodes of protocol 2."""
    known = _Known()
    ordered = known("collections", "OrderedDict")
    items = [_string(one.key) + _tensor(one, known) for one in tensors]
    return b"".join([b"\x80\x02", ordered, b")R(", *items, b"u."])


class _Known:
    """Opcodes that name classes and functions, in full where they are named first."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str], int] = {}

    def __call__(self, module: str, name: str) -> bytes:
        number = self._numbers.get((module, name))
        if number is not None:
            return b"h" + bytes((number,))
        self._numbers[module, name] = number = len(self._numbers)
        return f"c{module}\n{name}\n".encode() + b"q" + bytes((number,))


def _tensor(tensor: Tensor, known: _Known) -> bytes:
    """Return the opcodes that call torch's function that makes a tensor of a storage."""
    kind = dtype_named(tensor.dtype)
    by_class = tensor.dtype not in _WITHOUT_STORAGE_CLASS
    count = prod(tensor.shape)
    rebuild = known("torch._utils", f"_rebuild_tensor_v{2 if by_class else 3}")
    if by_class:
        storage, size = known("torch", str(kind.torch_storage)), count
    else:
        storage, size = known("torch.storage", "UntypedStorage"), count * kind.itemsize
    place = [_string("storage"), storage, _string(str(tensor.storage)), _string("cpu")]
    shape = [_integers(tensor.shape), _integers(row_major(tensor.shape))]
    hooks = known("collections", "OrderedDict") + b")R"
    dtype = b"" if by_class else known("torch", tensor.dtype)
    # The storage is a persistent id: a tuple that torch looks up in the archive.
    return b"".join(
        [
            rebuild,
            b"((",
            *place,
            _integer(size),
            b"tQ",
            _integer(0),
            *shape,
            b"\x89",
            hooks,
            dtype,
            b"tR",
        ]
    )


def _string(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def _integer(number: int) -> bytes:
    if number < 1 << 31:
        return b"J" + struct.pack("<i", number)
    raw = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes((len(raw),)) + raw


def _integers(numbers: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(_integer, numbers)) + b"t"
