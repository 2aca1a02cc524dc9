"""Writing a laid-out plan: unchanged bytes inside the kernel, the rest region by region."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from s2p_tui.alignment.task import Job
from s2p_tui.alignment.transform import Shape
from s2p_tui.conversion.contents import CastLoss, Contents, OutputRecord, RecordTable, Rounding, Run
from s2p_tui.conversion.evaluate import flat_runs
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
from s2p_tui.errors import InputError
from s2p_tui.formats.atomic import output_error
from s2p_tui.formats.base import Region

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NO_KERNEL_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}
_WRITE_BACK = 1 << 24


def write_records(
    table: RecordTable,
    contents: Contents,
    descriptor: int,
    target: Path,
    job: Job,
    jobs: int = 1,
    sums: Sums | None = None,
    following: Following | None = None,
) -> dict[str, CastLoss]:
    """Write every leaf to an open file.

    Args:
        table: Byte ranges of the leaves.
        contents: Their values.
        descriptor: The file, open for writing.
        target: Its name, for messages.
        job: Progress and cancellation.
        jobs: Threads that read and compute; one at a time writes.
        sums: Takes down digests of what is written, if given.
        following: Compares some of what is written, by threads that would wait for their turn.

    Returns:
        The leaves whose numbers did not all survive a cast, by key path.

    Raises:
        OutputError: The disk is full, or another error of the output.
        InputError: A source became shorter or was removed during the conversion.
        CancelledError: Someone cancelled the job.
    """
    write_back = _WriteBack(descriptor)
    writing = _Writing(contents, descriptor, job, write_back, sums)
    try:
        writing.head(table)
        work = lots(table.records, contents, min(contents.share, _WRITE_BACK))
        share(writing.turns(work, following), call, jobs)
    except OSError as error:
        raise output_error(error, target) from None
    finally:
        write_back.stop()
    return writing.losses_in_order(table)


class _Writing:
    """Writes units, called by any thread.

    Writes to one file wait for one another in the kernel, spinning; here they wait asleep.
    """

    def __init__(
        self,
        contents: Contents,
        descriptor: int,
        job: Job,
        write_back: _WriteBack,
        sums: Sums | None,
    ) -> None:
        self._contents = contents
        self._descriptor = descriptor
        self._job = job
        self._write_back = write_back
        self._sums = sums
        self._lock = threading.RLock()
        self._losses: dict[str, CastLoss] = {}

    def head(self, table: RecordTable) -> None:
        _pwrite(self._descriptor, memoryview(table.head), 0)
        self._job.written += len(table.head)

    def losses_in_order(self, table: RecordTable) -> dict[str, CastLoss]:
        paths = (record.instruction.leaf.path for record in table.records)
        return {path: self._losses[path] for path in paths if path in self._losses}

    def turns(
        self, work: Iterable[Lot], following: Following | None
    ) -> Iterator[Callable[[], None]]:
        """Yield what is to be done next: a lot written, or compared while another is written."""
        for lot in chain(work, (None,)):
            while following is not None:
                position = self._write_back.first_in_hand
                do = None if position is None else following.before(position)
                if do is None:
                    break
                yield do
            if lot is not None:
                self._write_back.begin(lot)
                yield partial(self._lot, lot)

    def _lot(self, lot: Lot) -> None:
        with self._lock if lot.is_copied else contextlib.nullcontext():
            for unit in lot.units:
                self._job.check()
                self._unit(unit)
        with self._lock:
            self._write_back.end(lot)

    def _unit(self, unit: Unit) -> None:
        match unit:
            case Batch():
                self._batch(unit)
            case Head(record):
                self._job.leaf = record.instruction.leaf.path
                with self._lock:
                    self._put(memoryview(record.head), record.start)
            case Stretch(run=run) if run.tensors.is_remote:
                self._far_stretch(unit)
            case Stretch():
                with self._lock:
                    self._stretch(unit)
            case Tile():
                self._tile(unit)

    def _batch(self, batch: Batch) -> None:
        losses: list[tuple[OutputRecord, CastLoss]] = []

        def account(record: OutputRecord) -> tuple[CastLoss, Rounding | None]:
            rounding = self._rounding()
            losses.append((record, CastLoss()))
            if self._sums is not None and rounding is not None:
                self._sums.measured[record.start] = losses[-1][1], rounding
            return losses[-1][1], rounding

        whole = put_together(batch, self._contents, account)
        self._job.check()
        if self._sums is not None:
            for record in batch.records:
                place = slice(record.start - batch.start, record.stop - batch.start)
                self._sums.digests[record.start] = digest_of(whole[place].data)
        self._job.leaf = batch.records[-1].instruction.leaf.path
        with self._lock:
            self._put(whole.data, batch.start)
            for record, loss in losses:
                self._note(record, loss)

    def _rounding(self) -> Rounding | None:
        return Rounding() if self._sums is not None and self._sums.measures else None

    def _far_stretch(self, stretch: Stretch) -> None:
        data = fetched(stretch)
        self._job.check()
        if self._sums is not None:
            self._sums.digests[key_of(stretch)] = digest_of(data)
        with self._lock:
            self._put(data, stretch.start)

    def _tile(self, tile: Tile) -> None:
        loss, rounding = CastLoss(), self._rounding()
        array = tile.made.elements(tile.region, loss, rounding)
        self._job.check()
        if self._sums is not None:
            self._sums.digests[key_of(tile)] = digest_of(array.reshape(-1).view(np.uint8).data)
        with self._lock:
            if self._sums is not None and rounding is not None:
                all_losses, largest = self._sums.of(tile.record)
                all_losses.add(loss)
                largest.largest = max(largest.largest, rounding.largest)
            _write_region(self._descriptor, tile.record, tile.made.shape, tile.region, array)
            self._job.written += array.nbytes
            self._note(tile.record, loss)

    def _stretch(self, stretch: Stretch) -> None:
        run, descriptor = stretch.run, self._descriptor
        source = run.tensors.descriptor(run.extent)
        assert source is not None
        start, position, left = run.start + stretch.offset, stretch.start, stretch.nbytes
        while left:
            self._job.check()
            try:
                count = os.copy_file_range(source, descriptor, left, start, position)
            except OSError as error:
                if error.errno not in _NO_KERNEL_COPY:
                    raise
                count = _copy_through(run, descriptor, start, position, left)
            if count == 0:
                raise InputError(
                    f"{run.extent.file} ends before byte {start + left:,}: it was cut short.",
                    "Copy or download it again.",
                )
            start, position, left = start + count, position + count, left - count
            self._job.written += count

    def _put(self, buffer: memoryview, position: int) -> None:
        _pwrite(self._descriptor, buffer, position)
        self._job.written += len(buffer)

    def _note(self, record: OutputRecord, loss: CastLoss) -> None:
        if loss:
            total = self._losses.setdefault(record.instruction.leaf.path, CastLoss())
            total.add(loss)


class _WriteBack:
    """Has the kernel start on what is finished, so that little is left for fsync to wait for.

    The advice not to keep pages makes Linux write dirty ones out; it drops none of those. It waits
    where the disk has enough to do, so that a thread of its own gives it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._started = 0
        self._in_hand: dict[int, Lot] = {}
        self._lock = threading.Lock()
        self._finished: SimpleQueue[tuple[int, int] | None] = SimpleQueue()
        self._is_over = False
        self._thread: threading.Thread | None = None

    @property
    def first_in_hand(self) -> int | None:
        """Byte before which those in hand, and all behind them, write nothing; None without any."""
        with self._lock:
            return min((lot.span[0] for lot in self._in_hand.values()), default=None)

    def begin(self, lot: Lot) -> None:
        with self._lock:
            self._in_hand[id(lot)] = lot

    def end(self, lot: Lot) -> None:
        with self._lock:
            del self._in_hand[id(lot)]
            # Lots come in the output's order: all before the earliest one in progress is written.
            position = min((one.start for one in self._in_hand.values()), default=lot.start)
        size = position - self._started
        if size >= _WRITE_BACK:
            if self._started == 0:
                self._start()
            self._finished.put((self._started, size))
            self._started = position

    def stop(self) -> None:
        """End the thread; fsync does what it has not come to."""
        self._is_over = True
        self._finished.put(None)
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> None:
        # Where the system allows no more threads, all is left to fsync.
        with contextlib.suppress(RuntimeError):
            thread = threading.Thread(target=self._advise, name="write-back")
            thread.start()
            self._thread = thread

    def _advise(self) -> None:
        # Advice is refused by some network file systems; it is no more than advice.
        with contextlib.suppress(OSError):
            while (finished := self._finished.get()) is not None and not self._is_over:
                os.posix_fadvise(self._descriptor, *finished, os.POSIX_FADV_DONTNEED)


def _pwrite(descriptor: int, buffer: memoryview, position: int) -> None:
    while buffer:
        count = os.pwrite(descriptor, buffer, position)
        buffer, position = buffer[count:], position + count


def _write_region(
    descriptor: int, record: OutputRecord, shape: Shape, region: Region, array: NDArray[Any]
) -> None:
    itemsize = array.itemsize
    buffer = array.reshape(-1).view(np.uint8).data
    done = 0
    for low, high in flat_runs(shape, region):
        length = (high - low) * itemsize
        position = record.data + low * itemsize
        # Leaves before this one may have been compared already.
        if position < record.data or position + length > record.stop:
            raise IndexError(f"{record.instruction.leaf.path} would be written beside its place")
        _pwrite(descriptor, buffer[done : done + length], position)
        done += length


def _copy_through(run: Run, descriptor: int, start: int, position: int, size: int) -> int:
    """Copy where the kernel cannot, as between file systems."""
    buffer = memoryview(bytearray(min(size, 1 << 22)))
    run.tensors.fill(run.extent, buffer, start)
    _pwrite(descriptor, buffer, position)
    return len(buffer)
