"""Chunk folders: one `.npy` file an array, and a JSON manifest beside them.

    DIR/torch_fields.json   DIR/state_dict/*.npy    a state dict
    DIR/jax_fields.json     DIR/pytree/*.npy        a pytree

A manifest is `{"format": "s2p-chunks", "version": 1, "holds": "state_dict" | "pytree", "fields"}`.
A field has `file` (a plain name in the subfolder), `key`, `shape` and `dtype`, in the order of the
state dict or pytree; a leaf also what a skeleton file says of it, and null for `file` if it has no
value. Dtypes that NumPy has no type string for (bfloat16, fp8 …) are stored as unsigned integers of
the same bits; the manifest has the true one.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from s2p_tui.alignment.dtypes import dtype_named, numpy_dtype
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.untrusted import (
    DuplicateNameError,
    MalformedError,
    list_of,
    object_of,
    parse_json,
    shape_of,
    string_of,
    why_malformed,
)
from s2p_tui.errors import Code, Hint, InputError, some
from s2p_tui.formats.base import Checkpoint, Extent, strides_of
from s2p_tui.formats.npy import iter_records
from s2p_tui.formats.skeleton_file import Target, leaf_from_json
from s2p_tui.formats.sniff import READABLE
from s2p_tui.formats.tensors import FileTensors

FORMAT = "s2p-chunks"
VERSION = 1
_MAX_MANIFEST = 1 << 28
_READ_ONLY = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_AGAIN = "Make the folder again with s2p-tui chunk."


class Kind(NamedTuple):
    """The contents of a chunk folder: word in the manifest (and subfolder), manifest."""

    holds: str
    manifest: str


STATE_DICT = Kind("state_dict", "torch_fields.json")
PYTREE = Kind("pytree", "jax_fields.json")


class Field(NamedTuple):
    """One array of a chunk folder.

    Attributes:
        file: Its file's name, or None if it has no value.
        key: Its state-dict key or key path.
        shape: Its shape.
        dtype: Its true dtype's name.
        described: The whole field, as JSON values.
    """

    file: str | None
    key: str
    shape: tuple[int, ...]
    dtype: str
    described: dict[str, Any]


class Chunks(NamedTuple):
    """A chunk folder whose manifest and headers agree.

    Attributes:
        fields: The arrays in order.
        files: The manifest, then the files it names.
        extents: Where the arrays lie, by key.
        size: Bytes of all files.
        notes: What the user should know.
    """

    fields: tuple[Field, ...]
    files: tuple[Path, ...]
    extents: dict[str, Extent]
    size: int
    notes: tuple[str, ...]


def find_manifest(path: Path, kind: Kind) -> Path | None:
    """The manifest of a chunk folder, given that folder or its subfolder; None if it is none."""
    manifest = path / kind.manifest
    if os.path.lexists(manifest):
        return manifest
    beside = path.absolute().with_name(kind.manifest)
    return beside if path.absolute().name == kind.holds and os.path.lexists(beside) else None


def stored_as(dtype: str) -> str:
    """The dtype in which arrays of a dtype lie in the files.

    Raises:
        InputError: NumPy cannot hold it.
    """
    size = numpy_dtype(dtype).itemsize
    return dtype if hasattr(np, dtype) else f"uint{size * 8}"


def read_chunks(manifest: Path, kind: Kind) -> Chunks:
    """Read a manifest and the header of each file it names; no tensor data.

    Raises:
        InputError: The manifest is damaged, or names what is missing, lies elsewhere, is no plain
            file or disagrees with it; all disagreements are named.
    """
    fields = _fields(manifest, kind)
    folder = manifest.with_name(kind.holds)
    problems = _repeated(fields)
    extents: dict[str, Extent] = {}
    sizes: dict[str, int] = {}
    try:
        inside = os.open(folder, _READ_ONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InputError(
            f"{manifest} names files in {folder}, which is no plain folder: {error.strerror}.",
            _AGAIN,
        ) from None
    try:
        for field in fields:
            if field.file is None:
                continue
            try:
                extents[field.key], sizes[field.file] = _extent(folder, inside, field)
            except InputError as error:
                problems.append(f"{field.key}: {error.message.removesuffix('.')}")
            except MalformedError as error:
                problems.append(f"{field.key}: {error}")
        strangers = sorted(set(os.listdir(inside)) - {field.file for field in fields})
    finally:
        os.close(inside)
    if problems:
        raise InputError(f"{manifest} is refused: {some(problems, '; ')}.", _AGAIN)
    files = (manifest, *(folder / name for name in sizes))
    size = manifest.stat().st_size + sum(sizes.values())
    notes = (f"{len(strangers)} files are not in the manifest: {some(strangers, '; ')}",)
    return Chunks(fields, files, extents, size, notes if strangers else ())


def _tensors(chunks: Chunks) -> FileTensors:
    """The tensors in the files of a chunk folder; symbolic links are refused."""
    return FileTensors(chunks.extents.get, chunks.files, _READ_ONLY)


def _fields(manifest: Path, kind: Kind) -> tuple[Field, ...]:
    content = _content(manifest)
    try:
        head = object_of(parse_json(content))
        if head.get("format") != FORMAT or head.get("holds") != kind.holds:
            raise MalformedError(f"it does not say that it describes a {kind.holds} in chunks")
        if head.get("version") != VERSION:
            raise MalformedError(f"it is of version {head.get('version')!r}, this reads {VERSION}")
        return tuple(_field(object_of(node)) for node in list_of(head["fields"]))
    except DuplicateNameError as error:
        raise InputError(f"{manifest} is refused: it names {error} twice.", _AGAIN) from None
    except (ValueError, KeyError, RecursionError) as error:
        reason = why_malformed(error)
        raise InputError(f"{manifest} is not a usable manifest: {reason}.", _AGAIN) from None


def _content(manifest: Path) -> bytes:
    try:
        descriptor = os.open(manifest, _READ_ONLY)
    except OSError as error:
        raise InputError(f"{manifest} cannot be read: {error.strerror}.", READABLE) from None
    with os.fdopen(descriptor, "rb") as stream:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode) or state.st_size > _MAX_MANIFEST:
            raise InputError(
                f"{manifest} has {state.st_size:,} bytes, a plain file of at most "
                f"{_MAX_MANIFEST:,} was expected.",
                _AGAIN,
            )
        return stream.read(_MAX_MANIFEST)


def _field(node: dict[str, Any]) -> Field:
    key = string_of(node["key"])
    key.encode()
    file = node["file"]
    if file is not None and not _is_plain(string_of(file)):
        raise MalformedError(f"{key} is to lie in {file!r}, which is no plain name of a .npy file")
    try:
        dtype = dtype_named(string_of(node["dtype"])).name
        numpy_dtype(dtype)
    except InputError as error:
        raise MalformedError(f"{key}: {error.message.removesuffix('.')}") from None
    return Field(file, key, shape_of(node["shape"]), dtype, node)


def _is_plain(name: str) -> bool:
    return name.endswith(".npy") and not set(name) & {"/", "\\", "\0"}


def _repeated(fields: tuple[Field, ...]) -> list[str]:
    """Keys given twice, and files that would be two different arrays."""
    problems: list[str] = []
    keys: set[str] = set()
    held: dict[str, Field] = {}
    for field in fields:
        if field.key in keys:
            problems.append(f"{field.key} is there twice")
        keys.add(field.key)
        if field.file is not None:
            first = held.setdefault(field.file, field)
            if (first.shape, first.dtype) != (field.shape, field.dtype):
                problems.append(f"{first.key} and {field.key} share {field.file} and differ")
    return problems


def _extent(folder: Path, inside: int, field: Field) -> tuple[Extent, int]:
    assert field.file is not None
    path = folder / field.file
    try:
        descriptor = os.open(field.file, _READ_ONLY, dir_fd=inside)
    except OSError as error:
        linked = os.path.islink(path)
        reason = "is a symbolic link" if linked else f"cannot be read ({error.strerror})"
        raise MalformedError(f"{field.file} {reason}") from None
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise MalformedError(f"{field.file} is no plain file")
        stored = stored_as(field.dtype)
        records = list(iter_records(descriptor, 0, Path(field.file), [(field.shape, stored)]))
    finally:
        os.close(descriptor)
    if len(records) != 1:
        raise MalformedError(f"{field.file} holds {len(records)} arrays, one was expected")
    record = records[0]
    known = (numpy_dtype(stored).str, numpy_dtype(field.dtype).str)
    if record.shape != field.shape or record.descr not in known:
        raise MalformedError(
            f"{field.file} is {list(record.shape)} {record.descr}, "
            f"the manifest says {list(field.shape)} {field.dtype}"
        )
    strides = strides_of(record.shape, is_fortran=record.fortran_order)
    return Extent(path, record.data, record.shape, strides, field.dtype), state.st_size


def open_state_dict_chunks(manifest: Path, key: str | None = None) -> Checkpoint:
    """Describe a state dict in chunks. Reads the manifest and each file's header.

    Args:
        manifest: Its `torch_fields.json`.
        key: Must be empty or None: chunk folders do not nest.

    Raises:
        InputError: Manifest and files disagree, or must not be trusted; all reasons are named.
    """
    if key:
        raise InputError(
            f"{manifest} describes a chunk folder, which holds one state dict: "
            f"there is none at {key!r}.",
            Hint(Code.NO_NESTED_STATE_DICT),
        )
    chunks = read_chunks(manifest, STATE_DICT)
    missing = [field.key for field in chunks.fields if field.file is None]
    if missing:
        raise InputError(f"{manifest} names no file for {some(missing, '; ')}.", _AGAIN)
    entries = tuple(Entry(f.key, f.shape, f.dtype, ("chunk", f.file)) for f in chunks.fields)
    tensors = _tensors(chunks)
    label = manifest.absolute().parent.name
    return Checkpoint(
        label, chunks.files, chunks.size, StateDict(entries), tensors, notes=chunks.notes
    )


def open_pytree_chunks(manifest: Path) -> Target:
    """Describe a pytree in chunks. Reads the manifest and each file's header.

    Args:
        manifest: Its `jax_fields.json`.

    Raises:
        InputError: Manifest and files disagree, or must not be trusted; all reasons are named.
    """
    chunks = read_chunks(manifest, PYTREE)
    try:
        leaves = tuple(map(_leaf, chunks.fields))
    except (ValueError, KeyError, TypeError) as error:
        why = why_malformed(error)
        raise InputError(f"{manifest} is not a usable manifest: {why}.", _AGAIN) from None
    tensors = _tensors(chunks)
    label = manifest.absolute().parent.name
    return Target(label, chunks.files, chunks.size, Skeleton(leaves), tensors)


def _leaf(field: Field) -> Leaf:
    leaf = leaf_from_json({**field.described, "path": field.key})
    if leaf.has_value != (field.file is not None):
        raise ValueError(f"{field.key} has a value without a file, or a file without a value")
    return leaf
