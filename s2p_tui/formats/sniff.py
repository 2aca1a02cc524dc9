"""File kinds, recognised by the first bytes; suffixes are not trusted.

Files that are not checkpoints are called what they are, with the way from them to one.
"""

from __future__ import annotations

import contextlib
import io
import json
import lzma
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from shlex import quote
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from s2p_tui.errors import InputError, one_line, some
from s2p_tui.formats.base import FileKind, Locator
from s2p_tui.formats.remote.file import RemoteFile

if TYPE_CHECKING:
    import zipfile


READABLE = "Check its permissions and the disk it is on."
"""The way out where the operating system refuses to read a file."""
COPY_AGAIN = "Copy or download it again."
"""The way out where a file is damaged."""
_HEAD = 512


def sniff(path: Locator) -> FileKind:
    """Return the kind of a file. Reads its first 512 bytes.

    Raises:
        InputError: It is missing, a folder, empty, unreadable or none of them.
    """
    try:
        if path.is_dir():
            raise _folder(path)
        _require_plain(path)
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
    except FileNotFoundError:
        where = "address" if isinstance(path, RemoteFile) else "path"
        hint = f"Check the {where} for typing errors."
        raise InputError(f"{path} does not exist.", hint) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.", READABLE) from None
    if not head:
        raise InputError(f"{path} is empty.", COPY_AGAIN)
    kind = _kind(head)
    if kind is None:
        raise foreign(path, head)
    return kind


def read_whole(path: Locator, most: int) -> bytes:
    """The bytes of a file that is not large.

    Raises:
        InputError: It has more bytes than that, or is not a plain file.
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


KIND_NAMES: Mapping[FileKind, str] = {
    **dict.fromkeys(("torch", "torch-legacy"), "a torch.save file"),
    "safetensors": "a .safetensors file",
    "sharded": "an index of shards",
    "chunks": "the manifest of a state dict in chunks",
    "dcp": "the list of a torch.distributed.checkpoint folder",
    "skeleton": "a skeleton file",
    "eqx": "an .eqx file",
    "mapping": "a mapping file",
    "recipe": "a recipe file",
    "pytree chunks": "the manifest of a pytree in chunks",
}


def _require_plain(path: Locator) -> None:
    """Refuse what has no end, or waits for someone to write to it."""
    if isinstance(path, RemoteFile):
        return
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise _folder(path)
    if not stat.S_ISREG(mode):
        raise InputError(
            f"{path} is a device or pipe, a plain file was expected.",
            "Save it to a plain file first.",
        )


def _folder(path: Locator) -> InputError:
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
        if b'"s2p-recipe"' in head:
            return "recipe"
        if b'"s2p-chunks"' in head:
            return "pytree chunks" if b'"holds": "pytree"' in head else "chunks"
        if b'"weight_map"' in head or b'"metadata"' in head:
            return "sharded"
    return None


_ACCEPTED = (
    "Give a torch.save file, .safetensors, *.index.json, a folder that holds one of these, a "
    "skeleton file or an .eqx."
)
_WITH_ITS_LIBRARY = (
    "Read it with the library that wrote it, and save its arrays by name with "
    "safetensors.numpy.save_file."
)
_DOWNLOAD = "Check the address, the login and your access to it, then download it again."
_QUOTED = 120
"""Letters shown of a text that should have been a checkpoint."""
_MOST_ERROR = 1 << 16
"""Bytes of an error message in JSON or XML."""
_PEEKED = 512
_MOST_UNPACKED = 1 << 24
"""Bytes unpacked to find what a compressed archive holds; the names come first in most."""
_MOST_MEMBERS = 10_000
CHECKPOINTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".pkl", ".pth.tar", ".index.json")
"""Ends of names that checkpoints usually have."""
_OLD_TORCH = {"sys_info", "pickle", "tensors", "storages"}
"""Members of the tar archives that `torch.save` wrote before 2017."""


_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")


class _Known(NamedTuple):
    offset: int
    magic: bytes
    what: str
    hint: str


_BINARY = (
    _Known(0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras, perhaps)", _WITH_ITS_LIBRARY),
    _Known(
        0,
        b"GGUF",
        "a GGUF file, whose tensors are usually quantised",
        "Use the checkpoint it was made from; or read it with the gguf package (gguf.GGUFReader, "
        "gguf.quants.dequantize) and save the arrays with safetensors.numpy.save_file.",
    ),
    _Known(0, b"tjgg", "a GGML file, the predecessor of GGUF", "Use what it was made from."),
    _Known(0, b"lmgg", "a GGML file, the predecessor of GGUF", "Use what it was made from."),
    _Known(0, b"fmgg", "a GGML file, the predecessor of GGUF", "Use what it was made from."),
    _Known(4, b"TFL3", "a TensorFlow Lite model", "Use the checkpoint it was made from."),
    _Known(
        4,
        b"PTMF",
        "a model for PyTorch Mobile",
        'Save its weights: torch.save(torch.jit.load(file, map_location="cpu").state_dict(), '
        "other_file).",
    ),
    _Known(0, b"\x7fELF", "a program", _ACCEPTED),
    _Known(0, b"\x89PNG", "a picture", _ACCEPTED),
    _Known(0, b"%PDF", "a PDF document", _ACCEPTED),
    _Known(0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "Unpack it, and give what is in it."),
    _Known(0, b"Rar!", "a RAR archive", "Unpack it, and give what is in it."),
)


class _Packed(NamedTuple):
    magic: bytes
    name: str
    command: str
    module: str = ""
    """Of the standard library, with an `open` for such files."""


_PACKED = (
    _Packed(b"\x1f\x8b", "gzip", "gzip -dc", "gzip"),
    _Packed(b"\xfd7zXZ\x00", "xz", "xz -dc", "lzma"),
    _Packed(b"BZh", "bzip2", "bzip2 -dc", "bz2"),
    _Packed(b"\x28\xb5\x2f\xfd", "zstandard", "zstd -dc"),
    _Packed(b"\x04\x22\x4d\x18", "lz4", "lz4 -dc"),
)
_BROKEN = (OSError, EOFError, ValueError, MemoryError, zlib.error, lzma.LZMAError)
"""Errors of reading a damaged or hostile archive."""


def foreign(path: Locator, head: bytes) -> InputError:
    """The refusal of a file of a kind that is not read here.

    Args:
        path: The file; a little of it may be read, or unpacked in memory, to say what it holds.
        head: Its first bytes.
    """
    if is_tar(head):
        with contextlib.suppress(OSError):
            return _of_tar(path, None)
    for packed in _PACKED:
        if head.startswith(packed.magic):
            return _of_packed(path, packed)
    for known in _BINARY:
        if head.startswith(known.magic, known.offset):
            return InputError(f"{path} is {known.what}.", known.hint)
    text = _text_of(head)
    if text is not None:
        return _of_text(path, text)
    if not any(head):
        return InputError(
            f"{path} begins with nothing but zeros: its content was lost.", COPY_AGAIN
        )
    return InputError(f"{path} is neither a checkpoint nor a skeleton.", _ACCEPTED)


def is_tar(head: bytes) -> bool:
    """Return True if a file with these first bytes is a tar archive."""
    return head[257:262] == b"ustar"


def _of_packed(path: Locator, packed: _Packed) -> InputError:
    if isinstance(path, RemoteFile):
        way_out = f"Download it, unpack it with {packed.command}, and give what is in it."
        return InputError(f"{path} is packed with {packed.name}.", way_out)
    if packed.module:
        with contextlib.suppress(*_BROKEN), _unpacked(path, packed) as stream:
            if is_tar(stream.read(_PEEKED)):
                return _of_tar(path, packed)
    out = quote(_without_suffix(path.name))
    return InputError(
        f"{path} is packed with {packed.name}.",
        f"Unpack it with {packed.command} {quote(str(path))} > {out}, and give {out}.",
    )


def _unpacked(path: Path, packed: _Packed) -> IO[bytes]:
    """Unpack the contents as they are read, up to a limit."""
    stream: IO[bytes] = import_module(packed.module).open(path, "rb")
    return cast("IO[bytes]", io.BufferedReader(_Limited(stream, _MOST_UNPACKED)))


def _without_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    known = suffix.lower() in ("gz", "xz", "bz2", "zst", "lz4", "gzip", "zstd")
    return stem if dot and known and stem else f"{name}.unpacked"


def _of_tar(path: Locator, packed: _Packed | None) -> InputError:
    if isinstance(path, RemoteFile):
        way_out = "Download it, unpack it with tar -xf, and give a checkpoint in it."
        return InputError(f"{path} is a tar archive.", way_out)
    how = f", packed with {packed.name}" if packed is not None else ""
    sizes = dict(_tar_members(path, packed))
    if _OLD_TORCH.issubset(name.removeprefix("./") for name in sizes):
        return InputError(
            f"{path} is a tar archive, which torch.save has not written since 2017.",
            "If you trust it, save it again: "
            "torch.save(torch.load(file, weights_only=False), other_file).",
        )
    held = _held(sizes)
    if not held:
        return InputError(
            f"{path} is a tar archive{how} with no checkpoint in it that a name would tell.",
            f"Unpack it with tar -xf {quote(str(path))}, and give a checkpoint.",
        )
    return InputError(
        f"{path} is a tar archive{how} that holds {some(held)}.",
        f"Unpack it with tar -xf {quote(str(path))} {quote(held[0])}, and give {_that(held)}.",
    )


class _Limited(io.RawIOBase):
    """Ends a stream early, so that no archive can make its reader unpack without end."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream, self._left = stream, most

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._stream.close()
        super().close()

    def readinto(self, buffer: Any, /) -> int:
        data = self._stream.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)


def _tar_members(path: Path, packed: _Packed | None) -> Iterator[tuple[str, int]]:
    """The names and sizes of an archive's files, as far as they can be read."""
    import tarfile

    with contextlib.ExitStack() as stack, contextlib.suppress(tarfile.TarError, *_BROKEN):
        if packed is None:
            archive = stack.enter_context(tarfile.open(path, "r:"))
        else:
            stream = stack.enter_context(_unpacked(path, packed))
            archive = stack.enter_context(tarfile.open(fileobj=stream, mode="r|"))
        for number, member in enumerate(archive):
            if number >= _MOST_MEMBERS:
                return
            if member.isfile():
                yield member.name, member.size


def foreign_zip(path: Locator, members: Iterable[zipfile.ZipInfo]) -> InputError:
    """The refusal of a zip archive that `torch.save` did not write."""
    sizes = {info.filename: info.file_size for info in members if not info.is_dir()}
    names = list(sizes)
    inner = {name.partition("/")[2] for name in names} | {*names}
    if inner & {"archive_format", "serialized_exported_program.json"}:
        return InputError(
            f"{path} is a program saved by torch.export (.pt2).",
            "Save its weights: torch.save(torch.export.load(file).state_dict, other_file).",
        )
    if names and all(name.endswith(".npy") for name in names):
        return InputError(
            f"{path} is a NumPy archive (.npz) of {some(names)}.",
            "Save its arrays: safetensors.numpy.save_file(dict(numpy.load(file)), other_file).",
        )
    if "model.weights.h5" in inner:
        return InputError(f"{path} is a Keras model.", _WITH_ITS_LIBRARY)
    held = _held(sizes)
    if not held:
        return InputError(
            f"{path} is a zip archive, but not one written by torch.save.",
            "Pass the file that torch.save(model.state_dict(), file) wrote.",
        )
    if isinstance(path, RemoteFile):
        way_out = f"Download and unpack it, and give {_that(held)} in it."
        return InputError(f"{path} is a zip archive that holds {some(held)}.", way_out)
    return InputError(
        f"{path} is a zip archive that holds {some(held)}.",
        f"Unpack it with python -m zipfile -e {quote(str(path))} {quote(_folder_for(path))}, and "
        f"give {_that(held)} in that folder.",
    )


def torchscript(path: Locator) -> InputError:
    """The refusal of a TorchScript archive."""
    return InputError(
        f"{path} is a TorchScript archive, which holds code.",
        'Save its weights: torch.save(torch.jit.load(file, map_location="cpu").state_dict(), '
        "other_file).",
    )


def _folder_for(path: Path) -> str:
    return path.stem if path.suffix else f"{path.name}.unpacked"


def _held(sizes: Mapping[str, int]) -> list[str]:
    """Those that look like checkpoints, the one that is probably meant first."""
    held = [name for name in sizes if name.lower().endswith(CHECKPOINTS)]
    return sorted(held, key=lambda name: ("optim" in name.lower(), -sizes[name]))


def _that(held: list[str]) -> str:
    return held[0] if len(held) == 1 else f"the one that is meant, {held[0]} perhaps,"


def _text_of(head: bytes) -> str | None:
    """The beginning of a text file without what may stand before it; None if it is none."""
    for mark, encoding in (
        (b"\xef\xbb\xbf", "utf-8"),
        (b"\xff\xfe", "utf-16-le"),
        (b"\xfe\xff", "utf-16-be"),
        (b"", "utf-8"),
        (b"", "cp1252"),
    ):
        if head.startswith(mark):
            # A character may be cut in two where the head ends.
            whole = head[len(mark) :]
            for end in range(len(whole), max(len(whole) - 4, 0), -1):
                with contextlib.suppress(UnicodeDecodeError):
                    text = whole[:end].decode(encoding).lstrip()
                    return text if text and not _CONTROL.search(text) else None
    return None


def _of_text(path: Locator, text: str) -> InputError:
    low = text.lower()
    pointer = _pointer(text, quote(path.name))
    if pointer is not None:
        what, command = pointer
        return InputError(
            f"{path} is a {what}, not the file itself.",
            f"Get it with {command} in the clone, or download it.",
        )
    if _PAGE.search(low) and low.startswith("<"):
        title = re.search(r"<title[^>]*>\s*([^<]+?)\s*(<|$)", text, re.IGNORECASE)
        said = f" ({one_line(title[1], _QUOTED)!r})" if title else ""
        return InputError(f"{path} is a web page{said}, not the download it should be.", _DOWNLOAD)
    form = "XML" if low.startswith("<") else "JSON" if low.startswith(("{", "[")) else ""
    said = _error_in_json(path) if form == "JSON" else _error_in_xml(text) if form else ""
    if said:
        return InputError(
            f"{path} holds what a server answered in {form} in place of the file: {said}.",
            _DOWNLOAD,
        )
    if form:
        return InputError(
            f"{path} is a text in {form}, neither a checkpoint, an index of shards nor a skeleton.",
            _ACCEPTED,
        )
    said = one_line(text.partition("\n")[0].strip()[:_QUOTED], _QUOTED)
    if _SOUNDS_FAILED.search(low):
        return InputError(f"{path} is no checkpoint but a message: {said!r}.", _DOWNLOAD)
    return InputError(f"{path} is a text, no checkpoint; it begins {said!r}.", _ACCEPTED)


def _pointer(text: str, name: str) -> tuple[str, str] | None:
    """Return the name of a stand-in for a file kept elsewhere, and the command for it."""
    if text.startswith("version https://git-lfs"):
        size = re.search(r"size (\d{1,18})", text)
        of = f" for {int(size[1]):,} bytes" if size else ""
        return f"git-lfs pointer{of}", f"git lfs pull --include {name}"
    if "/annex/objects/" in text:
        return "git-annex pointer", f"git annex get {name}"
    return None


_PAGE = re.compile(r"<(!doctype\s+html|html|head|body|title|meta|script|div|center|h1|p)\b")
_SOUNDS_FAILED = re.compile(
    r"not found|denied|forbidden|unauthori[sz]ed|restricted|gated|expired|invalid|error|"
    r"too many requests|rate limit|quota|bad gateway|unavailable|timed? ?out"
)


def _error_in_xml(text: str) -> str:
    tags = (re.search(rf"<{tag}>\s*([^<]+?)\s*<", text) for tag in ("Code", "Message"))
    said = ": ".join(one_line(found[1], _QUOTED) for found in tags if found)
    return said or ("an error" if "<error" in text.lower() else "")


def _error_in_json(path: Locator) -> str:
    content: Any = None
    with contextlib.suppress(OSError, ValueError, RecursionError), path.open("rb") as stream:
        content = json.loads(stream.read(_MOST_ERROR))
    if not isinstance(content, dict):
        return ""
    fields = cast("dict[str, Any]", content)
    said = next((fields[name] for name in _ERROR_FIELDS if fields.get(name)), None)
    if said is None or len(fields) > len(_ERROR_FIELDS):
        return ""
    return repr(one_line(said if isinstance(said, str) else json.dumps(said), _QUOTED))


_ERROR_FIELDS = (
    *("error", "errors", "message", "detail", "error_description", "error_message"),
    *("Message", "Error", "title", "reason", "msg"),
)
