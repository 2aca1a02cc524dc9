"""Orbax checkpoints as Orbax or this program writes them, read by TensorStore without JAX.

A checkpoint is a folder, or `gs://bucket/path`, whose `_METADATA` lists the tree. Its arrays are
zarr arrays, of version 2 or 3, in an OCDBT database or in plain files.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from s2p_tui.alignment.dtypes import dtype_named
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.untrusted import object_of, parse_json
from s2p_tui.errors import InputError, UsageError, some
from s2p_tui.formats.base import ByteRange, Checkpoint, Extent, Region, Tensors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BUCKET = "gs://"
TREE = "_METADATA"
_MANIFEST = "manifest.ocdbt"
_HELD = 64 << 20
"""Bytes of decoded chunks in memory; two of the largest if these are more, as a chunk that is not
held is decoded again for each part of it that is read."""
_LARGEST_TREE = 1 << 28
"""Bytes of `_METADATA`; that of 100,000 arrays has 30 million."""
_GIVE = "Give the folder that Orbax wrote."
_AGAIN = "Copy or download it again."


def tensorstore() -> Any:
    """Import TensorStore.

    Raises:
        UsageError: It is not installed.
    """
    try:
        return importlib.import_module("tensorstore")
    except ImportError:
        raise UsageError(
            "Orbax checkpoints are read and written by TensorStore, which is not installed.",
            "Install it with: pip install 's2p-tui[scale]'",
        ) from None


def place_in(where: str, under: str = "") -> dict[str, Any]:
    """Return TensorStore's description of a folder, or of one in a bucket."""
    path = f"{where.rstrip('/')}/{under}"
    if not where.startswith(BUCKET):
        return {"driver": "file", "path": os.path.abspath(path) + "/"}
    bucket, _, rest = path.removeprefix(BUCKET).partition("/")
    return {"driver": "gcs", "bucket": bucket, "path": rest}


def is_orbax(folder: Path) -> bool:
    """Return True for the folder of an Orbax checkpoint."""
    return os.path.isfile(os.path.join(folder, TREE))


def open_orbax(
    where: str,
    names: Mapping[tuple[str, ...], str],
    scalars: Mapping[str, NDArray[Any]] | None = None,
) -> Checkpoint:
    """Describe the arrays of a checkpoint. Reads metadata, no array.

    Args:
        where: The folder, that of a step of Orbax's `CheckpointManager`, or `gs://bucket/path`.
        names: What to call arrays, by the keys to them. Others are called by their keys with dots.
        scalars: Numbers for names that the checkpoint does not hold: Python scalars are in none.

    Raises:
        InputError: It is none, is not complete, or cannot be read.
        UsageError: TensorStore is not installed.
    """
    where = _found(where)
    return _Opened(tensorstore(), where).checkpoint(names, scalars or {})


def _found(where: str) -> str:
    """Return the folder with the tree: this one, or the only one in it that has one."""
    if where.startswith(BUCKET) or os.path.isfile(os.path.join(where, TREE)):
        return where
    try:
        inner = sorted(entry.path for entry in os.scandir(where) if entry.is_dir())
        held = [path for path in inner if os.path.isfile(os.path.join(path, TREE))]
        steps = [path for path in inner if not held and any(Path(path).glob(f"*/{TREE}"))]
    except OSError as error:
        raise InputError(f"{where} cannot be read: {error.strerror}.", _GIVE) from None
    if len(held) == 1:
        return held[0]
    if held or steps:
        what = "trees" if held else "steps"
        raise InputError(f"{where} holds several {what}: {some(held or steps)}.", "Give one.")
    raise InputError(f"{where} is no Orbax checkpoint: it has no {TREE}.", _GIVE)


class _Opened:
    def __init__(self, ts: Any, where: str) -> None:
        self._ts, self._where = ts, where
        try:
            self._files = ts.KvStore.open(place_in(where)).result()
            self._tree = self._read(TREE)
            if self._tree is None:
                raise InputError(f"{where} is no Orbax checkpoint: it has no {TREE}.", _GIVE)
            if len(self._tree.value) > _LARGEST_TREE:
                raise InputError(f"{where}: its {TREE} is too large to be one.", _AGAIN)
            self._facts = object_of(parse_json(self._tree.value))
            self._arrays = self._listed()
        except (ValueError, OSError, RuntimeError, KeyError, TypeError) as error:
            raise InputError(f"{where} cannot be read: {first_line(error)}.", _AGAIN) from None

    def _read(self, name: str) -> Any:
        found = self._files.read(name).result()
        return found if found.state == "value" else None

    def _listed(self) -> dict[tuple[str, ...], dict[str, Any]]:
        """Return how each array is opened, by the keys to it."""
        facts = self._facts
        base = place_in(self._where)
        driver = "zarr3" if facts.get("use_zarr3") is True else "zarr"
        found: dict[tuple[str, ...], dict[str, Any]] = {}
        for node in object_of(facts["tree_metadata"]).values():
            held = object_of(node)
            value = object_of(held["value_metadata"])
            if value.get("skip_deserialize") is True or value.get("value_type") == "string":
                continue
            listed = cast("list[dict[str, Any]]", held["key_metadata"])
            keys = tuple(str(one["key"]) for one in listed)
            name = ".".join(keys)
            if "/" in name or not name.strip("."):
                raise ValueError(f"it names an array {name!r}")
            if facts.get("use_ocdbt", True) is True:
                store: Any = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
                store["cache_pool"] = "cache_pool#ocdbt"
            else:
                store = place_in(self._where, name)
            found[keys] = {
                "driver": driver,
                "kvstore": store,
                "recheck_cached_data": False,
                # Where fill values are not left out, a chunk that is not there was lost.
                "fill_missing_data_reads": (
                    facts.get("store_array_data_equal_to_fill_value") is not True
                ),
            }
        return found

    def checkpoint(
        self, names: Mapping[tuple[str, ...], str], scalars: Mapping[str, NDArray[Any]]
    ) -> Checkpoint:
        """Open each array for its shape and dtype."""
        context = self._ts.Context({"cache_pool#ocdbt": {"total_bytes_limit": 32 << 20}})
        opening = {
            keys: self._ts.open(spec, read=True, open=True, context=context)
            for keys, spec in self._arrays.items()
        }
        entries: list[Entry] = []
        specs: dict[str, dict[str, Any]] = {}
        largest = 0
        problems: list[str] = []
        for keys, task in opening.items():
            name = names.get(keys, ".".join(keys))
            try:
                array = task.result()
                dtype = array.dtype.name
                itemsize = dtype_named(dtype).itemsize
            except (ValueError, OSError, RuntimeError, KeyError) as error:
                problems.append(f"{name} ({first_line(error)})")
                continue
            # None where there are no axes.
            chunk = array.chunk_layout.read_chunk.shape or ()
            largest = max(largest, prod(chunk) * itemsize)
            entries.append(Entry(name, tuple(array.shape), dtype))
            specs[name] = self._arrays[keys]
        if problems:
            raise InputError(
                f"{self._where}: {len(problems)} arrays cannot be read: {some(problems, '; ')}.",
                _AGAIN,
            )
        size = sum(prod(one.shape) * dtype_named(one.dtype).itemsize for one in entries)
        is_local = not self._where.startswith(BUCKET)
        files = (Path(self._where), Path(self._where, TREE)) if is_local else ()
        stamps = {name: self._generation(name) for name in (TREE, _MANIFEST)}

        def is_changed() -> bool:
            return any(self._generation(name) != stamp for name, stamp in stamps.items())

        kept = {name: value for name, value in scalars.items() if name not in specs}
        entries += (Entry(name, value.shape, value.dtype.name) for name, value in kept.items())
        held = max(_HELD, 2 * largest)
        tensors = _OrbaxTensors(self._ts, self._where, specs, kept, held, is_changed)
        return Checkpoint(self._where, files, size, StateDict(tuple(entries)), tensors)

    def _generation(self, name: str) -> bytes:
        return self._files.read(name, byte_range=slice(0, 1)).result().stamp.generation


class _OrbaxTensors(Tensors):
    """Arrays of a checkpoint; any thread may read."""

    def __init__(
        self,
        ts: Any,
        where: str,
        specs: Mapping[str, dict[str, Any]],
        kept: Mapping[str, NDArray[Any]],
        held: int,
        is_changed: Callable[[], bool],
    ) -> None:
        self._ts, self._where, self._specs = ts, where, specs
        self._kept, self._is_changed = kept, is_changed
        self._context = ts.Context(
            {
                "cache_pool": {"total_bytes_limit": held},
                "cache_pool#ocdbt": {"total_bytes_limit": 32 << 20},
                "file_io_concurrency": {"limit": 8},
                "data_copy_concurrency": {"limit": 2},
            }
        )
        self._arrays: dict[str, Any] = {}
        self._opening = threading.Lock()

    def read(self, name: str, region: Region) -> NDArray[np.generic]:
        if name in self._kept:
            return self._kept[name][()]
        try:
            with self._opening:
                if name not in self._arrays:
                    self._arrays[name] = self._ts.open(
                        self._specs[name], read=True, open=True, context=self._context
                    ).result()
                array = self._arrays[name]
            return array[(..., *(slice(*bounds) for bounds in region))].read().result()
        except (ValueError, OSError, RuntimeError, IndexError) as error:
            raise InputError(
                f"{self._where}: {name} is damaged: {first_line(error)}.", _AGAIN
            ) from None

    @property
    def in_memory(self) -> bool:
        return False

    def extent(self, name: str) -> Extent | None:
        del name
        return None

    def byte_ranges(self, name: str, start: int, stop: int) -> Sequence[ByteRange] | None:
        del name, start, stop
        return None

    def descriptor(self, extent: Extent) -> int | None:
        raise KeyError(extent.file)

    def fill(self, extent: Extent, buffer: memoryview, position: int) -> None:
        del buffer, position
        raise KeyError(extent.file)

    def check_unchanged(self) -> None:
        try:
            is_changed = self._is_changed()
        except (ValueError, OSError, RuntimeError):
            is_changed = True
        if is_changed:
            raise InputError(
                f"{self._where} was changed while it was read.",
                "Wait until nothing writes to it, then start again.",
            )

    def close(self) -> None:
        self._arrays.clear()


def first_line(error: BaseException) -> str:
    """Return the first line of one of TensorStore's errors, without where its code is."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].partition(" [")[0].rstrip(".")
