"""Checkpoints of `torch.save` since torch 1.6: a zip archive of a pickle and one file a storage.

Storages are stored uncompressed, so that each tensor is a byte range of the file. Neither torch
nor any tensor data is loaded. Format: torch/csrc/docs/serialization.md of the torch sources.
"""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from s2p_tui.alignment.dtypes import BY_NAME, numpy_dtype
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.untrusted import repeated
from s2p_tui.errors import InputError, NoStateDictError, printable, some
from s2p_tui.formats.base import Checkpoint, Extent, Locator, Region
from s2p_tui.formats.nested import find_state_dict
from s2p_tui.formats.pickle_machine import (
    BadPickleError,
    Constructor,
    PickleMachine,
    Placeholder,
    Stretch,
)
from s2p_tui.formats.pickled import ArrayRef, ModuleItems, PickledItems, is_pickled_tensor, seen
from s2p_tui.formats.remote.file import read_at, remote_file, size_of
from s2p_tui.formats.sniff import COPY_AGAIN, foreign_zip, torchscript
from s2p_tui.formats.tensors import FileTensors
from s2p_tui.formats.torch_objects import TORCH_TABLE, StorageRef, TensorRef, persistent_storage

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAVE_AGAIN = "Save it again with torch.save(model.state_dict(), file)."
_PLAIN = frozenset(
    (
        *("collections", "copyreg", "copy_reg", "_codecs", "datetime"),
        *("pathlib", "types", "argparse", "io", "_io", "decimal", "fractions", "uuid", "enum"),
        *("functools", "operator", "numpy", "torch", "random", "persistent", "ml_dtypes"),
    )
)
"""Packages whose objects are plain values beside weights, which are not worth a note."""
_PLAIN_BUILTINS = frozenset(
    (
        *("set", "frozenset", "list", "dict", "tuple", "bytearray", "bytes", "complex", "object"),
        *("int", "float", "bool", "str", "range", "slice", "type", "Ellipsis", "NotImplemented"),
    )
)


@dataclass(frozen=True, slots=True)
class StoragePlace:
    """The location of a storage in the file: first byte and number of bytes."""

    start: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Pickled:
    """The value of a pickle, and which names in it were passed over.

    Attributes:
        value: It, tensors as `TensorRef`, unknown objects as placeholders.
        strangers: How often names that are not torch's were called, by module and name.
        start: Where the stream it was read from begins in the file.
    """

    value: Any
    strangers: Counter[tuple[str, str]]
    start: int = 0


class PickledTensors(FileTensors):
    """Tensors in a file, and arrays that a pickle holds as text or in a few bytes.

    Args:
        extents: Where tensors lie whose elements lie in the file as they are.
        arrays: The others; a stretch begins at its place in the file.
        file: The file.
    """

    def __init__(
        self, extents: Mapping[str, Extent], arrays: Mapping[str, ArrayRef], file: Locator
    ) -> None:
        super().__init__(extents.get, (file,))
        self._extents, self._arrays, self._file = extents, arrays, file
        self._last: tuple[ArrayRef | None, NDArray[np.generic]] = (None, np.zeros(0))

    def read(self, name: str, region: Region) -> NDArray[np.generic]:
        """The elements of a region. Of an array held as text, the whole is decoded once."""
        array = self._arrays.get(name)
        if array is None:
            return super().read(name, region)
        last, whole = self._last
        if last is not array:
            whole = self._whole(array)
            self._last = array, whole
        return whole[tuple(slice(start, stop) for start, stop in region)]

    def _whole(self, array: ArrayRef) -> NDArray[np.generic]:
        data = array.data
        try:
            if isinstance(data, Stretch):
                data = self._text(data, array.dtype)
            raw = data if isinstance(data, bytes) else data.encode("latin-1")
            dtype = numpy_dtype(array.dtype)
            steps = [stride * dtype.itemsize for stride in array.strides]
            return np.ndarray(array.shape, dtype, raw, 0, steps)
        except (ValueError, TypeError):
            raise InputError(
                f"{self._file} is damaged: an array of shape {list(array.shape)} does not have "
                "as many bytes.",
                COPY_AGAIN,
            ) from None

    def _text(self, stretch: Stretch, dtype: str) -> str:
        held = bytearray(stretch.nbytes)
        place = Extent(self._file, stretch.start, (), (), dtype)
        self.fill(place, memoryview(held), stretch.start)
        return held.decode("utf-8", "surrogatepass")


def big_endian(path: Locator) -> InputError:
    """The refusal of a file whose numbers lie the other way round, or that does not say how."""
    return InputError(
        f"{path} was written on a big-endian machine, or does not say that it was not.",
        "Have torch turn its numbers round: torch.save(torch.load(file), other_file).",
    )


def load_pickle(
    path: Locator,
    stream: BinaryIO,
    persistent: Callable[[Any], Any] = persistent_storage,
    known: Mapping[str, Constructor] = MappingProxyType({}),
) -> Pickled:
    """The pickled value at the stream's position, tensors as `TensorRef`; runs nothing.

    Args:
        path: The file, for messages.
        stream: Stands at the pickle's first byte; left behind its last.
        persistent: Turns a persistent id into a `StorageRef`.
        known: Names beside torch's, and what stands in for each when it is called.

    Raises:
        InputError: It is malformed.
    """
    machine = PickleMachine({**TORCH_TABLE, **known} if known else TORCH_TABLE, persistent)
    try:
        return Pickled(machine.load(stream), machine.strangers)
    except BadPickleError as error:
        raise InputError(f"{path} is not a usable torch checkpoint: {error}.", SAVE_AGAIN) from None


def checkpoint_of(
    path: Locator, pickled: Pickled, storages: Mapping[str, StoragePlace], key: str | None
) -> Checkpoint:
    """The checkpoint a pickled value describes.

    Raises:
        InputError: Tensors cannot be converted or lie outside the file; all are named.
        AmbiguousStateDictError: Several state dicts and no `key`.
    """
    inside = PickledItems()
    modules: list[ModuleItems] = []

    def inside_noted(value: Any) -> Mapping[Any, Any] | None:
        items = inside(value)
        if isinstance(items, ModuleItems):
            modules.append(items)
        return items

    try:
        found = find_state_dict(
            seen(pickled.value), is_pickled_tensor, key, str(path), inside_noted
        )
    except BadPickleError as error:
        raise InputError(f"{path} is refused: {error}.", SAVE_AGAIN) from None
    except InputError as error:
        raise _with_strangers(error, pickled) from None
    tensors = found.tensors
    _refuse_unusable(path, tensors)
    entries, extents, arrays = _placed(path, pickled, storages, tensors)
    others = found.others
    notes = [f"{len(others)} items are not tensors: {some(list(others))}"] if others else []
    notes += [*found.notes, *_passed_over(pickled, modules, tensors)]
    return Checkpoint(
        path.name,
        (path,),
        path.stat().st_size,
        StateDict(tuple(entries)),
        PickledTensors(extents, arrays, path),
        found.place,
        tuple(notes),
    )


def _refuse_unusable(path: Locator, tensors: Mapping[str, Any]) -> None:
    problems = [
        f"{name} {ref.problem}"
        for name, ref in tensors.items()
        if isinstance(ref, TensorRef) and ref.problem
    ]
    if problems:
        raise InputError(
            f"{path} holds {len(problems)} tensors that cannot be converted: {some(problems)}.",
            "Convert or remove these tensors, then save the state dict again.",
        )


def _placed(
    path: Locator,
    pickled: Pickled,
    storages: Mapping[str, StoragePlace],
    tensors: Mapping[str, Any],
) -> tuple[list[Entry], dict[str, Extent], dict[str, ArrayRef]]:
    """Entries, and where each lies; arrays that do not lie in the file as they are by name."""
    entries: list[Entry] = []
    extents: dict[str, Extent] = {}
    arrays: dict[str, ArrayRef] = {}
    missing: list[str] = []
    for name, ref in tensors.items():
        if isinstance(ref, ArrayRef):
            entries.append(Entry(name, ref.shape, ref.dtype, ("array", id(ref.origin))))
            data = ref.data
            if isinstance(data, Stretch):
                start = pickled.start + data.start
                if not data.is_text:
                    extents[name] = Extent(path, start, ref.shape, ref.strides, ref.dtype)
                    continue
                ref = ref.at(start)
            arrays[name] = ref
            continue
        storage = ref.storage
        held = storages.get(storage.key) if storage is not None else None
        if storage is None or held is None or storage.offset + storage.nbytes > held.nbytes:
            missing.append(name)
            continue
        offset = storage.offset + ref.offset * BY_NAME[ref.dtype].itemsize
        extents[name] = Extent(path, held.start + offset, ref.shape, ref.strides, ref.dtype)
        identity = (storage.key, offset, ref.shape, ref.strides, ref.dtype)
        entries.append(Entry(name, ref.shape, ref.dtype, identity))
    if missing:
        raise InputError(
            f"{path} is damaged: the data of {len(missing)} tensors is missing or too short: "
            f"{some(missing)}.",
            COPY_AGAIN,
        )
    return entries, extents, arrays


def _passed_over(
    pickled: Pickled, modules: Iterable[ModuleItems], tensors: Mapping[str, Any]
) -> list[str]:
    """Return the notes on whole modules and on objects that were passed over."""
    taken = {id(tensor) for tensor in tensors.values()}
    notes: list[str] = []
    classes: set[tuple[str, str]] = set()
    for module in modules:
        if not any(id(tensor) in taken for tensor in module.values()):
            continue
        classes |= module.classes
        hooks = "; its state-dict hooks were not run" if module.hooks else ""
        notes.append(
            f"a whole module ({_short(module.name)}) was pickled: its tensors are read as "
            f"state_dict() names them, and no code of it was run{hooks}"
        )
    counts: Counter[str] = Counter()
    for (module, name), calls in pickled.strangers.items():
        is_builtin = module in ("builtins", "__builtin__") and name in _PLAIN_BUILTINS
        if (module, name) not in classes and not is_builtin:
            counts[module.partition(".")[0]] += max(calls, 1)
    noted = [(name, count) for name, count in counts.items() if name not in _PLAIN]
    if noted:
        shown = [f"{count} object{'s' * (count > 1)} of {_short(name)}" for name, count in noted]
        notes.append(f"passed over, not run: {some(shown)}")
    return notes


def _with_strangers(error: InputError, pickled: Pickled) -> InputError:
    """The refusal, with the names that nothing was done with, where nothing was found."""
    names = [f"{module}.{name}" for module, name in pickled.strangers]
    if not isinstance(error, NoStateDictError) or not names:
        return error
    passed = some([_short(name) for name in names])
    return NoStateDictError(
        f"{error.message} Its pickle names {passed}, which are not part of a state dict. "
        "Nothing in it was run.",
        error.hint,
    )


def _short(name: str) -> str:
    return printable(name[:100])


_LOCAL_HEADER = struct.Struct("<4s22xHH")
BROKEN_ZIP = (
    *(zipfile.BadZipFile, EOFError, struct.error, NotImplementedError, OverflowError),
    ValueError,
)
"""Errors of reading a damaged zip archive."""
_STORED = zipfile.ZIP_STORED
_HELD_PICKLE = 1 << 26
"""Bytes of a pickle that is read from memory; a longer one holds arrays, and is read where it is.
"""
_PIECE = 1 << 20


def open_torch_zip(path: Locator, key: str | None = None) -> Checkpoint:
    """Describe a zip checkpoint. Reads the archive's directory and its pickle, no tensor data.

    Args:
        path: The file.
        key: Dotted place of the state dict in the pickled object, or None to look for it.

    Raises:
        InputError: The file is damaged, or not a checkpoint.
        AmbiguousStateDictError: It holds several state dicts and `key` is None.
    """
    try:
        with path.open("rb") as stream:
            infos, notes = _members(path, stream)
            members = {info.filename: info for info in infos}
            twice = repeated([info.filename for info in infos])
            if twice is not None:
                raise InputError(
                    f"{path} is refused: two files in it share one name, {twice}.", SAVE_AGAIN
                )
            root = _root(path, members)
            if f"{root}byteorder" in members:
                _check_byte_order(path, stream, members[f"{root}byteorder"])
            if (file := remote_file(stream)) is not None:
                starts = [info.header_offset for info in infos]
                file.read_ahead([(start, start + _LOCAL_HEADER.size) for start in starts])
            _refuse_overlaps(path, stream, infos)
            pickled = _pickled(path, stream, members[f"{root}data.pkl"])
            prefix = f"{root}data/"
            storages = {
                name.removeprefix(prefix): _place(path, stream, info)
                for name, info in members.items()
                if name.startswith(prefix)
            }
    except BROKEN_ZIP as error:
        raise InputError(f"{path} is a damaged zip archive: {error}.", COPY_AGAIN) from None
    checkpoint = checkpoint_of(path, pickled, storages, key)
    return replace(checkpoint, notes=(*notes, *checkpoint.notes))


def _members(
    path: Locator, stream: io.BufferedReader
) -> tuple[list[zipfile.ZipInfo], tuple[str, ...]]:
    """The members of the archive that begins at byte 0, and what to note about others.

    A zip archive is found from the end of a file, so that the last of several would be read, with
    all its offsets moved: `torch.load` reads the first.
    """
    with zipfile.ZipFile(stream) as archive:
        infos = archive.infolist()
    begins = start = _start(infos)
    while start:
        if remote_file(stream) is not None:
            raise InputError(
                f"{path} holds something before its archive, perhaps another one.",
                "Download it, and give the file.",
            )
        with mmap.mmap(stream.fileno(), start, access=mmap.ACCESS_READ) as front:
            try:
                with zipfile.ZipFile(cast("BinaryIO", front)) as archive:
                    infos = archive.infolist()
            except (zipfile.BadZipFile, ValueError):
                infos = []
        if not infos or not _start(infos) < start:
            raise InputError(
                f"{path} is refused: its archive begins at byte {start:,}, not at the first, so "
                "that something else may be meant.",
                "Copy or download it again, or save it again with torch.save to a file of its own.",
            )
        start = _start(infos)
    note = "more than one archive lies in the file: the first is read, as torch.load does"
    return infos, (note,) if begins else ()


def _start(infos: Iterable[zipfile.ZipInfo]) -> int:
    return min((info.header_offset for info in infos), default=0)


def _pickled(path: Locator, stream: io.BufferedReader, info: zipfile.ZipInfo) -> Pickled:
    place = _place(path, stream, info)
    held: list[bytes] = []
    checksum = 0
    for start in range(place.start, place.start + place.nbytes, _PIECE):
        piece = read_at(stream, min(_PIECE, place.start + place.nbytes - start), start)
        checksum = zlib.crc32(piece, checksum)
        if place.nbytes <= _HELD_PICKLE:
            held.append(piece)
    # torch.serialization.set_crc32_options(False) leaves 0.
    if info.CRC not in (checksum, 0):
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {info.filename!r}")
    if place.nbytes <= _HELD_PICKLE:
        pickled = load_pickle(path, io.BytesIO(b"".join(held)))
        return replace(pickled, start=place.start)
    stream.seek(place.start)
    pickled = load_pickle(path, stream)
    if stream.tell() > place.start + place.nbytes:
        raise zipfile.BadZipFile(f"{info.filename!r} does not end where it should")
    return pickled


def _refuse_overlaps(
    path: Locator, stream: io.BufferedReader, members: Iterable[zipfile.ZipInfo]
) -> None:
    """Make sure that no byte is part of two files, as in archives that unpack to far more."""
    end = 0
    for info in sorted(members, key=lambda info: info.header_offset):
        place = _place(path, stream, info)
        if info.header_offset < end:
            raise InputError(
                f"{path} is refused: {info.filename} in it overlaps another file.", SAVE_AGAIN
            )
        end = place.start + place.nbytes


def _root(path: Locator, members: Mapping[str, zipfile.ZipInfo]) -> str:
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise foreign_zip(path, members.values())
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in members:
        raise torchscript(path)
    return root


def _check_byte_order(path: Locator, stream: io.BufferedReader, info: zipfile.ZipInfo) -> None:
    place = _place(path, stream, info)
    order = read_at(stream, min(place.nbytes, 16), place.start)
    if order != b"little":
        raise big_endian(path)


def _place(path: Locator, stream: io.BufferedReader, info: zipfile.ZipInfo) -> StoragePlace:
    if info.compress_type != _STORED or info.flag_bits & 1 or info.file_size != info.compress_size:
        raise InputError(
            f"{path} is compressed or encrypted ({info.filename}); torch.save writes neither.",
            SAVE_AGAIN,
        )
    header = read_at(stream, _LOCAL_HEADER.size, info.header_offset)
    signature, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    if signature != b"PK\x03\x04" or start + info.file_size > size_of(stream):
        why = f"{info.filename} is not where the archive says"
        raise InputError(f"{path} is damaged: {why}.", COPY_AGAIN)
    return StoragePlace(start, info.file_size)


MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_NUMEL = struct.Struct("<q")


def open_torch_legacy(path: Locator, key: str | None = None) -> Checkpoint:
    """Describe a legacy checkpoint, or a plain pickle. Reads its pickles, no tensor data.

    Args:
        path: The file.
        key: Dotted place of the state dict in the pickled object, or None to look for it.

    Raises:
        InputError: The file is damaged, or not a checkpoint.
        AmbiguousStateDictError: It holds several state dicts and `key` is None.
    """
    with path.open("rb") as stream:
        whole = range(size_of(stream))
        payloads = _Payloads(path, stream)
        first = load_pickle(path, stream, known={_LOAD_FROM_BYTES: payloads})
        if first.value != MAGIC_NUMBER:
            return checkpoint_of(path, first, payloads.places, key)
        pickled, storages = _legacy(path, stream, stream, whole)
    return checkpoint_of(path, pickled, storages, key)


_LOAD_FROM_BYTES = "torch.storage._load_from_bytes"
_LONGEST_HEAD = 1 << 12
"""Bytes before a storage's elements where `pickle` was given it; some 250."""


class _Payloads:
    """Storages that `pickle.dump` put into a pickle, each as a legacy file of its own.

    Each is looked at once, its first few kB alone, and left where it is.

    Args:
        path: The file.
        whole: The file, open.

    Attributes:
        places: Where they lie, by the names they get here.
    """

    def __init__(self, path: Locator, whole: BinaryIO) -> None:
        self.places: dict[str, StoragePlace] = {}
        self._path, self._whole = path, whole
        self._found: dict[int, StorageRef] = {}

    def __call__(self, payload: Any) -> StorageRef | Placeholder:
        if not isinstance(payload, Stretch) or payload.is_text:
            module, _, name = _LOAD_FROM_BYTES.rpartition(".")
            return Placeholder(module, name, (payload,), is_call=True)
        start = payload.start
        if start not in self._found:
            self._found[start] = self._storage(range(start, start + payload.nbytes))
        return self._found[start]

    def _storage(self, where: range) -> StorageRef:
        head = io.BytesIO(read_at(self._whole, min(len(where), _LONGEST_HEAD), where.start))
        if load_pickle(self._path, head).value != MAGIC_NUMBER:
            raise BadPickleError("a storage in it is not one that torch wrote")
        pickled, places = _legacy(self._path, head, self._whole, where)
        storage = pickled.value
        if not isinstance(storage, StorageRef) or storage.key not in places:
            raise BadPickleError("a storage in it is not one that torch wrote")
        key = f"at byte {where.start}"
        self.places[key] = places[storage.key]
        return replace(storage, key=key)


def _legacy(
    path: Locator, stream: BinaryIO, whole: BinaryIO, where: range
) -> tuple[Pickled, dict[str, StoragePlace]]:
    """Read the value behind the magic number, and the places of its storages in the file.

    Args:
        path: The file.
        stream: Stands behind the magic number.
        whole: The file, open.
        where: The bytes of the file that the stream is of, and the storages with it.
    """
    if load_pickle(path, stream).value != _PROTOCOL:
        raise InputError(
            f"{path} is a pickle, but not one written by torch.save.",
            "Pass the file that torch.save(model.state_dict(), file) wrote.",
        )
    system = load_pickle(path, stream).value
    if not isinstance(system, dict) or ("little_endian", True) not in system.items():
        raise big_endian(path)
    itemsizes: dict[str, int] = {}
    lengths: dict[str, int] = {}

    def storage_of(persistent_id: Any) -> Any:
        storage = persistent_storage(persistent_id)
        if isinstance(storage, StorageRef):
            itemsizes[storage.key] = BY_NAME[storage.dtype].itemsize if storage.dtype else 1
            lengths[storage.key] = storage.nbytes
        return storage

    pickled = load_pickle(path, stream, storage_of)
    keys = load_pickle(path, stream).value
    named = cast("list[Any]", keys if isinstance(keys, list) else [None])
    if not all(isinstance(key, str) for key in named):
        raise InputError(f"{path} is damaged: it has no list of storages.", COPY_AGAIN)
    left = where[stream.tell() :]
    file = remote_file(whole)
    if file is not None:
        # Each count of elements says where the next one is, but the pickle tells beforehand.
        steps = (lengths.get(key, 0) + _NUMEL.size for key in named)
        starts = [*accumulate(steps, initial=left.start)][:-1]
        file.read_ahead([(at, at + _NUMEL.size) for at in starts if at + _NUMEL.size <= left.stop])
    return pickled, _places(path, whole, left, named, itemsizes)


def _places(
    path: Locator, whole: BinaryIO, where: range, keys: Iterable[Any], itemsizes: dict[str, int]
) -> dict[str, StoragePlace]:
    position, end = where.start, where.stop
    places: dict[str, StoragePlace] = {}
    for key in keys:
        header = read_at(whole, min(_NUMEL.size, max(0, end - position)), position)
        numel = _NUMEL.unpack(header)[0] if len(header) == _NUMEL.size else -1
        nbytes = numel * itemsizes.get(key, 1)
        position += _NUMEL.size
        if numel < 0 or position + nbytes > end:
            why = f"storage {key} ends behind the end of the file"
            raise InputError(f"{path} is cut short: {why}.", COPY_AGAIN)
        places[key] = StoragePlace(position, nbytes)
        position += nbytes
    return places
