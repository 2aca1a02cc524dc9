"""Listings whose reader is gone, whose disk is full, or whose file has an impossible name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import ended, small_pair, started

LISTINGS = (("inspect", "model.pt"), ("inspect", "model.pt", "--json"), ("keys",), ("--version",))


@pytest.fixture(autouse=True)
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint whose listing is longer than any pipe holds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(os.path.dirname(__file__)))
    torch.save({f"layer.{i}.weight": torch.ones(1) for i in range(3000)}, "model.pt")


@pytest.mark.parametrize("arguments", LISTINGS, ids=" ".join)
@pytest.mark.slow("starts a program for each command")
def test_a_full_disk_is_one_line(arguments: tuple[str, ...]) -> None:
    process = started(*arguments, before=("sh", "-c", 'exec "$@" > /dev/full', "-"))
    status, out, err = ended(process)
    assert (status, out) == (5, "")
    last = err.splitlines()[-1]
    assert last.startswith("s2p-tui: Standard output cannot be written: No space left on device.")
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", LISTINGS[:3], ids=" ".join)
@pytest.mark.slow("starts a program for each command")
def test_a_reader_that_is_gone_is_no_failure(arguments: tuple[str, ...]) -> None:
    process = started(*arguments)
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    status, _, err = ended(process)
    assert status == 0
    assert "Error" not in err


@pytest.mark.slow("starts programs")
def test_nothing_to_write_to_is_no_failure() -> None:
    process = started("inspect", "model.pt", before=("sh", "-c", 'exec "$@" >&-', "-"))
    assert ended(process) == (0, "", "")


@pytest.mark.parametrize("name", ["n" * 5000, "folder/" * 1000], ids=["name", "path"])
@pytest.mark.slow("starts a program for each command")
def test_a_name_that_no_file_can_have_is_one_line(tmp_path: Path, name: str) -> None:
    model, skeleton = map(str, small_pair(tmp_path))
    for arguments in (("inspect", name), ("convert", name, skeleton), ("convert", model, name)):
        status, out, err = ended(started(*arguments))
        assert (status, out) == (4, "")
        assert "File name too long" in err
        assert err.count("\n") == 1
