"""`python -m tests.benchmarks [PART …]`: measure everything, print one table, maybe a JSON file."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.measure import Result, as_json, as_markdown, needs, print_head, print_result

# The app first: its keys would wait for what the others leave the disk to do.
PARTS = {
    "app": "app",
    "conversion": "conversion",
    "export": "export",
    "growth": "growth",
    "memory": "memory",
    "match": "alignment_scale",
    "matching": "app_matching",
}
_ROOM = 5 << 30


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; or all")
    parser.add_argument("--directory", type=Path, help="where the files go; about 5 GB, removed")
    parser.add_argument("--runs", type=int, default=2, help="runs per case (2)")
    parser.add_argument("--large", action="store_true", help="up to 20 GB too, if the disk allows")
    parser.add_argument("--json", type=Path, help="write the numbers there too")
    parser.add_argument("--markdown", type=Path, help="write the table there too")
    options = parser.parse_args()
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    results: list[Result] = []
    # Ends like Ctrl+C does: the files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    started = time.monotonic()
    try:
        _measure(options, results)
    except KeyboardInterrupt:
        print("interrupted; the files are removed")
        sys.exit(130)
    finally:
        if options.json is not None:
            options.json.write_text(as_json(results))
        if options.markdown is not None:
            options.markdown.write_text(as_markdown(results))
    missed = [result.what for result in results if result.met is False]
    print(f"\n{len(results)} lines in {time.monotonic() - started:.0f} s; ", end="")
    print(f"budgets missed: {'; '.join(missed) or 'none'}")


def _measure(options: argparse.Namespace, results: list[Result]) -> None:
    def report(result: Result) -> None:
        results.append(result)
        print_result(result)

    with tempfile.TemporaryDirectory(prefix="s2p-bench-", dir=options.directory) as folder:
        if why := needs(Path(folder), _ROOM):
            sys.exit(f"{folder} {why}; choose another --directory")
        # An installed package has its bytecode; a checkout may be kept from having any.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(folder, "bytecode"))
        print_head()
        for part in options.parts or PARTS:
            run = importlib.import_module(f"tests.benchmarks.{PARTS[part]}").run
            extra = {"large": options.large} if "large" in inspect.signature(run).parameters else {}
            run(Path(folder), options.runs, report, **extra)


if __name__ == "__main__":
    main()
