"""Killed at any moment, the program has lost nothing that was on the screen.

`python -m tests.benchmarks.journal` does it a hundred times.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.killing import Round, kill_rounds


@pytest.mark.slow("starts the app 25 times and kills it")
def test_what_the_last_drawn_key_made_is_there_again(tmp_path: Path) -> None:
    rounds = kill_rounds(tmp_path, 25, seed=4)
    assert len(rounds) == 25
    assert [one for one in rounds if not one.kept] == []


def test_losing_an_edit_or_making_one_up_would_be_noticed() -> None:
    assert Round(seen=3, found=3, sent=5, right=True).kept
    assert not Round(seen=3, found=2, sent=5, right=True).kept
    assert not Round(seen=3, found=6, sent=5, right=True).kept
    assert not Round(seen=3, found=3, sent=5, right=False).kept
