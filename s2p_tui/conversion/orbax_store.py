"""The folder or bucket that an Orbax checkpoint is written to, and the databases in it.

The one module that uses TensorStore, which is imported when something is written or verified. A
checkpoint holds arrays as zarr chunks in OCDBT databases: one per worker, `ocdbt.process_…`, and
one on top that refers to theirs, as Orbax itself lays it out.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2p_tui.conversion.orbax_grid import Chunk, StoredArray
from s2p_tui.errors import OutputError, UsageError
from s2p_tui.formats.atomic import output_error
from s2p_tui.formats.orbax import BUCKET, first_line, place_in, tensorstore

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PARTIAL = ".s2p-partial"
PLAN, PARTS, VERIFIED, COMMITTED = (
    "s2p-plan.json", "s2p-parts/", "s2p-verified/", "commit_success.txt",
)  # fmt: skip
"""The agreement; claims of parts; what was verified; the file that Orbax looks for in a bucket."""
_DATABASE = "ocdbt.process_"
# As Orbax 0.12.8 configures its databases, but for smaller nodes: they are read and written whole,
# and 20,000 small arrays took 5 times as long with nodes of 100 MB.
_CONFIG = {
    "max_inline_value_bytes": 1024,
    "max_decoded_node_bytes": 1 << 20,
    "manifest_kind": "single",
}
_LARGEST_FILE = 1 << 31
_NODES_HELD = 32 << 20
"""Bytes of the databases' nodes in memory."""


_M_MMAP_THRESHOLD, _LARGE = -3, 1 << 17


def _give_memory_back() -> None:
    """Have the C library return large blocks at once.

    Once blocks of a chunk's size were freed, glibc keeps those to come, in every thread's arena:
    verifying with chunks of 16 MiB then took 257 MiB, not 95.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)


class Store:
    """A checkpoint's folder or bucket; an unfinished one is beside its name, or has no commit file.

    Any thread may call it.

    Args:
        output: The checkpoint: a folder, or `gs://bucket/path`.
        finished: Look at the finished checkpoint, not at the one under way.

    Attributes:
        output: The checkpoint.
        is_bucket: True if it is in a bucket.
        where: What is read and written: the checkpoint or its partial folder.
    """

    def __init__(self, output: str, *, finished: bool = False) -> None:
        self._ts = tensorstore()
        _give_memory_back()
        self.output = output
        self.is_bucket = output.startswith(BUCKET)
        self.where = output if finished or self.is_bucket else output + _PARTIAL
        limits = {
            "cache_pool#ocdbt": {"total_bytes_limit": _NODES_HELD},
            "file_io_concurrency": {"limit": 8},
            # Copying and encoding have a thread beside the two that compute.
            "data_copy_concurrency": {"limit": 2},
        }
        self._context = self._ts.Context(limits)
        self._files: Any = None
        self._merged: Any = None

    def make(self) -> None:
        """Create the folder.

        Raises:
            OutputError: It cannot be created.
        """
        if not self.is_bucket:
            try:
                Path(self.where).mkdir(exist_ok=True)
            except OSError as error:
                raise output_error(error, Path(self.output)) from None

    @property
    def exists(self) -> bool:
        """True if something was written there; of a folder, if it is there."""
        if self.is_bucket:
            return self.read(PLAN) is not None or self.read(COMMITTED) is not None
        return os.path.isdir(self.where)

    @property
    def free(self) -> int:
        """Bytes that are free there; 0 if unknown."""
        return 0 if self.is_bucket else shutil.disk_usage(Path(self.where).parent).free

    def _base(self, under: str = "") -> dict[str, Any]:
        return place_in(self.where, under)

    @contextmanager
    def _in_one_line(self) -> Generator[None]:
        """Turn TensorStore's errors into one line.

        Raises:
            OutputError: Something failed.
        """
        try:
            yield
        except (ValueError, OSError, RuntimeError, KeyError) as error:
            line = first_line(error)
            if "No space left" in line or "Disk quota" in line:
                raise OutputError(
                    f"{self.output} cannot be written: the disk is full.",
                    "Free some space and run it again: what is written is kept.",
                ) from None
            raise OutputError(
                f"{self.where} cannot be read or written: {line}.",
                "Look at the folder or the bucket, and run it again.",
            ) from None

    def _kv(self, spec: dict[str, Any]) -> Any:
        return self._ts.KvStore.open(spec, context=self._context).result()

    def _plain(self) -> Any:
        if self._files is None:
            self._files = self._kv(self._base())
        return self._files

    def read(self, name: str) -> bytes | None:
        """Return a plain file's content, None if there is none."""
        with self._in_one_line():
            found = self._plain().read(name).result()
            return found.value if found.state == "value" else None

    def write(self, name: str, content: bytes, *, only_new: bool = False) -> None:
        """Write a plain file; with `only_new`, not where there is one already."""
        with self._in_one_line():
            files, condition = self._plain(), None
            if only_new:
                found = files.read(name).result()
                if found.state == "value":
                    return
                # That of the missing file; an empty condition would be none at all.
                condition = found.stamp.generation
            files.write(name, content, if_equal=condition).result()

    def listed(self, prefix: str) -> list[str]:
        """Return the names of plain files that begin so."""
        with self._in_one_line():
            stop = prefix[:-1] + chr(ord(prefix[-1]) + 1)
            keys = self._plain().list(self._ts.KvStore.KeyRange(prefix, stop)).result()
        return sorted(key.decode() for key in keys)

    def remove(self, prefix: str) -> None:
        """Remove the plain files that begin so."""
        with self._in_one_line():
            stop = prefix[:-1] + chr(ord(prefix[-1]) + 1)
            self._plain().delete_range(self._ts.KvStore.KeyRange(prefix, stop)).result()

    def _database(self, under: str, path: str = "", *, write: bool = False) -> dict[str, Any]:
        spec: dict[str, Any] = {
            "driver": "ocdbt",
            "base": self._base(under),
            "cache_pool": "cache_pool#ocdbt",
            "path": path,
        }
        if write:
            spec |= {
                "config": _CONFIG,
                "assume_config": True,
                "target_data_file_size": _LARGEST_FILE,
            }
        return spec

    def databases(self) -> list[str]:
        """Return the names of the workers' databases, complete or not."""
        if self.is_bucket:
            names = {key.split("/")[0] for key in self.listed(_DATABASE)}
            return sorted(name + "/" for name in names)
        with os.scandir(self.where) as found:
            return sorted(
                f"{entry.name}/"
                for entry in found
                if entry.name.startswith(_DATABASE)
                and os.path.exists(os.path.join(entry.path, "manifest.ocdbt"))
            )

    def held(self) -> set[str]:
        """Return the keys in all databases of workers.

        Raises:
            OutputError: A database is damaged; it is named.
        """
        found: set[str] = set()
        for name in self.databases():
            try:
                with self._in_one_line():
                    keys = self._kv(self._database(name)).list().result()
            except OutputError as error:
                raise OutputError(
                    f"{self.where}/{name} is damaged: {error.message}",
                    "Remove that folder, then write again: what was in it is written anew.",
                ) from None
            found.update(key.decode() for key in keys)
        return found

    def new_database(self, part: int) -> str:
        """Return the name of a database of its own for one worker."""
        return f"{_DATABASE}{part}x{uuid.uuid4().hex[:8]}/"

    def write_chunks(self, database: str, chunks: Sequence[tuple[Chunk, NDArray[Any]]]) -> None:
        """Write chunks to a worker's database, all or none, and wait until the disk has them.

        Raises:
            OutputError: They cannot be written.
        """
        with self._in_one_line():
            transaction = self._ts.Transaction()
            keys = self._kv(self._database(database, write=True)).with_transaction(transaction)
            writes: list[Any] = []
            for chunk, elements in chunks:
                if chunk.is_first:
                    zarr = json.dumps(chunk.array.zarr, separators=(",", ":")).encode()
                    writes.append(keys.write(chunk.array.zarr_key, zarr))
                place = self._database(database, f"{chunk.array.name}/", write=True)
                spec = self._array(chunk.array, place) | {"store_data_equal_to_fill_value": True}
                # Its metadata is written above, once, with the array's first chunk.
                array = self._ts.open(
                    spec,
                    open=True,
                    assume_metadata=True,
                    context=self._context,
                    transaction=transaction,
                ).result()
                index = (..., *(slice(*bounds) for bounds in chunk.region))
                writes.append(array[index].write(elements))
            for one in writes:
                one.result()
            transaction.commit_async().result()

    def read_chunk(self, chunk: Chunk) -> NDArray[Any] | None:
        """Return a chunk's elements in the merged database, None if they cannot be read.

        Its array's metadata is taken from the plan, see `read_zarr`.
        """
        spec = self._array(chunk.array, self._database("", f"{chunk.array.name}/"))
        index = (..., *(slice(*bounds) for bounds in chunk.region))
        try:
            array = self._ts.open(
                spec | {"fill_missing_data_reads": False},
                read=True,
                open=True,
                assume_metadata=True,
                context=self._context,
            ).result()
            return array[index].read().result()
        except (ValueError, OSError, RuntimeError, KeyError, IndexError):
            # Missing, cut short, or its checksum is wrong: the caller says of which leaf it is.
            return None

    def read_zarr(self, array: StoredArray) -> Any:
        """Return an array's metadata as it is in the merged database; None if it is not there."""
        with self._in_one_line():
            if self._merged is None:
                self._merged = self._kv(self._database(""))
            found = self._merged.read(array.zarr_key).result()
        return json.loads(found.value) if found.state == "value" else None

    @staticmethod
    def _array(array: StoredArray, kvstore: dict[str, Any]) -> dict[str, Any]:
        return {
            "driver": "zarr3",
            "kvstore": kvstore,
            "metadata": array.zarr,
            "recheck_cached_data": False,
        }

    @property
    def is_merged(self) -> bool:
        """True if there is a database on top of the workers'."""
        return self.read("manifest.ocdbt") is not None

    def merged_keys(self) -> set[str]:
        """Return the keys in the database on top; none if there is no such."""
        if not self.is_merged:
            return set()
        with self._in_one_line():
            return {key.decode() for key in self._kv(self._database("")).list().result()}

    def merge(self) -> set[str]:
        """Link all workers' databases into one on top, without copying; returns its keys."""
        with self._in_one_line():
            top = self._kv(self._database("", write=True))
            transaction = self._ts.Transaction(atomic=True)
            for name in self.databases():
                one = self._kv(self._database(name))
                one.experimental_copy_range_to(top.with_transaction(transaction)).result()
            transaction.commit_async().result()
            return {key.decode() for key in top.list().result()}

    def drop(self, keys: Iterable[str]) -> None:
        """Remove chunks from every database, so that they are written again."""
        with self._in_one_line():
            names = [*self.databases(), *([""] if self.is_merged else [])]
            for name in names:
                database = self._kv(self._database(name, write=True))
                for key in keys:
                    database.write(key, None).result()

    def commit(self) -> None:
        """Give the checkpoint its name.

        Raises:
            OutputError: There is something of that name already.
        """
        self.write(COMMITTED, f"Checkpoint commit was successful to {self.output}".encode())
        if self.is_bucket:
            return
        try:
            os.rename(self.where, self.output)
            descriptor = os.open(Path(self.output).parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise output_error(error, Path(self.output)) from None

    @contextmanager
    def claimed(self, part: int, of: int) -> Generator[Claim]:
        """Claim a part for this process, until the block ends or the process does.

        Raises:
            OutputError: Another process works on that part.
        """
        name = f"{PARTS}{part}-{of}"
        if self.is_bucket:
            token = uuid.uuid4().hex.encode()
            self.write(name, token)
            yield Claim(self, name, token)
            return
        path = Path(self.where, name)
        try:
            path.parent.mkdir(exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise output_error(error, path) from None
        try:
            try:
                # The kernel gives it back however the process ends.
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise _taken(part, of, self.output) from None
            yield Claim(self, name, b"")
        finally:
            os.close(descriptor)


class Claim:
    """A part that this process works on.

    In a bucket there is no lock that ends with its holder, so a later process takes a part over,
    and the earlier one notices.
    """

    def __init__(self, store: Store, name: str, token: bytes) -> None:
        self._store, self._name, self._token = store, name, token

    def check(self) -> None:
        """Make sure that it is still this process's.

        Raises:
            OutputError: Another process took it over.
        """
        if self._token and self._store.read(self._name) != self._token:
            part, of = self._name.removeprefix(PARTS).split("-")
            raise _taken(int(part), int(of), self._store.output)


def _taken(part: int, of: int, output: str) -> OutputError:
    return OutputError(
        f"Another process works on part {part}/{of} of {output}.",
        "Give each process a part of its own, or wait until that one has ended.",
    )


def refuse_scheme(output: str) -> None:
    """Make sure that an output is a folder or a bucket that Orbax can load from.

    Raises:
        UsageError: It is not.
    """
    scheme, separator, _ = output.partition("://")
    if not separator or scheme == "gs":
        return
    if scheme == "s3":
        raise UsageError(
            f"{output} cannot be written: Orbax 0.12 loads no checkpoints from s3://.",
            "Write to gs:// or to a folder.",
        )
    raise UsageError(
        f"{output} cannot be written: {scheme}:// is not an output that Orbax loads from.",
        "Write to gs:// or to a folder.",
    )
