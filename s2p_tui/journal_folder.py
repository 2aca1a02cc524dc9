"""Where journals are: a private folder, its locks, and what is cleared away."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from pathlib import Path

from platformdirs import user_state_path

from s2p_tui.core.errors import S2PError
from s2p_tui.core.journal import read_header

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
                "Quit that one and start again, or save with ctrl+s.",
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
