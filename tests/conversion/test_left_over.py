"""No half file, whenever the program is killed, and what killed programs left is cleared away."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import pytest

from s2p_tui.errors import OutputError
from s2p_tui.formats import atomic
from s2p_tui.formats.atomic import AtomicFile, remove_left_over, written_atomically
from s2p_tui.formats.pytree.skeleton import save_skeleton

ROUNDS = 24


@pytest.mark.slow("starts 24 programs and kills them")
def test_killed_at_random_moments() -> None:
    command = [sys.executable, "-m", "tests.helpers.killed_writes", f"--rounds={ROUNDS}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["wrong"] == 0
    assert found["absent"] + found["old"] + found["new"] == ROUNDS


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """A temporary as a program that was killed leaves it: there, and locked no more."""
    os.close(AtomicFile(tmp_path / "model.eqx").descriptor)
    (path,) = tmp_path.iterdir()
    assert re.fullmatch(r"\.model\.eqx\.[0-9a-f]{8}-\d+-[0-9a-f]{8}\.s2p-partial", path.name)
    return path


def write(folder: Path) -> None:
    with written_atomically(folder / "other.eqx") as stream:
        stream.write(b"whole")


def test_the_next_run_removes_what_was_left(left: Path) -> None:
    write(left.parent)
    assert [path.name for path in left.parent.iterdir()] == ["other.eqx"]


def test_a_skeleton_is_a_run_too(left: Path) -> None:
    save_skeleton(left.parent / "skeleton.eqx", [jnp.ones(2)])
    assert [path.name for path in left.parent.iterdir()] == ["skeleton.eqx"]


def test_what_is_being_written_stays(tmp_path: Path) -> None:
    with AtomicFile(tmp_path / "model.eqx") as file:
        assert remove_left_over(tmp_path) == ()
        write(tmp_path)
        file.commit()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.eqx", "other.eqx"]


def test_a_process_of_the_same_number_does_not_protect_it(left: Path) -> None:
    renamed = left.with_name(re.sub(r"-\d+-", f"-{os.getpid()}-", left.name))
    left.rename(renamed)
    assert remove_left_over(left.parent) == (renamed,)


def test_only_our_own_plain_files_are_removed(left: Path, tmp_path_factory: pytest.TempPathFactory
                                              ) -> None:  # fmt: skip
    folder, elsewhere = left.parent, tmp_path_factory.mktemp("elsewhere") / "precious"
    elsewhere.write_bytes(b"precious")
    name = left.name
    link, hard = folder / f".a{name}", folder / f".b{name}"
    link.symlink_to(elsewhere)
    hard.hardlink_to(elsewhere)
    (folder / f".c{name}").mkdir()
    os.mkfifo(folder / f".d{name}")
    (folder / "notes.s2p-partial").write_text("mine")
    (folder / ".model.eqx.1234.s2p-partial").write_text("mine too")
    before = {path.name for path in folder.iterdir()} - {name}
    assert remove_left_over(folder) == (left,)
    assert {path.name for path in folder.iterdir()} == before
    assert elsewhere.read_bytes() == b"precious"


def test_those_of_other_users_stay(left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: left.stat().st_uid + 1)
    assert remove_left_over(left.parent) == ()


def test_those_of_another_machine_stay_for_a_day(
    left: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    assert remove_left_over(left.parent) == ()
    days_ago = time.time() - 2 * 86400
    os.utime(left, (days_ago, days_ago))
    assert remove_left_over(left.parent) == (left,)


def test_a_temporary_taken_before_it_was_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, taken = fcntl.flock, []

    def flock(descriptor: int, how: int) -> None:
        if not taken:
            (path,) = tmp_path.iterdir()
            path.unlink()
            taken.append(path)
        real(descriptor, how)

    monkeypatch.setattr(atomic.fcntl, "flock", flock)
    write(tmp_path)
    assert len(taken) == 1
    assert (tmp_path / "other.eqx").read_bytes() == b"whole"


def test_without_locks_nothing_is_taken_for_left_over(
    left: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(atomic.fcntl, "flock", refuse)
    write(left.parent)
    assert left.exists()


def test_write_protected_files_are_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "model.eqx"
    path.write_bytes(b"precious")
    path.chmod(0o444)
    with pytest.raises(OutputError, match="write-protected"), written_atomically(path):
        pytest.fail("it was opened")
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_have_the_rights_the_umask_leaves(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write(tmp_path)
        save_skeleton(tmp_path / "skeleton.eqx", [jnp.ones(2)])
    finally:
        os.umask(before)
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask
