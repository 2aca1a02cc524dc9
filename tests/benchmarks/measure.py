"""Running this and the compared thing in turns, and the table of what came out."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

_BUDGET = re.compile(r"≤ ([\d.,]+)(?: (s|ms|MiB))?")


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
    def met(self) -> bool | None:
        """Whether the budget, if it has a number, was kept at the median (memory: at the most)."""
        found = _BUDGET.fullmatch(self.budget)
        if found is None:
            return None
        limit, unit = float(found[1].replace(",", "")), found[2]
        if unit == "MiB":
            return self.peak is not None and self.peak <= limit * 2**20
        if unit:
            return bool(self.seconds) and median(self.seconds) <= limit / (1, 1000)[unit == "ms"]
        return self.ratio is not None and self.ratio <= limit

    @property
    def ratio(self) -> float | None:
        """Median of the ratios pair by pair."""
        pairs = list(zip(self.seconds, self.compared_seconds, strict=False))
        return median(ours / theirs for ours, theirs in pairs) if pairs else None


_SPARE = 2 << 30
Report = Callable[[Result], None]


def child(*arguments: str | Path, timeout: float | None = None) -> dict[str, Any]:
    """Run `tests.benchmarks.child` in a fresh process; what it printed, and `process` seconds."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.child", *map(str, arguments)],
        stdout=subprocess.PIPE,
        check=True,
        timeout=timeout,
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


def skipped(what: str, why: str) -> Result:
    """The line of a case that could not be measured here."""
    return Result(what, "", note=f"skipped: {why}")


def needs(folder: Path, nbytes: int) -> str:
    """Why a case that needs so many bytes of disk cannot run; empty if it can."""
    free = shutil.disk_usage(folder).free
    wanted = nbytes + _SPARE
    return "" if free >= wanted else f"needs {wanted / 1e9:.0f} GB of disk, {free / 1e9:.0f} free"


def copied(source: Path, target: Path) -> float:
    """Seconds of `cp` (of the shards of a folder: `cat`) and fsync of a file to a new one."""
    if source.is_dir():
        shards = sorted(map(str, source.glob("*.safetensors")))
        return _written(["sh", "-c", 'cat "$@" > "$0"', str(target), *shards], target)
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


_HEAD = ("what", "this", "beside", "", "ratio", "budget", "met", "peak", "process", "note")
_WIDTHS = (50, 22, 12, 22, 6, 9, 4, 9, 8, 0)


def print_head() -> None:
    """The head of the table."""
    print(_line(_HEAD))


def print_result(result: Result) -> None:
    """One line of the table."""
    print(_line(_cells(result)), flush=True)


def as_markdown(results: Sequence[Result]) -> str:
    """The table as Markdown, without the notes."""
    head = _HEAD[:-1]
    rows = [head, ("---",) * len(head), *(_cells(result)[:-1] for result in results)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cells(result: Result) -> tuple[str, ...]:
    ratio = result.ratio
    return (
        result.what,
        _spread(result.seconds),
        result.compared,
        _spread(result.compared_seconds),
        "" if ratio is None else f"{ratio:.2f}",
        result.budget,
        {True: "yes", False: "NO", None: ""}[result.met],
        "" if result.peak is None else f"{result.peak / 2**20:.0f} MiB",
        f"{median(result.process):.2f} s" if result.process else "",
        result.note,
    )


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
    return json.dumps([{**asdict(r), "ratio": r.ratio, "met": r.met} for r in results], indent=1)
