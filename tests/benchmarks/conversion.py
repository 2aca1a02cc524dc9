"""Time and memory of conversions, and of opening large checkpoints."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path
from typing import Any

from tests.benchmarks.inputs import Pair, Tensor, equal_tensors, plain_pair, transforms
from tests.benchmarks.measure import Report, Result, child, copied, dumped, in_turns

GIB = 1 << 30
MIB = 1 << 20


def run(folder: Path, runs: int, report: Report) -> None:
    """All cases of this part; files are removed as soon as nothing needs them."""
    _large(folder, runs, report)
    _many(folder, runs, report)
    _transforms(folder, runs, report)
    _memory(folder, report)
    _opening(folder, runs, report)


def _large(folder: Path, runs: int, report: Report) -> None:
    tensors = equal_tensors(16, GIB)
    for suffix in (".safetensors", ".pt"):
        pair = plain_pair(folder, "large", tensors, suffix)
        what = f"1 GiB, 16 tensors, {suffix}"
        report(_against_copy(pair, runs, what, "≤ 1.3", verify=False))
        report(_against_copy(pair, runs, f"{what}, verified", "≤ 2", verify=True))
        if suffix == ".safetensors":
            report(_against_script(pair, min(runs, 1), what))
        _remove(pair)


def _many(folder: Path, runs: int, report: Report) -> None:
    for count, total, budget in ((1000, GIB, "≤ 1.5"), (5000, 100 * MIB, "≤ 1 s")):
        for suffix in (".safetensors", ".pt"):
            pair = plain_pair(folder, "many", equal_tensors(count, total), suffix)
            what = f"{total // MIB:,} MiB, {count:,} tensors, {suffix}"
            report(_against_copy(pair, runs, what, budget, verify=False))
            report(_against_copy(pair, runs, f"{what}, verified", "", verify=True))
            if suffix == ".safetensors":
                report(_against_script(pair, min(runs, 1), what))
            _remove(pair)


def _transforms(folder: Path, runs: int, report: Report) -> None:
    for what, pair in transforms(folder, 512 * MIB):
        output, same = folder / "output.eqx", folder / "same.eqx"
        _convert(pair, output, verify=False, keep=True)
        # Copied, since pages of a file that was not written front to back are slower to read.
        shutil.copyfile(output, same)
        result = Result(f"{what}, 512 MiB out", "≤ 3", compared="dd + fsync")
        report(
            in_turns(
                runs,
                result,
                lambda pair=pair, output=output: _convert(pair, output, verify=False),
                lambda output=output, same=same: dumped(same, output),
            )
        )
        result = Result(f"{what}, 512 MiB out, verified", "", compared="dd + fsync")
        report(
            in_turns(
                1,
                result,
                lambda pair=pair, output=output: _convert(pair, output, verify=True),
                lambda output=output, same=same: dumped(same, output),
            )
        )
        same.unlink()
        _remove(pair)


def _memory(folder: Path, report: Report) -> None:
    for size in (GIB, 2 * GIB):
        pair = plain_pair(folder, "flat", equal_tensors(4, size, "float32"), ".safetensors")
        what = f"{size // GIB} GiB in 4 tensors, verified, chunks of 64 MiB"
        result = Result(what, "≤ 128 MiB")
        report(in_turns(1, result, lambda pair=pair: _convert(pair, folder / "o.eqx"), None))
        _remove(pair)


def _opening(folder: Path, runs: int, report: Report) -> None:
    tensors: list[Tensor] = equal_tensors(20_000, 20 * MIB)
    for suffix in (".safetensors", ".pt"):
        pair = plain_pair(folder, "entries", tensors, suffix)
        result = Result(f"open {suffix} of 20,000 entries", "")
        report(in_turns(runs, result, lambda pair=pair: child("opened", pair.model), None))
        _remove(pair)


def _against_copy(pair: Pair, runs: int, what: str, budget: str, *, verify: bool) -> Result:
    output = pair.model.with_name("output.eqx")
    return in_turns(
        runs,
        Result(what, budget, compared="cp + fsync"),
        lambda: _convert(pair, output, verify=verify),
        lambda: copied(pair.model, output),
    )


def _against_script(pair: Pair, runs: int, what: str) -> Result:
    output, by_hand = pair.model.with_name("output.eqx"), pair.model.with_name("by_hand.eqx")
    peaks: list[int] = []

    def script() -> float:
        by_hand.unlink(missing_ok=True)
        found = child("script", pair.model, by_hand)
        peaks.append(found["peak"])
        return found["seconds"]

    def this() -> dict[str, Any]:
        return _convert(pair, output, keep=True)

    result = in_turns(runs, Result(f"{what}, verified", "", compared="script"), this, script)
    same = "same bytes" if filecmp.cmp(output, by_hand, shallow=False) else "BYTES DIFFER"
    result.note = f"script peak {max(peaks) / MIB:,.0f} MiB; {same}"
    output.unlink()
    by_hand.unlink()
    return result


def _convert(
    pair: Pair, output: Path, *, verify: bool = True, keep: bool = False
) -> dict[str, Any]:
    output.unlink(missing_ok=True)
    mapping = pair.mapping or ""
    wanted = "verify" if verify else "write"
    found = child("convert", pair.model, pair.skeleton, mapping, output, wanted)
    if not keep:
        output.unlink()
    return found


def _remove(pair: Pair) -> None:
    for file in (pair.model, pair.skeleton, pair.mapping):
        if file is not None:
            file.unlink()
