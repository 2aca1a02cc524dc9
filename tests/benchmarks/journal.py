"""`python -m tests.benchmarks.journal`: edit, `kill -9`, open again and compare, many times.

Then what journalling costs a key, and opening, at a thousand and a hundred thousand rows, and after
2,000 steps.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median

from s2p_tui.alignment.edits import MoveBlock
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.skeleton_file import Target
from s2p_tui.formats.tensors import ArrayTensors
from s2p_tui.session.journal import Journal
from s2p_tui.session.session import Session
from tests.helpers.killing import kill_rounds

_SIZES = ((1_000, 200), (100_000, 200), (5_000, 2_000))
"""Rows and steps; the last is to be read again in 0.3 s."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.journal", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="kills (100)")
    parser.add_argument("--seed", type=int, help="of the keys; another one each time unless given")
    options = parser.parse_args()
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    with tempfile.TemporaryDirectory(prefix="s2p-journal-") as folder:
        os.environ["XDG_STATE_HOME"] = folder
        for count, steps in _SIZES:
            _cost(count, steps)
        _kills(Path(folder), options.rounds, seed)


def _kills(folder: Path, count: int, seed: int) -> None:
    rounds = kill_rounds(folder, count, seed)
    kept = sum(one.kept for one in rounds)
    ahead = Counter(one.found - one.seen for one in rounds)
    print(f"seed {seed}: {kept} of {count} kills lost nothing that was drawn")
    print(f"edits journalled beyond those drawn: {dict(sorted(ahead.items()))}")
    if kept < count:
        raise SystemExit(f"{rounds[-1]}")


def _cost(count: int, steps: int) -> None:
    state_dict = StateDict(
        tuple(Entry(f"layers.{n}.weight", (4,), "float32") for n in range(count))
    )
    leaves = (Leaf(f".layers[{n}].weight", (4,), "float32", owner="Linear") for n in range(count))
    checkpoint = Checkpoint("model", (), 0, state_dict, ArrayTensors({}))
    target = Target("skeleton", (), 0, Skeleton(tuple(leaves)), ArrayTensors({}))
    session, journal = Session(checkpoint, target), Journal.open(checkpoint, target)
    opening = _seconds(lambda: journal.start(session.alignment))
    keys: list[float] = []
    session.record(lambda *step: keys.append(_seconds(lambda: journal.record(*step))))
    for number in range(steps):
        session.edit(MoveBlock(number, number + 1, 1))
    journal.close()
    again: list[Journal] = []
    replaying = _seconds(lambda: again.append(Journal.open(checkpoint, target)))
    again[0].close()
    print(
        f"{count:,} rows: {median(keys) * 1e6:.0f} µs a key, {max(keys) * 1e6:.0f} at most; "
        f"to begin {opening:.2f} s, to read {steps:,} steps again {replaying:.2f} s"
    )


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
