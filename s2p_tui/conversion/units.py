"""An output cut into units of work, done in any order by a few threads, which end before `share`.

Writing and verification go through the same units: what one writes, the other compares. NumPy's
copies and casts and the calls that read and write files release the interpreter's lock, so that
threads are enough to keep several cores busy.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from msgspec import Struct, field

from s2p_tui.conversion.contents import CastLoss, Contents, Made, OutputRecord, Rounding, Run
from s2p_tui.formats.base import ByteRange, Region
from s2p_tui.formats.remote.file import AT_ONCE

if TYPE_CHECKING:
    from numpy.typing import NDArray


_SMALL = 1 << 16
_BATCH = 1 << 20
_BATCHES_PER_CHUNK = 4


class Batch(Struct, frozen=True):
    """Neighbouring small leaves, put together in memory, heads included."""

    records: tuple[OutputRecord, ...]

    @property
    def start(self) -> int:
        """Byte of the output at which it starts."""
        return self.records[0].start

    @property
    def stop(self) -> int:
        """Byte behind its last."""
        return self.records[-1].stop

    @property
    def span(self) -> tuple[int, int]:
        """Bytes of the output outside which it writes nothing."""
        return self.start, self.stop


class Head(Struct, frozen=True):
    """The head of a leaf that is not part of a batch; stretches or tiles follow."""

    record: OutputRecord

    @property
    def start(self) -> int:
        """Byte of the output at which it starts."""
        return self.record.start

    @property
    def span(self) -> tuple[int, int]:
        """Bytes of the output outside which it writes nothing."""
        return self.record.start, self.record.data


class Stretch(Struct, frozen=True):
    """Bytes of one run of a leaf that go to the output unchanged.

    Attributes:
        record: The leaf.
        run: Their source.
        offset: Byte of the run at which they start.
        start: Byte of the output at which they go.
        nbytes: Their number.
    """

    record: OutputRecord
    run: Run
    offset: int
    start: int
    nbytes: int

    @property
    def span(self) -> tuple[int, int]:
        """Bytes of the output outside which it writes nothing."""
        return self.start, self.start + self.nbytes


class Tile(Struct, frozen=True):
    """A region of a leaf that is computed."""

    record: OutputRecord
    made: Made
    region: Region

    @property
    def start(self) -> int:
        """Byte of the output before which it, and all tiles behind it, have nothing to write."""
        if not self.region:
            return self.record.data
        row = self.record.nbytes // self.made.shape[0]
        return self.record.data + self.region[0][0] * row

    @property
    def span(self) -> tuple[int, int]:
        """Bytes of the output outside which it writes nothing: those of all tiles of its leaf."""
        return self.record.data, self.record.stop


Unit = Batch | Head | Stretch | Tile


class Lot(Struct, frozen=True):
    """Neighbouring units that one thread does one after another."""

    units: tuple[Unit, ...]

    @property
    def start(self) -> int:
        """Byte of the output before which it, and all behind it, have nothing to write."""
        return self.units[0].start

    @property
    def span(self) -> tuple[int, int]:
        """Bytes of the output outside which it writes nothing."""
        return self.units[0].span[0], self.units[-1].span[1]

    @property
    def is_copied(self) -> bool:
        """True if nothing of it is computed, or fetched from another machine."""
        return all(
            isinstance(unit, Head) or (isinstance(unit, Stretch) and not unit.run.tensors.is_remote)
            for unit in self.units
        )


# Threads that take turns at the lot wake each other 2,000 times for 1 GB in 1,000 leaves if each
# head and each leaf is one; that takes 0.3 s.
_LOT = 1 << 22


def lots(records: Iterable[OutputRecord], contents: Contents, stretch: int) -> Iterator[Lot]:
    """All units of the records in the output's order: those copied in lots, the others alone.

    Args:
        records: Neighbours in the output.
        contents: Their values.
        stretch: Bytes of a stretch at the most.
    """
    waiting: list[Unit] = []
    size = 0
    for unit in _units(records, contents, stretch):
        alone = Lot((unit,))
        if not alone.is_copied:
            if waiting:
                yield Lot(tuple(waiting))
            waiting, size = [], 0
            yield alone
            continue
        waiting.append(unit)
        size += unit.span[1] - unit.span[0]
        if size >= _LOT:
            yield Lot(tuple(waiting))
            waiting, size = [], 0
    if waiting:
        yield Lot(tuple(waiting))


def _units(records: Iterable[OutputRecord], contents: Contents, stretch: int) -> Iterator[Unit]:
    most = min(_BATCH, contents.share // _BATCHES_PER_CHUNK)
    waiting: list[OutputRecord] = []
    size = 0
    for record in records:
        length = record.stop - record.start
        if waiting and (size + length > most or record.nbytes > _SMALL):
            yield Batch(tuple(waiting))
            waiting, size = [], 0
        if length <= most and record.nbytes <= _SMALL:
            waiting.append(record)
            size += length
        else:
            yield from _parts(record, contents, stretch)
    if waiting:
        yield Batch(tuple(waiting))


def _parts(record: OutputRecord, contents: Contents, stretch: int) -> Iterator[Unit]:
    yield Head(record)
    runs = contents.runs(record)
    if runs is None:
        made = contents.made(record)
        yield from (Tile(record, made, region) for region in made.regions())
        return
    position = record.data
    for run in runs:
        for offset in range(0, run.nbytes, stretch):
            count = min(stretch, run.nbytes - offset)
            yield Stretch(record, run, offset, position + offset, count)
        position += run.nbytes


class Following:
    """Lots compared behind the writing of others, each once nothing is written there any more.

    Args:
        work: The lots that are written, made anew, in the same order.
        do: Compares one.
    """

    def __init__(self, work: Iterator[Lot], do: Callable[[Lot], None]) -> None:
        self._work = work
        self._do = do
        self._next = next(work, None)

    def before(self, position: int) -> Callable[[], None] | None:
        """Return the comparison of the next lot if it lies before a byte of the output."""
        lot = self._next
        if lot is None or lot.span[1] > position:
            return None
        self._next = next(self._work, None)
        return partial(self._do, lot)

    def rest(self) -> Iterator[Callable[[], None]]:
        """Yield the comparisons of the lots that are left."""
        while (do := self.before(sys.maxsize)) is not None:
            yield do


Account = Callable[[OutputRecord], tuple[CastLoss | None, Rounding | None]]
"""Results to record about a leaf while it is computed."""
_WORTH_SKIPPING = 1 << 12
_MOST_PARTS = 512


def put_together(batch: Batch, contents: Contents, account: Account) -> NDArray[np.uint8]:
    """The bytes of a batch: each leaf's head and elements.

    Raises:
        AlignmentError: A whole number does not fit the target's dtype.
        InputError: The source became shorter during the conversion.
    """
    whole = np.empty(batch.stop - batch.start, np.uint8)
    view = whole.data
    gathering = _Gathering()
    with contents.held(batch.records):
        for record in batch.records:
            position = record.start - batch.start
            view[position : position + len(record.head)] = record.head
            position += len(record.head)
            runs = contents.runs(record)
            if runs is not None:
                for run in runs:
                    gathering.add(run, view[position : position + run.nbytes])
                    position += run.nbytes
                continue
            loss, rounding = account(record)
            made = contents.made(record)
            everything = tuple((0, size) for size in made.shape)
            array = made.elements(everything, loss, rounding)
            view[position : position + record.nbytes] = array.reshape(-1).view(np.uint8).data
        gathering.finish()
    return whole


def fetched(stretch: Stretch) -> memoryview:
    """The bytes of a stretch, as one request where its file is on another machine."""
    run, buffer = stretch.run, memoryview(bytearray(stretch.nbytes))
    start = run.start + stretch.offset
    with run.tensors.held(lambda: [ByteRange(run.extent, start, stretch.nbytes)]):
        run.tensors.fill(run.extent, buffer, start)
    return buffer


class Sums(Struct):
    """Digests of what was made of each unit: they stand in for a source that is not read twice.

    Attributes:
        measures: True if it is to be measured how far casts moved the numbers.
        digests: By unit; of a batch, by leaf.
        measured: What casts lost and how far they moved numbers, by the start of the leaf's record.
    """

    measures: bool = False
    digests: dict[object, bytes] = field(default_factory=dict[object, bytes])
    measured: dict[int, tuple[CastLoss, Rounding]] = field(
        default_factory=dict[int, tuple[CastLoss, Rounding]]
    )

    def of(self, record: OutputRecord) -> tuple[CastLoss, Rounding]:
        """The measurements of a leaf so far."""
        return self.measured.setdefault(record.start, (CastLoss(), Rounding()))


def key_of(unit: Stretch | Tile) -> object:
    """Return what tells a unit from all others."""
    if isinstance(unit, Stretch):
        return unit.start
    return unit.record.start, unit.region


def digest_of(data: memoryview) -> bytes:
    """Return the digest of some bytes."""
    return hashlib.sha256(data).digest()


class _Gathering:
    """Reads runs that follow one another closely in a file with one call."""

    def __init__(self) -> None:
        self._descriptor = -1
        self._run: Run | None = None
        self._start = self._stop = 0
        self._parts: list[memoryview] = []
        self._skipped = memoryview(bytearray(_WORTH_SKIPPING))

    def add(self, run: Run, into: memoryview) -> None:
        descriptor = run.tensors.descriptor(run.extent)
        if descriptor is None:
            run.tensors.fill(run.extent, into, run.start)
            return
        gap = run.start - self._stop
        joins = descriptor == self._descriptor and 0 <= gap < _WORTH_SKIPPING
        if not joins or len(self._parts) > _MOST_PARTS:
            self.finish()
            self._descriptor, self._run = descriptor, run
            self._start = run.start
        elif gap:
            self._parts.append(self._skipped[:gap])
        self._parts.append(into)
        self._stop = run.start + run.nbytes

    def finish(self) -> None:
        parts, self._parts = self._parts, []
        run = self._run
        if not parts or run is None:
            return
        done = os.preadv(self._descriptor, parts, self._start)
        position = self._start
        for part in parts:
            # As a rule all is there already.
            have = min(len(part), max(0, self._start + done - position))
            if have < len(part):
                run.tensors.fill(run.extent, part[have:], position + have)
            position += len(part)


T = TypeVar("T")
_MOST_BY_DEFAULT = 2


def usual_jobs(is_remote: bool = False) -> int:
    """Return the default number of threads: two, or one on a single core.

    More where each of them waits for another machine.
    """
    return AT_ONCE if is_remote else min(_MOST_BY_DEFAULT, len(os.sched_getaffinity(0)))


def share(work: Iterable[T], do: Callable[[T], None], jobs: int) -> None:
    """Do every record of work, begun in order, at most `jobs` at a time.

    After a failure nothing new is begun. When this returns or raises, no thread is left.

    Args:
        work: Taken one by one, by one thread at a time.
        do: Called in any of the threads.
        jobs: Threads, the calling one among them.

    Raises:
        BaseException: The error of the earliest record of work that failed.
    """
    if jobs == 1:
        for item in work:
            do(item)
        return
    shared = _Shared(work, do)
    threads: list[threading.Thread] = []
    # Where the system allows no more threads, those there are do it all.
    with contextlib.suppress(RuntimeError):
        for number in range(1, jobs):
            # What ends this thread's waits ends those of the others too.
            run = partial(copy_context().run, shared.run)
            thread = threading.Thread(target=run, name=f"conversion-{number}")
            thread.start()
            threads.append(thread)
    shared.run()
    for thread in threads:
        shared.outlast(thread)
    shared.raise_earliest()


def call(do: Callable[[], None]) -> None:
    """Do a record of work that is a call."""
    do()


class _Shared(Generic[T]):
    def __init__(self, work: Iterable[T], do: Callable[[T], None]) -> None:
        self._work = iter(work)
        self._do = do
        self._taking = threading.Lock()
        self._taken = 0
        self._failures: list[tuple[int, BaseException]] = []

    def run(self) -> None:
        number = -1
        try:
            while not self._failures:
                with self._taking:
                    self._taken += 1
                    number = self._taken
                    try:
                        item = next(self._work)
                    except StopIteration:
                        return
                self._do(item)
                del item
        except BaseException as error:
            self._failures.append((number, error))

    def outlast(self, thread: threading.Thread) -> None:
        while thread.is_alive():
            try:
                thread.join()
            except BaseException as error:
                self._failures.append((-1, error))

    def raise_earliest(self) -> None:
        if self._failures:
            raise min(self._failures, key=lambda failure: failure[0])[1]
