"""Many small leaves read with few calls, and put together as they lie in the output."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from s2p_tui.formats.tensors import pread_into
from s2p_tui.streaming.contents import CastLoss, Contents, Rounding, Run
from s2p_tui.streaming.layout import Piece
from s2p_tui.streaming.units import Batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

Account = Callable[[Piece], tuple[CastLoss | None, Rounding | None]]
"""What to take down of a leaf while it is computed."""
_WORTH_SKIPPING = 1 << 12
_MOST_PARTS = 512


def put_together(batch: Batch, contents: Contents, account: Account) -> NDArray[np.uint8]:
    """The bytes of a batch: each leaf's head and elements.

    Raises:
        AlignmentError: A whole number does not fit the target's dtype.
        InputError: The source was cut short meanwhile.
    """
    whole = np.empty(batch.stop - batch.start, np.uint8)
    view = whole.data
    gathering = _Gathering()
    for piece in batch.pieces:
        position = piece.start - batch.start
        view[position : position + len(piece.head)] = piece.head
        position += len(piece.head)
        runs = contents.runs(piece)
        if runs is not None:
            for run in runs:
                gathering.add(run, view[position : position + run.nbytes])
                position += run.nbytes
            continue
        loss, rounding = account(piece)
        made = contents.made(piece)
        everything = tuple((0, size) for size in made.shape)
        array = made.elements(everything, loss, rounding)
        view[position : position + piece.nbytes] = array.reshape(-1).view(np.uint8).data
    gathering.finish()
    return whole


class _Gathering:
    """Reads runs that follow one another closely in a file with one call."""

    def __init__(self) -> None:
        self._descriptor = -1
        self._file = Path()
        self._start = self._stop = 0
        self._parts: list[memoryview] = []
        self._skipped = memoryview(bytearray(_WORTH_SKIPPING))

    def add(self, run: Run, into: memoryview) -> None:
        descriptor = run.tensors.descriptor(run.extent)
        gap = run.start - self._stop
        joins = descriptor == self._descriptor and 0 <= gap < _WORTH_SKIPPING
        if not joins or len(self._parts) > _MOST_PARTS:
            self.finish()
            self._descriptor, self._file = descriptor, run.extent.file
            self._start = run.start
        elif gap:
            self._parts.append(self._skipped[:gap])
        self._parts.append(into)
        self._stop = run.start + run.nbytes

    def finish(self) -> None:
        parts, self._parts = self._parts, []
        if not parts:
            return
        done = os.preadv(self._descriptor, parts, self._start)
        position = self._start
        for part in parts:
            # As a rule all is there already.
            have = min(len(part), max(0, self._start + done - position))
            if have < len(part):
                pread_into(self._descriptor, part[have:], position + have, self._file)
            position += len(part)
