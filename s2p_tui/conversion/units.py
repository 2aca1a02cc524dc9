"""An output cut into units of work that can be done in any order and by any thread.

Writing and verification go through the same units: what one writes, the other compares.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from s2p_tui.conversion.contents import CastLoss, Contents, Made, Rounding, Run
from s2p_tui.conversion.records import Piece
from s2p_tui.formats.base import Region
from s2p_tui.formats.tensors import pread_into

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SMALL = 1 << 16
_BATCH = 1 << 20
_BATCHES_PER_CHUNK = 4


@dataclass(frozen=True, slots=True)
class Batch:
    """Neighbouring small leaves, put together in memory, heads included."""

    pieces: tuple[Piece, ...]

    @property
    def start(self) -> int:
        """Byte of the output at which it starts."""
        return self.pieces[0].start

    @property
    def stop(self) -> int:
        """Byte behind its last."""
        return self.pieces[-1].stop


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a leaf that is no part of a batch; stretches or tiles follow."""

    piece: Piece

    @property
    def start(self) -> int:
        """Byte of the output at which it starts."""
        return self.piece.start


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes of one run of a leaf that go to the output unchanged.

    Attributes:
        piece: The leaf.
        run: Where they come from.
        offset: Byte of the run at which they start.
        start: Byte of the output at which they go.
        nbytes: How many.
    """

    piece: Piece
    run: Run
    offset: int
    start: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Tile:
    """A region of a leaf that is computed."""

    piece: Piece
    made: Made
    region: Region

    @property
    def start(self) -> int:
        """Byte of the output before which it, and all tiles behind it, have nothing to write."""
        if not self.region:
            return self.piece.data
        row = self.piece.nbytes // self.made.shape[0]
        return self.piece.data + self.region[0][0] * row


Unit = Batch | Head | Stretch | Tile


def units(pieces: Iterable[Piece], contents: Contents, stretch: int) -> Iterator[Unit]:
    """All units of the pieces, in the output's order.

    Args:
        pieces: Neighbours in the output.
        contents: What they are.
        stretch: Bytes of a stretch at the most.
    """
    most = min(_BATCH, contents.share // _BATCHES_PER_CHUNK)
    waiting: list[Piece] = []
    size = 0
    for piece in pieces:
        length = piece.stop - piece.start
        if waiting and (size + length > most or piece.nbytes > _SMALL):
            yield Batch(tuple(waiting))
            waiting, size = [], 0
        if length <= most and piece.nbytes <= _SMALL:
            waiting.append(piece)
            size += length
        else:
            yield from _parts(piece, contents, stretch)
    if waiting:
        yield Batch(tuple(waiting))


def _parts(piece: Piece, contents: Contents, stretch: int) -> Iterator[Unit]:
    yield Head(piece)
    runs = contents.runs(piece)
    if runs is None:
        made = contents.made(piece)
        yield from (Tile(piece, made, region) for region in made.regions())
        return
    position = piece.data
    for run in runs:
        for offset in range(0, run.nbytes, stretch):
            count = min(stretch, run.nbytes - offset)
            yield Stretch(piece, run, offset, position + offset, count)
        position += run.nbytes


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
