"""Bytes of files on other machines that were fetched ahead of being read."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Generator, Iterable
from contextlib import contextmanager

from s2p_tui.formats.remote.file import RemoteFile, fetch_all
from s2p_tui.formats.remote.ranges import Span, joined

_AHEAD = 1 << 22
"""Bytes fetched where somebody reads on from where the last read ended, as norms and statistics do:
a request takes about as long as one or two MiB of an answer."""


class _Blocks:
    """The bytes that one thread holds of one file, in the order of the file."""

    def __init__(self, spans: list[Span], data: list[memoryview]) -> None:
        self._spans, self._data = spans, data

    def find(self, start: int, stop: int) -> memoryview | None:
        """Return some bytes; None if they are not all in one block."""
        number = bisect_right(self._spans, start, key=lambda span: span[0]) - 1
        if number < 0 or stop > self._spans[number][1]:
            return None
        first = self._spans[number][0]
        return self._data[number][start - first : stop - first]


class Held(threading.local):
    """The bytes that each thread holds of some files."""

    def __init__(self) -> None:
        self._blocks: dict[RemoteFile, _Blocks] = {}
        self._last: tuple[RemoteFile, _Blocks, int] | None = None

    @contextmanager
    def having(self, wanted: Iterable[tuple[RemoteFile, int, int]]) -> Generator[None, None, None]:
        """Fetch parts of files with few requests, several at once, and hold them meanwhile."""
        outer = self._blocks
        self._blocks = {**outer, **self._fetched(wanted)}
        try:
            yield
        finally:
            self._blocks = outer

    def fill(self, file: RemoteFile, buffer: memoryview, position: int, end: int) -> None:
        """Fill a buffer from a position, with bytes held or asked for now.

        Args:
            file: The file.
            buffer: To be filled.
            position: Where to start.
            end: Behind this byte nothing is asked for in advance.
        """
        stop = position + len(buffer)
        blocks = self._blocks.get(file)
        found = None if blocks is None else blocks.find(position, stop)
        if found is None and self._last is not None and self._last[0] is file:
            found = self._last[1].find(position, stop)
        if found is None:
            reads_on = (
                self._last is not None and self._last[0] is file and self._last[2] == position
            )
            last = max(stop, min(end, position + _AHEAD)) if reads_on else stop
            data = file.fetch(position, last)
            self._last = file, _Blocks([(position, last)], [data]), stop
            found = data[: len(buffer)]
        elif self._last is not None and self._last[0] is file:
            self._last = file, self._last[1], stop
        buffer[:] = found

    @staticmethod
    def _fetched(wanted: Iterable[tuple[RemoteFile, int, int]]) -> dict[RemoteFile, _Blocks]:
        spans: defaultdict[RemoteFile, list[Span]] = defaultdict(list)
        for file, start, stop in wanted:
            spans[file].append((start, stop))
        blocks = {file: joined(parts) for file, parts in spans.items()}
        data = iter(
            fetch_all([(file, *block) for file, parts in blocks.items() for block in parts])
            if blocks
            else ()
        )
        return {file: _Blocks(parts, [next(data) for _ in parts]) for file, parts in blocks.items()}
