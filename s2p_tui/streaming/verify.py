"""Reading a written file back and comparing every leaf with its source, bit by bit."""

from __future__ import annotations

import os
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from s2p_tui.core.dtypes import numpy_dtype
from s2p_tui.core.errors import OutputError
from s2p_tui.core.plan import Plan
from s2p_tui.core.transform import Shape
from s2p_tui.formats.base import Region
from s2p_tui.formats.npy import Record, iter_records
from s2p_tui.formats.safetensors import open_safetensors
from s2p_tui.formats.tensors import pread_into
from s2p_tui.streaming.contents import Contents
from s2p_tui.streaming.evaluate import flat_runs
from s2p_tui.streaming.job import Job
from s2p_tui.streaming.layout import Layout, Piece
from s2p_tui.streaming.readback import LeafReadback, Readback

if TYPE_CHECKING:
    from numpy.typing import NDArray

_COMPARE = 1 << 18
_SHOWN = 10


def verify_layout(
    plan: Plan,
    layout: Layout,
    contents: Contents,
    file: Path,
    job: Job,
    readback: Readback | None = None,
) -> None:
    """Compare a file with what the plan says should be in it, leaf by leaf.

    Reads the whole file and the whole source. Checks that the records are exactly those of the
    leaves, in order, with nothing behind the last, and that every element is equal bit by bit
    to the source's after the row's transform and cast.

    Args:
        plan: What should be in the file.
        layout: Where.
        contents: Gives it.
        file: The file.
        job: Told of progress; asked whether to stop.
        readback: Takes down what is read, leaf by leaf, if given.

    Raises:
        OutputError: It differs; the leaves are named.
        InputError: A source was cut short meanwhile.
        CancelledError: Someone cancelled the job.
    """
    job.phase = "verifying"
    problems: list[str] = []
    buffers = np.empty((2, _COMPARE), np.uint8)
    with file.open("rb") as stream:
        descriptor = stream.fileno()
        size = os.fstat(descriptor).st_size
        if size != layout.size:
            problems.append(f"it has {size:,} bytes, {layout.size:,} were expected")
        elif plan.format == "eqx":
            problems += _record_problems(layout, descriptor, file)
        else:
            problems += _header_problems(layout, file)
        if not problems:
            if readback is not None:
                readback.start(descriptor, file, len(layout.head))
            for piece in layout.pieces:
                job.check()
                job.leaf = piece.instruction.leaf.path
                if not _is_equal(piece, contents, descriptor, file, buffers, job, readback):
                    problems.append(f"{job.leaf} differs from its source")
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise OutputError(
            f"{file.name} is not what the alignment says: {'; '.join(problems[:_SHOWN])}{more}.",
            "Convert again; if it happens again the disk or memory may be faulty.",
        )


def _record_problems(layout: Layout, descriptor: int, file: Path) -> list[str]:
    records = list(iter_records(descriptor, 0, file))
    problems: list[str] = []
    for piece, record in zip_longest(layout.pieces, records):
        if piece is None or record is None:
            problems.append(f"{len(layout.pieces)} leaves, but {len(records)} records")
            break
        if not _describes(record, piece):
            problems.append(f"the record of {piece.instruction.leaf.path} is of another kind")
    return problems


def _describes(record: Record, piece: Piece) -> bool:
    instruction = piece.instruction
    descr = numpy_dtype(instruction.dtype).str
    return (
        record.shape == instruction.leaf.shape
        and record.descr == descr
        and record.fortran_order == piece.column_major
        and record.data == piece.data
        and record.stop == piece.stop
    )


def _header_problems(layout: Layout, file: Path) -> list[str]:
    written = open_safetensors(file)
    expected = {
        piece.instruction.leaf.path: (
            piece.instruction.leaf.shape,
            piece.instruction.dtype,
            piece.data,
        )
        for piece in layout.pieces
    }
    found: dict[str, tuple[Shape, str, int]] = {}
    for entry in written.state_dict:
        extent = written.tensors.extent(entry.key)
        offset = -1 if extent is None else extent.offset
        found[entry.key] = (entry.shape, entry.dtype, offset)
    differing = [path for path in expected.keys() | found.keys()
                 if expected.get(path) != found.get(path)]  # fmt: skip
    return [f"{path} is described otherwise" for path in sorted(differing)]


def _is_equal(
    piece: Piece,
    contents: Contents,
    descriptor: int,
    file: Path,
    buffers: NDArray[np.uint8],
    job: Job,
    readback: Readback | None,
) -> bool:
    leaf = readback.leaf(piece) if readback is not None else None
    runs = contents.runs(piece)
    if runs is None:
        loss, rounding = (leaf.loss, leaf.rounding) if leaf is not None else (None, None)
        covered = 0
        for shape, region, array in contents.regions(piece, loss, rounding):
            if not _region_is_equal(descriptor, piece.data, shape, region, array, file, job, leaf):
                return False
            covered += array.nbytes
        if leaf is not None:
            leaf.finish(job)
        return covered == piece.nbytes
    ours, theirs = buffers
    position = piece.data
    for run in runs:
        source = run.tensors.descriptor(run.extent)
        for start in range(0, run.nbytes, _COMPARE):
            job.check()
            count = min(_COMPARE, run.nbytes - start)
            pread_into(descriptor, ours.data[:count], position, file)
            pread_into(source, theirs.data[:count], run.start + start, run.extent.file)
            if not np.array_equal(ours[:count], theirs[:count]):
                return False
            if leaf is not None:
                leaf.feed(ours.data[:count], position)
            position += count
            job.verified += count
    if leaf is not None:
        leaf.finish(job)
    return position == piece.stop


def _region_is_equal(
    descriptor: int,
    start: int,
    shape: Shape,
    region: Region,
    array: NDArray[Any],
    file: Path,
    job: Job,
    leaf: LeafReadback | None,
) -> bool:
    job.check()
    expected = array.reshape(-1).view(np.uint8)
    written = np.empty_like(expected)
    into = written.data
    done = 0
    for low, high in flat_runs(shape, region):
        length = (high - low) * array.itemsize
        position = start + low * array.itemsize
        pread_into(descriptor, into[done : done + length], position, file)
        if leaf is not None:
            leaf.feed(into[done : done + length], position)
        done += length
    job.verified += array.nbytes
    return np.array_equal(expected, written)
