"""Writing a laid-out plan: unchanged bytes inside the kernel, the rest region by region."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from s2p_tui.core.errors import InputError
from s2p_tui.core.transform import Shape
from s2p_tui.formats.base import Region
from s2p_tui.formats.tensors import pread_into
from s2p_tui.streaming.atomic import output_error
from s2p_tui.streaming.contents import CastLoss, Contents, Run
from s2p_tui.streaming.evaluate import flat_runs
from s2p_tui.streaming.job import Job
from s2p_tui.streaming.layout import Layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NO_KERNEL_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}
_WRITE_BACK = 1 << 24


def write_layout(
    layout: Layout, contents: Contents, descriptor: int, target: Path, job: Job
) -> dict[str, CastLoss]:
    """Write every leaf to an open file.

    Args:
        layout: Where the leaves go.
        contents: What they are.
        descriptor: The file, open for writing.
        target: Its name, for messages.
        job: Told of progress; asked whether to stop.

    Returns:
        The leaves whose numbers did not all survive a cast, by key path.

    Raises:
        OutputError: The disk is full, or another error of the output.
        InputError: A source was cut short or removed meanwhile.
        CancelledError: Someone cancelled the job.
    """
    losses: dict[str, CastLoss] = {}
    write_back = _WriteBack(descriptor)
    try:
        _pwrite(descriptor, memoryview(layout.head), 0)
        job.written += len(layout.head)
        for piece in layout.pieces:
            job.check()
            job.leaf = piece.instruction.leaf.path
            _pwrite(descriptor, memoryview(piece.head), piece.start)
            job.written += len(piece.head)
            runs = contents.runs(piece)
            if runs is not None:
                position = piece.data
                for run in runs:
                    _copy_run(run, descriptor, position, contents.chunk_bytes, job, write_back)
                    position += run.nbytes
                continue
            loss = CastLoss()
            for shape, region, array in contents.regions(piece, loss):
                job.check()
                if shape:
                    # Regions come in row-major order: nothing before these rows is left to write.
                    write_back.up_to(piece.data + region[0][0] * (piece.nbytes // shape[0]))
                _write_region(descriptor, piece.data, shape, region, array)
                job.written += array.nbytes
            if loss:
                losses[piece.instruction.leaf.path] = loss
    except OSError as error:
        raise output_error(error, target) from None
    return losses


class _WriteBack:
    """Has the kernel start on what is finished, so that little is left for fsync to wait for.

    The advice not to keep pages makes Linux write dirty ones out; it drops none of those.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._started = 0

    def up_to(self, position: int) -> None:
        size = position - self._started
        if size >= _WRITE_BACK:
            os.posix_fadvise(self._descriptor, self._started, size, os.POSIX_FADV_DONTNEED)
            self._started = position


def _pwrite(descriptor: int, buffer: memoryview, position: int) -> None:
    while buffer:
        count = os.pwrite(descriptor, buffer, position)
        buffer, position = buffer[count:], position + count


def _write_region(
    descriptor: int, start: int, shape: Shape, region: Region, array: NDArray[Any]
) -> None:
    itemsize = array.itemsize
    buffer = array.reshape(-1).view(np.uint8).data
    done = 0
    for low, high in flat_runs(shape, region):
        length = (high - low) * itemsize
        _pwrite(descriptor, buffer[done : done + length], start + low * itemsize)
        done += length


def _copy_run(
    run: Run, descriptor: int, position: int, chunk_bytes: int, job: Job, write_back: _WriteBack
) -> None:
    source = run.tensors.descriptor(run.extent)
    start, left = run.start, run.nbytes
    most = min(chunk_bytes, _WRITE_BACK)
    while left:
        job.check()
        try:
            count = os.copy_file_range(source, descriptor, min(left, most), start, position)
        except OSError as error:
            if error.errno not in _NO_KERNEL_COPY:
                raise
            count = _copy_through(run, descriptor, start, position, min(left, most))
        if count == 0:
            raise InputError(
                f"{run.extent.file} ends before byte {start + left:,}: it was cut short.",
                "Copy or download it again.",
            )
        start, position, left = start + count, position + count, left - count
        job.written += count
        write_back.up_to(position)


def _copy_through(run: Run, descriptor: int, start: int, position: int, size: int) -> int:
    """Copy where the kernel cannot, as between file systems."""
    buffer = memoryview(bytearray(min(size, 1 << 22)))
    pread_into(run.tensors.descriptor(run.extent), buffer, start, run.extent.file)
    _pwrite(descriptor, buffer, position)
    return len(buffer)
