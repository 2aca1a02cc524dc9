"""A few seeded faults of every kind: `python -m tests.forward` tries more, on larger models too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.forward.__main__ import outcomes


@pytest.mark.slow("tries hundreds of candidates in both frameworks")
@pytest.mark.parametrize(("twos", "least"), [(0.0, 0.95), (1.0, 0.6)])
def test_faults_are_put_right_and_never_wrong(twos: float, least: float, tmp_path: Path) -> None:
    found = list(outcomes(3, ("blocks", "scan"), 12, tmp_path, twos=twos))
    assert [outcome for outcome in found if outcome.false] == []
    assert sum(outcome.repaired for outcome in found) >= least * len(found)
