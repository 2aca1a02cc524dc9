"""Time of conversions beside `cp`, `dd`, a hand-written script and `statedict2pytree`."""

from __future__ import annotations

import filecmp
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.inputs import (
    Pair,
    equal_tensors,
    plain_pair,
    thirds,
    transformed_pair,
    transforms,
)
from tests.benchmarks.measure import Report, Result, child, copied, dumped, in_turns, needs, skipped

GIB = 1 << 30
MIB = 1 << 20
_ANCESTOR = "statedict2pytree"
_PATIENCE = 20.0
_MANY = 100_000
_MOST_FOR_ANCESTOR = 1000
"""Tensors: its time for each grows with their number."""
_COUNTS = (
    (1000, GIB, "≤ 1.5", "≤ 2.5"),
    (5000, 100 * MIB, "≤ 0.3 s", "≤ 0.6 s"),
    (_MANY, 100 * MIB, "≤ 4 s", "≤ 6 s"),
)
"""Tensors, bytes of all, budget without and with verification."""
_LARGE = 20 * 10**9


def run(folder: Path, runs: int, report: Report, *, large: bool = False) -> None:
    """All cases of this part; files are removed as soon as nothing needs them."""
    _sources(folder, runs, report)
    _many(folder, runs, report)
    _transforms(folder, runs, report)
    if large:
        _large(folder, runs, report)


def _sources(folder: Path, runs: int, report: Report) -> None:
    tensors = equal_tensors(16, GIB)
    for suffix in (".safetensors", ".pt", ".shards"):
        pair = plain_pair(folder, "large", tensors, suffix)
        what = f"16 × 64 MiB, {'16 shards' if suffix == '.shards' else suffix}"
        budgets, times = ("≤ 1.3", "≤ 2"), runs + 1
        _against_copy(pair, times, what, budgets, report)
        if suffix == ".safetensors":
            target = f"{what} to .safetensors"
            _against_copy(pair, times, target, budgets, report, ".safetensors")
            report(_against_script(pair, what))
            report(_ancestor(pair, what))
        remove(pair)


def _many(folder: Path, runs: int, report: Report) -> None:
    for count, total, *budgets in _COUNTS:
        for suffix in (".safetensors", ".pt") if count == 5000 else (".safetensors",):
            pair = plain_pair(folder, "many", equal_tensors(count, total), suffix)
            what = f"{count:,} × {total // count // 1000:,} kB, {suffix}"
            times = 1 if count == _MANY else runs
            _against_copy(pair, times, what, (budgets[0], budgets[1]), report)
            if suffix == ".safetensors":
                if total == GIB:
                    _from_the_start(pair, times, what, report)
                report(_against_script(pair, what))
                if count <= _MOST_FOR_ANCESTOR:
                    report(_ancestor(pair, what))
            remove(pair)


def _transforms(folder: Path, runs: int, report: Report) -> None:
    for what, budget, pair in transforms(folder, 256 * MIB):
        _against_dump(pair, runs, what, budget, report)
        remove(pair)


def _large(folder: Path, runs: int, report: Report) -> None:
    what = "8 GB split in 3"
    if why := needs(folder, 3 * 8 * 10**9):
        report(skipped(what, why))
    else:
        pair = transformed_pair(folder, "qkv", *thirds(8 * 10**9))
        _against_dump(pair, runs, what, "≤ 2", report)
        remove(pair)
    what = "16 × 1.25 GB, .safetensors"
    if why := needs(folder, 2 * _LARGE):
        report(skipped(what, why))
        return
    pair = plain_pair(folder, "huge", equal_tensors(16, _LARGE), ".safetensors")
    _against_copy(pair, runs, what, ("≤ 1.3", "≤ 2"), report)
    remove(pair)


def _against_copy(
    pair: Pair,
    runs: int,
    what: str,
    budgets: tuple[str, str],
    report: Report,
    suffix: str = ".eqx",
) -> None:
    output = pair.skeleton.with_name(f"output{suffix}")
    for verify, budget in zip((False, True), budgets, strict=True):
        result = Result(f"{what}{', verified' * verify}", budget, compared="cp + fsync")
        report(
            in_turns(
                runs,
                result,
                lambda verify=verify: convert(pair, output, verify=verify),
                lambda: copied(pair.model, output),
            )
        )


def _from_the_start(pair: Pair, runs: int, what: str, report: Report) -> None:
    """The whole command: start-up, matching, writing and verification."""
    output = pair.skeleton.with_name("output.eqx")
    command = [sys.executable, "-m", "s2p_tui", "convert", str(pair.model), str(pair.skeleton)]

    def converted() -> dict[str, Any]:
        output.unlink(missing_ok=True)
        started = time.perf_counter()
        subprocess.run(
            [*command, "-o", str(output), "--trust-all"], check=True, stdout=subprocess.DEVNULL
        )
        seconds = time.perf_counter() - started
        output.unlink()
        return {"seconds": seconds, "process": seconds}

    result = Result(f"{what}, whole command", "≤ 1.5", compared="cp + fsync")
    report(in_turns(runs, result, converted, lambda: copied(pair.model, output)))


def _against_dump(pair: Pair, runs: int, what: str, budget: str, report: Report) -> None:
    output, same = pair.skeleton.with_name("output.eqx"), pair.skeleton.with_name("same.eqx")
    convert(pair, output, verify=False, keep=True)
    # Copied, since pages of a file that was not written front to back are slower to read.
    shutil.copyfile(output, same)
    output.unlink()
    what = f"{what}, {same.stat().st_size // MIB:,} MiB out"
    result = Result(what, budget, compared="dd + fsync")
    report(
        in_turns(
            runs, result, lambda: convert(pair, output, verify=False), lambda: dumped(same, output)
        )
    )
    result = Result(f"{what}, verified", "")
    report(in_turns(1, result, lambda: convert(pair, output), None))
    same.unlink()


def _ancestor(pair: Pair, what: str) -> Result:
    what = f"{what}, {_ANCESTOR}"
    if importlib.util.find_spec(_ANCESTOR) is None:
        return skipped(what, "not installed")
    output = pair.skeleton.with_name("ancestor.eqx")
    try:
        found = child(_ANCESTOR, pair.model, output, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        return Result(what, "", note=f"not done after {_PATIENCE:.0f} s")
    except subprocess.CalledProcessError as error:
        return Result(what, "", note=f"failed with exit status {error.returncode}")
    finally:
        output.unlink(missing_ok=True)
    version = importlib.metadata.version(_ANCESTOR)
    return Result(what, "", [found["seconds"]], peak=found["peak"], note=f"version {version}")


def _against_script(pair: Pair, what: str) -> Result:
    output, by_hand = pair.skeleton.with_name("output.eqx"), pair.skeleton.with_name("by_hand.eqx")
    peaks: list[int] = []

    def script() -> float:
        by_hand.unlink(missing_ok=True)
        found = child("script", pair.model, by_hand)
        peaks.append(found["peak"])
        return found["seconds"]

    result = Result(f"{what}, verified", "", compared="script")
    in_turns(1, result, lambda: convert(pair, output, keep=True), script)
    same = "same bytes" if filecmp.cmp(output, by_hand, shallow=False) else "BYTES DIFFER"
    result.note = f"script peak {max(peaks) / MIB:,.0f} MiB; {same}"
    output.unlink()
    by_hand.unlink()
    return result


def convert(pair: Pair, output: Path, *, verify: bool = True, keep: bool = False) -> dict[str, Any]:
    """Convert in a process of its own; seconds, peak memory and seconds of the process."""
    output.unlink(missing_ok=True)
    mapping = pair.mapping or ""
    wanted = "verify" if verify else "write"
    found = child("convert", pair.model, pair.skeleton, mapping, output, wanted)
    if not keep:
        output.unlink()
    return found


def remove(pair: Pair) -> None:
    """Remove the files of a pair."""
    if pair.model.is_dir():
        shutil.rmtree(pair.model)
    for file in (pair.model, pair.skeleton, pair.mapping):
        if file is not None:
            file.unlink(missing_ok=True)
