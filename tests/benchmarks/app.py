"""The app on a pseudo-terminal: time to the first frame, to the rows, from key to paint."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from pathlib import Path
from statistics import median

from tests.benchmarks.inputs import Pair, equal_tensors, plain_pair
from tests.benchmarks.measure import Report, Result

_SIZE = (30, 110)
_QUIET = 0.25
_LATEST = 60.0
_KEYS = {"down (j)": b"j", "page down": b"\x1b[6~", "move entry down (J)": b"J"}


class Terminal:
    """The app in a child process, its screen a pseudo-terminal that nobody draws."""

    def __init__(self, pair: Pair) -> None:
        self.output = b""
        self.started = time.perf_counter()
        self._process, self._master = pty.fork()
        if self._process == 0:
            os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
            os.environ["XDG_STATE_HOME"] = str(pair.model.parent / "state")
            arguments = ["-m", "s2p_tui", str(pair.model), str(pair.skeleton)]
            os.execv(sys.executable, [sys.executable, *arguments])
        size = struct.pack("HHHH", *_SIZE, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._master)

    def send(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def until(self, text: bytes) -> float:
        """Seconds from the start until the text has been sent to the terminal."""
        while text not in self.output:
            if not self._read(_LATEST):
                raise TimeoutError(f"the app never showed {text!r}")
        return time.perf_counter() - self.started

    def until_quiet(self) -> tuple[float, int]:
        """When the last byte came, by `time.perf_counter`, and how many came."""
        before, last = len(self.output), time.perf_counter()
        while self._read(_QUIET):
            last = time.perf_counter()
        return last, len(self.output) - before

    def _read(self, wait: float) -> bool:
        if not select.select([self._master], [], [], wait)[0]:
            return False
        self.output += os.read(self._master, 1 << 16)
        return True


def run(folder: Path, runs: int, report: Report) -> None:
    """A small and a very large pair."""
    small = plain_pair(folder, "small", equal_tensors(100, 1 << 16), ".safetensors")
    large = plain_pair(folder, "large", equal_tensors(100_000, 100_000 * 16), ".safetensors")
    for pair, what in ((small, "100 rows"), (large, "100,000 rows")):
        first = Result(f"process start to first frame, {what}", "≤ 0.5 s")
        rows = Result(f"process start to rows drawn, {what}", "≤ 1.5 s" if pair is large else "")
        for _ in range(runs):
            with Terminal(pair) as terminal:
                first.seconds.append(terminal.until(pair.model.name.encode()))
                rows.seconds.append(terminal.until(b"layers.0.weight"))
        report(first)
        report(rows)
    _keys(large, report)


def _keys(pair: Pair, report: Report, presses: int = 25) -> None:
    with Terminal(pair) as terminal:
        terminal.until(b"layers.0.weight")
        terminal.until_quiet()
        for what, key in _KEYS.items():
            result = Result(f"{what} at 100,000 rows, key to last byte", "≤ 30 ms")
            sizes: list[int] = []
            for _ in range(presses):
                sent = time.perf_counter()
                terminal.send(key)
                last, size = terminal.until_quiet()
                result.seconds.append(last - sent)
                sizes.append(size)
            result.note = f"{median(sizes):,.0f} bytes a key (≤ 1,024), {max(sizes):,} at most"
            report(result)
