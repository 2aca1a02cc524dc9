"""`python -m tests.benchmarks [PART …]`: measure, print a table, maybe a JSON file."""

from __future__ import annotations

import argparse
import importlib
import tempfile
from pathlib import Path

from tests.benchmarks.measure import Result, as_json, print_head, print_result

PARTS = ("conversion", "memory", "app")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {PARTS}; all unless given")
    parser.add_argument("--directory", type=Path, help="where the files go; about 5 GB, removed")
    parser.add_argument("--runs", type=int, default=3, help="runs per case (3)")
    parser.add_argument("--json", type=Path, help="write the numbers there too")
    options = parser.parse_args()
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    results: list[Result] = []

    def report(result: Result) -> None:
        results.append(result)
        print_result(result)

    print_head()
    with tempfile.TemporaryDirectory(prefix="s2p-bench-", dir=options.directory) as folder:
        for part in options.parts or PARTS:
            importlib.import_module(f"tests.benchmarks.{part}").run(
                Path(folder), options.runs, report
            )
    if options.json is not None:
        options.json.write_text(as_json(results))


if __name__ == "__main__":
    main()
