"""Counts what becomes of injected faults: `python -m tests.forward [--pairs …] [--count 200]`."""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

from tests.forward.faults import KINDS
from tests.forward.pairs import TWINS, pair
from tests.forward.trial import Outcome, trial

Draw = tuple[str, tuple[str, ...], int]


def drawn(seed: int, names: tuple[str, ...], count: int, *, twos: float) -> list[Draw]:
    """Draw pairs of models and kinds of faults, all kinds as often, `twos` of them in twos."""
    chance = random.Random(seed)
    kinds = list(KINDS)
    found: list[Draw] = []
    for number in range(count):
        first = kinds[number % len(kinds)]
        both = (first, chance.choice(kinds)) if chance.random() < twos else (first,)
        found.append((chance.choice(names), both, chance.randrange(1 << 30)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.forward")
    parser.add_argument("--pairs", nargs="*", default=["minilm", "silero", *TWINS])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--twos", type=float, default=0.25)
    options = parser.parse_args()
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    false: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, kinds, seed in drawn(
            options.seed, tuple(options.pairs), options.count, twos=options.twos
        ):
            started = time.monotonic()
            outcome = trial(pair(name), kinds, seed, Path(folder))
            if outcome is None:
                continue
            result = "repaired" if outcome.repaired else "found" if outcome.seen else "no effect"
            result = "FALSE" if outcome.false else result
            for row in (name, *(kinds if len(kinds) == 1 else ()), f"in {len(kinds)}", "all"):
                counts[row][result] += 1
                counts[row]["settled"] += outcome.settled
            false += [outcome] if outcome.false else []
            took = time.monotonic() - started
            print(
                f"{result:10} {took:6.1f} s  {name}: {' + '.join(kinds)} (seed {seed})", flush=True
            )
            if result not in ("repaired",):
                print(f"    {'; '.join(outcome.words)} {outcome.false or ''}", flush=True)
    print(f"\n{'':28} {'repaired':>9} {'settled':>9} {'found':>9} {'no effect':>9} {'FALSE':>9}")
    for row, count in counts.items():
        columns = (count[n] for n in ("repaired", "settled", "found", "no effect", "FALSE"))
        print(f"{row:28} {' '.join(f'{value:9}' for value in columns)}")


if __name__ == "__main__":
    main()
