"""A few seeded faults of every kind: `python -m tests.forward` tries more, on larger models too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.forward.__main__ import drawn
from tests.forward.pairs import pair
from tests.forward.trial import Outcome, trial


def _outcomes(names: tuple[str, ...], count: int, folder: Path, twos: float) -> list[Outcome]:
    trials = drawn(3, names, count, twos=twos)
    tried = (trial(pair(name), kinds, seed, folder) for name, kinds, seed in trials)
    return [outcome for outcome in tried if outcome is not None]


@pytest.mark.slow("tries hundreds of candidates in both frameworks")
@pytest.mark.parametrize(("twos", "least"), [(0.0, 0.95), (1.0, 0.6)])
def test_faults_are_put_right_and_never_wrong(twos: float, least: float, tmp_path: Path) -> None:
    found = _outcomes(("blocks", "scan"), 28, tmp_path, twos)
    assert len(found) >= 10
    assert [outcome for outcome in found if outcome.false] == []
    assert sum(outcome.repaired for outcome in found) >= least * len(found)
