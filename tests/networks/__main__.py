"""Counts what becomes of the networks' variants: `python -m tests.networks [--only NAME]`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.networks import NETWORKS
from tests.networks.judge import OUTCOMES, Result, results
from tests.networks.variants import PLAIN


def table(found: Sequence[Result], by: str) -> str:
    """Outcomes counted per value of a field, as a Markdown table."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for result in found:
        counts[getattr(result, by)][result.outcome] += 1
        counts["all"][result.outcome] += 1
    counts["all"] = counts.pop("all")
    lines = [f"| {by} | {' | '.join(OUTCOMES)} |", "|---" * (len(OUTCOMES) + 1) + "|"]
    lines += [
        f"| {name} | {' | '.join(str(count[outcome] or '') for outcome in OUTCOMES)} |"
        for name, count in counts.items()
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.networks")
    parser.add_argument("--only", default="", help="networks with this in their name")
    parser.add_argument("--variant", default="", help="variants with this in their name")
    parser.add_argument("--json", type=Path, help="write every outcome here")
    parser.add_argument("--show", default="wrong", help="list outcomes: wrong, refused or none")
    arguments = parser.parse_args()
    started = time.perf_counter()
    names = [name for name in NETWORKS if arguments.only in name]
    found = list(results(names, lambda variant: arguments.variant in variant.name))
    for result in found:
        if (arguments.show == "wrong" and result.is_wrong) or result.outcome == arguments.show:
            where = f"{result.network} | {result.variant}"
            print(f"{result.outcome}: {where} | {result.detail[:300]}")
    print(table(found, "network"))
    print()
    print(table(found, "kind"))
    plain = [result for result in found if result.kind in PLAIN]
    right = sum(result.outcome in ("right", "neutral") for result in plain)
    print(f"\nplain variants: {right} right of {len(plain)}")
    print(f"{len(names)} networks, {time.perf_counter() - started:.0f} s", file=sys.stderr)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in found], indent=0))


if __name__ == "__main__":
    main()
