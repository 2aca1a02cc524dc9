"""The journal of a session on the disk, so that no edit is lost however the program ends.

One file a pair, `DIGEST.jsonl`, in the user's state directory, and a lock beside it. A step is
written before its key is done with, which is enough for a killed process; a thread brings it to the
disk itself, which is what a power failure asks for, without holding up keys.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct
from platformdirs import user_state_path

from s2p_tui import __version__
from s2p_tui.alignment.alignment import Alignment
from s2p_tui.conversion.output import source_end, target_end
from s2p_tui.errors import Code, Hint, InputError, S2PError
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.remote.file import RemoteFile
from s2p_tui.formats.skeleton_file import Target
from s2p_tui.session.journal_lines import (
    Header,
    Replayed,
    Step,
    compacted,
    head,
    pair_digest,
    read_header,
    replay,
    step_line,
)

KEPT_DAYS = 90
"""Journals of files that are gone are kept this long."""
_LEFT_AFTER = 2.0


class BusyError(S2PError):
    """Another program works on the same pair."""


def private_folder() -> Path:
    """The folder of the journals, which only the user can look into; made if need be.

    Raises:
        S2PError: It cannot be made.
    """
    home = user_state_path("s2p-tui", appauthor=False)
    folder = home / "journals"
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise S2PError(
            f"{folder} cannot be used: {error.strerror}.",
            "Set XDG_STATE_HOME to a folder you may write to.",
        ) from None
    return folder


def open_private(path: Path, *, new: bool) -> int:
    """A descriptor for reading and writing a file that only the user can read.

    Args:
        path: The file; a symbolic link is not followed.
        new: Empty what is there.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(path, flags | os.O_TRUNC * new, 0o600)
    os.fchmod(file, 0o600)
    return file


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Lock:
    """Holds a pair for one program; the kernel lets go of it however the program ends.

    Raises:
        BusyError: Another program holds it.
        S2PError: The file system has no locks, or lets nothing be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = self._locked()
        except BlockingIOError:
            raise BusyError(
                "another s2p-tui is at work on the same pair.",
                Hint(Code.ANOTHER_PROGRAM),
            ) from None
        except OSError as error:
            raise S2PError(
                f"{path} cannot be locked: {error.strerror}.",
                "Set XDG_STATE_HOME to a folder on a local disk.",
            ) from None

    def _locked(self) -> int:
        while True:
            file = open_private(self._path, new=False)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Who held it before may have removed the file: then it holds nobody off.
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(file), os.stat(self._path)):
                        return file
            except BaseException:
                os.close(file)
                raise
            os.close(file)

    def release(self, *, remove: bool = False) -> None:
        """Let go of it, and remove its file if wanted."""
        if remove:
            self._path.unlink(missing_ok=True)
        os.close(self._file)


def prune(folder: Path, *, keep: Path, before: float) -> None:
    """Remove journals that were last written long ago and whose files are all gone.

    Args:
        folder: The folder of the journals.
        keep: The one that is open.
        before: Now, in Unix seconds.
    """
    for path in (*folder.glob("*.jsonl"), *folder.glob("*.new"), *folder.glob("*.next")):
        pair = path.name.partition(".")[0]
        with contextlib.suppress(OSError, S2PError):
            if pair == keep.stem or before - path.stat().st_mtime < KEPT_DAYS * 86400:
                continue
            if not any(os.path.exists(file) for file in _files(path)):
                lock = Lock(folder / f"{pair}.lock")
                path.unlink()
                lock.release(remove=True)


def _files(path: Path) -> tuple[str, ...]:
    with path.open("rb") as stream:
        first = stream.readline()
    try:
        header = read_header(first)
    except (ValueError, KeyError, RecursionError):
        return ()
    return () if header is None else header.files


class Syncing:
    """Brings what was written to the disk, in a thread, so that nobody waits for it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: int | None = None
        self._asked = threading.Condition()
        self._pending = self._finished = False
        self._thread: threading.Thread | None = None

    def wanted(self, file: int) -> None:
        """Have a file's bytes and its folder's names brought to the disk soon."""
        with self._asked:
            self._file, self._pending = file, True
            self._asked.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True, name="s2p-journal")
            self._thread.start()

    def finish(self) -> None:
        """Do what was asked for, then end; a disk that hangs is not waited for."""
        with self._asked:
            self._finished = True
            self._asked.notify()
        if self._thread is not None:
            self._thread.join(_LEFT_AFTER)

    def _run(self) -> None:
        while True:
            with self._asked:
                self._asked.wait_for(lambda: self._pending or self._finished)
                if not self._pending or self._file is None:
                    return
                self._pending, file = False, self._file
            with contextlib.suppress(OSError):
                os.fsync(file)
                sync_folder(self._folder)


MOST_STEPS = 2000
"""Steps a journal is replayed with; longer ones are made shorter before they are gone on with."""
UNDO_KEPT = 500
"""Edits that can still be undone when a longer journal is gone on with."""
_MOST_ASIDE = 9


class Beginning(Struct, frozen=True):
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
        files = tuple(
            str(file) if isinstance(file, RemoteFile) else os.path.abspath(file)
            for file in (*checkpoint.files, *target.files)
        )
        source, end = source_end(checkpoint), target_end(target)
        pair = pair_digest(source, end, target.skeleton)
        program = __version__
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
