"""Disks that are full or read-only, and two programs that write one file."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from s2p_tui.cli import run
from s2p_tui.errors import OutputError
from s2p_tui.formats.pytree.skeleton import save_skeleton
from tests.helpers.commands import ended, large_pair, small_pair, started
from tests.helpers.killing import Program

DISK = 2 << 20
"""Bytes of the small disk."""
READ_ONLY = Path("/proc/self")
"""A folder in which nobody can make anything, root included."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own in memory; where none can be mounted, a folder with a limit on the
    size of files.
    """
    folder = tmp_path / "disk"
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        if _mount("-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)):
            stack.callback(subprocess.run, ["umount", "-l", str(folder)], check=True)
        else:
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE, before)
            resource.setrlimit(resource.RLIMIT_FSIZE, (DISK, before[1]))
        yield folder


@pytest.fixture
def large(tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint and a skeleton that no limit keeps from being made, if asked for before it."""
    return large_pair(tmp_path, 8 << 20)


def _mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Space that is there when it is looked for, and taken by others before it is written."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**50, 0, 2**50))


@pytest.mark.usefixtures("unseen")
@pytest.mark.parametrize("suffix", [".eqx", ".safetensors"])
def test_a_disk_that_fills_while_it_converts(
    large: tuple[Path, Path], disk: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, skeleton = large
    out = disk / f"model{suffix}"
    out.write_bytes(b"old")
    assert run(["convert", str(model), str(skeleton), "-o", str(out), "--force"]) == 5
    err = capsys.readouterr().err
    assert f"{out} cannot be written: " in err
    assert "is full" in err or "no file of that size" in err
    assert err.count("\n") == 1
    assert [path.name for path in disk.iterdir()] == [out.name]
    assert out.read_bytes() == b"old"


@pytest.mark.usefixtures("unseen")
def test_a_disk_that_fills_while_a_skeleton_is_written(disk: Path) -> None:
    with pytest.raises(OutputError, match=r"is full|no file of that size"):
        save_skeleton(disk / "skeleton.eqx", [np.ones(DISK, np.float32)])
    assert list(disk.iterdir()) == []


@pytest.mark.usefixtures("unseen")
@pytest.mark.parametrize("option", ["--save-mapping", "--report"])
def test_a_disk_with_no_room_for_what_goes_beside(
    tmp_path: Path, disk: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, skeleton = small_pair(tmp_path)
    _fill(disk)
    beside = disk / "beside.json"
    arguments = ["convert", str(model), str(skeleton), "-o", str(tmp_path / "model.eqx")]
    assert run([*arguments, option, str(beside)]) == 5
    assert "beside.json cannot be written" in capsys.readouterr().err
    assert [path.name for path in disk.iterdir()] == ["filling"]


def _fill(disk: Path) -> None:
    """Take all of the room; where the disk is only a folder, let no file be larger than an output
    of three numbers: a mapping and a certificate are.
    """
    with (disk / "filling").open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while stream.write(bytes(4096)):
            pass
    if resource.getrlimit(resource.RLIMIT_FSIZE)[0] == DISK:
        resource.setrlimit(resource.RLIMIT_FSIZE, (256, resource.RLIM_INFINITY))


def test_too_little_room_is_told_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 0, 10**6))
    model, skeleton = large_pair(tmp_path, 8 << 20)
    before = sorted(tmp_path.iterdir())
    out = str(tmp_path / "model.eqx")
    assert run(["convert", str(model), str(skeleton), "-o", out]) == 5
    assert "needs 8,388,736 bytes" in capsys.readouterr().err
    with pytest.raises(OutputError, match="needs 4,000,000 bytes"):
        save_skeleton(tmp_path / "s.eqx", [jnp.ones(10**6)])
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("what", ["output", "skeleton", "mapping", "report"])
def test_a_folder_that_is_read_only(
    tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    model, skeleton = small_pair(tmp_path)
    with contextlib.ExitStack() as stack:
        if _mount("-t", "tmpfs", "-o", "ro", "tmpfs", str(locked)):
            stack.callback(subprocess.run, ["umount", "-l", str(locked)], check=True)
        elif os.geteuid():
            locked.chmod(0o555)
            stack.callback(locked.chmod, 0o755)
        else:
            locked = Path("/proc/self")
        place, out = str(locked / "file"), str(tmp_path / "model.eqx")
        convert = ["convert", str(model), str(skeleton), "-o"]
        arguments = {
            "output": [*convert, f"{place}.eqx"],
            "mapping": [*convert, out, "--save-mapping", place],
            "report": [*convert, out, "--report", place],
            "skeleton": ["skeleton", "tests.conversion.test_bad_disks:make", "-o", place],
        }[what]
        assert run(arguments) == 5
        err = capsys.readouterr().err
        assert "cannot be written" in err
        assert err.count("\n") == 1


def make() -> list[np.ndarray]:
    return [np.ones(3, np.float32)]


@pytest.mark.slow("starts the app")
def test_the_app_in_a_home_that_is_read_only(tmp_path: Path) -> None:
    model, skeleton = small_pair(tmp_path)
    program = Program(str(model), str(skeleton), state_home=READ_ONLY)
    try:
        program.until(b"Edits are not journalled: /proc/self/s2p-tui/journals cannot be used: ")
        program.send(b"ss")
        program.until(b"the skeleton's value")
        program.send(b"Y")
        program.until(b"Copied by OSC 52 alone: /proc/self/s2p-tui/copied.txt: ")
        program.send(b"q")
        program.until(b"Quit?")
        program.send(b"y")
        assert program.status() == 0
    finally:
        program.kill_after(0)


@pytest.mark.slow("starts programs that import JAX")
def test_commands_in_a_home_that_is_read_only(tmp_path: Path) -> None:
    model, skeleton = small_pair(tmp_path)
    home = {"HOME": str(READ_ONLY), "XDG_STATE_HOME": "", "XDG_CACHE_HOME": ""}
    out = str(tmp_path / "model.eqx")
    for command in (
        ["convert", str(model), str(skeleton), "-o", out],
        ["skeleton", "tests.conversion.test_bad_disks:make", "-o", str(tmp_path / "made.eqx")],
    ):
        status, _, err = ended(started(*command, env=home))
        assert status == 0, err
        assert "Traceback" not in err


@pytest.mark.slow("starts several programs")
def test_two_programs_that_write_one_file(tmp_path: Path) -> None:
    wholes: list[bytes] = []
    pairs: list[tuple[Path, Path]] = []
    for number in (1.0, 2.0):
        folder = tmp_path / str(number)
        folder.mkdir()
        pairs.append(small_pair(folder, [number] * 2_000_000))
        assert run(["convert", *map(str, pairs[-1]), "-o", str(folder / "alone.eqx")]) == 0
        wholes.append((folder / "alone.eqx").read_bytes())
    out = tmp_path / "out" / "model.eqx"
    out.parent.mkdir()
    mapping = ["--save-mapping", str(out.parent / "m.json")]
    for _ in range(2):
        both = [started("convert", *map(str, pair), "-o", str(out), *mapping) for pair in pairs]
        for process in both:
            status, _, err = ended(process)
            assert status == 0, err
        assert out.read_bytes() in wholes
        assert {path.name for path in out.parent.iterdir()} <= {out.name, "m.json", "m.json~"}
