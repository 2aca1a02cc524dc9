"""The app on a pseudo-terminal: time to the first frame, to the rows, from key to paint; memory."""

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
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from tests.benchmarks.inputs import Pair, equal_tensors, mixture_of_experts, plain_pair
from tests.benchmarks.measure import Report, Result

_SIZE = (30, 110)
_QUIET = 0.25
_LATEST = 60.0
_ROWS = b"layers.0"
_MATCHED = b"Lined up by names"
_ROW_KEYS = {
    "down (j)": b"j",
    "page down": b"\x1b[6~",
    "gap on, off (s)": b"s",
    "move entry down (J)": b"J",
    "move entry up (K)": b"K",
    "mark (space)": b" ",
    "send to bench (Del)": b"\x1b[3~",
    "undo (u)": b"u",
    "redo (ctrl+y)": b"\x19",
    "trust (y)": b"y",
    "next problem (n)": b"n",
}
_BLOCK_KEYS = {
    "fold, unfold (tab)": b"\t",
    "down (j)": b"j",
    "move block down (J)": b"J",
    "block to bench (Del)": b"\x1b[3~",
    # Of as many steps as the key before makes: moves on and on would be taken back at once.
    "undo (u)": b"u",
    "next problem (n)": b"n",
}
_ONCE_A_ROW = (b"\x1b[3~", b"y")
_BURST = 300
_STARTS = 5


class Terminal:
    """The app in a child process, its screen a pseudo-terminal that nobody draws."""

    def __init__(self, pair: Pair) -> None:
        self.output = b""
        self.started = time.perf_counter()
        self._process, self._master = pty.fork()
        if self._process == 0:
            os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
            os.environ["XDG_STATE_HOME"] = str(pair.model.parent / "state")
            arguments = ["-m", "s2p_tui", str(pair.model), str(pair.skeleton), "--fresh"]
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

    @property
    def memory(self) -> int:
        """Bytes that the app occupies."""
        status = Path(f"/proc/{self._process}/status").read_text().split("VmRSS:")[1]
        return int(status.split()[0]) * 1024

    def until_idle(self) -> None:
        """Wait until what goes on beside the keys is done."""
        while self.until_quiet()[1]:
            pass

    def until_quiet(self, first: float = _QUIET) -> tuple[float, int]:
        """When the last byte came, by `time.perf_counter`, and how many came.

        Args:
            first: Seconds to wait for the first one at most.
        """
        before, last = len(self.output), time.perf_counter()
        if not self._read(first):
            return last, 0
        last = time.perf_counter()
        while self._read(_QUIET):
            last = time.perf_counter()
        return last, len(self.output) - before

    def _read(self, wait: float) -> bool:
        if not select.select([self._master], [], [], wait)[0]:
            return False
        self.output += os.read(self._master, 1 << 16)
        return True


def run(folder: Path, runs: int, report: Report) -> None:
    """A small pair, a very large one, and one whose rows are blocks within blocks."""
    small = plain_pair(folder, "small", equal_tensors(100, 1 << 16), ".safetensors")
    large = plain_pair(folder, "large", equal_tensors(100_000, 100_000 * 16), ".safetensors")
    blocks = plain_pair(folder, "blocks", mixture_of_experts(64, 512), ".safetensors")
    with Terminal(small) as terminal:
        # Nothing is compiled at a second start.
        _settle(terminal, is_large=False)
    idle: dict[str, int] = {}
    for pair, what in ((small, "100 rows"), (large, "100,000 rows"), (blocks, "64 × 512 blocks")):
        first = Result(f"process start to first frame, {what}", "≤ 0.5 s")
        rows = Result(f"process start to rows drawn, {what}", "" if pair is small else "≤ 1.5 s")
        for _ in range(max(runs, _STARTS)):
            with Terminal(pair) as terminal:
                first.seconds.append(terminal.until(pair.model.name.encode()))
                rows.seconds.append(terminal.until(_ROWS))
                if what not in idle and pair is not blocks:
                    _settle(terminal, is_large=pair is not small)
                    idle[what] = terminal.memory
        report(first)
        report(rows)
    memory = Result("memory over that at 100 rows, 100,000 rows", "≤ 97 MiB")
    memory.peak = idle["100,000 rows"] - idle["100 rows"]
    memory.note = f"{memory.peak / 99_900:,.0f} bytes a row (≤ 1,024), once they are matched"
    report(memory)
    with Terminal(large) as terminal:
        _settle(terminal, is_large=True)
        terminal.send(b"F")
        terminal.until_idle()
        _keys(terminal, "100,000 rows", _ROW_KEYS, report)
        _bursts(terminal, report)
    with Terminal(blocks) as terminal:
        _settle(terminal, is_large=True)
        terminal.send(b"g\tj")
        terminal.until_idle()
        _keys(terminal, "64 folded blocks of 1,538 rows", _BLOCK_KEYS, report)


def _settle(terminal: Terminal, *, is_large: bool) -> None:
    terminal.until(_MATCHED if is_large else _ROWS)
    terminal.until_idle()


def _keys(
    terminal: Terminal, where: str, keys: Mapping[str, bytes], report: Report, presses: int = 11
) -> None:
    for what, key in keys.items():
        result = Result(f"{what}, {where}, key to last byte", "≤ 30 ms")
        sizes: list[int] = []
        for _ in range(presses):
            if key in _ONCE_A_ROW:
                terminal.send(b"j")
                terminal.until_quiet()
            sent = time.perf_counter()
            terminal.send(key)
            last, size = terminal.until_quiet()
            result.seconds.append(last - sent)
            sizes.append(size)
        if not median(sizes):
            raise RuntimeError(f"{what}, {where}: most presses changed nothing")
        result.note = f"{median(sizes):,.0f} bytes a key (≤ 1,024), {max(sizes):,} at most"
        report(result)


def _bursts(terminal: Terminal, report: Report) -> None:
    """A key held down: what is painted may skip, what it does may not lag behind."""
    terminal.send(b"1000\r")
    terminal.until_idle()
    for what, key in (("down (j)", b"j"), ("move entry up (K)", b"K")):
        result = Result(f"{_BURST} × {what} at once, to last byte", "≤ 9 s")
        sent = time.perf_counter()
        terminal.send(key * _BURST)
        last, size = terminal.until_quiet(_LATEST)
        result.seconds.append(last - sent)
        result.note = f"{size / _BURST:,.0f} bytes a key"
        report(result)
