"""One conversion from start to end: check, write, sync, verify, give it its name."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from s2p_tui.alignment.dtypes import dtype_named, numpy_dtype
from s2p_tui.conversion.contents import CastLoss, Contents
from s2p_tui.conversion.job import Job
from s2p_tui.conversion.plan import Plan
from s2p_tui.conversion.readback import Readback
from s2p_tui.conversion.records import Piece, lay_out
from s2p_tui.conversion.verify import verify_layout
from s2p_tui.conversion.workers import usual_jobs
from s2p_tui.conversion.write import write_layout
from s2p_tui.errors import Code, Hint, OutputError
from s2p_tui.formats.atomic import AtomicFile, require_space
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.skeleton_file import Target

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULT_CHUNK = 64 << 20
SMALLEST_CHUNK = 1 << 12
_CHUNKS_HELD = 2
"""In memory at most, beside the program's own; the benchmarks hold it to that."""


@dataclass(frozen=True, slots=True)
class Written:
    """A finished conversion.

    Attributes:
        path: The file.
        size: Its bytes.
        seconds: Time from start to rename.
        verified: Whether it was read back and compared.
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
) -> Written:
    """Carry out a plan. The file appears under its name only when it is complete and verified.

    Args:
        plan: What to write.
        checkpoint: Source of rows; its tensor data is read.
        target: Source of kept values.
        path: The output; an existing file is replaced.
        chunk_bytes: Memory to stay within, about.
        verify: Read the file back and compare it with its sources.
        readback: Takes down what verification reads.
        job: Told of progress; asked whether to stop.
        jobs: Threads that share the work and its memory; None for two, or one on a single core.

    Raises:
        OutputError: The target cannot be written, lacks space, or is one of the sources.
        InputError: A source changed meanwhile.
        AlignmentError: A whole number does not fit its leaf's dtype.
        CancelledError: Someone cancelled the job; nothing is left behind.
    """
    job, jobs = job or Job(), jobs or usual_jobs()
    started = time.monotonic()
    layout = lay_out(plan, target)
    job.total = layout.size
    refuse_to_replace(path, (*checkpoint.files, *target.files))
    job.free = require_space(path, layout.size)
    job.memory = _CHUNKS_HELD * max(chunk_bytes, SMALLEST_CHUNK)
    contents = Contents(checkpoint, target, max(chunk_bytes, SMALLEST_CHUNK), jobs)
    with AtomicFile(path) as file:
        job.check()
        losses = write_layout(layout, contents, file.descriptor, file.target, job, jobs)
        job.phase = "syncing"
        file.sync()
        try:
            if verify:
                verify_layout(plan, layout, contents, file.temporary, job, readback, jobs)
        finally:
            # A source that changed is the better explanation for what verification found.
            checkpoint.tensors.check_unchanged()
            target.values.check_unchanged()
        job.check()
        file.commit()
    job.phase = "done"
    return Written(path, layout.size, time.monotonic() - started, verify, losses, job.memory)


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
        OutputError: It differs from what the plan says; the leaves are named.
        InputError: It or a source cannot be read.
    """
    job, jobs = job or Job(), jobs or usual_jobs()
    layout = lay_out(plan, target)
    job.total = layout.size
    contents = Contents(checkpoint, target, max(chunk_bytes, SMALLEST_CHUNK), jobs)
    try:
        verify_layout(plan, layout, contents, path, job, readback, jobs)
    except OutputError as error:
        raise OutputError(error.message, Hint(Code.SAME_AS_CONVERTED)) from None
    return layout.size


def refuse_to_replace(path: Path, protected: Iterable[Path]) -> None:
    """Make sure that writing a file would not destroy another that is still needed.

    Raises:
        OutputError: The path is one of the protected files, maybe under another name.
    """
    for file in protected:
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
        plan: What to make.
        checkpoint: Source of rows; its tensor data is read.
        target: Source of kept values that are to be cast.
        chunk_bytes: Memory to stay within beside the arrays, about.

    Raises:
        InputError: A source was cut short meanwhile.
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
        made = contents.made(Piece(instruction, b"", 0, nbytes))
        for region in made.regions():
            part = made.elements(region, loss)
            array[tuple(slice(start, stop) for start, stop in region)] = part
        yield array, loss
