"""One conversion from start to end: check, write, sync, verify, give it its name."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from s2p_tui.alignment.dtypes import dtype_named, numpy_dtype
from s2p_tui.alignment.task import Job
from s2p_tui.conversion.contents import (
    CastLoss,
    Contents,
    OutputRecord,
    record_table,
    refuse_overflow,
)
from s2p_tui.conversion.plan import Plan
from s2p_tui.conversion.units import Sums, call, share, usual_jobs
from s2p_tui.conversion.verify import Readback, begin_comparing, verify_records
from s2p_tui.conversion.write import write_records
from s2p_tui.errors import Code, Hint, OutputError
from s2p_tui.formats.atomic import AtomicFile, require_space
from s2p_tui.formats.base import Checkpoint, Locator
from s2p_tui.formats.remote.file import RemoteFile
from s2p_tui.formats.skeleton_file import Target

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULT_CHUNK = 64 << 20
SMALLEST_CHUNK = 1 << 12
_CHUNKS_HELD = 2
"""In memory at most, beside the program's own; the benchmarks hold it to that."""


class Written(Struct, frozen=True):
    """A finished conversion.

    Attributes:
        path: The file.
        size: Its bytes.
        seconds: Time from start to rename.
        verified: True if it was read back and compared.
        losses: Leaves whose numbers did not all survive a cast, by key path.
        memory: Bytes of memory it took at most, beside the program's own.
    """

    path: Path
    size: int
    seconds: float
    verified: bool
    losses: dict[str, CastLoss]
    memory: int = 0


def write_file(
    plan: Plan,
    checkpoint: Checkpoint,
    target: Target,
    path: Path,
    *,
    chunk_bytes: int = DEFAULT_CHUNK,
    verify: bool = True,
    readback: Readback | None = None,
    job: Job | None = None,
    jobs: int | None = None,
    allow_overflow: bool = False,
) -> Written:
    """Carry out a plan. The file appears under its name only when it is complete and verified.

    Args:
        plan: The leaves to write.
        checkpoint: Source of rows; its tensor data is read.
        target: Source of kept values.
        path: The output; an existing file is replaced.
        chunk_bytes: Memory to stay within, about.
        verify: Read the file back and compare it with its sources.
        readback: Takes down what verification reads.
        job: Progress and cancellation.
        jobs: Threads that share the work and its memory; None for two, or one on a single core, and
            eight for a checkpoint on another machine.
        allow_overflow: Write numbers that a cast made infinite or NaN.

    Raises:
        OutputError: The target cannot be written, lacks space, or is one of the sources; or a cast
            made numbers infinite or NaN.
        InputError: A source changed during the conversion.
        AlignmentError: A whole number does not fit its leaf's dtype.
        CancelledError: Someone cancelled the job; nothing is left behind.
    """
    is_remote = checkpoint.tensors.is_remote
    job, jobs = job or Job(), jobs or usual_jobs(is_remote)
    # Of a source on another machine each byte is asked for once.
    sums = Sums(measures=readback is not None) if verify and is_remote else None
    started = time.monotonic()
    table = record_table(plan, target)
    job.total = table.size
    refuse_to_replace(path, (*checkpoint.files, *target.files))
    job.free = require_space(path, table.size)
    job.memory = _CHUNKS_HELD * max(chunk_bytes, SMALLEST_CHUNK)
    contents = Contents(checkpoint, target, max(chunk_bytes, SMALLEST_CHUNK), jobs)
    with AtomicFile(path) as file:
        job.check()
        begun = None
        # A readback takes the bytes down in their order, after all are written.
        if verify and readback is None and jobs > 1:
            begun = begin_comparing(table, contents, file.descriptor, file.temporary, job, sums)
        following = begun.following if begun is not None else None
        about = table, contents, file.descriptor, file.target, job, jobs, sums
        losses = write_records(*about, following)
        if not allow_overflow:
            refuse_overflow(losses)

        def read_back() -> None:
            if verify:
                of = plan, table, contents, file.temporary, job
                verify_records(*of, readback, jobs, sums, begun=begun)
            job.phase = "syncing"

        try:
            # What is read back is the same before and after the disk has it, and 1 GB takes 0.3 s
            # to read back and as long to be synced.
            share((file.sync, read_back), call, 2)
        finally:
            # A source that changed is the better explanation for what verification found.
            checkpoint.tensors.check_unchanged()
            target.values.check_unchanged()
        job.check()
        file.commit()
    job.phase = "done"
    return Written(path, table.size, time.monotonic() - started, verify, losses, job.memory)


def verify_file(
    plan: Plan,
    checkpoint: Checkpoint,
    target: Target,
    path: Path,
    *,
    chunk_bytes: int = DEFAULT_CHUNK,
    readback: Readback | None = None,
    job: Job | None = None,
    jobs: int | None = None,
) -> int:
    """Compare an existing file with its sources; see `write_file` for the arguments.

    Returns:
        Its size in bytes.

    Raises:
        OutputError: It differs from the plan; the leaves are named.
        InputError: It or a source cannot be read.
    """
    job, jobs = job or Job(), jobs or usual_jobs(checkpoint.tensors.is_remote)
    table = record_table(plan, target)
    job.total = table.size
    contents = Contents(checkpoint, target, max(chunk_bytes, SMALLEST_CHUNK), jobs)
    try:
        verify_records(plan, table, contents, path, job, readback, jobs)
    except OutputError as error:
        raise OutputError(error.message, Hint(Code.SAME_AS_CONVERTED)) from None
    return table.size


def refuse_to_replace(path: Path, protected: Iterable[Locator]) -> None:
    """Make sure that writing a file would not destroy another that is still needed.

    Raises:
        OutputError: The path is one of the protected files, possibly under another name.
    """
    for file in protected:
        if isinstance(file, RemoteFile):
            continue
        if os.path.realpath(path) == os.path.realpath(file) or _is_same_file(path, file):
            known_as = "" if path == file else f" ({file})"
            raise OutputError(
                f"{path} would overwrite a file that this conversion reads or writes{known_as}.",
                "Choose another name.",
            )


def _is_same_file(path: Path, source: Path) -> bool:
    try:
        return path.samefile(source)
    except OSError:
        return False


def filled(
    plan: Plan, checkpoint: Checkpoint, target: Target, *, chunk_bytes: int = DEFAULT_CHUNK
) -> Iterator[tuple[NDArray[Any] | None, CastLoss]]:
    """The leaves of a plan in order, each a new array, and what its cast lost.

    None stands for a leaf that keeps the target's own value in its own dtype.

    Args:
        plan: The leaves to make.
        checkpoint: Source of rows; its tensor data is read.
        target: Source of kept values that are to be cast.
        chunk_bytes: Memory to stay within beside the arrays, about.

    Raises:
        InputError: A source became shorter during the conversion.
        AlignmentError: A whole number does not fit its leaf's dtype.
    """
    contents = Contents(checkpoint, target, max(chunk_bytes, SMALLEST_CHUNK))
    for instruction in plan.instructions:
        loss = CastLoss()
        if instruction.source is None and instruction.dtype == instruction.leaf.dtype:
            yield None, loss
            continue
        shape, dtype = instruction.leaf.shape, numpy_dtype(instruction.dtype)
        nbytes = int(np.prod(shape)) * dtype_named(instruction.dtype).itemsize
        array: NDArray[Any] = np.empty(shape, dtype)
        made = contents.made(OutputRecord(instruction, b"", 0, nbytes))
        for region in made.regions():
            part = made.elements(region, loss)
            array[tuple(slice(start, stop) for start, stop in region)] = part
        yield array, loss
