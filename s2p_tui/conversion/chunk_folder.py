"""Writing chunk folders: one array at a time, read back, and named when all is there."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from s2p_tui.alignment.dtypes import numpy_dtype
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.task import Job
from s2p_tui.alignment.transform import Expr, Take
from s2p_tui.conversion.contents import Contents, OutputRecord, RecordTable
from s2p_tui.conversion.convert import DEFAULT_CHUNK, SMALLEST_CHUNK
from s2p_tui.conversion.evaluate import tiles
from s2p_tui.conversion.plan import Instruction
from s2p_tui.conversion.write import write_records
from s2p_tui.errors import Code, Hint, InputError, OutputError, some
from s2p_tui.formats import npy
from s2p_tui.formats.atomic import output_error, temporary_folder
from s2p_tui.formats.base import Checkpoint, Region, Tensors
from s2p_tui.formats.chunks import (
    FORMAT,
    PYTREE,
    STATE_DICT,
    VERSION,
    Kind,
    find_manifest,
    open_pytree_chunks,
    open_state_dict_chunks,
    stored_as,
)
from s2p_tui.formats.skeleton_file import Target, leaf_to_json
from s2p_tui.formats.tensors import ArrayTensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_NAME_KEPT = 100
_NO_TARGET = Target("", (), 0, Skeleton(()), ArrayTensors({}))
_NO_CHECKPOINT = Checkpoint("", (), 0, StateDict(()), ArrayTensors({}))


@dataclass(frozen=True, slots=True)
class _Array:
    """An array to be written.

    Attributes:
        leaf: Its name, shape and dtype.
        source: Its source; None for the target's own value.
        described: Its entry in the manifest, without the file.
        shared: Equal for arrays that one file can stand for; None for one of its own.
    """

    leaf: Leaf
    source: Expr | None
    described: dict[str, Any]
    shared: Hashable = None


def chunk_checkpoint(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    chunk_bytes: int = DEFAULT_CHUNK,
    overwrite: bool = False,
    durable: bool = True,
    job: Job | None = None,
) -> Path:
    """Write a state dict in chunks: `torch_fields.json` and `state_dict/*.npy`.

    Entries that share a storage share a file. Each file is read back and compared.

    Args:
        checkpoint: The state dict; its tensor data is read, one tensor at a time.
        folder: The folder, created if needed.
        chunk_bytes: Memory to stay within, about.
        overwrite: Replace a state dict in chunks that is there.
        durable: Wait until all of it is on the disk.
        job: Progress and cancellation.

    Returns:
        The folder.

    Raises:
        OutputError: It cannot be written, or something is there already.
        InputError: Tensors have no dtype of NumPy's (all are named), or a source changed during
            the conversion.
        CancelledError: Someone cancelled the job; nothing is left behind.
    """
    arrays = [
        _Array(
            Leaf(entry.key, entry.shape, entry.dtype),
            Take(entry.key),
            {"key": entry.key, "shape": entry.shape, "dtype": entry.dtype},
            None if entry.storage is None else (entry.storage, entry.shape, entry.dtype),
        )
        for entry in checkpoint.state_dict
    ]
    contents = Contents(checkpoint, _NO_TARGET, max(chunk_bytes, SMALLEST_CHUNK))
    writing = _Writing(contents, checkpoint.tensors, durable, overwrite, job or Job())
    writing.write(arrays, folder, STATE_DICT)
    return folder


def chunk_target(
    target: Target,
    folder: Path,
    *,
    chunk_bytes: int = DEFAULT_CHUNK,
    overwrite: bool = False,
    durable: bool = True,
    job: Job | None = None,
) -> Path:
    """Write a pytree in chunks: `jax_fields.json` and `pytree/*.npy`; see `chunk_checkpoint`.

    A leaf without a value, as of an abstract pytree, gets no file.
    """
    arrays = [
        _Array(leaf, None, {"key": leaf.path, **_without_path(leaf)}) for leaf in target.skeleton
    ]
    contents = Contents(_NO_CHECKPOINT, target, max(chunk_bytes, SMALLEST_CHUNK))
    writing = _Writing(contents, target.values, durable, overwrite, job or Job())
    writing.write(arrays, folder, PYTREE)
    return folder


def _without_path(leaf: Leaf) -> dict[str, Any]:
    node = leaf_to_json(leaf)
    del node["path"]
    return node


class _Writing:
    """One chunk folder being written."""

    def __init__(
        self, contents: Contents, source: Tensors, durable: bool, overwrite: bool, job: Job
    ) -> None:
        self._contents = contents
        self._source = source
        self._durable = durable
        self._overwrite = overwrite
        self._job = job

    def write(self, arrays: Sequence[_Array], folder: Path, kind: Kind) -> None:
        _require_dtypes(arrays)
        _require_place(folder, kind, self._overwrite)
        files = _named_files(arrays)
        records = {file: _piece(array) for array, file in zip(arrays, files, strict=True) if file}
        self._job.total = sum(record.stop for record in records.values())
        try:
            folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(folder).free
        except OSError as error:
            raise output_error(error, folder) from None
        if free < self._job.total:
            raise OutputError(
                f"{folder} needs {self._job.total:,} bytes, {free:,} are free.",
                "Free some space or choose another disk.",
            )
        with temporary_folder(folder, ".s2p-partial-") as partial:
            inside = partial / kind.holds
            try:
                inside.mkdir()
                for file, record in records.items():
                    self._write_file(inside / file, record)
                _write_manifest(partial / kind.manifest, kind, arrays, files)
                self._compare(partial / kind.manifest, kind, arrays)
                self._source.check_unchanged()
                if self._durable:
                    _sync_all(partial)
                self._job.check()
                _put_in_place(partial, folder, kind)
                if self._durable:
                    _sync_all(folder)
            except OSError as error:
                raise output_error(error, folder) from None
        self._job.phase = "done"

    def _write_file(self, path: Path, record: OutputRecord) -> None:
        table = RecordTable(b"", (record,), record.stop)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            write_records(table, self._contents, descriptor, path, self._job)
        finally:
            os.close(descriptor)

    def _compare(self, manifest: Path, kind: Kind, arrays: Sequence[_Array]) -> None:
        """Read everything back, through the same reader as everybody, and compare it."""
        self._job.phase = "verifying"
        if kind is STATE_DICT:
            written = open_state_dict_chunks(manifest).tensors
        else:
            written = open_pytree_chunks(manifest).values
        compared: set[Hashable] = set()
        try:
            for array in arrays:
                if not array.described.get("value", True) or array.shared in compared:
                    continue
                if array.shared is not None:
                    compared.add(array.shared)
                size = numpy_dtype(array.leaf.dtype).itemsize
                limit = max(1, self._contents.chunk_bytes // 4 // size)
                for region in tiles(array.leaf.shape, frozenset(), limit):
                    self._job.check()
                    if not _is_equal(self._source, written, array.leaf.path, region, self._job):
                        raise OutputError(
                            f"What was written of {array.leaf.path} differs from its source.",
                            "Try again; if it happens again the disk or memory may be faulty.",
                        )
        finally:
            written.close()


def _is_equal(source: Tensors, written: Tensors, key: str, region: Region, job: Job) -> bool:
    expected, found = (_bytes(tensors.read(key, region)) for tensors in (source, written))
    job.verified += expected.nbytes
    return np.array_equal(expected, found)


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _require_dtypes(arrays: Sequence[_Array]) -> None:
    problems: list[str] = []
    for array in arrays:
        try:
            stored_as(array.leaf.dtype)
        except InputError:
            problems.append(f"{array.leaf.path} is {array.leaf.dtype}")
    if problems:
        raise InputError(
            f"Chunks cannot hold element types that NumPy does not have: {some(problems, '; ')}.",
            "Save these in another dtype first, e.g. tensor.float().",
        )


def _require_place(folder: Path, kind: Kind, overwrite: bool) -> None:
    held = folder / kind.holds
    if find_manifest(folder, kind) is None and not os.path.lexists(held):
        return
    if not overwrite:
        raise OutputError(
            f"{folder} holds a {kind.holds} in chunks already.",
            Hint(Code.OVERWRITE_CHUNKS),
        )
    strangers = [name for name in _names_in(held) if not name.endswith(".npy")]
    if os.path.islink(held) or strangers:
        why = some(strangers, "; ") or "it is a link"
        raise OutputError(
            f"{held} is not only chunks, and is left alone: {why}.", "Choose another folder."
        )


def _names_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def _named_files(arrays: Sequence[_Array]) -> list[str | None]:
    """A safe name for each array's file, numbered so that they sort in order and never collide."""
    names: list[str | None] = []
    first: dict[Hashable, str] = {}
    for number, array in enumerate(arrays):
        if not array.described.get("value", True):
            names.append(None)
            continue
        readable = _UNSAFE.sub("_", array.leaf.path).strip("._")[:_NAME_KEPT]
        name = f"{number:06}-{readable}.npy"
        names.append(name if array.shared is None else first.setdefault(array.shared, name))
    return names


def _piece(array: _Array) -> OutputRecord:
    leaf = array.leaf
    head = npy.header(leaf.shape, stored_as(leaf.dtype))
    nbytes = npy.size_in_bytes(leaf.shape, leaf.dtype)
    return OutputRecord(Instruction(leaf, array.source, leaf.dtype), head, 0, nbytes)


def _write_manifest(
    path: Path, kind: Kind, arrays: Sequence[_Array], files: Sequence[str | None]
) -> None:
    head = json.dumps({"format": FORMAT, "version": VERSION, "holds": kind.holds})[:-1]
    fields = ",\n".join(
        "  " + json.dumps({"file": file} | array.described)
        for array, file in zip(arrays, files, strict=True)
    )
    path.write_text(f'{head}, "fields": [\n{fields}\n]}}\n', encoding="utf-8")


def _sync_all(folder: Path) -> None:
    """Bring all of a folder's file system to the disk: thousands of fsync calls take too long."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)


def _put_in_place(partial: Path, folder: Path, kind: Kind) -> None:
    """Give the files their names.

    The manifest is removed first and written last: it marks the folder as complete.
    """
    manifest, held = folder / kind.manifest, folder / kind.holds
    manifest.unlink(missing_ok=True)
    if held.exists():
        os.replace(held, partial / "replaced")
    os.replace(partial / kind.holds, held)
    os.replace(partial / kind.manifest, manifest)
