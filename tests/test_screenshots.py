"""The README's pictures show the app as it is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from screenshots import make
from screenshots.drawing import is_made_from

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "screenshots"
_MOST_BYTES = 150_000


@pytest.mark.slow("draws every picture")
def test_the_pictures_are_what_the_script_makes() -> None:
    command = [sys.executable, "-m", "screenshots.make", "--check"]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_picture_that_is_out_of_date_is_told(tmp_path: Path, monkeypatch) -> None:
    drawn = (FOLDER / "review.svg").read_text(encoding="utf-8")
    monkeypatch.setattr(make, "HERE", tmp_path)
    (tmp_path / "review.svg").write_text(drawn, encoding="utf-8")
    (tmp_path / "review.png").write_bytes((FOLDER / "review.png").read_bytes())
    assert make.stale({"review": drawn}) == []
    assert make.stale({"review": drawn.replace("norm", "form")}) == [
        "review.svg is not what the app shows"
    ]
    (tmp_path / "review.png").write_bytes((FOLDER / "rows.png").read_bytes())
    (tmp_path / "older.png").write_bytes(b"")
    assert make.stale({"review": drawn}) == [
        "review.png was not made from review.svg",
        "older.png is none of the script's pictures",
    ]


def test_every_picture_is_small_and_in_the_readme() -> None:
    pictures = {path.name for path in FOLDER.glob("*.png")}
    assert pictures == {f"{name}.png" for name in make.SCENES}
    assert [n for n in pictures if (FOLDER / n).stat().st_size > _MOST_BYTES] == []
    shown = re.findall(r"!\[[^]]+\]\(screenshots/([^)]+)\)", (ROOT / "README.md").read_text())
    assert sorted(shown) == sorted(pictures)


def test_a_png_of_another_svg_is_told_apart() -> None:
    drawn = (FOLDER / "rows.svg").read_text(encoding="utf-8")
    assert is_made_from(drawn, FOLDER / "rows.png")
    assert not is_made_from(drawn, FOLDER / "review.png")
