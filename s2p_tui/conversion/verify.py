"""Reading a written file back and comparing every leaf with its source, bit by bit."""

from __future__ import annotations

import os
import threading
from collections import Counter
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from s2p_tui.alignment.dtypes import numpy_dtype
from s2p_tui.alignment.transform import Shape
from s2p_tui.conversion.contents import CastLoss, Contents, Rounding
from s2p_tui.conversion.evaluate import flat_runs
from s2p_tui.conversion.job import Job
from s2p_tui.conversion.plan import Plan
from s2p_tui.conversion.readback import LeafReadback, Readback
from s2p_tui.conversion.records import Layout, Piece
from s2p_tui.conversion.units import Batch, Head, Stretch, Tile, Unit, put_together, units
from s2p_tui.conversion.workers import share
from s2p_tui.errors import OutputError
from s2p_tui.formats.npy import Record, iter_records
from s2p_tui.formats.safetensors import open_safetensors
from s2p_tui.formats.tensors import pread_into

if TYPE_CHECKING:
    from numpy.typing import NDArray

_COMPARE = 1 << 18
_STRETCH = 1 << 24
_SHOWN = 10


def verify_layout(
    plan: Plan,
    layout: Layout,
    contents: Contents,
    file: Path,
    job: Job,
    readback: Readback | None = None,
    jobs: int = 1,
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
        readback: Takes down what is read, leaf by leaf, if given; then one thread does it all.
        jobs: Threads that read and compare.

    Raises:
        OutputError: It differs; the leaves are named.
        InputError: A source was cut short meanwhile.
        CancelledError: Someone cancelled the job.
    """
    job.phase = "verifying"
    problems: list[str] = []
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
            comparing = _Comparing(contents, descriptor, file, job, readback)
            if readback is not None:
                readback.start(descriptor, file, len(layout.head))
                jobs = 1
            work = units(layout.pieces, contents, min(contents.share, _STRETCH))
            share(work, comparing.do, jobs)
            comparing.finish()
            problems += comparing.problems(layout)
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise OutputError(
            f"{file.name} does not match the alignment: {'; '.join(problems[:_SHOWN])}{more}.",
            "Convert again; if it happens again the disk or memory may be faulty.",
        )


def _record_problems(layout: Layout, descriptor: int, file: Path) -> list[str]:
    likely = ((piece.instruction.leaf.shape, piece.instruction.dtype) for piece in layout.pieces)
    records = list(iter_records(descriptor, 0, file, likely))
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


class _Comparing:
    """Compares units, called by any thread; with a readback by one thread, in the file's order.

    Attributes:
        differing: The leaves found to differ.
    """

    def __init__(
        self,
        contents: Contents,
        descriptor: int,
        file: Path,
        job: Job,
        readback: Readback | None,
    ) -> None:
        self.differing: set[str] = set()
        self._contents = contents
        self._descriptor = descriptor
        self._file = file
        self._job = job
        self._readback = readback
        self._leaf: LeafReadback | None = None
        self._compared: Counter[str] = Counter()
        self._lock = threading.Lock()

    def problems(self, layout: Layout) -> list[str]:
        """The leaves that differ, in the file's order; those not wholly compared among them."""
        paths = [(piece.instruction.leaf.path, piece.nbytes) for piece in layout.pieces]
        return [
            f"{path} differs from its source"
            for path, nbytes in paths
            if path in self.differing or self._compared[path] != nbytes
        ]

    def finish(self) -> None:
        """End the last leaf of the readback."""
        if self._leaf is not None:
            self._leaf.finish(self._job)
            self._leaf = None

    def do(self, unit: Unit) -> None:
        self._job.check()
        match unit:
            case Batch():
                self._batch(unit)
            case Head(piece):
                self._begin(piece)
                if self._read(piece.start, len(piece.head)).tobytes() != piece.head:
                    self.differing.add(piece.instruction.leaf.path)
            case Stretch():
                if unit.piece.instruction.leaf.path not in self.differing:
                    self._stretch(unit)
            case Tile():
                if unit.piece.instruction.leaf.path not in self.differing:
                    self._tile(unit)

    def _begin(self, piece: Piece) -> None:
        self._job.leaf = piece.instruction.leaf.path
        if self._readback is not None:
            self.finish()
            self._leaf = self._readback.leaf(piece)

    def _count(self, piece: Piece, nbytes: int) -> None:
        with self._lock:
            self._compared[piece.instruction.leaf.path] += nbytes
            self._job.verified += nbytes

    def _read(self, start: int, nbytes: int) -> NDArray[np.uint8]:
        found = np.empty(nbytes, np.uint8)
        pread_into(self._descriptor, found.data, start, self._file)
        return found

    def _batch(self, batch: Batch) -> None:
        def account(piece: Piece) -> tuple[CastLoss | None, Rounding | None]:
            return taken[piece.start] if taken else (None, None)

        taken: dict[int, tuple[CastLoss, Rounding]] = {}
        if self._readback is not None:
            taken = {piece.start: (CastLoss(), Rounding()) for piece in batch.pieces}
        expected = put_together(batch, self._contents, account)
        written = self._read(batch.start, batch.stop - batch.start)
        all_equal = np.array_equal(expected, written)
        for piece in batch.pieces:
            place = slice(piece.start - batch.start, piece.stop - batch.start)
            if not all_equal and not np.array_equal(expected[place], written[place]):
                self.differing.add(piece.instruction.leaf.path)
            if taken:
                self._begin(piece)
                assert self._leaf is not None
                self._leaf.loss, self._leaf.rounding = taken[piece.start]
                self._leaf.feed(written[place].data[len(piece.head) :], piece.data)
        self._job.leaf = batch.pieces[-1].instruction.leaf.path
        with self._lock:
            for piece in batch.pieces:
                self._compared[piece.instruction.leaf.path] += piece.nbytes
                self._job.verified += piece.nbytes

    def _stretch(self, stretch: Stretch) -> None:
        run = stretch.run
        source = run.tensors.descriptor(run.extent)
        ours, theirs = np.empty((2, min(_COMPARE, stretch.nbytes)), np.uint8)
        for done in range(0, stretch.nbytes, _COMPARE):
            self._job.check()
            count = min(_COMPARE, stretch.nbytes - done)
            position = stretch.start + done
            pread_into(self._descriptor, ours.data[:count], position, self._file)
            start = run.start + stretch.offset + done
            pread_into(source, theirs.data[:count], start, run.extent.file)
            if not np.array_equal(ours[:count], theirs[:count]):
                self.differing.add(stretch.piece.instruction.leaf.path)
                return
            if self._leaf is not None:
                self._leaf.feed(ours.data[:count], position)
            self._count(stretch.piece, count)

    def _tile(self, tile: Tile) -> None:
        piece, leaf = tile.piece, self._leaf
        loss, rounding = (leaf.loss, leaf.rounding) if leaf is not None else (None, None)
        array = tile.made.elements(tile.region, loss, rounding)
        expected = array.reshape(-1).view(np.uint8)
        buffer = np.empty(min(_COMPARE, expected.size), np.uint8)
        done = 0
        for low, high in flat_runs(tile.made.shape, tile.region):
            stop = done + (high - low) * array.itemsize
            position = piece.data + low * array.itemsize
            while done < stop:
                part = buffer[: stop - done]
                pread_into(self._descriptor, part.data, position, self._file)
                if not np.array_equal(part, expected[done : done + part.size]):
                    self.differing.add(piece.instruction.leaf.path)
                    return
                if leaf is not None:
                    leaf.feed(part.data, position)
                done, position = done + part.size, position + part.size
        self._count(piece, array.nbytes)
