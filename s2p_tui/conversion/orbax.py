"""Orbax checkpoints in four steps, each of which any number of processes can share.

    write_part    each worker streams its share of the chunks into a database of its own
    merge         one database on top that refers to theirs; refuses gaps
    verify_part   each worker reads its share back and compares it with its sources
    commit        the tree's metadata and the certificate; then the checkpoint gets its name

The last two are in `orbax_finish.py`.

Workers agree by `s2p-plan.json` in the partial checkpoint. A step that was interrupted is repeated:
what is there is kept, also by another number of workers. A chunk that turns out to be damaged is
removed, so that writing again makes it anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from s2p_tui.alignment.dtypes import dtype_named
from s2p_tui.alignment.task import Job
from s2p_tui.alignment.transform import keys_of
from s2p_tui.conversion.contents import (
    CastLoss,
    Contents,
    Made,
    OutputRecord,
    Rounding,
    refuse_overflow,
)
from s2p_tui.conversion.evaluate import Evaluator
from s2p_tui.conversion.needs import Fetched, Needs, gathered, normed_elsewhere
from s2p_tui.conversion.orbax_grid import Chunk, Grid, Group
from s2p_tui.conversion.orbax_metadata import CHECKPOINT, TREE
from s2p_tui.conversion.orbax_store import PARTS, PLAN, VERIFIED, Claim, Store
from s2p_tui.conversion.plan import Instruction, Plan
from s2p_tui.conversion.units import share, usual_jobs
from s2p_tui.errors import AlignmentError, Code, Hint, OutputError, some
from s2p_tui.formats.atomic import require_space
from s2p_tui.formats.base import Checkpoint, Tensors
from s2p_tui.formats.skeleton_file import Target

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FORMAT, _VERSION = "s2p-plan", 1
_BATCH, _LARGEST_BATCH = 512, 1 << 22
"""Small chunks that are written in one transaction: alone each costs 4.4 ms, so 0.3 ms."""
_SOURCES = 4
"""Sources of a chunk that are read at once may have that many times its bytes."""
_BESIDE = 64 << 20
"""Bytes of memory beside the chunks in progress: the databases' nodes, TensorStore's threads."""


@dataclass(frozen=True, slots=True)
class OrbaxConversion:
    """One conversion to an Orbax checkpoint, the same for every worker.

    Attributes:
        plan: What to write.
        checkpoint: The torch side.
        target: The JAX side.
        grid: The chunks.
        output: The checkpoint: a folder or `gs://bucket/path`.
        chunk_bytes: Bytes of a chunk at the most.
        jobs: Chunks in progress at a time.
        allow_overflow: Write numbers that a cast makes infinite or NaN.
    """

    plan: Plan
    checkpoint: Checkpoint
    target: Target
    grid: Grid
    output: str
    chunk_bytes: int
    jobs: int
    allow_overflow: bool = False

    @classmethod
    def of(
        cls,
        plan: Plan,
        checkpoint: Checkpoint,
        target: Target,
        output: str,
        *,
        chunk_bytes: int,
        jobs: int | None = None,
        allow_overflow: bool = False,
    ) -> OrbaxConversion:
        """Cut a plan into chunks; see `Grid` for what it raises. Reads at most Python scalars.

        Raises:
            AlignmentError: A Python scalar takes an entry of another value than the model's own.
        """
        grid = Grid(plan, checkpoint, target, chunk_bytes)
        _require_own_scalars(grid.scalars, checkpoint, target)
        jobs = jobs or usual_jobs(checkpoint.tensors.is_remote)
        return cls(plan, checkpoint, target, grid, output, chunk_bytes, jobs, allow_overflow)

    @property
    def agreement(self) -> dict[str, Any]:
        """The facts that all workers must agree about."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "plan": self.grid.digest,
            "checkpoint": [self.checkpoint.size, self.checkpoint.state_dict.digest],
            "skeleton": self.target.skeleton.digest,
            "dtype": self.plan.dtype,
            "chunk_bytes": self.chunk_bytes,
        }

    @property
    def memory(self) -> int:
        """Bytes of memory that writing takes at most, beside the program's own."""
        return self.memory_for(max(map(self._bytes_of, self.grid.groups), default=0))

    def _bytes_of(self, group: Group) -> int:
        """Bytes of one chunk of a group, and of all that the group is made of."""
        array, sizes = group[0].array, [chunk.nbytes for chunk in group]
        source, entries = array.instruction.source, self.checkpoint.state_dict
        dtypes = [entries[key].dtype for key in keys_of(source)] if source is not None else []
        widest = max((dtype_named(dtype).itemsize for dtype in dtypes), default=array.itemsize)
        return max(sizes) + sum(sizes) // array.itemsize * widest

    def memory_for(self, nbytes: int) -> int:
        """Bytes of memory for chunks that take so many with their sources."""
        return 2 * self.jobs * nbytes + _BESIDE


def _require_own_scalars(
    scalars: Sequence[Instruction], checkpoint: Checkpoint, target: Target
) -> None:
    """Make sure that no Python scalar would silently keep another value than its entry's.

    A loader restores arrays; a float, int or bool comes from the model's own code.
    """
    problems: list[tuple[str, str]] = []
    contents = Contents(checkpoint, target, _LARGEST_BATCH)
    for instruction in scalars:
        if instruction.source is None:
            continue
        path = instruction.leaf.path
        record = OutputRecord(instruction, b"", 0, dtype_named(instruction.dtype).itemsize)
        taken = contents.made(record).elements(())
        own = np.asarray(target.values.read(path, ()))
        if taken.tobytes() != own.astype(taken.dtype).tobytes():
            problems.append((path, f"the model's own value is {own}, its entry's {taken}"))
    if problems:
        raise AlignmentError(
            f"{len(problems)} Python scalars would not be restored from an Orbax checkpoint.",
            problems,
            "Make them arrays in the model, give them these values there, or write another format.",
        )


class Computed(NamedTuple):
    """A chunk that was computed.

    Attributes:
        chunk: The chunk.
        elements: Its elements, not to be changed.
        loss: Losses of its cast.
        rounding: How far the cast moved its numbers.
    """

    chunk: Chunk
    elements: NDArray[Any]
    loss: CastLoss
    rounding: Rounding


class Elements:
    """Gives the elements of chunks; reads their sources once. Any thread may ask."""

    def __init__(self, conversion: OrbaxConversion) -> None:
        self._contents = Contents(conversion.checkpoint, conversion.target, conversion.chunk_bytes)
        self._most = _SOURCES * conversion.chunk_bytes
        self._evaluators: dict[int, tuple[Evaluator, Needs]] = {}
        self._lock = threading.Lock()

    def of(self, group: Group, *, measured: bool = False) -> Iterator[Computed]:
        """Yield the elements of each chunk of a group; see `Made.elements` for what it raises.

        The sources are forgotten before the last one is given.

        Args:
            group: The chunks.
            measured: Measure how far casts move numbers.
        """
        records = [OutputRecord(one.array.instruction, b"", 0, one.nbytes) for one in group]
        # Only rows share their sources, never kept values.
        _, _, entries, tensors = self._contents.source_of(records[0])
        with self._lock:
            if id(tensors) not in self._evaluators:
                found = Evaluator(entries, tensors), Needs(entries.shape)
                self._evaluators[id(tensors)] = found
            evaluator, needs = self._evaluators[id(tensors)]
            wanted = [need for one in group for need in needs.of(one.array.expr, one.region)]
        read = gathered(wanted)
        sizes = (prod(b - a for a, b in n.region) * dtype_named(entries[n.key].dtype).itemsize
                 for n in read)  # fmt: skip
        used: Evaluator | None
        source: Tensors | None
        if tensors.in_memory:
            used, source = evaluator, tensors
        elif sum(sizes) > self._most:
            if len(group) > 1:
                for chunk in group:
                    yield from self.of((chunk,), measured=measured)
                return
            used, source = evaluator, tensors
        else:
            source = Fetched(tensors, read)
            has_norms = any(need.for_norm for need in wanted)
            # Norms of what is in memory anyway are made of that.
            is_own = has_norms and not normed_elsewhere(wanted, read)
            used = evaluator.with_norms_of(source) if is_own else evaluator
        for number, (chunk, record) in enumerate(zip(group, records, strict=True)):
            expr, shape, _, _ = self._contents.source_of(record)
            assert used is not None
            assert source is not None
            made = Made(record, expr, shape, used.again(source), source, self._contents.share)
            loss, rounding = CastLoss(), Rounding()
            elements = made.elements(chunk.region, loss, rounding if measured else None)
            del made
            if number == len(group) - 1:
                # Not to be held while the last chunk is written or compared.
                used = source = None
            yield Computed(chunk, elements, loss, rounding)
            del elements


def write_part(
    conversion: OrbaxConversion, part: int = 0, of: int = 1, job: Job | None = None
) -> dict[str, CastLoss]:
    """Write one worker's share of the chunks; what is there is kept.

    Args:
        conversion: The conversion.
        part: Which of the workers this is, from 0.
        of: Their number.
        job: Progress and cancellation.

    Returns:
        Losses of casts, by key path, in the chunks written now.

    Raises:
        OutputError: The output cannot be written, holds another conversion or a finished
            checkpoint, or another process has this part; or a cast made numbers infinite or NaN.
        InputError: A source changed during the conversion.
        AlignmentError: A whole number does not fit its leaf's dtype.
        CancelledError: Someone cancelled the job; what was written is kept.
    """
    job = job or Job()
    job.phase = "writing"
    store = Store(conversion.output)
    _refuse_finished(conversion.output)
    mine = conversion.grid.share(part, of)
    held = store.held() if store.exists else set[str]()
    missing = [
        left
        for group in mine
        if (left := tuple(chunk for chunk in group if not held.issuperset(chunk.keys)))
    ]
    todo = sum(chunk.nbytes for group in missing for chunk in group)
    job.total = sum(chunk.nbytes for group in mine for chunk in group)
    job.written = job.total - todo
    if not store.is_bucket:
        job.free = require_space(Path(conversion.output), todo)
    job.memory = conversion.memory
    store.make()
    _agree(store, conversion, first=True)
    with store.claimed(part, of) as claim:
        _forget_verified(store, {chunk.key for group in missing for chunk in group})
        writing = _Writing(conversion, store, store.new_database(part), claim, job)
        try:
            share(_batches(missing), writing.do, conversion.jobs)
        finally:
            # A source that changed is the better explanation of whatever went wrong.
            conversion.checkpoint.tensors.check_unchanged()
            conversion.target.values.check_unchanged()
        if not conversion.allow_overflow:
            refuse_overflow(writing.losses)
    return writing.losses


def _batches(groups: Iterable[Group]) -> Iterator[list[Group]]:
    """Put small neighbours together, to be written in one transaction."""
    waiting: list[Group] = []
    size = count = 0
    for group in groups:
        nbytes = sum(chunk.nbytes for chunk in group)
        if waiting and (size + nbytes > _LARGEST_BATCH or count + len(group) > _BATCH):
            yield waiting
            waiting, size, count = [], 0, 0
        waiting.append(group)
        size, count = size + nbytes, count + len(group)
    if waiting:
        yield waiting


class _Writing:
    """Writes batches of chunks, called by any thread.

    Attributes:
        losses: Losses of casts, by key path.
    """

    def __init__(
        self, conversion: OrbaxConversion, store: Store, database: str, claim: Claim, job: Job
    ) -> None:
        self.losses: dict[str, CastLoss] = {}
        self._elements = Elements(conversion)
        self._allow_overflow = conversion.allow_overflow
        self._store, self._database, self._claim, self._job = store, database, claim, job
        self._lock = threading.Lock()

    def do(self, batch: list[Group]) -> None:
        self._claim.check()
        made: list[tuple[Chunk, NDArray[Any]]] = []
        for group in batch:
            for chunk, elements, loss, _ in self._elements.of(group):
                self._job.check()
                path = chunk.array.instruction.leaf.path
                if loss:
                    with self._lock:
                        self.losses.setdefault(path, CastLoss()).add(loss)
                if not loss.is_overflow or self._allow_overflow:
                    made.append((chunk, elements))
                del elements
                if sum(elements.nbytes for _, elements in made) > _LARGEST_BATCH:
                    self._write(made)
                    made = []
        self._write(made)

    def _write(self, made: Sequence[tuple[Chunk, NDArray[Any]]]) -> None:
        self._job.check()
        if made:
            self._store.write_chunks(self._database, made)
            with self._lock:
                self._job.leaf = made[-1][0].array.instruction.leaf.path
                self._job.written += sum(chunk.nbytes for chunk, _ in made)


def merge(conversion: OrbaxConversion, job: Job | None = None) -> int:
    """Link what all workers wrote into one database; returns its chunks.

    Raises:
        OutputError: Chunks are missing; the first and the parts they are of are named.
    """
    job = job or Job()
    job.phase = "syncing"
    store = under_way(conversion)
    held = store.held()
    missing = conversion.grid.missing(held)
    if missing:
        raise OutputError(
            f"{len(missing):,} of {len(conversion.grid.chunks):,} chunks of {conversion.output} "
            f"are missing{_parts_of(store, conversion.grid, missing)}: "
            f"{some([chunk.key for chunk in missing])}.",
            Hint(Code.WRITE_MISSING),
        )
    strange = held.difference(key for chunk in conversion.grid.chunks for key in chunk.keys)
    if strange:
        raise OutputError(
            f"{store.where} holds {len(strange):,} keys that are not of this conversion: "
            f"{some(sorted(strange))}.",
            "Remove it and convert again.",
        )
    store.merge()
    return len(conversion.grid.chunks)


def _parts_of(store: Store, grid: Grid, missing: Sequence[Chunk]) -> str:
    """Say which of the workers that were at work should have written some chunks."""
    counts = {int(name.rpartition("-")[2]) for name in store.listed(PARTS)}
    if not counts or (of := max(counts)) == 1:
        return ""
    keys = {chunk.key for chunk in missing}
    shares = enumerate(grid.shares(of))
    parts = [
        f"{part}/{of}"
        for part, mine in shares
        if any(chunk.key in keys for group in mine for chunk in group)
    ]
    return f", of part {some(parts)}"


def agreed_chunk_bytes(output: str) -> int | None:
    """Return the chunk size of a checkpoint, finished or under way; None if there is none."""
    finished = is_finished(output)
    store = Store(output, finished=finished)
    if not store.exists:
        return None
    found: Any = None
    with contextlib.suppress(ValueError, AttributeError):
        facts: Any = json.loads(store.read(CHECKPOINT if finished else PLAN) or b"{}")
        if finished:
            facts = facts.get("custom_metadata", {}).get("s2p", {})
        found = facts.get("chunk_bytes")
    return found if isinstance(found, int) and found > 0 else None


def is_finished(output: str) -> bool:
    """Return True if there is a finished checkpoint of that name."""
    store = Store(output, finished=True)
    if store.is_bucket:
        return store.read("commit_success.txt") is not None
    return os.path.exists(os.path.join(output, TREE))


def _refuse_finished(output: str) -> None:
    if is_finished(output):
        raise OutputError(
            f"{output} holds a finished checkpoint.", "Remove it first, or choose another name."
        )
    if not output.startswith("gs://") and os.path.lexists(output):
        raise OutputError(
            f"{output} exists and is not an unfinished checkpoint.",
            "Remove it first, or choose another name.",
        )


def under_way(conversion: OrbaxConversion) -> Store:
    """Return the store of the checkpoint under way.

    Raises:
        OutputError: There is none, or it is of another conversion.
    """
    _refuse_finished(conversion.output)
    store = Store(conversion.output)
    if not store.exists:
        raise OutputError(
            f"Nothing was written for {conversion.output} yet.", Hint(Code.WRITE_MISSING)
        )
    _agree(store, conversion, first=False)
    return store


def _agree(store: Store, conversion: OrbaxConversion, *, first: bool) -> None:
    """Make sure that all workers mean the same; the first one writes down what that is.

    Raises:
        OutputError: Another conversion is under way there; the differences are named.
    """
    ours = conversion.agreement
    if first:
        store.write(PLAN, json.dumps(ours).encode(), only_new=True)
    text = store.read(PLAN)
    try:
        theirs: Any = json.loads(text or b"null")
    except ValueError:
        theirs = None
    if theirs == ours:
        return
    if not isinstance(theirs, dict):
        differences = "its s2p-plan.json is missing or damaged"
    else:
        facts = cast("dict[str, Any]", theirs)
        names = [name for name, value in ours.items() if facts.get(name) != value]
        known = [name for name in names if name != "plan"] or ["mapping"]
        differences = f"another {some(known)}".replace("chunk_bytes", "chunk size")
    raise OutputError(
        f"{store.where} is of another conversion: {differences}.",
        Hint(Code.SAME_PLAN),
    )


def _forget_verified(store: Store, keys: set[str]) -> None:
    """Remove records of what was verified that name a chunk which is written anew."""
    for name in store.listed(VERIFIED) if keys else ():
        record: dict[str, Any] = json.loads(store.read(name) or b"{}")
        if not keys.isdisjoint(record.get("chunks", {})):
            store.remove(name)
