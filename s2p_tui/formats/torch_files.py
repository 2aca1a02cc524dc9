"""Checkpoints of `torch.save` since torch 1.6: a zip archive of a pickle and one file a storage.

Storages are stored uncompressed, so that each tensor is a byte range of the file. Neither torch
nor any tensor data is loaded. Format: torch/csrc/docs/serialization.md of the torch sources.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from s2p_tui.alignment.dtypes import BY_NAME
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.untrusted import repeated
from s2p_tui.errors import InputError
from s2p_tui.formats.base import Checkpoint, Extent
from s2p_tui.formats.nested import find_state_dict
from s2p_tui.formats.pickle_machine import BadPickleError, BlockedGlobalError, PickleMachine
from s2p_tui.formats.tensors import FileTensors
from s2p_tui.formats.torch_objects import (
    TORCH_TABLE,
    StorageRef,
    TensorRef,
    blocked,
    persistent_storage,
)

SAVE_AGAIN = "Save it again with torch.save(model.state_dict(), file)."
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class StoragePlace:
    """Where a storage lies in the file: first byte and number of bytes."""

    start: int
    nbytes: int


def big_endian(path: Path) -> InputError:
    """The refusal of a file whose numbers lie the other way round, or that does not say how."""
    return InputError(
        f"{path} was written on a big-endian machine, or does not say that it was not.",
        "Load it on the machine that wrote it and save it as .safetensors.",
    )


def load_pickle(
    path: Path, stream: BinaryIO, persistent: Callable[[Any], Any] = persistent_storage
) -> Any:
    """The pickled value at the stream's position, tensors as `TensorRef`; runs nothing.

    Args:
        path: The file, for messages.
        stream: Stands at the pickle's first byte; left behind its last.
        persistent: Turns a persistent id into a `StorageRef`.

    Raises:
        InputError: It wants names outside the table, or is malformed.
    """
    try:
        return PickleMachine(TORCH_TABLE, persistent).load(stream)
    except BlockedGlobalError as error:
        raise blocked(str(path), error.name) from None
    except BadPickleError as error:
        raise InputError(
            f"{path} is not a usable torch checkpoint: {error}.",
            SAVE_AGAIN,
        ) from None


def checkpoint_of(
    path: Path, value: Any, storages: Mapping[str, StoragePlace], key: str | None
) -> Checkpoint:
    """The checkpoint a pickled value describes.

    Raises:
        InputError: Tensors cannot be converted or lie outside the file; all are named.
        AmbiguousStateDictError: Several state dicts and no `key`.
    """
    place, tensors, others = find_state_dict(value, _is_tensor, key, str(path))
    problems = [f"{name} {ref.problem}" for name, ref in tensors.items() if ref.problem]
    if problems:
        raise InputError(
            f"{path} holds {len(problems)} tensors that cannot be converted: {_some(problems)}.",
            "Convert or remove these tensors, then save the state dict again.",
        )
    entries: list[Entry] = []
    extents: dict[str, Extent] = {}
    missing: list[str] = []
    for name, ref in tensors.items():
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
            f"{_some(missing)}.",
            "Copy or download it again.",
        )
    notes = (f"{len(others)} items are not tensors: {_some(list(others))}",) if others else ()
    return Checkpoint(
        path.name,
        (path,),
        path.stat().st_size,
        StateDict(tuple(entries)),
        FileTensors(extents.get, (path,)),
        place,
        notes,
    )


def _is_tensor(value: Any) -> bool:
    return isinstance(value, TensorRef)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


_LOCAL_HEADER = struct.Struct("<4s22xHH")
_STORED = zipfile.ZIP_STORED
_MAX_PICKLE = 1 << 28


def open_torch_zip(path: Path, key: str | None = None) -> Checkpoint:
    """Describe a zip checkpoint. Reads the archive's directory and its pickle, no tensor data.

    Args:
        path: The file.
        key: Dotted place of the state dict in the pickled object, or None to look for it.

    Raises:
        InputError: The file is damaged, not a checkpoint, or its pickle wants foreign names.
        AmbiguousStateDictError: It holds several state dicts and `key` is None.
    """
    try:
        with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            members = {info.filename: info for info in archive.infolist()}
            twice = repeated([info.filename for info in archive.infolist()])
            if twice is not None:
                raise InputError(
                    f"{path} is refused: two files in it share one name, {twice}.", SAVE_AGAIN
                )
            root = _root(path, members)
            if f"{root}byteorder" in members:
                _check_byte_order(path, stream, members[f"{root}byteorder"])
            head = members[f"{root}data.pkl"]
            _place(path, stream, head)
            if head.file_size > _MAX_PICKLE:
                raise InputError(
                    f"{path} is refused: its pickle claims {head.file_size:,} bytes, at most "
                    f"{_MAX_PICKLE:,} are read.",
                    SAVE_AGAIN,
                )
            _refuse_overlaps(path, stream, members.values())
            value = load_pickle(path, io.BytesIO(archive.read(head)))
            prefix = f"{root}data/"
            storages = {
                name.removeprefix(prefix): _place(path, stream, info)
                for name, info in members.items()
                if name.startswith(prefix)
            }
    except (
        zipfile.BadZipFile,
        EOFError,
        struct.error,
        NotImplementedError,
        ValueError,
        OverflowError,
    ) as error:
        raise InputError(
            f"{path} is a damaged zip archive: {error}.",
            "Copy or download it again.",
        ) from None
    return checkpoint_of(path, value, storages, key)


def _refuse_overlaps(
    path: Path, stream: io.BufferedReader, members: Iterable[zipfile.ZipInfo]
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


def _root(path: Path, members: dict[str, zipfile.ZipInfo]) -> str:
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise InputError(
            f"{path} is a zip archive, but not one written by torch.save.",
            "Pass the file that torch.save(model.state_dict(), file) wrote.",
        )
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in members:
        raise InputError(
            f"{path} is a TorchScript archive, which holds code.",
            "Save its weights: torch.save(torch.jit.load(file).state_dict(), other_file).",
        )
    return root


def _check_byte_order(path: Path, stream: io.BufferedReader, info: zipfile.ZipInfo) -> None:
    place = _place(path, stream, info)
    order = os.pread(stream.fileno(), min(place.nbytes, 16), place.start)
    if order != b"little":
        raise big_endian(path)


def _place(path: Path, stream: io.BufferedReader, info: zipfile.ZipInfo) -> StoragePlace:
    if info.compress_type != _STORED or info.flag_bits & 1 or info.file_size != info.compress_size:
        raise InputError(
            f"{path} is compressed or encrypted ({info.filename}); torch.save writes neither.",
            SAVE_AGAIN,
        )
    descriptor = stream.fileno()
    header = os.pread(descriptor, _LOCAL_HEADER.size, info.header_offset)
    signature, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    if signature != b"PK\x03\x04" or start + info.file_size > os.fstat(descriptor).st_size:
        raise InputError(
            f"{path} is damaged: {info.filename} is not where the archive says.",
            "Copy or download it again.",
        )
    return StoragePlace(start, info.file_size)


MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_NUMEL = struct.Struct("<q")


def open_torch_legacy(path: Path, key: str | None = None) -> Checkpoint:
    """Describe a legacy checkpoint. Reads its pickles and the storages' sizes, no tensor data.

    Args:
        path: The file.
        key: Dotted place of the state dict in the pickled object, or None to look for it.

    Raises:
        InputError: The file is damaged, not a checkpoint, or its pickle wants foreign names.
        AmbiguousStateDictError: It holds several state dicts and `key` is None.
    """
    with path.open("rb") as stream:
        if load_pickle(path, stream) != MAGIC_NUMBER or load_pickle(path, stream) != _PROTOCOL:
            raise InputError(
                f"{path} is a pickle, but not one written by torch.save.",
                "Pass the file that torch.save(model.state_dict(), file) wrote.",
            )
        system = load_pickle(path, stream)
        if not isinstance(system, dict) or ("little_endian", True) not in system.items():
            raise big_endian(path)
        itemsizes: dict[str, int] = {}

        def storage_of(persistent_id: Any) -> StorageRef:
            storage = persistent_storage(persistent_id)
            itemsizes[storage.key] = BY_NAME[storage.dtype].itemsize if storage.dtype else 1
            return storage

        value = load_pickle(path, stream, storage_of)
        keys = load_pickle(path, stream)
        named = cast("list[Any]", keys if isinstance(keys, list) else [None])
        if not all(isinstance(key, str) for key in named):
            raise InputError(
                f"{path} is damaged: it has no list of storages.", "Copy or download it again."
            )
        storages = _places(path, stream, named, itemsizes)
    return checkpoint_of(path, value, storages, key)


def _places(
    path: Path, stream: BinaryIO, keys: Iterable[Any], itemsizes: dict[str, int]
) -> dict[str, StoragePlace]:
    end = os.fstat(stream.fileno()).st_size
    position = stream.tell()
    places: dict[str, StoragePlace] = {}
    for key in keys:
        header = os.pread(stream.fileno(), _NUMEL.size, position)
        numel = _NUMEL.unpack(header)[0] if len(header) == _NUMEL.size else -1
        nbytes = numel * itemsizes.get(key, 1)
        position += _NUMEL.size
        if numel < 0 or position + nbytes > end:
            raise InputError(
                f"{path} is cut short: storage {key} ends behind the end of the file.",
                "Copy or download it again.",
            )
        places[key] = StoragePlace(position, nbytes)
        position += nbytes
    return places
