"""How cost grows with entries and with bytes, and memory with neither."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import linear_regression

import numpy as np

from s2p_tui.alignment.transform import Expr, Permute, Shape, Take
from tests.benchmarks.conversion import GIB, MIB, convert, remove
from tests.benchmarks.inputs import (
    Tensor,
    equal_tensors,
    plain_pair,
    transformed_pair,
    write_hollow,
)
from tests.benchmarks.measure import Report, Result, child, in_turns, needs, skipped

_ENTRIES = (4_000, 12_000, 36_000)
_BYTES = (128 * MIB, 256 * MIB, 512 * MIB)
_FLAT = 10 * 10**6
_CHUNKS = "≤ 128 MiB"


def run(folder: Path, runs: int, report: Report, *, large: bool = False) -> None:
    """All cases of this part."""
    _by_entries(folder, runs, report)
    _by_bytes(folder, runs, report)
    _memory(folder, report, (1, 4, 16) if large else (1, 4))


def _by_entries(folder: Path, runs: int, report: Report) -> None:
    opening: list[Result] = []
    writing: list[Result] = []
    for count in _ENTRIES:
        pair = plain_pair(folder, "entries", equal_tensors(count, count * 1024), ".safetensors")
        found = Result(f"open and line up {count:,} entries", "")
        opening.append(
            in_turns(
                runs, found, lambda pair=pair: child("session", pair.model, pair.skeleton), None
            )
        )
        found = Result(f"convert {count:,} × 1 kB, verified", "")
        writing.append(
            in_turns(runs, found, lambda pair=pair: convert(pair, folder / "o.eqx"), None)
        )
        remove(pair)
    for results in (opening, writing):
        results[-1].note = f"grows with entries to the power {_exponent(_ENTRIES, results):.2f}"
        for result in results:
            report(result)


def _by_bytes(folder: Path, runs: int, report: Report) -> None:
    results: list[Result] = []
    for size in _BYTES:
        pair = plain_pair(folder, "bytes", equal_tensors(16, size), ".safetensors")
        found = Result(f"convert 16 tensors of {size // MIB:,} MiB, verified", "")
        results.append(
            in_turns(runs, found, lambda pair=pair: convert(pair, folder / "o.eqx"), None)
        )
        remove(pair)
    results[-1].note = f"grows with bytes to the power {_exponent(_BYTES, results):.2f}"
    for result in results:
        report(result)


def _exponent(sizes: Sequence[int], results: Sequence[Result]) -> float:
    """The slope of log seconds over log size; the fastest runs, which others disturb least."""
    seconds = [min(result.seconds) for result in results]
    return linear_regression(np.log(sizes).tolist(), np.log(seconds).tolist()).slope


def _memory(folder: Path, report: Report, sizes: Sequence[int]) -> None:
    peaks: list[int] = []
    for size in sizes:
        what = f"half copied, half permuted, {size} GiB, verified"
        if why := needs(folder, size * GIB):
            report(skipped(what, why))
            continue
        half = size * GIB // 2
        tensors: list[Tensor] = [
            ("copied", (half // 4 // 4096, 4096), "float32"),
            ("turned", (half // 4 // 4096, 4096), "float32"),
        ]
        shape = tensors[0][1]
        rows: list[tuple[Expr, Shape]] = [
            (Take("copied"), shape),
            (Permute(Take("turned"), (1, 0)), shape[::-1]),
        ]
        pair = transformed_pair(folder, "hollow", tensors, rows, write=write_hollow)
        result = Result(what, _CHUNKS)
        in_turns(1, result, lambda pair=pair: convert(pair, folder / "o.eqx"), None)
        assert result.peak is not None
        peaks.append(result.peak)
        result.note = "all resident memory, mapped files included; the source is a sparse file"
        if len(peaks) > 1:
            spread = max(peaks) - min(peaks)
            flat = "flat" if spread <= _FLAT else "NOT FLAT"
            result.note += f"; {flat}: {spread / 1e6:.1f} MB between sizes (≤ 10)"
        report(result)
        remove(pair)
