"""Time of exports, which are always verified, beside `cp` and `dd`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s2p_tui.session.session import Session
from tests.benchmarks.conversion import GIB, MIB, remove
from tests.benchmarks.inputs import Pair, equal_tensors, plain_pair, transforms
from tests.benchmarks.measure import Report, Result, child, copied, dumped, in_turns

_MANY = 100_000


def run(folder: Path, runs: int, report: Report) -> None:
    """All cases of this part; files are removed as soon as nothing needs them."""
    pair = plain_pair(folder, "large", equal_tensors(16, GIB), ".safetensors")
    for suffix, budget in ((".safetensors", "≤ 1.5"), (".pt", "")):
        result = Result(f"16 × 64 MiB back to {suffix}", budget, compared="cp + fsync")
        _measure(pair, suffix, runs + 1, result, report)
    remove(pair)
    pair = plain_pair(folder, "many", equal_tensors(_MANY, 100 * MIB), ".safetensors")
    for suffix in (".safetensors", ".pt"):
        result = Result(f"{_MANY:,} × 1 kB back to {suffix}", "")
        _measure(pair, suffix, 1, result, report)
    remove(pair)
    for what, _, turned in transforms(folder, 256 * MIB):
        result = Result(f"{what}, back", "", compared="dd + fsync")
        _measure(turned, ".safetensors", runs, result, report)
        remove(turned)


def _measure(pair: Pair, suffix: str, runs: int, result: Result, report: Report) -> None:
    leaves, mapping = pair.skeleton.with_name("leaves.eqx"), pair.skeleton.with_name("m.json")
    output = pair.skeleton.with_name(f"back{suffix}")
    session = Session.open(pair.model, pair.skeleton, mapping=pair.mapping)
    session.trust(None)
    session.convert(leaves, mapping=mapping, verify=False)
    session.close()

    def export() -> dict[str, Any]:
        output.unlink(missing_ok=True)
        found = child("export", leaves, pair.skeleton, mapping, pair.model, output)
        output.unlink()
        return found

    other = dumped if result.compared.startswith("dd") else copied
    beside = (lambda: other(pair.model, output)) if result.compared else None
    report(in_turns(runs, result, export, beside))
    leaves.unlink()
    mapping.unlink()
