"""Small pure functions behind the screens."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2p_tui.alignment.task import Job
from s2p_tui.app.cursor import Cursor
from s2p_tui.app.screens.busy import Pace, duration
from s2p_tui.app.screens.convert import obstacle, remark
from s2p_tui.app.text import many, size_in_words
from s2p_tui.app.theme import UNICODE
from s2p_tui.app.wording import details, tally
from tests.helpers.sessions import linears


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (44_700_000, "44.7 MB")],
)
def test_size_in_words(count: int, words: str) -> None:
    assert size_in_words(count) == words


def test_many() -> None:
    assert many(1, "leaf", "leaves") == "1 leaf"
    assert many(1200, "leaf", "leaves") == "1,200 leaves"


@pytest.mark.parametrize(
    ("seconds", "words"), [(8.4, "8 s"), (125, "2 min 05 s"), (4320, "1 h 12 min")]
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_pace_is_that_of_the_phase() -> None:
    job, pace = Job(), Pace()
    job.total = 4_000_000
    assert pace.read(job, 0.0).figures == "0 bytes of 4.0 MB"
    job.written = 2_000_000
    reading = pace.read(job, 2.0)
    assert reading.figures == "2.0 MB of 4.0 MB · 1.0 MB/s · 2 s left"
    assert (reading.done, reading.total) == (2_000_000, 8_000_000)
    job.written, job.phase = 4_000_000, "verifying"
    assert pace.read(job, 4.0).figures == "0 bytes of 4.0 MB"
    job.verified = 2_000_000
    assert pace.read(job, 5.0).figures == "2.0 MB of 4.0 MB · 2.0 MB/s · 1 s left"


def test_name_is_remarked_on(tmp_path: Path) -> None:
    (tmp_path / "there.eqx").touch()
    assert "asked before it is replaced" in remark(str(tmp_path / "there"))
    (tmp_path / "folder.eqx").mkdir()
    assert "is a folder" in obstacle(str(tmp_path / "folder"))
    assert "no folder" in obstacle(str(tmp_path / "none" / "a.eqx"))
    assert "Will be written as" in remark(str(tmp_path / "new"))
    assert remark(str(tmp_path / "new.eqx")) == ""
    assert obstacle(str(tmp_path / "new.eqx")) == ""
    assert obstacle(" ") == "Give the file a name."


def test_tally_is_worst_first() -> None:
    assert tally(linears(), UNICODE) == "✗2 ?1 ·1 ≈1 ✓1  bench 1 ?1"


def test_details_of_a_row_and_of_a_benched_entry() -> None:
    session = linears()
    assert details(session, 2, UNICODE) == [
        "c  6×2 float32",
        "→ .third  2×6 float32",
        "? doubtful: reshape 6×2 to 2×6 has the right size but may mix the elements",
        "row 3, by order",
    ]
    assert details(session, 6, UNICODE)[0] == "left.over  7 float32"
    assert "Python scalar" in details(session, 4, UNICODE)[1]


def test_cursor_forgets_what_is_gone() -> None:
    cursor = Cursor(index=9, marks={1, 8}, anchor=8, picked=9, matches=(1, 8, 9))
    cursor.forget_beyond(8)
    assert cursor == Cursor(index=7, marks={1}, matches=(1,))


def test_escape_gives_up_the_innermost_first() -> None:
    cursor = Cursor(marks={1}, picked=2, typed="4", query="a", matches=(1,))
    steps = []
    while cursor.escape():
        steps.append((cursor.typed, cursor.picked, cursor.query, bool(cursor.marks)))
    assert steps == [
        ("", 2, "a", True),
        ("", None, "a", True),
        ("", None, "", True),
        ("", None, "", False),
    ]
