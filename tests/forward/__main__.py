"""Counts what becomes of injected faults: `python -m tests.forward [--pairs …] [--count 200]`."""

from __future__ import annotations

import argparse
import itertools
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.forward.faults import KINDS
from tests.forward.pairs import TWINS, pair
from tests.forward.trial import Outcome, trial


def outcomes(
    seed: int, names: Sequence[str], count: int, folder: Path, *, twos: float
) -> Iterator[Outcome]:
    """Try faults in pairs of models: all kinds as often, `twos` of them in twos.

    A kind that a pair has no place for is tried in another one.
    """
    chance = random.Random(seed)
    kinds = list(KINDS)
    numbers = itertools.count()
    while count:
        first = kinds[next(numbers) % len(kinds)]
        both = (first, chance.choice(kinds)) if chance.random() < twos else (first,)
        drawn = chance.randrange(1 << 30)
        tried = (
            trial(pair(name), both, drawn, folder) for name in chance.sample(names, len(names))
        )
        outcome = next((one for one in tried if one is not None), None)
        if outcome is not None:
            count -= 1
            yield outcome


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
        started = time.monotonic()
        for outcome in outcomes(
            options.seed, options.pairs, options.count, Path(folder), twos=options.twos
        ):
            name, kinds = outcome.pair, outcome.kinds
            result = "repaired" if outcome.repaired else "found" if outcome.seen else "no effect"
            result = "FALSE" if outcome.false else result
            for row in (name, *(kinds if len(kinds) == 1 else ()), f"in {len(kinds)}", "all"):
                counts[row][result] += 1
                counts[row]["settled"] += outcome.settled
            false += [outcome] if outcome.false else []
            took, started = time.monotonic() - started, time.monotonic()
            said = f"{name}: {' + '.join(kinds)} (seed {outcome.seed})"
            print(f"{result:10} {took:6.1f} s  {said}", flush=True)
            if result not in ("repaired",):
                print(f"    {'; '.join(outcome.words)} {outcome.false or ''}", flush=True)
    print(f"\n{'':28} {'repaired':>9} {'settled':>9} {'found':>9} {'no effect':>9} {'FALSE':>9}")
    for row, count in counts.items():
        columns = (count[n] for n in ("repaired", "settled", "found", "no effect", "FALSE"))
        print(f"{row:28} {' '.join(f'{value:9}' for value in columns)}")


if __name__ == "__main__":
    main()
