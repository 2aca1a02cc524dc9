"""Ten thousand changed files, and a fuzzer that would notice."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from pathlib import Path

import pytest

from s2p_tui.errors import InputError
from tests.fuzz import trial
from tests.fuzz.mutations import mutated
from tests.fuzz.seeds import make_seeds
from tests.fuzz.trial import Ground, TooSlowError, WrongError, limited_memory, limited_time


@pytest.mark.slow("opens ten thousand changed files")
def test_changed_files_are_refused_or_converted() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--files=10000", "--seed=1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    counts = [line.rsplit(maxsplit=1) for line in done.stdout.splitlines()]
    assert sum(int(count) for _, count in counts) == 10_000
    converted = sum(int(count) for what, count in counts if what.endswith("converted"))
    assert converted > 300


@pytest.fixture
def ground(tmp_path: Path, state_home: Path) -> Ground:
    make_seeds(tmp_path, state_home)
    return Ground(tmp_path, state_home)


def test_a_number_alone_says_what_is_changed(tmp_path: Path, state_home: Path) -> None:
    seeds = make_seeds(tmp_path, state_home)
    first, again = (mutated(seeds[0], random.Random("1:7"), seeds) for _ in range(2))
    assert first == again
    assert len({mutated(seeds[0], random.Random(n), seeds) for n in range(50)}) > 40


@pytest.mark.parametrize(
    ("error", "noticed"),
    [(KeyError("x"), KeyError), (InputError("\x1b[2J"), None), (RecursionError(), RecursionError)],
)
def test_what_is_no_clean_error_is_noticed(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, error: Exception, noticed: type | None
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(trial, "open_checkpoint", fail)
    content = (ground.folder / "model.pt").read_bytes()
    if noticed is None:
        ground.attempt("zip", "model", content)
    else:
        with pytest.raises(noticed):
            ground.attempt("zip", "model", content)


def test_a_file_left_behind_is_noticed(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    real = trial.open_checkpoint

    def leaving(path: Path) -> object:
        (ground.folder / "left").touch()
        return real(path)

    monkeypatch.setattr(trial, "open_checkpoint", leaving)
    with pytest.raises(WrongError, match="left or changed"):
        ground.attempt("zip", "model", (ground.folder / "model.pt").read_bytes())


def test_hanging_and_memory_are_noticed() -> None:
    with pytest.raises(TooSlowError), limited_time(0.05):
        max(number for number in itertools.count())
    with pytest.raises(WrongError, match="MiB"), limited_memory(10):
        bytearray(200 << 20)
