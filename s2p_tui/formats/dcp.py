"""Folders of `torch.distributed.checkpoint`, which holds each tensor in chunks of many processes.

`.metadata` is a pickle of what the tensors are and where their chunks lie; a chunk is a tensor in a
byte range of a `.distcp` file, as `torch.save` writes it. Format: `metadata.py` and
`filesystem.py` of torch 2.13's `torch/distributed/checkpoint`.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, product
from math import prod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

import numpy as np

from s2p_tui.alignment.dtypes import BY_NAME, dtype_named, numpy_dtype
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.untrusted import MalformedError, shape_of, size_of, sizes_of, string_of
from s2p_tui.errors import InputError, MissingEntriesError, some
from s2p_tui.formats.base import ByteRange, Checkpoint, Extent, Region
from s2p_tui.formats.nested import find_state_dict
from s2p_tui.formats.parts import DCP_LIST, DCP_SUFFIX
from s2p_tui.formats.pickle_machine import BadPickleError, Placeholder, read_objects
from s2p_tui.formats.tensors import FileTensors
from s2p_tui.formats.torch_files import BROKEN_ZIP, big_endian, load_pickle
from s2p_tui.formats.torch_objects import TensorRef

if TYPE_CHECKING:
    from numpy.typing import NDArray

_COPY = "Copy or download the whole folder again."
_MOST_PAIRS = 1 << 20
"""Comparisons of chunks with each other, where they form no grid."""
_READ_AHEAD = 1 << 12
_MAX_PICKLE = 1 << 20
"""Bytes: it describes a single tensor."""
_LOCAL_HEADER = struct.Struct("<4s22xHH")


class _Chunk(NamedTuple):
    """A box of a tensor, and the byte range of the archive that holds it."""

    box: Region
    file: Path
    offset: int
    length: int


class _Item:
    """A tensor and its chunks, which cover it without overlap.

    Attributes:
        key: Its name in the whole checkpoint.
        shape: Its shape.
        dtype: Its dtype's name.
        chunks: Its chunks.
    """

    __slots__ = ("_cells", "_cuts", "chunks", "dtype", "key", "shape")

    def __init__(
        self, key: str, shape: tuple[int, ...], dtype: str, chunks: Sequence[_Chunk]
    ) -> None:
        self.key = key
        self.shape = shape
        self.dtype = dtype
        self.chunks = chunks
        self._cuts = [
            sorted({chunk.box[axis][0] for chunk in chunks} | {size})
            for axis, size in enumerate(shape)
        ]
        self._cells = self._grid()
        if self._cells is None:
            self._require_cover()

    def _grid(self) -> dict[tuple[int, ...], _Chunk] | None:
        """The chunks by their first element, if they are all the cells of a grid."""
        stops = [dict(pairwise(cuts)) for cuts in self._cuts]
        cells: dict[tuple[int, ...], _Chunk] = {}
        for chunk in self.chunks:
            for (start, stop), ends in zip(chunk.box, stops, strict=True):
                if ends.get(start, start) != stop:
                    return None
            cells[tuple(start for start, _ in chunk.box)] = chunk
        count = prod(len(ends) or 1 for ends in stops)
        return cells if len(cells) == len(self.chunks) == count else None

    def _require_cover(self) -> None:
        boxes = [chunk.box for chunk in self.chunks]
        volume = sum(prod(stop - start for start, stop in box) for box in boxes)
        if volume != prod(self.shape):
            raise MalformedError(
                f"its chunks have {volume:,} elements, {prod(self.shape):,} were expected"
            )
        if len(boxes) ** 2 > _MOST_PAIRS:
            raise MalformedError(f"its {len(boxes):,} chunks form no grid")
        for number, box in enumerate(boxes):
            if any(_meet(box, other) for other in boxes[:number]):
                raise MalformedError("its chunks overlap")

    def meeting(self, region: Region) -> Iterator[_Chunk]:
        """The chunks that hold elements of a region."""
        if self._cells is None:
            yield from (chunk for chunk in self.chunks if _meet(chunk.box, region))
            return
        starts = [
            cuts[max(0, bisect_right(cuts, start) - 1) : bisect_right(cuts, stop - 1)]
            for cuts, (start, stop) in zip(self._cuts, region, strict=True)
        ]
        for first in product(*starts):
            yield self._cells[first]

    @property
    def in_rows(self) -> Sequence[_Chunk] | None:
        """The chunks in the order of their elements, if only the first axis is split."""
        if any(
            (start, stop) != (0, size)
            for chunk in self.chunks
            for (start, stop), size in zip(chunk.box[1:], self.shape[1:], strict=True)
        ):
            return None
        return sorted(self.chunks, key=lambda chunk: chunk.box)


class DcpTensors(FileTensors):
    """Tensors in chunks, which are put together as they are read.

    Where the elements of a chunk lie in its archive is found when the chunk is first wanted.

    Args:
        items: The tensors by name.
        files: All files they lie in.
    """

    def __init__(self, items: Mapping[str, _Item], files: Sequence[Path]) -> None:
        super().__init__(self._whole, files)
        self._items = items
        self._extents: dict[_Chunk, Extent] = {}

    def _whole(self, name: str) -> Extent | None:
        item = self._items.get(name)
        if item is None or len(item.chunks) != 1:
            return None
        return self._extent_of(item, item.chunks[0])

    def _extent_of(self, item: _Item, chunk: _Chunk) -> Extent:
        found = self._extents.get(chunk)
        if found is None:
            found = self._extents[chunk] = self._find(item, chunk)
        return found

    def _find(self, item: _Item, chunk: _Chunk) -> Extent:
        sizes = tuple(stop - start for start, stop in chunk.box)
        where = Extent(chunk.file, chunk.offset, sizes, (), item.dtype)
        descriptor = self.descriptor(where)
        assert descriptor is not None
        extent = _tensor_in(chunk.file, descriptor, chunk.offset, chunk.length)
        if (extent.shape, extent.dtype) != (sizes, item.dtype):
            raise InputError(
                f"{chunk.file} holds {list(extent.shape)} {extent.dtype} at byte "
                f"{chunk.offset:,}, where {DCP_LIST} promises {list(sizes)} {item.dtype} of "
                f"{item.key}.",
                _COPY,
            )
        return extent

    def read(self, name: str, region: Region) -> NDArray[np.generic]:
        """The elements of a region, put together from the chunks that meet it."""
        item = self._items[name]
        if len(item.chunks) == 1:
            return self.read_extent(self._extent_of(item, item.chunks[0]), region)
        sizes = tuple(stop - start for start, stop in region)
        found: NDArray[Any] = np.empty(sizes, numpy_dtype(item.dtype))
        if not prod(sizes):
            return found
        for chunk in item.meeting(region):
            both = [
                (max(a, start), min(b, stop))
                for (a, b), (start, stop) in zip(chunk.box, region, strict=True)
            ]
            within = tuple(
                (low - start, high - start)
                for (low, high), (start, _) in zip(both, chunk.box, strict=True)
            )
            into = tuple(
                slice(low - start, high - start)
                for (low, high), (start, _) in zip(both, region, strict=True)
            )
            found[into] = self.read_extent(self._extent_of(item, chunk), within)
        return found

    def byte_ranges(self, name: str, start: int, stop: int) -> Sequence[ByteRange] | None:
        """Return the byte ranges of elements `start` to `stop` where chunks are rows."""
        item = self._items[name]
        rows = item.in_rows
        if rows is None:
            return None
        size = dtype_named(item.dtype).itemsize
        found: list[ByteRange] = []
        begin = 0
        for chunk in rows:
            end = begin + prod(b - a for a, b in chunk.box)
            low, high = max(begin, start), min(end, stop)
            if low < high:
                extent = self._extent_of(item, chunk)
                if not extent.is_contiguous:
                    return None
                at = extent.offset + (low - begin) * size
                found.append(ByteRange(extent, at, (high - low) * size))
            begin = end
        return found


def find_list(folder: Path) -> Path | None:
    """The list of the chunks in a folder; None if no process wrote chunks to it.

    Raises:
        InputError: There are chunks and no list of them.
    """
    path = folder / DCP_LIST
    if path.is_file():
        return path
    chunks = sorted(file.name for file in folder.glob(f"*{DCP_SUFFIX}"))
    if not chunks:
        return None
    lone = sorted(file.name for file in folder.glob(f"__*{DCP_LIST}"))
    if lone:
        raise InputError(
            f"{folder} was saved by processes that each made a list of their own ({some(lone)}): "
            f"{DCP_LIST}, the list of all, is missing.",
            "Save it again with torch.distributed.checkpoint.save and its default writer.",
        )
    raise InputError(
        f"{folder} holds chunks of torch.distributed.checkpoint ({some(chunks)}), but not "
        f"{DCP_LIST}, which says of which tensors they are.",
        _COPY,
    )


def open_dcp(path: Path, key: str | None = None, *, allow_missing: bool = False) -> Checkpoint:
    """Describe a folder of `torch.distributed.checkpoint`. Reads its `.metadata` alone.

    Args:
        path: The `.metadata`.
        key: Dotted place of the state dict in what was saved, or None to look for it.
        allow_missing: Leave out entries of which a file is not there, with a note.

    Raises:
        MissingEntriesError: Files are missing, and so entries.
        InputError: The list is damaged, or it and the files disagree; all reasons are named.
        AmbiguousStateDictError: It holds several state dicts and `key` is None.
    """
    folder = path.absolute().parent
    try:
        with path.open("rb") as stream:
            saved = _state_of(read_objects(stream), "Metadata")
        described = _dict_of(saved["state_dict_metadata"])
        places = _places(_dict_of(saved["storage_data"]))
        flat = saved.get("planner_data")
    except (BadPickleError, ValueError, KeyError, TypeError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"{path} is not a usable list of torch.distributed.checkpoint: {why}.", _COPY
        ) from None
    sizes: dict[Path, int] = {}
    problems: list[str] = []
    gone: dict[str, list[str]] = {}
    value: dict[Any, Any] = {}
    for name, what in described.items():
        item: Any = what
        try:
            if _is(what, "TensorStorageMetadata"):
                item = _item(string_of(name), what.state, places, folder, sizes, gone)
        except (ValueError, KeyError, TypeError) as error:
            problems.append(f"{name}: {error}")
            continue
        if item is not None:
            _put(value, _path_of(name, flat), item)
    if problems:
        raise InputError(f"{path} and its files disagree: {some(problems, '; ')}.", _COPY)
    notes: tuple[str, ...] = ()
    if gone:
        missing = list(dict.fromkeys(name for names in gone.values() for name in names))
        said = f"{len(missing):,} entries lie in files that are missing ({some(list(gone))})"
        if not allow_missing:
            raise MissingEntriesError(f"{path}: {said}: {some(missing)}.", missing)
        notes = (f"left out: {said}: {some(missing)}",)
    found = find_state_dict(value, _is_item, key, str(path.parent))
    if found.others:
        notes += (f"{len(found.others)} items are not tensors: {some(found.others)}",)
    tensors: dict[str, _Item] = found.tensors
    entries = tuple(Entry(name, item.shape, item.dtype) for name, item in tensors.items())
    files = (path, *sizes)
    size = path.stat().st_size + sum(sizes.values())
    held = DcpTensors(tensors, files)
    return Checkpoint(
        folder.name, files, size, StateDict(entries), held, found.place, (*notes, *found.notes)
    )


class _Range(io.RawIOBase):
    """A byte range of a file as a stream of its own."""

    def __init__(self, descriptor: int, start: int, length: int) -> None:
        self._descriptor, self._start, self._length = descriptor, start, length
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        wanted = max(0, min(len(buffer), self._length - self._position))
        data = os.pread(self._descriptor, wanted, self._start + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _tensor_in(file: Path, descriptor: int, start: int, length: int) -> Extent:
    """Locate the elements of a tensor that `torch.save` wrote into a byte range of a file.

    Raises:
        InputError: The range holds no such archive, or a tensor that cannot be converted.
    """
    try:
        stream = io.BufferedReader(_Range(descriptor, start, length), _READ_AHEAD)
        with zipfile.ZipFile(stream) as archive:
            return _in_archive(file, archive, stream, start, length)
    except (*BROKEN_ZIP, KeyError, OSError, RuntimeError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"{file} is damaged: the chunk at byte {start:,} is not as torch.save writes one "
            f"({why}).",
            _COPY,
        ) from None


def _in_archive(
    file: Path, archive: zipfile.ZipFile, stream: BinaryIO, start: int, length: int
) -> Extent:
    members = {info.filename: info for info in archive.infolist()}
    root = next(name for name in [*members, "data.pkl"] if name.endswith("data.pkl"))
    root = root.removesuffix("data.pkl")
    for info in members.values():
        # torch.serialization.set_crc32_options(False) leaves 0, and None is not compared.
        info.CRC = info.CRC or cast("int", None)
    if (
        len(members) != len(archive.infolist())
        or members[f"{root}data.pkl"].file_size > _MAX_PICKLE
    ):
        raise MalformedError("its directory is none that torch writes")
    order = members.get(f"{root}byteorder")
    if order is not None and archive.read(order) != b"little":
        raise big_endian(file)
    ref = load_pickle(file, io.BytesIO(archive.read(members[f"{root}data.pkl"]))).value
    if not isinstance(ref, TensorRef) or ref.problem or ref.storage is None:
        raise MalformedError(ref.problem if isinstance(ref, TensorRef) else "it holds no tensor")
    data = members[f"{root}data/{ref.storage.key}"]
    if data.compress_type != zipfile.ZIP_STORED or data.flag_bits & 1:
        raise MalformedError("it is compressed or encrypted")
    stream.seek(data.header_offset)
    signature, name_length, extra_length = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
    begin = data.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    if signature != b"PK\x03\x04" or begin + data.file_size > length:
        raise MalformedError("its data is not where its directory says")
    if ref.storage.offset + ref.storage.nbytes > data.file_size:
        raise MalformedError("its data is too short")
    first = ref.storage.offset + ref.offset * BY_NAME[ref.dtype].itemsize
    return Extent(file, start + begin + first, ref.shape, ref.strides, ref.dtype)


def _is_item(value: Any) -> bool:
    return isinstance(value, _Item)


def _is(value: Any, name: str) -> bool:
    return isinstance(value, Placeholder) and value.name == name and value.arguments is not None


def _state_of(value: Any, name: str) -> dict[str, Any]:
    """The fields of an object of a dataclass of that name."""
    if not _is(value, name):
        raise MalformedError(f"a {name} was expected")
    return _dict_of(value.state)


def _dict_of(value: Any) -> dict[Any, Any]:
    if type(value) is not dict:
        raise MalformedError(f"expected a dictionary, got {type(value).__name__}")
    return cast("dict[Any, Any]", value)


def _places(storage: dict[Any, Any]) -> dict[tuple[str, tuple[int, ...]], dict[str, Any]]:
    """Return the locations of the chunks, by name and first element."""
    found: dict[tuple[str, tuple[int, ...]], dict[str, Any]] = {}
    for index, info in storage.items():
        where = _state_of(index, "MetadataIndex")
        offset = where.get("offset")
        name = string_of(where["fqn"])
        found[name, () if offset is None else sizes_of(offset)] = _state_of(info, "_StorageInfo")
    return found


def _item(
    name: str,
    state: Any,
    places: Mapping[tuple[str, tuple[int, ...]], dict[str, Any]],
    folder: Path,
    sizes: dict[Path, int],
    gone: dict[str, list[str]],
) -> _Item | None:
    """The tensor of that name; None if files of it are missing, which `gone` takes down."""
    fields = _dict_of(state)
    shape, dtype = shape_of(fields["size"]), _dtype_of(fields["properties"])
    chunks: list[_Chunk] = []
    whole = True
    for chunk in cast("list[Any]", fields["chunks"] if type(fields["chunks"]) is list else []):
        described = _state_of(chunk, "ChunkStorageMetadata")
        starts, lengths = sizes_of(described["offsets"]), shape_of(described["sizes"])
        if len(starts) != len(shape) or len(lengths) != len(shape):
            raise MalformedError("a chunk has other axes than the tensor")
        box = tuple((a, a + n) for a, n in zip(starts, lengths, strict=True))
        if any(stop > size for (_, stop), size in zip(box, shape, strict=True)):
            raise MalformedError(f"a chunk at {list(starts)} lies outside {list(shape)}")
        info = places.get((name, starts))
        if info is None:
            raise MalformedError(f"its chunk at {list(starts)} lies in no file")
        if info.get("transform_descriptors"):
            raise MalformedError("it was compressed by an extension: save it without")
        file = _file_of(string_of(info["relative_path"]), folder)
        offset, length = size_of(info["offset"]), size_of(info["length"])
        if file not in sizes:
            try:
                sizes[file] = os.stat(file).st_size
            except OSError:
                gone.setdefault(file.name, []).append(name)
                whole = False
                continue
        if offset + length > sizes[file]:
            raise MalformedError(f"{file.name} was cut short")
        if prod(lengths) or not prod(shape):
            chunks.append(_Chunk(box, file, offset, length))
    return _Item(name, shape, dtype, chunks) if whole else None


def _dtype_of(properties: Any) -> str:
    state = properties.state if _is(properties, "TensorProperties") else None
    dtype: Any = None
    if type(state) is tuple:
        dtype = next(iter(cast("tuple[Any, ...]", state)), None)
    elif type(state) is dict:
        dtype = cast("dict[Any, Any]", state).get("dtype")
    if not isinstance(dtype, Placeholder) or dtype.module != "torch":
        raise MalformedError("it has no dtype")
    if dtype.name not in BY_NAME:
        raise MalformedError(f"it is {dtype.dotted}, which NumPy and JAX do not have")
    return dtype.name


def _file_of(name: str, folder: Path) -> Path:
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts or not inside.parts or "\0" in name:
        raise MalformedError(f"it is to lie in {name!r}, outside the folder")
    return folder / name


def _path_of(name: Any, flat: Any) -> tuple[Any, ...]:
    """Return an item's path in the nested state dict that was saved."""
    path = cast("dict[Any, Any]", flat).get(name) if type(flat) is dict else None
    if type(path) in (tuple, list) and path:
        parts = tuple(cast("Sequence[Any]", path))
        if all(isinstance(part, str | int) for part in parts):
            return parts
    return (name,)


def _put(value: dict[Any, Any], path: tuple[Any, ...], item: Any) -> None:
    for part in path[:-1]:
        inner = value.setdefault(part, {})
        if type(inner) is not dict:
            raise InputError(f"The list names {part!r} as a tensor and as a folder of some.", _COPY)
        value = cast("dict[Any, Any]", inner)
    value[path[-1]] = item


def _meet(box: Region, other: Region) -> bool:
    return all(a < d and c < b for (a, b), (c, d) in zip(box, other, strict=True))
