"""The second half of an Orbax conversion: reading chunks back, the certificate, the name.

What each worker verified lies in the partial checkpoint until it is committed.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from s2p_tui.alignment.dtypes import dtype_named
from s2p_tui.alignment.task import Job
from s2p_tui.conversion.contents import CastLoss, Made, Rounding
from s2p_tui.conversion.orbax import Elements, OrbaxConversion, under_way
from s2p_tui.conversion.orbax_grid import Chunk, Grid, Group
from s2p_tui.conversion.orbax_metadata import (
    CHECKPOINT,
    TREE,
    checkpoint_metadata,
    tree_metadata,
)
from s2p_tui.conversion.orbax_store import PARTS, PLAN, VERIFIED, Store
from s2p_tui.conversion.units import share
from s2p_tui.conversion.verify import Readback, ReadLeaf
from s2p_tui.errors import Code, Hint, OutputError, some

if TYPE_CHECKING:
    from numpy.typing import NDArray

_COMPARED = 1 << 18
"""Bytes compared at a time. Python's own comparison of buffers goes through them one by one."""


@dataclass(slots=True)
class ReadChunk:
    """A chunk as it was read back.

    Attributes:
        sha256: Of its elements.
        largest_difference: Of its numbers from those of its source after the transform.
        loss: Losses of its cast.
    """

    sha256: str
    largest_difference: float
    loss: CastLoss

    def as_json(self) -> list[Any]:
        """Return it as JSON values."""
        loss = self.loss
        counts = [loss.overflowed, loss.new_nan, loss.flushed]
        return [self.sha256, self.largest_difference, *counts]

    @classmethod
    def from_json(cls, value: Sequence[Any]) -> ReadChunk:
        """Inverse of `as_json`."""
        sha256, difference, *counts = value
        return cls(sha256, difference, CastLoss(*counts))


Verified = Mapping[str, ReadChunk]
"""Chunks that were verified, by their keys."""


def verify_part(
    conversion: OrbaxConversion,
    part: int = 0,
    of: int = 1,
    job: Job | None = None,
    *,
    finished: bool = False,
) -> Verified:
    """Compare one worker's share of the merged chunks with their sources, bit by bit.

    Args:
        conversion: The conversion.
        part: Which of the workers this is, from 0.
        of: Their number.
        job: Progress and cancellation.
        finished: Look at a finished checkpoint, and change nothing there.

    Raises:
        OutputError: Chunks differ, or are missing; their leaves are named.
        InputError: A source changed meanwhile.
    """
    job = job or Job()
    store = Store(conversion.output, finished=True) if finished else under_way(conversion)
    mine = conversion.grid.share(part, of)
    job.total = sum(chunk.nbytes for group in mine for chunk in group)
    job.phase = "verifying"
    job.verified = 0
    if not finished and not store.is_merged:
        raise OutputError(
            f"What workers wrote for {conversion.output} is not merged yet.", Hint(Code.MERGE_FIRST)
        )
    verifying = _Verifying(conversion, store, job)
    try:
        share(iter(mine), verifying.do, conversion.jobs)
    finally:
        conversion.checkpoint.tensors.check_unchanged()
        conversion.target.values.check_unchanged()
    if verifying.differing:
        chunks = (chunk for group in mine for chunk in group)
        differing = [chunk for chunk in chunks if chunk.key in verifying.differing]
        if not finished:
            store.drop(key for chunk in differing for key in chunk.keys)
        raise _different(conversion, differing, finished=finished)
    if not finished:
        record = {
            "plan": conversion.grid.digest,
            "chunks": {key: read.as_json() for key, read in verifying.found.items()},
        }
        store.write(f"{VERIFIED}{part}-{of}.json", json.dumps(record).encode())
    return verifying.found


def _different(
    conversion: OrbaxConversion, chunks: Sequence[Chunk], *, finished: bool
) -> OutputError:
    names = dict.fromkeys(chunk.array.instruction.leaf.path for chunk in chunks)
    said = some([f"{path} differs from its source" for path in names], "; ", 10)
    kept = "" if finished else f" {len(chunks):,} chunks were removed."
    code = Code.SAME_AS_CONVERTED if finished else Code.WRITE_MISSING
    return OutputError(
        f"{conversion.output} does not match the alignment: {said}.{kept}", Hint(code)
    )


class _Verifying:
    """Compares chunks, called by any thread.

    Attributes:
        found: The chunks that are equal to their sources.
        differing: Keys of those that are not, or cannot be read.
    """

    def __init__(self, conversion: OrbaxConversion, store: Store, job: Job) -> None:
        self.found: dict[str, ReadChunk] = {}
        self.differing: set[str] = set()
        self._elements = Elements(conversion)
        self._store, self._job = store, job
        self._lock = threading.Lock()

    def do(self, group: Group) -> None:
        for chunk, made in zip(group, self._elements.of(group), strict=True):
            self._compare(chunk, made)

    def _compare(self, chunk: Chunk, made: Made) -> None:
        self._job.check()
        self._job.leaf = chunk.array.instruction.leaf.path
        there = self._store.read_chunk(chunk)
        loss, rounding = CastLoss(), Rounding()
        wanted = made.elements(chunk.region, loss, rounding)
        is_equal = (
            there is not None
            and there.shape == wanted.shape
            and there.dtype == wanted.dtype
            and (not chunk.is_first or self._store.read_zarr(chunk.array) == chunk.array.zarr)
        )
        digest = ""
        if is_equal and there is not None:
            data = np.ascontiguousarray(there).reshape(-1).view(np.uint8)
            is_equal = _are_equal(data, wanted.reshape(-1).view(np.uint8))
            digest = hashlib.sha256(data.data).hexdigest()
        with self._lock:
            self._job.verified += chunk.nbytes
            if is_equal:
                self.found[chunk.key] = ReadChunk(digest, rounding.largest, loss)
            else:
                self.differing.add(chunk.key)


def _are_equal(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> bool:
    """Compare in parts that stay in the processor's cache, with what is made of them."""
    starts = range(0, first.size, _COMPARED)
    return all(
        np.array_equal(first[start : start + _COMPARED], second[start : start + _COMPARED])
        for start in starts
    )


def verified_chunks(conversion: OrbaxConversion) -> Verified:
    """Return what all workers verified of the checkpoint under way.

    Raises:
        OutputError: Chunks are not verified yet; the first are named.
    """
    store = under_way(conversion)
    found: dict[str, ReadChunk] = {}
    for name in store.listed(VERIFIED):
        record: dict[str, Any] = json.loads(store.read(name) or b"{}")
        if record.get("plan") == conversion.grid.digest:
            chunks = record["chunks"].items()
            found |= {key: ReadChunk.from_json(value) for key, value in chunks}
    unread = [chunk for chunk in conversion.grid.chunks if chunk.key not in found]
    if unread:
        raise OutputError(
            f"{len(unread):,} of {len(conversion.grid.chunks):,} chunks of {conversion.output} "
            f"are not verified: {some([chunk.key for chunk in unread])}.",
            Hint(Code.VERIFY_FIRST),
        )
    return found


def commit(
    conversion: OrbaxConversion, verified: Verified | None, facts: Mapping[str, Any]
) -> None:
    """Write the metadata and give the checkpoint its name.

    Args:
        conversion: The conversion.
        verified: All its chunks as they were read back; None if nobody did.
        facts: What else the certificate in the checkpoint says.

    Raises:
        OutputError: Chunks are missing, or it cannot be written.
    """
    store = under_way(conversion)
    held = store.merged_keys()
    gone = conversion.grid.missing(held)
    if gone:
        raise OutputError(
            f"{len(gone):,} chunks of {conversion.output} are not merged: "
            f"{some([chunk.key for chunk in gone])}.",
            Hint(Code.MERGE_FIRST),
        )
    leaves = {} if verified is None else leaf_digests(conversion.grid, verified)
    certificate = {
        "plan": conversion.grid.digest,
        "chunks": len(conversion.grid.chunks),
        "chunk_bytes": conversion.chunk_bytes,
        "verified": verified is not None,
        **facts,
        "leaves": leaves,
    }
    store.write(TREE, tree_metadata(conversion.grid))
    store.write(CHECKPOINT, checkpoint_metadata(certificate))
    for name in (VERIFIED, PARTS, PLAN):
        store.remove(name)
    if not store.is_bucket:
        for folder in (VERIFIED, PARTS):
            path = Path(store.where, folder)
            if path.is_dir():
                path.rmdir()
    store.commit()


def leaf_digests(grid: Grid, verified: Verified) -> dict[str, str]:
    """Return SHA-256 over the digests of each array's chunks in order, by key path.

    So it does not depend on how many workers there were.
    """
    found: dict[str, Any] = defaultdict(hashlib.sha256)
    for chunk in grid.chunks:
        found[chunk.array.instruction.leaf.path].update(verified[chunk.key].sha256.encode())
    return {path: digest.hexdigest() for path, digest in found.items()}


def losses_of(grid: Grid, verified: Verified) -> dict[str, CastLoss]:
    """Return the losses of casts by key path, in the plan's order."""
    found: dict[str, CastLoss] = {}
    for chunk in grid.chunks:
        if loss := verified[chunk.key].loss:
            found.setdefault(chunk.array.instruction.leaf.path, CastLoss()).add(loss)
    return found


def readback_of(conversion: OrbaxConversion, verified: Verified, readback: Readback) -> None:
    """Take down what was verified, leaf by leaf in the plan's order, for a certificate."""
    digests, losses = leaf_digests(conversion.grid, verified), losses_of(conversion.grid, verified)
    largest: dict[str, float] = defaultdict(float)
    for chunk in conversion.grid.chunks:
        path = chunk.array.instruction.leaf.path
        largest[path] = max(largest[path], verified[chunk.key].largest_difference)
    start = 0
    for instruction in conversion.plan.instructions:
        path, nbytes = instruction.leaf.path, 0
        digest = digests.get(path)
        if digest is None:
            # A Python scalar, which is in no checkpoint.
            own = np.asarray(conversion.target.values.read(path, ()))
            digest = hashlib.sha256(own.tobytes()).hexdigest()
        else:
            itemsize = dtype_named(instruction.dtype).itemsize
            nbytes = prod(instruction.leaf.shape) * itemsize
        loss = losses.get(path, CastLoss())
        leaf = ReadLeaf(instruction, start, nbytes, digest, largest[path], loss)
        readback.leaves.append(leaf)
        readback.whole.update(memoryview(digest.encode()))
        start += nbytes
