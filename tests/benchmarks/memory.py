"""What converting a state dict that is in memory already takes beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.benchmarks.measure import Report, Result, child, in_turns


def run(folder: Path, runs: int, report: Report) -> None:
    """All cases of this part; files are removed as soon as nothing needs them."""
    times = max(1, runs - 1)
    output, chunks = folder / "memory.eqx", folder / "chunks"
    for mebibytes in (128, 512):
        what = f"{mebibytes:,} MiB state dict in memory"
        result = Result(f"{what} to .eqx, verified", "≤ 128 MiB")
        report(in_turns(times, result, lambda m=mebibytes: _child(m, output, "file"), None))
        output.unlink()
        result = Result(f"{what} to chunks", "≤ 128 MiB")
        report(in_turns(times, result, lambda m=mebibytes: _child(m, chunks, "chunks"), None))
        shutil.rmtree(chunks)


def _child(mebibytes: int, output: Path, how: str) -> dict[str, float]:
    return child("from_memory", str(mebibytes), output, how)
