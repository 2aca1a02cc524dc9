"""`python -m tests.fuzz --files 10000 --seed 1`: change sound files and see what becomes of it.

What changes a file is drawn from its number alone: `--only N` does one again and shows where it
went wrong.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from tests.fuzz.mutations import mutated
from tests.fuzz.seeds import Seed, make_seeds
from tests.fuzz.trial import Ground, TooSlowError, parse_once

_SHOWN = 5
_NEVER_LONGER = 120.0


def main() -> int:
    """Exit status 0 if nothing went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", type=int, help="the number of one file")
    parser.add_argument("--part", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only is not None:
        return _work([asked.only], asked.seed)
    if asked.part is not None:
        return _work(range(asked.part, asked.files, asked.jobs), asked.seed)
    command = [sys.executable, "-m", "tests.fuzz", f"--files={asked.files}", f"--seed={asked.seed}"]
    parts = [
        subprocess.Popen([*command, f"--jobs={asked.jobs}", f"--part={part}"])
        for part in range(asked.jobs)
    ]
    return max([abs(part.wait()) for part in parts])


def _work(numbers: range | list[int], seed: int) -> int:
    wrong = 0
    parse_once()
    with tempfile.TemporaryDirectory(prefix="s2p-fuzz-") as name:
        folder, state = Path(name) / "files", Path(name) / "state"
        folder.mkdir()
        os.environ["XDG_STATE_HOME"] = str(state)
        seeds = make_seeds(folder, state)
        (folder / "sound.index.json").write_bytes(
            next(one.content for one in seeds if one.role == "index")
        )
        ground = Ground(folder, state)
        for number in numbers:
            if not _holds(ground, seeds, number, seed, show=len(numbers) == 1):
                wrong += 1
            if wrong == _SHOWN:
                break
    for (kind, outcome), count in sorted(ground.outcomes.items()):
        print(f"{kind:20} {outcome:24} {count:6}")
    return 1 if wrong else 0


def _holds(ground: Ground, seeds: list[Seed], number: int, seed: int, *, show: bool) -> bool:
    one = seeds[number % len(seeds)]
    content = mutated(one, random.Random(f"{seed}:{number}"), seeds)
    # Code that is not Python's own cannot be interrupted: then this ends it and says where it was.
    faulthandler.dump_traceback_later(_NEVER_LONGER, exit=True)
    try:
        ground.attempt(one.name, one.role, content)
    except (Exception, TooSlowError) as error:
        print(f"{one.name}, --seed {seed} --only {number}: {type(error).__name__}: {error}"[:400])
        if show:
            traceback.print_exc()
        return False
    finally:
        faulthandler.cancel_dump_traceback_later()
    return True


if __name__ == "__main__":
    sys.exit(main())
