"""Files on other machines, which readers open, list and read like those of this one.

Nothing is downloaded whole: each read is a byte range. Every answer says which version of the file
it is of, and one of another version than the first is an error, so that all that is read of a file
is of one version, whatever happens to it meanwhile.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from contextvars import copy_context
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol, TypeVar

from s2p_tui.alignment.task import ended_by
from s2p_tui.errors import CancelledError, InputError
from s2p_tui.formats.remote.ranges import Span, joined

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

T = TypeVar("T")
HEAD = TAIL = 1 << 16
"""Bytes of a file's two ends that are read at once; most headers and directories are shorter."""
AT_ONCE = 8
"""Requests on their way at a time, beside one a thread that converts."""
_BETWEEN_HEADS = 1 << 14
"""Bytes between parts of a few bytes each that are asked for along with them."""
_LONGEST_REQUEST = 1 << 24
REPLACED = "Wait until nothing writes to it, then start again."
"""The way out where a file became another one while it was read."""


class Answer(NamedTuple):
    """The answer to a request for bytes of a file.

    Attributes:
        data: Those of the range that lie in the file.
        size: Bytes of the whole file.
        version: Differs where the file was replaced; empty where the server does not tell.
    """

    data: bytes | bytearray | memoryview
    size: int
    version: str


class Store(Protocol):
    """A place that holds files by keys: a web server, a bucket, a repository."""

    def fetch(self, key: str, start: int, stop: int) -> Answer:
        """Request the bytes of a file from `start` to `stop`, fewer where it ends.

        Raises:
            FileNotFoundError: There is no such file.
            InputError: It cannot be had; the reason in one line.
        """
        ...

    def names(self, folder: str) -> Sequence[str] | None:
        """Return the names of the files in a folder; None if there is no way to ask."""
        ...

    def join(self, folder: str, name: str) -> str:
        """Return the key of a file or folder in a folder."""
        ...

    def split(self, key: str) -> tuple[str, str]:
        """Return the folder of a key, and the name in it."""
        ...

    def shown(self, key: str) -> str:
        """Return the address without anything secret."""
        ...


class _Stat(NamedTuple):
    st_size: int


class _Place:
    """A file or folder, as far as its address tells."""

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._key = key

    def __str__(self) -> str:
        return self._store.shown(self._key)

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self._store.split(self._key)[1]

    @property
    def suffix(self) -> str:
        """The end of the name from its last dot on."""
        stem, dot, suffix = self.name.rpartition(".")
        return f"{dot}{suffix}" if stem else ""

    @property
    def parent(self) -> RemoteFolder:
        """The folder it lies in."""
        return RemoteFolder(self._store, self._store.split(self._key)[0])

    def absolute(self) -> _Place:
        """Return it: an address has no other form."""
        return self


class RemoteFolder(_Place):
    """A folder: a bucket or a part of it, a repository."""

    def __truediv__(self, name: str) -> RemoteFile:
        return RemoteFile(self._store, self._store.join(self._key, name))

    def is_dir(self) -> bool:
        """Return True."""
        return True

    def names(self) -> Sequence[str]:
        """Return the names of its files; none where the server cannot be asked for them."""
        return self._store.names(self._key) or ()

    @property
    def is_listed(self) -> bool:
        """True if the server can be asked for the names of its files."""
        return self._store.names(self._key) is not None


class RemoteFile(_Place):
    """A file of one version, that of the first answer."""

    def __init__(self, store: Store, key: str) -> None:
        super().__init__(store, key)
        self._lock = threading.Lock()
        self._pieces: dict[Span, memoryview] = {}

    def is_dir(self) -> bool:
        """Return False."""
        return False

    def is_file(self) -> bool:
        """Return True if it is there."""
        return self.exists()

    def exists(self) -> bool:
        """Return True if it is there."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def stat(self) -> _Stat:
        """Return its size.

        Raises:
            FileNotFoundError: It is not there.
            InputError: It cannot be had.
        """
        return _Stat(self._first.size)

    @property
    def has_version(self) -> bool:
        """True if the server tells versions of the file apart."""
        return bool(self._first.version)

    @cached_property
    def _found(self) -> Answer:
        return self._store.fetch(self._key, 0, HEAD)

    @property
    def _first(self) -> Answer:
        with self._lock:
            return self._found

    def fetch(self, start: int, stop: int) -> memoryview:
        """Return bytes of the file, all of them.

        Raises:
            InputError: It ends before, was replaced meanwhile, or cannot be had.
        """
        first = self._first
        if not 0 <= start <= stop <= first.size:
            raise InputError(
                f"{self} ends before byte {stop:,}: it was cut short.", "Copy it there again."
            )
        if stop <= len(first.data):
            return memoryview(first.data)[start:stop]
        try:
            answer = self._store.fetch(self._key, start, stop)
        except FileNotFoundError:
            raise InputError(f"{self} is no longer there.", REPLACED) from None
        if (answer.size, answer.version) != (first.size, first.version):
            raise InputError(f"{self} was replaced while it was read.", REPLACED)
        if len(answer.data) != stop - start:
            raise InputError(
                f"{self}: {stop - start:,} bytes were asked for, {len(answer.data):,} were sent.",
                "Download it, and give the file.",
            )
        return memoryview(answer.data)

    def at_hand(self, position: int) -> int:
        """Return how many bytes of the beginning are there, from a position."""
        return max(0, len(self._first.data) - position)

    def read_at(self, count: int, position: int) -> memoryview:
        """Return up to so many bytes from a position; what was read in advance is not asked for."""
        size = self._first.size
        stop = max(position, min(position + count, size))
        wanted = position, stop
        if position == stop:
            return memoryview(b"")
        if wanted in self._pieces:
            return self._pieces[wanted]
        tail = max(0, size - TAIL), size
        if position < tail[0] or stop <= len(self._first.data):
            return self.fetch(position, stop)
        if tail not in self._pieces:
            self._pieces[tail] = self.fetch(*tail)
        return self._pieces[tail][position - tail[0] : stop - tail[0]]

    def read_ahead(self, spans: Sequence[Span]) -> None:
        """Ask at once for parts of the file that `read_at` will be asked for one by one."""
        blocks = joined(spans, _BETWEEN_HEADS)
        found = fetch_all([(self, start, stop) for start, stop in blocks])
        number = 0
        for start, stop in sorted(spans):
            while stop > blocks[number][1]:
                number += 1
            begin = blocks[number][0]
            self._pieces[start, stop] = found[number][start - begin : stop - begin]

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """Return a stream of its bytes."""
        assert mode == "rb"
        self.stat()
        return io.BufferedReader(_Stream(self), HEAD)


class _Stream(io.RawIOBase):
    def __init__(self, file: RemoteFile) -> None:
        self.file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        size = self.file.stat().st_size
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: size}[whence]
        if begin + offset < 0:
            raise OSError("a position before the first byte")
        self._position = begin + offset
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        into = memoryview(buffer).cast("B")
        # A stream may give less than was asked for: first what is there.
        at_hand = self.file.at_hand(self._position)
        data = self.file.read_at(min(len(into), at_hand or _LONGEST_REQUEST), self._position)
        into[: len(data)] = data
        self._position += len(data)
        return len(data)


def remote_file(stream: BinaryIO) -> RemoteFile | None:
    """Return the file on another machine that a stream is of; None for one of this machine."""
    raw = getattr(stream, "raw", None)
    return raw.file if isinstance(raw, _Stream) else None


def fetch_all(wanted: Sequence[tuple[RemoteFile, int, int]]) -> list[memoryview]:
    """Fetch parts of files, several at once.

    Raises:
        InputError: One cannot be had.
    """
    if len(wanted) == 1:
        file, start, stop = wanted[0]
        return [file.fetch(start, stop)]
    return list(_at_once([partial(file.fetch, start, stop) for file, start, stop in wanted]))


def _at_once(work: Sequence[Callable[[], T]]) -> Iterator[T]:
    """Do several things at once; where one fails, or the caller is stopped, the others end too."""
    is_over = threading.Event()

    def check() -> None:
        if is_over.is_set():
            raise CancelledError("Another part could not be had.")

    with ended_by(check):
        # Each in a context of its own: one context is entered by one thread at a time.
        tasks = [_pool().submit(copy_context().run, one) for one in work]
    try:
        for task in tasks:
            yield task.result()
    finally:
        is_over.set()
        for task in tasks:
            task.cancel()


def meet(files: Iterable[object]) -> None:
    """Ask for the beginnings of files at once, which readers will ask for one by one."""

    def ask(file: RemoteFile) -> None:
        # The reader meets the same error, and words it.
        with suppress(InputError, OSError):
            file.stat()

    there = [file for file in files if isinstance(file, RemoteFile)]
    if len(there) > 1:
        for _ in _at_once([partial(ask, file) for file in there]):
            pass


@cache
def _pool() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(AT_ONCE, "remote")


def read_at(stream: BinaryIO, count: int, position: int) -> bytes:
    """Return up to so many bytes of an open file from a position; the stream stays where it is."""
    file = remote_file(stream)
    if file is not None:
        return bytes(file.read_at(count, position))
    return os.pread(stream.fileno(), count, position)


def size_of(stream: BinaryIO) -> int:
    """Return the bytes of an open file."""
    file = remote_file(stream)
    if file is not None:
        return file.stat().st_size
    return os.fstat(stream.fileno()).st_size
