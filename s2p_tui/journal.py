"""The journal of a session on the disk, so that no edit is lost however the program ends.

One file a pair, `DIGEST.jsonl`, in the user's state directory, and a lock beside it. A step is
written before its key is done with, which is enough for a killed process; a thread brings it to the
disk itself, which is what a power failure asks for, without holding up keys.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from s2p_tui.core.alignment import Alignment
from s2p_tui.core.errors import InputError, S2PError
from s2p_tui.core.journal import Header, Step, head, pair_digest, step_line
from s2p_tui.core.journal_replay import Replayed, compacted, replay
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.target import Target
from s2p_tui.journal_folder import Lock, Syncing, open_private, private_folder, prune
from s2p_tui.saving import source_end, target_end

MOST_STEPS = 2000
"""Steps a journal is replayed with; longer ones are made shorter before they are gone on with."""
UNDO_KEPT = 500
"""Edits that can still be undone when a longer journal is gone on with."""
_MOST_ASIDE = 9


@dataclass(frozen=True, slots=True)
class Beginning:
    """A journal without steps, written but not in use.

    Attributes:
        path: Its file.
        file: The same, open.
        size: Its bytes.
        chain: Its last line's checksum.
    """

    path: Path
    file: int
    size: int
    chain: int

    def discard(self) -> None:
        """Remove it."""
        os.close(self.file)
        self.path.unlink(missing_ok=True)


class Journal:
    """The steps of one session, file and all.

    Made by `open`; then one of `go_on` and `start`; then `record` for every step; then `close`.

    Attributes:
        found: What an earlier session left, if it can be gone on with; let go once the session has
            begun, as it is as large as the session itself.
        damaged: Why what an earlier session left cannot be gone on with; it is kept aside.
        trouble: Why steps are not written now; empty while they are.
    """

    def __init__(
        self, path: Path, lock: Lock, header: Header, now: Callable[[], float] = time.time
    ) -> None:
        self.found: Replayed | None = None
        self._has_left = False
        self.damaged = ""
        self.trouble = ""
        self._path = path
        self._lock = lock
        self._header = header
        self._now = now
        self._file: int | None = None
        self._start: Alignment | None = None
        self._named = False
        self._size = self._chain = 0
        self._unwritten = b""
        self._syncing = Syncing(path.parent)

    @classmethod
    def open(
        cls, checkpoint: Checkpoint, target: Target, now: Callable[[], float] = time.time
    ) -> Journal:
        """Lock a pair's journal and read what is there. Blocks; meant for a worker thread.

        Raises:
            S2PError: It cannot be locked, as another program works on the same pair, or there is no
                place for it. In one line, made to follow `Edits are not journalled: `.
        """
        folder = private_folder()
        files = tuple(os.path.abspath(file) for file in (*checkpoint.files, *target.files))
        source, end = source_end(checkpoint), target_end(target)
        pair = pair_digest(source, end, target.skeleton)
        program = version("s2p-tui")
        header = Header(source, end, pair, files, program)
        path = folder / f"{pair[:32]}.jsonl"
        journal = cls(path, Lock(path.with_suffix(".lock")), header, now)
        try:
            journal._read(checkpoint, target)
            prune(folder, keep=path, before=now())
        except BaseException:
            journal.close()
            raise
        return journal

    def _read(self, checkpoint: Checkpoint, target: Target) -> None:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise S2PError(
                f"{self._path} cannot be read: {error.strerror}.",
                "Move it away, or mend its permissions.",
            ) from None
        name, pair = f"The journal {self._path.name}", self._header.pair
        state_dict, skeleton = checkpoint.state_dict, target.skeleton
        try:
            found = replay(content, name, pair, state_dict, skeleton)
            if found is not None and found.steps > MOST_STEPS:
                content = compacted(found, UNDO_KEPT)
                found = replay(content, name, pair, state_dict, skeleton)
                self._replace(content)
            self.found, self._has_left = found, found is not None and found.edits > 0
        except InputError as error:
            aside = self._aside("damaged")
            os.replace(self._path, aside)
            self.damaged = f"{error.message} It is kept as {aside}."

    def _replace(self, content: bytes) -> None:
        file = open_private(self._new_path, new=True)
        try:
            _write(file, content, 0)
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(self._new_path, self._path)

    def go_on(self) -> Replayed:
        """Append to what was found, which is returned."""
        assert self.found is not None
        self._file = open_private(self._path, new=False)
        self._named = True
        found, self.found = self.found, None
        self._size, self._chain = found.size, found.chain
        os.ftruncate(self._file, self._size)
        return found

    def start(self, alignment: Alignment) -> None:
        """Begin anew. What was found stays where it is until the first step, then it is kept aside.

        Args:
            alignment: Where the session starts.
        """
        self.begin_with(self.prepare(alignment))

    def start_later(self, alignment: Alignment) -> None:
        """Begin anew, but with the first step, unless `begin_with` comes before it."""
        self._start, self.found = alignment, None

    def prepare(self, alignment: Alignment) -> Beginning:
        """Write down another beginning, in any thread, without beginning with it yet.

        Raises:
            OSError: It cannot be written.
        """
        content, chain = head(self._header, alignment)
        path = self._path.with_suffix(".next")
        file = open_private(path, new=True)
        try:
            _write(file, content, 0)
            os.fsync(file)
        except OSError:
            os.close(file)
            path.unlink(missing_ok=True)
            raise
        return Beginning(path, file, len(content), chain)

    def begin_with(self, beginning: Beginning) -> None:
        """Begin with what was prepared, in place of an earlier beginning without steps.

        Raises:
            OSError: Its file cannot be renamed.
        """
        os.replace(beginning.path, self._new_path)
        if self._file is not None:
            os.close(self._file)
        self._start = self.found = None
        self._file, self._size, self._chain = beginning.file, beginning.size, beginning.chain

    def record(self, step: Step, alignment: Alignment, changed: range) -> None:
        """Write one step down. What cannot be written now is written with the next step.

        Args:
            step: What was done.
            alignment: What came of it.
            changed: The rows that may have changed.
        """
        if self._start is not None:
            try:
                self.start(self._start)
            except OSError as error:
                self.trouble = f"Edits are not journalled: {error.strerror}."
                self._start = None
        if self._file is None:
            return
        line, self._chain = step_line(step, int(self._now()), alignment, changed, self._chain)
        self._unwritten += line
        try:
            _write(self._file, self._unwritten, self._size)
            if not self._named:
                self._name()
        except OSError as error:
            self.trouble = f"Edits are not journalled now: {error.strerror}."
            return
        self._size += len(self._unwritten)
        self._unwritten = b""
        self.trouble = ""
        self._syncing.wanted(self._file)

    def _name(self) -> None:
        if self._has_left:
            with contextlib.suppress(FileNotFoundError):
                os.replace(self._path, self._aside("old"))
        os.replace(self._new_path, self._path)
        self._named = True

    def close(self) -> None:
        """Bring the last steps to the disk and let others have the pair."""
        self._syncing.finish()
        if self._file is not None:
            os.close(self._file)
            self._file = None
            if not self._named:
                self._new_path.unlink(missing_ok=True)
        self._lock.release(remove=not self._path.exists())

    @property
    def _new_path(self) -> Path:
        return self._path.with_suffix(".new")

    def _aside(self, how: str) -> Path:
        """A free name beside the journal's; with very many kept, that of the one kept longest."""
        numbers = ("", *range(2, _MOST_ASIDE + 1))
        paths = [self._path.with_suffix(f".{how}{number}.jsonl") for number in numbers]
        free = (path for path in paths if not path.exists())
        return next(free, None) or min(paths, key=lambda path: path.stat().st_mtime)


def _write(file: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
