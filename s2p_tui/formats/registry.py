"""Opening a checkpoint, or a part of it named by a key, or a target, of any known format."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.errors import Code, Hint, InputError
from s2p_tui.formats.base import (
    ByteRange,
    Checkpoint,
    Extent,
    FileKind,
    Locator,
    Region,
    Tensors,
    without_extra_state,
)
from s2p_tui.formats.chunks import (
    PYTREE,
    STATE_DICT,
    Kind,
    find_manifest,
    open_pytree_chunks,
    open_state_dict_chunks,
)
from s2p_tui.formats.folders import find_files, find_index
from s2p_tui.formats.nested import find_state_dict
from s2p_tui.formats.parts import (
    DCP_LIST,
    alone_of_many,
    refuse_chunk_file,
    refuse_ranks,
    refuse_zero,
    zero_hint,
)
from s2p_tui.formats.remote.address import located
from s2p_tui.formats.remote.file import RemoteFile, RemoteFolder
from s2p_tui.formats.sharded import READERS, open_parts, open_sharded
from s2p_tui.formats.skeleton_file import Target
from s2p_tui.formats.skeleton_file import open_target as open_target_file
from s2p_tui.formats.sniff import KIND_NAMES, READABLE, sniff

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


CHECKPOINT_KINDS = frozenset[FileKind]((*READERS, "sharded", "chunks", "dcp"))
"""Kinds of files that hold state dicts."""
Place = Path | RemoteFile | RemoteFolder
"""A file or folder, on this machine or another one."""
_HERE_ONLY = "Download the whole folder, and give it."


def open_checkpoint(
    path: str | Place, key: str | None = None, *, allow_missing: bool = False
) -> Checkpoint:
    """Describe a checkpoint of any known format, recognised by its content. Reads no tensor data.

    Args:
        path: A file, an index of shards, or a folder that holds one checkpoint, its numbered
            parts, or chunks; or the address of one: `gs://`, `s3://`, `https://`, `http://`,
            `hf://organisation/repository`.
        key: Dotted place of the state dict in a nested checkpoint; None to look for it.
        allow_missing: Leave out entries that an index of shards promises and no shard holds.

    Raises:
        InputError: It is missing, damaged, hostile, or not a checkpoint.
        AmbiguousStateDictError: It holds several state dicts and `key` is None.
        MissingEntriesError: An index promises more than its shards hold.
    """
    place = located(path) if isinstance(path, str | Path) else path
    try:
        if isinstance(place, RemoteFolder):
            checkpoint = _open_remote_folder(place, key, allow_missing)
        elif isinstance(place, RemoteFile) or not os.path.isdir(place):
            checkpoint = _open_file(place, key, allow_missing)
        else:
            checkpoint = _open_folder(place, key, allow_missing)
    except OSError as error:
        raise InputError(f"{place} cannot be read: {error.strerror or error}.", READABLE) from None
    return without_extra_state(checkpoint)


def _open_file(path: Locator, key: str | None, allow_missing: bool) -> Checkpoint:
    kind = sniff(path)
    if kind not in CHECKPOINT_KINDS:
        raise InputError(
            f"{path} is {KIND_NAMES[kind]}, a checkpoint was expected.",
            Hint(Code.SWAPPED_SIDES),
        )
    if kind == "sharded":
        checkpoint = _selected(
            path, lambda name: open_sharded(path, name, allow_missing=allow_missing), key
        )
    elif kind in ("dcp", "chunks"):
        if isinstance(path, RemoteFile):
            raise InputError(f"{path} is {KIND_NAMES[kind]}, which is read here only.", _HERE_ONLY)
        if kind == "dcp":
            from s2p_tui.formats.dcp import open_dcp

            checkpoint = open_dcp(path, key, allow_missing=allow_missing)
        else:
            checkpoint = open_state_dict_chunks(path, key)
    else:
        refuse_chunk_file(path)
        refuse_ranks(path)
        refuse_zero(path)
        reader, flat = READERS[kind], kind == "safetensors"
        checkpoint = narrowed(reader(path, None), key, str(path)) if flat else reader(path, key)
    _refuse_placeholders(path, checkpoint)
    alone = alone_of_many(path)
    notes = (*checkpoint.notes, *filter(None, (alone, _without_version(checkpoint))))
    return replace(checkpoint, kind=kind, notes=notes)


def _without_version(checkpoint: Checkpoint) -> str:
    """Return the note on a server that does not tell a file from its successor."""
    files = [file for file in checkpoint.files if isinstance(file, RemoteFile)]
    if all(file.has_version for file in files):
        return ""
    return (
        "the server gives files no versions: one replaced during the conversion is noticed by its "
        "size alone"
    )


def _open_remote_folder(folder: RemoteFolder, key: str | None, allow_missing: bool) -> Checkpoint:
    here_only = {DCP_LIST, STATE_DICT.manifest}.intersection(folder.names())
    if here_only:
        raise InputError(f"{folder} holds {min(here_only)}, which is read here only.", _HERE_ONLY)
    index = find_index(folder)
    return (
        _of_files(folder, key, allow_missing)
        if index is None
        else _open_file(index, key, allow_missing)
    )


def _open_folder(folder: Path, key: str | None, allow_missing: bool) -> Checkpoint:
    from s2p_tui.formats.dcp import find_list

    manifest = find_manifest(folder, STATE_DICT)
    if manifest is None and (find_manifest(folder, PYTREE) or _is_of_ancestor(folder)):
        manifest = _manifest(folder, STATE_DICT)
    listed = manifest or find_list(folder) or find_index(folder)
    if listed is not None:
        return _open_file(listed, key, allow_missing)
    return _of_files(folder, key, allow_missing)


def _of_files(folder: Path | RemoteFolder, key: str | None, allow_missing: bool) -> Checkpoint:
    found, notes = find_files(folder, lambda file: _open_file(file, None, False))
    if not isinstance(found, tuple):
        checkpoint = _open_file(found, key, allow_missing)
    else:
        parts = found
        checkpoint = _selected(folder, lambda name: open_parts(parts, name), key)
        checkpoint = replace(checkpoint, kind="sharded")
    return replace(checkpoint, notes=(*checkpoint.notes, *notes))


def _refuse_placeholders(path: Locator, checkpoint: Checkpoint) -> None:
    """Make sure that the weights are there: DeepSpeed's ZeRO-3 leaves empty tensors behind."""
    entries = checkpoint.state_dict.entries
    if not any(entry.shape == (0,) for entry in entries):
        return
    weights = [entry.shape for entry in entries if entry.key.rpartition(".")[2] == "weight"]
    empty = weights.count((0,))
    if empty * 2 > len(weights):
        hint = zero_hint(path)
        raise InputError(
            f"{path}: {empty:,} of {len(weights):,} weights are empty, as DeepSpeed's ZeRO-3 "
            "leaves them where it splits the parameters over all processes.",
            hint,
        )


def _selected(
    path: Place, opened: Callable[[str | None], Checkpoint], key: str | None
) -> Checkpoint:
    """A checkpoint of several files, or the part of it whose names begin with the key."""
    if key is None:
        return narrowed(opened(None), None, str(path))
    with suppress(InputError):
        checkpoint = opened(None)
        if key in ("", ".") or begins_with(checkpoint, key):
            return narrowed(checkpoint, key, str(path))
    return opened(key)


def open_target(path: str | Path) -> Target:
    """Describe a skeleton file, a plain `.eqx` or a chunk folder. Reads headers only.

    Raises:
        InputError: It is missing, damaged, hostile, or none of these.
    """
    path = Path(path)
    try:
        if os.path.isdir(path):
            path = _manifest(path, PYTREE)
        if sniff(path) == "pytree chunks":
            return open_pytree_chunks(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.", READABLE) from None
    return open_target_file(path)


def kind_of(path: Place) -> FileKind:
    """Return the kind of a file or of a folder; of chunk folders with both, the state dict.

    Raises:
        InputError: It is nothing known here.
    """
    if isinstance(path, RemoteFolder):
        return "sharded"
    if isinstance(path, RemoteFile) or not os.path.isdir(path):
        return sniff(path)
    if find_manifest(path, STATE_DICT) is not None:
        return "chunks"
    return "sharded" if find_manifest(path, PYTREE) is None else "pytree chunks"


def _manifest(folder: Path, kind: Kind) -> Path:
    manifest = find_manifest(folder, kind)
    if manifest is not None:
        return manifest
    if _is_of_ancestor(folder):
        raise InputError(
            f"{folder} uses statedict2pytree's pickled manifest, which is not loaded, for safety.",
            "Make them again with s2p-tui chunk FILE DIR.",
        )
    other = STATE_DICT if kind is PYTREE else PYTREE
    held = f"holds a {other.holds} in chunks and no" if find_manifest(folder, other) else "is no"
    raise InputError(
        f"{folder} {held} chunk folder with a {kind.holds}: it has no {kind.manifest}.",
        Hint(Code.SWAPPED_SIDES),
    )


def _is_of_ancestor(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("torch_fields.pkl", "jax_fields.pkl"))


class _Prefixed(Tensors):
    """Tensors of another checkpoint under shorter names."""

    def __init__(self, tensors: Tensors, prefix: str) -> None:
        self._tensors = tensors
        self._prefix = prefix

    def read(self, name: str, region: Region) -> NDArray[np.generic]:
        return self._tensors.read(self._prefix + name, region)

    def extent(self, name: str) -> Extent | None:
        return self._tensors.extent(self._prefix + name)

    @property
    def in_memory(self) -> bool:
        return self._tensors.in_memory

    def byte_ranges(self, name: str, start: int, stop: int) -> Sequence[ByteRange] | None:
        return self._tensors.byte_ranges(self._prefix + name, start, stop)

    def descriptor(self, extent: Extent) -> int | None:
        return self._tensors.descriptor(extent)

    def fill(self, extent: Extent, buffer: memoryview, position: int) -> None:
        self._tensors.fill(extent, buffer, position)

    @property
    def is_remote(self) -> bool:
        return self._tensors.is_remote

    def ranges_in(self, name: str, region: Region) -> Iterable[ByteRange]:
        return self._tensors.ranges_in(self._prefix + name, region)

    def held(self, ranges: Callable[[], Iterable[ByteRange]]) -> AbstractContextManager[None]:
        return self._tensors.held(ranges)

    def check_unchanged(self) -> None:
        self._tensors.check_unchanged()

    def close(self) -> None:
        self._tensors.close()


def begins_with(checkpoint: Checkpoint, key: str) -> bool:
    """Return True if names in it begin with the key."""
    return any(entry.key.startswith(f"{key.strip('.')}.") for entry in checkpoint.state_dict)


def narrowed(checkpoint: Checkpoint, key: str | None, label: str) -> Checkpoint:
    """The part of a flat checkpoint that a key names, or all of it if there is no choice.

    Raises:
        AmbiguousStateDictError: It holds a model and a copy of it, and `key` is None.
        InputError: No name begins with the key.
    """
    entries = {entry.key: entry for entry in checkpoint.state_dict}
    if not entries:
        return checkpoint
    found = find_state_dict(entries, lambda value: isinstance(value, Entry), key, label)
    prefix = f"{found.place}." if found.place.strip(".") else ""
    if not prefix:
        return checkpoint
    kept = [
        Entry(name, entry.shape, entry.dtype, entry.storage)
        for name, entry in found.tensors.items()
    ]
    return replace(
        checkpoint,
        state_dict=StateDict(tuple(kept)),
        tensors=_Prefixed(checkpoint.tensors, prefix),
        key=found.place,
        notes=(*checkpoint.notes, *found.notes),
    )
