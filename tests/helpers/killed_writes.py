"""Everything the program writes, killed at random moments: `python -m tests.helpers.killed_writes`.

`--rounds 100 --seed 1` prints, as JSON, how often the target was absent, old or new afterwards, and
how many temporaries the killed programs left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from s2p_tui.cli import run
from s2p_tui.formats.pytree.skeleton import save_skeleton
from tests.benchmarks.inputs import equal_tensors, plain_pair

_OLD = b"what was there before" * 1000
_BYTES = 24 << 20


def _converting(folder: Path) -> Callable[[Path], None]:
    pair = plain_pair(folder, "model", equal_tensors(6, _BYTES), ".safetensors")

    def write(target: Path) -> None:
        beside = ["--save-mapping", f"{target}.json", "--report", f"{target}.cert"]
        arguments = ["convert", str(pair.model), str(pair.skeleton), "-o", str(target), *beside]
        with contextlib.redirect_stdout(sys.stderr):
            if run([*arguments, "--chunk-size", "1"]):
                raise RuntimeError

    return write


def _describing(_: Path) -> Callable[[Path], None]:
    tree = [np.full((_BYTES // 24,), n, np.float32) for n in range(6)]
    return lambda target: save_skeleton(target, tree) and None


_WRITERS = {
    "model.eqx": _converting,
    "model.safetensors": _converting,
    "skeleton.eqx": _describing,
}


def main() -> int:
    """Exit status 0 if no file was ever half there and nothing is left."""
    parser = argparse.ArgumentParser(prog="python -m tests.helpers.killed_writes")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    chance, found = random.Random(asked.seed), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="s2p-killed-") as name:
        for number, (file, make) in enumerate(_WRITERS.items()):
            folder = Path(name) / str(number)
            (folder / "out").mkdir(parents=True)
            target, write = folder / "out" / file, make(folder)
            count = len(range(number, asked.rounds, len(_WRITERS)))
            found.update(_rounds(target, write, count, chance))
    print(json.dumps(found))
    return 0 if not found["wrong"] else 1


def _rounds(target: Path, write: Callable[[Path], None], count: int, chance: random.Random
            ) -> Counter[str]:  # fmt: skip
    started = time.monotonic()
    _child(write, target, None)
    longest = time.monotonic() - started
    whole = {path: path.read_bytes() for path in target.parent.iterdir()}
    found: Counter[str] = Counter()
    for _ in range(count):
        before = chance.choice([None, _OLD])
        for path in whole:
            path.unlink(missing_ok=True)
            if before is not None:
                path.write_bytes(before)
        _child(write, target, chance.uniform(0, 1.1 * longest))
        for path, content in whole.items():
            now = path.read_bytes() if path.exists() else None
            found["wrong"] += now not in (before, content)
            if path == target:
                found["absent" if now is None else "old" if now == _OLD else "new"] += 1
        found["left"] += _strangers(target, whole)
        if chance.random() < 0.3:
            _child(write, target, None)
            found["wrong"] += _strangers(target, whole) > 0 or target.read_bytes() != whole[target]
    _child(write, target, None)
    found["wrong"] += _strangers(target, whole) > 0
    return found


def _strangers(target: Path, whole: dict[Path, bytes]) -> int:
    return len({*target.parent.iterdir()} - {*whole, *(Path(f"{path}~") for path in whole)})


def _child(write: Callable[[Path], None], target: Path, seconds: float | None) -> None:
    """Write in a process of its own, killed after so many seconds."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            write(target)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if seconds is None and status:
        raise RuntimeError("what is not killed must end well")


if __name__ == "__main__":
    sys.exit(main())
