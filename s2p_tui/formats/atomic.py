"""A file that gets its name only when it is complete."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import socket
import stat
import time
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from s2p_tui.errors import OutputError

_WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
_SUFFIX = ".s2p-partial"
_NAME_KEPT = 50
_LEFT_OVER = re.compile(
    rf"\..{{1,{_NAME_KEPT}}}\.([0-9a-f]{{8}})-\d+-[0-9a-f]{{8}}{re.escape(_SUFFIX)}", re.DOTALL
)
_ABANDONED_AFTER = 24 * 3600.0
"""Seconds; of a temporary that another machine made, whose locks may not be seen here."""


class AtomicFile:
    """A temporary file in the target's folder that `commit` renames to the target.

    Used as a context manager it removes the temporary unless `commit` was called. A symbolic link
    at the target is followed, so that the file it points to is replaced. The temporary is locked as
    long as it is written, which tells it from those that killed programs left: these are removed.

    Attributes:
        target: The final path.
        temporary: Where the bytes are until `commit`.
        descriptor: Open for reading and writing.

    Raises:
        OutputError: The folder is missing or read-only, or the target is not a plain file.
    """

    def __init__(self, target: Path) -> None:
        self.target = Path(os.path.realpath(target))
        if os.path.isdir(self.target):
            raise OutputError(
                f"{target} is a folder, a file was expected.", "Give the name of a file in it."
            )
        try:
            mode = os.stat(self.target).st_mode
        except FileNotFoundError:
            mode = stat.S_IFREG | stat.S_IWUSR
        except OSError as error:
            raise output_error(error, target) from None
        if not stat.S_ISREG(mode):
            raise OutputError(
                f"{target} is a device or pipe, a plain file was expected.", "Choose another name."
            )
        if not stat.S_IMODE(mode) & _WRITABLE:
            raise OutputError(
                f"{target} is write-protected.", "Choose another name, or chmod u+w it."
            )
        remove_left_over(self.target.parent)
        try:
            self.temporary, self.descriptor = _locked_temporary(self.target)
        except OSError as error:
            raise output_error(error, target) from None

    def __enter__(self) -> AtomicFile:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            os.close(self.descriptor)
        with contextlib.suppress(FileNotFoundError):
            self.temporary.unlink()

    def sync(self) -> None:
        """Wait until the bytes are on the disk.

        Raises:
            OutputError: The disk refused them.
        """
        try:
            os.fsync(self.descriptor)
        except OSError as error:
            raise output_error(error, self.target) from None

    def commit(self) -> None:
        """Give the file its name, and make the name durable.

        Raises:
            OutputError: The rename failed.
        """
        try:
            os.replace(self.temporary, self.target)
            folder = os.open(self.target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise output_error(error, self.target) from None


def _locked_temporary(target: Path) -> tuple[Path, int]:
    kept = os.fsencode(target.name)[:_NAME_KEPT].decode(errors="ignore") or "_"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    while True:
        owner = f"{_this_machine()}-{os.getpid()}-{os.urandom(4).hex()}"
        path = target.with_name(f".{kept}.{owner}{_SUFFIX}")
        descriptor = os.open(path, flags, 0o666)
        # Where the file system has no locks, nothing is ever taken as left over.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Between opening and locking, it may have been taken as left over.
        if os.fstat(descriptor).st_nlink:
            return path, descriptor
        os.close(descriptor)


def _this_machine() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def remove_left_over(folder: Path) -> tuple[Path, ...]:
    """Remove the temporaries in a folder whose programs ended before they could.

    Only plain files of the user's own, named as `AtomicFile` names them, that no program holds a
    lock on; those another machine made only if they were last written a day ago.

    Returns:
        What was removed.
    """
    removed: list[Path] = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            named = _LEFT_OVER.fullmatch(entry.name) if entry.name.endswith(_SUFFIX) else None
            if named is not None and _is_removed(entry.path, named[1] == _this_machine()):
                removed.append(Path(entry.path))
    return tuple(removed)


def _is_removed(path: str, made_here: bool) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
            return False
        if not made_here and time.time() - found.st_mtime < _ABANDONED_AFTER:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its writer may have given it its name meanwhile; that name is not this one.
        if not os.path.samestat(os.stat(path, follow_symlinks=False), found):
            return False
        os.unlink(path)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def require_space(target: Path, size: int) -> int:
    """Make sure that a file of so many bytes fits beside what is there.

    Returns:
        How many bytes are free; 0 if there is no such folder.

    Raises:
        OutputError: It does not fit.
    """
    folder = Path(os.path.realpath(target)).parent
    if not folder.is_dir():
        return 0
    remove_left_over(folder)
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OutputError(
            f"{target} needs {size:,} bytes, {folder} has {free:,} free.",
            "Free some space or choose another disk.",
        )
    return free


def remove_unfinished(folder: Path) -> None:
    """Remove what this process has begun to write in a folder, as it must end at once."""
    ours = f".{_this_machine()}-{os.getpid()}-"
    with contextlib.suppress(OSError), os.scandir(folder) as files:
        for file in files:
            if file.name.endswith(_SUFFIX) and ours in file.name:
                os.unlink(file)


@contextlib.contextmanager
def written_atomically(target: Path) -> Generator[BinaryIO]:
    """A stream whose bytes become the target when the block ends without an exception.

    Raises:
        OutputError: It cannot be written.
    """
    with AtomicFile(target) as file:
        try:
            with os.fdopen(os.dup(file.descriptor), "wb") as stream:
                yield stream
        except OSError as error:
            raise output_error(error, target) from None
        file.sync()
        file.commit()


def output_error(error: OSError, target: Path) -> OutputError:
    """Return the error of writing the target for an operating-system error."""
    reasons = {
        errno.ENOENT: ("its folder does not exist", "Create the folder first."),
        errno.ENOTDIR: ("its folder is a file", "Choose another folder."),
        errno.EACCES: ("permission denied", "Choose a folder you may write to."),
        errno.EROFS: ("the file system is read-only", "Choose another folder."),
        errno.ENOSPC: ("the disk is full", "Free some space or choose another disk."),
        errno.EDQUOT: ("your disk quota is used up", "Free some space or choose another disk."),
        errno.EFBIG: ("the file system allows no file of that size", "Choose another disk."),
        errno.ENAMETOOLONG: ("the name is too long", "Choose a shorter name."),
    }
    reason, hint = reasons.get(
        error.errno or 0, (error.strerror or str(error), "Choose another folder or disk.")
    )
    return OutputError(f"{target} cannot be written: {reason}.", hint)


@contextlib.contextmanager
def temporary_folder(parent: Path, prefix: str) -> Generator[Path]:
    """A new folder that only the user can look into; it is gone when the block ends.

    Args:
        parent: Where to make it.
        prefix: What its name starts with.

    Raises:
        OutputError: It cannot be made.
    """
    folder = parent / f"{prefix}{os.getpid()}-{os.urandom(4).hex()}"
    try:
        # A signal's exception may interrupt the first removal; it is raised once only.
        try:
            try:
                folder.mkdir(mode=0o700)
            except OSError as error:
                raise output_error(error, folder) from None
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
