"""An output cut into units of work that can be done in any order and by any thread.

Writing and verification go through the same units: what one writes, the other compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from s2p_tui.formats.base import Region
from s2p_tui.streaming.contents import Contents, Made, Run
from s2p_tui.streaming.layout import Piece

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
