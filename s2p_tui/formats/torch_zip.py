"""Checkpoints of `torch.save` since torch 1.6: a zip archive of a pickle and one file a storage.

Storages are stored uncompressed, so that each tensor is a byte range of the file. Neither torch
nor any tensor data is loaded. Format: torch/csrc/docs/serialization.md of the torch sources.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path

from s2p_tui.core.errors import InputError
from s2p_tui.core.untrusted import repeated
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.torch_tensors import (
    SAVE_AGAIN,
    StoragePlace,
    big_endian,
    checkpoint_of,
    load_pickle,
)

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
