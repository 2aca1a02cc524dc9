"""File kinds, recognised by the first bytes; suffixes are not trusted."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from s2p_tui.errors import InputError
from s2p_tui.formats.base import FileKind
from s2p_tui.formats.foreign import foreign, is_tar

READABLE = "Check its permissions and the disk it is on."
"""The way out where the operating system refuses to read a file."""
_HEAD = 512


def sniff(path: Path) -> FileKind:
    """Return the kind of a file. Reads its first 512 bytes.

    Raises:
        InputError: It is missing, a folder, empty, unreadable or none of them.
    """
    try:
        if os.path.isdir(path):
            raise _folder(path)
        _require_plain(path)
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.", "Check the path for typing errors.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.", READABLE) from None
    if not head:
        raise InputError(f"{path} is empty.", "Copy or download it again.")
    kind = _kind(head)
    if kind is None:
        raise foreign(path, head)
    return kind


def read_whole(path: Path, most: int) -> bytes:
    """The bytes of a file that is not large.

    Raises:
        InputError: It has more bytes than that, or is no plain file.
        OSError: It cannot be read.
    """
    _require_plain(path)
    with path.open("rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise InputError(
            f"{path} has more than {most:,} bytes, too many for what it says it is.",
            "Check that it is the file you mean, and copy or make it again.",
        )
    return content


def _require_plain(path: Path) -> None:
    """Refuse what has no end, or waits for someone to write to it."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise _folder(path)
    if not stat.S_ISREG(mode):
        raise InputError(
            f"{path} is a device or pipe, a plain file was expected.",
            "Save it to a plain file first.",
        )


def _folder(path: Path) -> InputError:
    return InputError(f"{path} is a folder, a file was expected.", "Give a file in it.")


def _kind(head: bytes) -> FileKind | None:
    if is_tar(head):
        return None
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "torch"
    if head.startswith(b"\x93NUMPY"):
        return "eqx"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40:
        return "safetensors"
    if head[:1] == b"\x80" and b"torch.distributed.checkpoint.metadata" in head:
        return "dcp"
    if head[:1] == b"\x80" and b"\x00" <= head[1:2] <= b"\x05":
        return "torch-legacy"
    text = head.lstrip()
    if text.startswith(b"{"):
        if b'"s2p-skeleton"' in head:
            return "skeleton"
        if b'"s2p-mapping"' in head:
            return "mapping"
        if b'"s2p-chunks"' in head:
            return "pytree chunks" if b'"holds": "pytree"' in head else "chunks"
        if b'"weight_map"' in head or b'"metadata"' in head:
            return "sharded"
    return None
