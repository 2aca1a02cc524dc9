"""Reading a written file back and comparing every leaf with its source, bit by bit.

A `Readback` takes down what was read, for the certificate.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from msgspec import Struct

from s2p_tui.alignment.dtypes import numpy_dtype
from s2p_tui.alignment.task import Job
from s2p_tui.alignment.transform import Shape
from s2p_tui.conversion.contents import CastLoss, Contents, OutputRecord, RecordTable, Rounding
from s2p_tui.conversion.evaluate import flat_runs
from s2p_tui.conversion.plan import Instruction, Plan
from s2p_tui.conversion.units import (
    Batch,
    Following,
    Head,
    Lot,
    Stretch,
    Sums,
    Tile,
    Unit,
    call,
    digest_of,
    fetched,
    key_of,
    lots,
    put_together,
    share,
)
from s2p_tui.errors import OutputError, some
from s2p_tui.formats.npy import Record, iter_records
from s2p_tui.formats.safetensors import open_safetensors
from s2p_tui.formats.tensors import pread_into

if TYPE_CHECKING:
    from numpy.typing import NDArray


_READ = 1 << 20


class Digest(Protocol):
    """The interface of `hashlib` objects."""

    def update(self, data: memoryview, /) -> None:
        """Add bytes."""
        ...

    def hexdigest(self) -> str:
        """The digest of all bytes so far."""
        ...


class ReadLeaf(Struct, frozen=True):
    """One leaf as it was read back.

    Attributes:
        instruction: Its source.
        start: Byte at which its record starts.
        nbytes: Bytes of its record, the header of a `.npy` record included.
        sha256: Of these bytes.
        largest_difference: Of its numbers from those of its source after the transform.
        loss: Losses of its cast.
    """

    instruction: Instruction
    start: int
    nbytes: int
    sha256: str
    largest_difference: float
    loss: CastLoss


class Readback:
    """Takes down a file in the order in which verification compares it.

    Bytes compared in the file's order are digested as they come by; those of a leaf that is
    compared in tiles are read once more, still in the page cache as a rule.

    Attributes:
        leaves: The leaves compared so far.
        whole: Digest of the bytes up to the end of the last of them.
    """

    def __init__(self) -> None:
        self.leaves: list[ReadLeaf] = []
        self._head = 0
        self.whole: Digest = hashlib.sha256()

    @property
    def size(self) -> int:
        """Bytes up to the end of the last leaf compared."""
        return self.leaves[-1].start + self.leaves[-1].nbytes if self.leaves else self._head

    @property
    def sha256(self) -> str:
        """Of these bytes."""
        return self.whole.hexdigest()

    def start(self, descriptor: int, file: Path, head: int) -> None:
        """Begin with an open file, of which so many bytes precede the first leaf."""
        self._descriptor, self._file, self._head = descriptor, file, head
        self.digest(0, head, (self.whole,), None)

    def leaf(self, record: OutputRecord) -> LeafReadback:
        """Begin with the next leaf."""
        return LeafReadback(self, record)

    def digest(self, start: int, stop: int, digests: tuple[Digest, ...], job: Job | None) -> None:
        """Read bytes of the file into digests."""
        buffer = memoryview(bytearray(min(stop - start, _READ)))
        while start < stop:
            if job is not None:
                job.check()
            part = buffer[: stop - start]
            pread_into(self._descriptor, part, start, self._file)
            for digest in digests:
                digest.update(part)
            start += len(part)


class LeafReadback:
    """Takes down one leaf.

    Attributes:
        loss: To be filled with what a cast lost.
        rounding: To be filled with how far a cast moved the numbers.
    """

    def __init__(self, readback: Readback, record: OutputRecord) -> None:
        self.loss = CastLoss()
        self.rounding = Rounding()
        self._readback = readback
        self._piece = record
        self._digest = hashlib.sha256()
        self._both = (self._digest, readback.whole)
        self._done = record.start
        self._catch_up(record.data, None)

    def feed(self, part: memoryview, position: int) -> None:
        """Take down bytes that were compared; those out of the file's order wait for `finish`."""
        if position == self._done:
            for digest in self._both:
                digest.update(part)
            self._done += len(part)

    def finish(self, job: Job) -> None:
        """End the leaf."""
        record = self._piece
        self._catch_up(record.stop, job)
        self._readback.leaves.append(
            ReadLeaf(
                record.instruction,
                record.start,
                record.stop - record.start,
                self._digest.hexdigest(),
                self.rounding.largest,
                self.loss,
            )
        )

    def _catch_up(self, stop: int, job: Job | None) -> None:
        self._readback.digest(self._done, stop, self._both, job)
        self._done = stop


_COMPARE = 1 << 18
_STRETCH = 1 << 24


class Begun(Struct, frozen=True):
    """A comparison under way.

    Attributes:
        following: What is left of it.
        problems: Ends it; gives the leaves that differ, in the file's order.
    """

    following: Following
    problems: Callable[[], list[str]]


def begin_comparing(
    table: RecordTable,
    contents: Contents,
    descriptor: int,
    file: Path,
    job: Job,
    sums: Sums | None = None,
) -> Begun:
    """Begin to compare a file that is still being written; see `verify_records`."""
    comparing = _Comparing(contents, descriptor, file, job, None, sums)
    return _begun([table.records], comparing, contents)


def _begun(
    runs: Sequence[Sequence[OutputRecord]], comparing: _Comparing, contents: Contents
) -> Begun:
    stretch = min(contents.share, _STRETCH)
    work = chain.from_iterable(lots(run, contents, stretch) for run in runs)
    return Begun(
        Following(work, comparing.do),
        lambda: comparing.problems(chain.from_iterable(runs)),
    )


def verify_records(
    plan: Plan,
    table: RecordTable,
    contents: Contents,
    file: Path,
    job: Job,
    readback: Readback | None = None,
    jobs: int = 1,
    sums: Sums | None = None,
    proven: Container[str] = frozenset(),
    begun: Begun | None = None,
) -> None:
    """Compare a file with its plan, leaf by leaf.

    Reads the whole file and the whole source, or digests of what was made of it. Checks that the
    records are exactly those of the leaves, in order, with nothing behind the last, and that every
    element is equal bit by bit to the source's after the row's transform and cast.

    Args:
        plan: The expected contents of the file.
        table: The byte ranges of its leaves.
        contents: Gives it.
        file: The file.
        job: Progress and cancellation.
        readback: Takes down what is read, leaf by leaf, if given; then one thread does it all.
        jobs: Threads that read and compare.
        sums: Digests of what was made of the source, to compare with in its place.
        proven: Leaves known to be right, which are compared for the readback alone.
        begun: The comparison that was begun while the file was written; without a readback.

    Raises:
        OutputError: It differs; the leaves are named.
        InputError: A source became shorter during the conversion.
        CancelledError: Someone cancelled the job.
    """
    job.phase = "verifying"
    problems: list[str] = []
    with file.open("rb") as stream:
        descriptor = stream.fileno()
        size = os.fstat(descriptor).st_size
        if size != table.size:
            problems.append(f"it has {size:,} bytes, {table.size:,} were expected")
        elif plan.format == "eqx":
            problems += _record_problems(table, descriptor, file)
        elif plan.format == "safetensors":
            problems += _header_problems(table, file)
        if not problems:
            if readback is not None:
                readback.start(descriptor, file, len(table.head))
                jobs = 1
                proven = frozenset[str]()
            if begun is None:
                comparing = _Comparing(contents, descriptor, file, job, readback, sums)
                begun = _begun(_runs_of(table.records, proven), comparing, contents)
            share(begun.following.rest(), call, jobs)
            problems += begun.problems()
    if problems:
        raise OutputError(
            f"{file.name} does not match the alignment: {some(problems, '; ', 10)}.",
            "Convert again; if it happens again the disk or memory may be faulty.",
        )


def _record_problems(table: RecordTable, descriptor: int, file: Path) -> list[str]:
    likely = ((record.instruction.leaf.shape, record.instruction.dtype) for record in table.records)
    there = list(iter_records(descriptor, 0, file, likely))
    problems: list[str] = []
    for record, found in zip_longest(table.records, there):
        if record is None or found is None:
            problems.append(f"{len(table.records)} leaves, but {len(there)} records")
            break
        if not _describes(found, record):
            problems.append(f"the record of {record.instruction.leaf.path} is of another kind")
    return problems


def _describes(found: Record, record: OutputRecord) -> bool:
    instruction = record.instruction
    descr = numpy_dtype(instruction.dtype).str
    return (
        found.shape == instruction.leaf.shape
        and found.descr == descr
        and found.fortran_order == record.column_major
        and found.data == record.data
        and found.stop == record.stop
    )


def _runs_of(records: Sequence[OutputRecord], proven: Container[str]) -> list[list[OutputRecord]]:
    """Return the records that are not proven, neighbours in one list each."""
    runs: list[list[OutputRecord]] = [[]]
    for record in records:
        if record.instruction.leaf.path not in proven:
            runs[-1].append(record)
        elif runs[-1]:
            runs.append([])
    return runs


def _header_problems(table: RecordTable, file: Path) -> list[str]:
    written = open_safetensors(file)
    expected = {
        record.instruction.leaf.path: (
            record.instruction.leaf.shape,
            record.instruction.dtype,
            record.data,
        )
        for record in table.records
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
    """Compares lots, called by any thread; with a readback by one thread, in the file's order.

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
        sums: Sums | None,
    ) -> None:
        self._sums = sums
        self.differing: set[str] = set()
        self._contents = contents
        self._descriptor = descriptor
        self._file = file
        self._job = job
        self._readback = readback
        self._leaf: LeafReadback | None = None
        self._compared: Counter[str] = Counter()
        self._lock = threading.Lock()

    def problems(self, records: Iterable[OutputRecord]) -> list[str]:
        """The leaves that differ, in the file's order; those not wholly compared among them."""
        self.finish()
        paths = [(record.instruction.leaf.path, record.nbytes) for record in records]
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

    def do(self, lot: Lot) -> None:
        """Compare a lot."""
        for unit in lot.units:
            self._job.check()
            self._unit(unit)

    def _unit(self, unit: Unit) -> None:
        match unit:
            case Batch():
                self._batch(unit)
            case Head(record):
                self._begin(record)
                if self._read(record.start, len(record.head)).tobytes() != record.head:
                    self.differing.add(record.instruction.leaf.path)
            case Stretch():
                if unit.record.instruction.leaf.path not in self.differing:
                    self._stretch(unit)
            case Tile():
                if unit.record.instruction.leaf.path not in self.differing:
                    self._tile(unit)

    def _begin(self, record: OutputRecord) -> None:
        self._job.leaf = record.instruction.leaf.path
        if self._readback is not None:
            self.finish()
            self._leaf = self._readback.leaf(record)
            if self._sums is not None:
                self._leaf.loss, self._leaf.rounding = self._sums.of(record)

    def _count(self, record: OutputRecord, nbytes: int) -> None:
        with self._lock:
            self._compared[record.instruction.leaf.path] += nbytes
            self._job.verified += nbytes

    def _read(self, start: int, nbytes: int) -> NDArray[np.uint8]:
        found = np.empty(nbytes, np.uint8)
        pread_into(self._descriptor, found.data, start, self._file)
        return found

    def _digested(self, batch: Batch, sums: Sums) -> None:
        written = self._read(batch.start, batch.stop - batch.start)
        for record in batch.records:
            place = slice(record.start - batch.start, record.stop - batch.start)
            if digest_of(written[place].data) != sums.digests[record.start]:
                self.differing.add(record.instruction.leaf.path)
            if self._readback is not None:
                self._begin(record)
                assert self._leaf is not None
                self._leaf.feed(written[place].data[len(record.head) :], record.data)
            self._count(record, record.nbytes)

    def _batch(self, batch: Batch) -> None:
        if self._sums is not None:
            self._digested(batch, self._sums)
            return

        def account(record: OutputRecord) -> tuple[CastLoss | None, Rounding | None]:
            return taken[record.start] if taken else (None, None)

        taken: dict[int, tuple[CastLoss, Rounding]] = {}
        if self._readback is not None:
            taken = {record.start: (CastLoss(), Rounding()) for record in batch.records}
        expected = put_together(batch, self._contents, account)
        written = self._read(batch.start, batch.stop - batch.start)
        all_equal = np.array_equal(expected, written)
        for record in batch.records:
            place = slice(record.start - batch.start, record.stop - batch.start)
            if not all_equal and not np.array_equal(expected[place], written[place]):
                self.differing.add(record.instruction.leaf.path)
            if taken:
                self._begin(record)
                assert self._leaf is not None
                self._leaf.loss, self._leaf.rounding = taken[record.start]
                self._leaf.feed(written[place].data[len(record.head) :], record.data)
        self._job.leaf = batch.records[-1].instruction.leaf.path
        with self._lock:
            for record in batch.records:
                self._compared[record.instruction.leaf.path] += record.nbytes
                self._job.verified += record.nbytes

    def _stretch(self, stretch: Stretch) -> None:
        run = stretch.run
        if self._sums is not None and run.tensors.is_remote:
            self._against(stretch, ((stretch.start, stretch.nbytes),), self._sums)
            return
        theirs_all = fetched(stretch) if run.tensors.is_remote else None
        ours, theirs = np.empty((2, min(_COMPARE, stretch.nbytes)), np.uint8)
        for done in range(0, stretch.nbytes, _COMPARE):
            self._job.check()
            count = min(_COMPARE, stretch.nbytes - done)
            position = stretch.start + done
            pread_into(self._descriptor, ours.data[:count], position, self._file)
            start = run.start + stretch.offset + done
            if theirs_all is not None:
                theirs.data[:count] = theirs_all[done : done + count]
            else:
                run.tensors.fill(run.extent, theirs.data[:count], start)
            if not np.array_equal(ours[:count], theirs[:count]):
                self.differing.add(stretch.record.instruction.leaf.path)
                return
            if self._leaf is not None:
                self._leaf.feed(ours.data[:count], position)
            self._count(stretch.record, count)

    def _against(self, unit: Stretch | Tile, places: Iterable[tuple[int, int]], sums: Sums) -> None:
        """Compare bytes of the file with the digest of what was made of a unit."""
        record, digest = unit.record, hashlib.sha256()
        buffer = np.empty(_COMPARE, np.uint8)
        total = 0
        for position, nbytes in places:
            for start in range(position, position + nbytes, _COMPARE):
                self._job.check()
                part = buffer[: min(_COMPARE, position + nbytes - start)].data
                pread_into(self._descriptor, part, start, self._file)
                digest.update(part)
                if self._leaf is not None:
                    self._leaf.feed(part, start)
            total += nbytes
        if digest.digest() != sums.digests[key_of(unit)]:
            self.differing.add(record.instruction.leaf.path)
            return
        self._count(record, total)

    def _tile(self, tile: Tile) -> None:
        record, leaf = tile.record, self._leaf
        if self._sums is not None:
            runs = flat_runs(tile.made.shape, tile.region)
            size = numpy_dtype(record.instruction.dtype).itemsize
            places = ((record.data + low * size, (high - low) * size) for low, high in runs)
            self._against(tile, places, self._sums)
            return
        loss, rounding = (leaf.loss, leaf.rounding) if leaf is not None else (None, None)
        array = tile.made.elements(tile.region, loss, rounding)
        expected = array.reshape(-1).view(np.uint8)
        buffer = np.empty(min(_COMPARE, expected.size), np.uint8)
        done = 0
        for low, high in flat_runs(tile.made.shape, tile.region):
            stop = done + (high - low) * array.itemsize
            position = record.data + low * array.itemsize
            while done < stop:
                part = buffer[: stop - done]
                pread_into(self._descriptor, part.data, position, self._file)
                if not np.array_equal(part, expected[done : done + part.size]):
                    self.differing.add(record.instruction.leaf.path)
                    return
                if leaf is not None:
                    leaf.feed(part.data, position)
                done, position = done + part.size, position + part.size
        self._count(record, array.nbytes)
