"""Results of reading a file back: digests, and the losses of casts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from s2p_tui.conversion.contents import CastLoss, Rounding
from s2p_tui.conversion.job import Job
from s2p_tui.conversion.plan import Instruction
from s2p_tui.conversion.records import OutputRecord
from s2p_tui.formats.tensors import pread_into

_READ = 1 << 20


class Digest(Protocol):
    """The interface of `hashlib` objects."""

    def update(self, data: memoryview, /) -> None:
        """Add bytes."""
        ...

    def hexdigest(self) -> str:
        """The digest of all bytes so far."""
        ...


@dataclass(frozen=True, slots=True)
class ReadLeaf:
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
