"""Checkpoints of `torch.save` before torch 1.6: four pickles, then every storage in a row.

Format: `torch/serialization.py`, `_legacy_save`: magic number, protocol version, system info, the
value, the list of storage keys, then per storage its number of elements (int64) and its bytes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, cast

from s2p_tui.core.dtypes import BY_NAME
from s2p_tui.core.errors import InputError
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.torch_objects import StorageRef, persistent_storage
from s2p_tui.formats.torch_tensors import StoragePlace, big_endian, checkpoint_of, load_pickle

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
