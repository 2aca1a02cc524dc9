"""A file that gets its name only when it is complete."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from s2p_tui.core.errors import OutputError

_SUFFIX = ".s2p-partial"
_NAME_KEPT = 50


class AtomicFile:
    """A temporary file in the target's folder that `commit` renames to the target.

    Used as a context manager it removes the temporary unless `commit` was called. A symbolic link
    at the target is followed, so that the file it points to is replaced.

    Attributes:
        target: The final path.
        temporary: Where the bytes are until `commit`.
        descriptor: Open for reading and writing.

    Raises:
        OutputError: The folder is missing or read-only, or the target is no plain file.
    """

    def __init__(self, target: Path) -> None:
        self.target = Path(os.path.realpath(target))
        if os.path.isdir(self.target):
            raise OutputError(f"{target} is a folder.", "Give the name of a file with -o.")
        if os.path.exists(self.target) and not os.path.isfile(self.target):
            raise OutputError(f"{target} is a device or pipe.", "Give the name of a plain file.")
        name = f".{self.target.name[:_NAME_KEPT]}.{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
        self.temporary = self.target.with_name(name)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self.descriptor = os.open(self.temporary, flags, 0o666)
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


def remove_unfinished(folder: Path) -> None:
    """Remove what this process has begun to write in a folder, as it must end at once."""
    ours = f".{os.getpid()}-"
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
    """What an operating-system error means for someone who wanted to write the target."""
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
    reason, hint = reasons.get(error.errno or 0, (error.strerror or str(error), ""))
    return OutputError(f"{target} cannot be written: {reason}.", hint)
