"""Running this and the compared thing in turns, and the table of what came out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any


@dataclass
class Result:
    """One line of the table.

    Attributes:
        what: What was measured.
        budget: What the design allows, in words.
        seconds: This program's runs.
        compared: What it was compared with; empty if with nothing.
        compared_seconds: The runs of that, each made right after the run of this program.
        peak: Bytes of memory at the most, over what the idle program holds; None if not measured.
        process: Seconds from start to end of the whole process, start-up included.
        note: Anything else that was found.
    """

    what: str
    budget: str
    seconds: list[float] = field(default_factory=list)
    compared: str = ""
    compared_seconds: list[float] = field(default_factory=list)
    peak: int | None = None
    process: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Median of the ratios pair by pair."""
        pairs = list(zip(self.seconds, self.compared_seconds, strict=False))
        return median(ours / theirs for ours, theirs in pairs) if pairs else None


Report = Callable[[Result], None]


def child(*arguments: str | Path) -> dict[str, Any]:
    """Run `tests.benchmarks.child` in a fresh process; what it printed, and `process` seconds."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.child", *map(str, arguments)],
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    return {**json.loads(done.stdout), "process": time.perf_counter() - started}


def in_turns(
    runs: int, result: Result, this: Callable[[], dict[str, Any]], other: Callable[[], float] | None
) -> Result:
    """Run A B A B …; both are told nothing of each other, files are on the disk in between."""
    for _ in range(runs):
        os.sync()
        found = this()
        result.seconds.append(found["seconds"])
        result.process.append(found["process"])
        if "peak" in found:
            result.peak = max(result.peak or 0, found["peak"])
        if other is not None:
            os.sync()
            result.compared_seconds.append(other())
    return result


def copied(source: Path, target: Path) -> float:
    """Seconds of `cp` and fsync of a file to a new one."""
    return _written(["cp", str(source), str(target)], target)


def dumped(source: Path, target: Path) -> float:
    """Seconds of `dd` and fsync of a file's bytes to a new one."""
    return _written(["dd", f"if={source}", f"of={target}", "bs=4M", "status=none"], target)


def _written(command: Sequence[str], target: Path) -> float:
    target.unlink(missing_ok=True)
    os.sync()
    started = time.perf_counter()
    subprocess.run(command, check=True)
    descriptor = os.open(target, os.O_RDWR)
    os.fsync(descriptor)
    os.close(descriptor)
    seconds = time.perf_counter() - started
    target.unlink()
    return seconds


_HEAD = ("what", "this", "compared with", "", "ratio", "budget", "peak", "process", "note")
_WIDTHS = (44, 22, 14, 22, 6, 12, 9, 8, 0)


def print_head() -> None:
    """The head of the table."""
    print(_line(_HEAD))


def print_result(result: Result) -> None:
    """One line of the table."""
    ratio = result.ratio
    cells = (
        result.what,
        _spread(result.seconds),
        result.compared,
        _spread(result.compared_seconds),
        "" if ratio is None else f"{ratio:.2f}",
        result.budget,
        "" if result.peak is None else f"{result.peak / 2**20:.0f} MiB",
        f"{median(result.process):.2f} s" if result.process else "",
        result.note,
    )
    print(_line(cells), flush=True)


def _line(cells: Sequence[str]) -> str:
    return "  ".join(f"{cell:<{w}}" for cell, w in zip(cells, _WIDTHS, strict=True)).rstrip()


def _spread(seconds: list[float]) -> str:
    if not seconds:
        return ""
    unit, scale = ("s", 1) if median(seconds) >= 0.1 else ("ms", 1000)
    low, middle, high = (scale * number for number in (min(seconds), median(seconds), max(seconds)))
    digits = 2 if unit == "s" else 1
    return f"{middle:.{digits}f} [{low:.{digits}f}–{high:.{digits}f}] {unit}"


def as_json(results: Sequence[Result]) -> str:
    """All results, for machines; seconds and bytes."""
    return json.dumps([{**asdict(r), "ratio": r.ratio} for r in results], indent=1)
