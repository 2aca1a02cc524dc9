"""A conversion that does not end well leaves nothing behind and the old file as it was."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import SetRows
from s2p_tui.alignment.task import Job
from s2p_tui.alignment.transform import Permute, Take
from s2p_tui.conversion.contents import CastLoss
from s2p_tui.errors import AlignmentError, CancelledError, InputError, OutputError
from s2p_tui.formats.atomic import written_atomically
from s2p_tui.session.session import Session
from tests.helpers.sessions import open_pair

OLD = b"what was there before"


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """Two plain copies, a permuted leaf and a cast; some 200 kB in chunks of 4 KiB."""
    tensors = {
        "copied": torch.arange(20_000, dtype=torch.float32),
        "permuted": torch.arange(20_000, dtype=torch.float32).reshape(100, 200),
        "cast": torch.arange(10_000, dtype=torch.float32),
        "last": torch.ones(7),
    }
    tree = [
        jnp.zeros(20_000), jnp.zeros((200, 100)), jnp.zeros(10_000, jnp.bfloat16), jnp.zeros(7),
    ]  # fmt: skip
    (tmp_path / "in").mkdir()
    found = open_pair(tmp_path / "in", tensors, tree)
    found.edit(SetRows(((1, Row(Permute(Take("permuted"), (1, 0)))),)))
    yield found
    found.close()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An existing file, alone in its folder."""
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "model.eqx"
    path.write_bytes(OLD)
    return path


def assert_untouched(out: Path) -> None:
    assert [file.name for file in out.parent.iterdir()] == [out.name]
    assert out.read_bytes() == OLD


class CancelledAt(Job):
    """Is cancelled at the n-th check, or only counts them."""

    def __init__(self, number: int | None = None) -> None:
        super().__init__()
        self.number = number
        self.checks = 0
        self.phases: set[str] = set()
        self._lock = threading.Lock()

    def check(self) -> None:
        with self._lock:
            self.checks += 1
            self.phases.add(self.phase)
            if self.checks == self.number:
                self.cancel()
        super().check()


@pytest.mark.slow("converts once for every check")
def test_cancelling_at_any_check(session: Session, out: Path) -> None:
    counting = CancelledAt()
    session.convert(out, chunk_bytes=4096, job=counting)
    assert counting.phases == {"writing", "verifying", "syncing"}
    assert counting.checks > 100
    assert counting.phase == "done"
    assert counting.written == counting.total == out.stat().st_size
    for number in range(1, counting.checks + 1):
        out.write_bytes(OLD)
        with pytest.raises(CancelledError, match="nothing was written"):
            session.convert(out, chunk_bytes=4096, job=CancelledAt(number))
        assert_untouched(out)


def test_cancelling_where_there_was_no_file(session: Session, out: Path) -> None:
    out.unlink()
    job = Job()
    job.cancel()
    with pytest.raises(CancelledError):
        session.convert(out, job=job)
    assert list(out.parent.iterdir()) == []


def test_targets_that_cannot_be(session: Session, out: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.eqx").mkdir()
    cases = {
        "is a folder": tmp_path / "folder.eqx",
        "its folder does not exist": tmp_path / "missing" / "model.eqx",
        "its folder is a file": out / "model.eqx",
        "name is too long": out.parent / ("x" * 300 + ".eqx"),
        "read-only|denied|not": Path("/proc/model.eqx"),
        "would overwrite a file": tmp_path / "in" / "model.pt",
    }
    for message, path in cases.items():
        with pytest.raises(OutputError, match=message):
            session.convert(path)
    with pytest.raises(OutputError, match="would overwrite a file"):
        session.convert(tmp_path / "in" / "skeleton.eqx")
    assert_untouched(out)


def test_a_link_to_a_source_is_that_source(session: Session, tmp_path: Path) -> None:
    link = tmp_path / "link.eqx"
    before = (tmp_path / "in" / "model.pt").read_bytes()
    for make in (link.symlink_to, link.hardlink_to):
        make(tmp_path / "in" / "model.pt")
        with pytest.raises(OutputError, match="would overwrite a file"):
            session.convert(link)
        link.unlink()
    assert (tmp_path / "in" / "model.pt").read_bytes() == before


def test_a_link_to_another_file_replaces_that_file(session: Session, out: Path) -> None:
    link = out.parent / "link.eqx"
    link.symlink_to(out.name)
    size = session.convert(link).written.size
    assert link.is_symlink()
    assert out.stat().st_size == size


def test_a_file_size_limit(session: Session, out: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OutputError, match="no file of that size") as caught:
            session.convert(out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.exit_code == 5
    assert_untouched(out)


@pytest.mark.parametrize("call", ["copy_file_range", "pwrite", "fsync", "replace"])
def test_a_disk_that_fills_up(
    session: Session, out: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OutputError, match=r"model\.eqx cannot be written: the disk is full"):
        session.convert(out)
    monkeypatch.undo()
    assert_untouched(out)


def test_too_little_space_is_noticed_at_once(
    session: Session, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 1, 99))
    monkeypatch.setattr(os, "pwrite", lambda *_: pytest.fail("it wrote"))
    with pytest.raises(OutputError, match=r"needs 180,\d+ bytes, .* has 99 free"):
        session.convert(out)
    assert_untouched(out)


def test_where_the_kernel_cannot_copy_the_bytes_are_the_same(
    session: Session, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.convert(out)
    expected = out.read_bytes()

    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    session.convert(out, chunk_bytes=4096)
    assert out.read_bytes() == expected


class Disturbing(Job):
    """Does something to the sources as soon as a phase is reached."""

    def __init__(self, phase: str, disturb: Callable[[], object]) -> None:
        super().__init__()
        self.when, self.disturb, self.done = phase, disturb, False
        self._lock = threading.Lock()

    def check(self) -> None:
        with self._lock:
            if self.phase == self.when and not self.done:
                self.done = True
                self.disturb()


@pytest.mark.parametrize("phase", ["writing", "verifying"])
@pytest.mark.parametrize("how", ["truncated", "changed", "touched", "removed"])
def test_a_source_that_changes_meanwhile(
    session: Session, out: Path, tmp_path: Path, phase: str, how: str
) -> None:
    model = tmp_path / "in" / "model.pt"

    def disturb() -> None:
        if how == "truncated":
            os.truncate(model, 1000)
        elif how == "removed":
            model.unlink()
        elif how == "touched":
            os.utime(model, (1, 1))
        else:
            data = bytearray(model.read_bytes())
            data[-40_000] ^= 255
            model.write_bytes(data)

    job = Disturbing(phase, disturb)
    with pytest.raises((InputError, OutputError)) as caught:
        session.convert(out, job=job)
    assert job.done
    assert isinstance(caught.value, InputError) or (how, phase) == ("changed", "verifying")
    assert_untouched(out)


def test_a_source_removed_before_is_an_error_of_the_input(
    session: Session, out: Path, tmp_path: Path
) -> None:
    (tmp_path / "in" / "model.pt").unlink()
    with pytest.raises(InputError, match="can no longer be read"):
        session.convert(out)
    assert_untouched(out)


def test_numbers_lost_by_a_cast_are_counted(tmp_path: Path) -> None:
    inf, nan = float("inf"), float("nan")
    tensors = {
        "narrow": torch.tensor([1.0, 1e5, -1e6, inf, -inf, nan, 65504]),
        "fine": torch.tensor([1.0, inf, nan]),
        "wide": torch.tensor([1e300, 1.0], dtype=torch.float64),
        "complex": torch.tensor([1e300 + 1j, 2j], dtype=torch.complex128),
    }
    tree = [jnp.zeros(7, jnp.float16), jnp.zeros(3, jnp.bfloat16), jnp.zeros(2),
            jnp.zeros(2, jnp.complex64)]  # fmt: skip
    session = open_pair(tmp_path, tensors, tree)
    with pytest.raises(OutputError, match=r"(?s)3 leaves.*\[0\]: 2 numbers became inf.*\[3\]"):
        session.convert(tmp_path / "out.eqx")
    assert not (tmp_path / "out.eqx").exists()
    losses = session.convert(tmp_path / "out.eqx", allow_overflow=True).written.losses
    assert losses == {"[0]": CastLoss(2, 0), "[2]": CastLoss(1, 0), "[3]": CastLoss(1, 0)}
    session.close()


def test_numbers_that_become_zero_are_counted_and_written(tmp_path: Path) -> None:
    tensors = {
        "narrow": torch.tensor([1e-8, -1e-9, 0.0, 1.0, float("nan")]),
        "wide": torch.tensor([1e-300, 1.0], dtype=torch.float64),
        "complex": torch.tensor([1e-300 + 0j, 2j], dtype=torch.complex128),
        "kept": torch.tensor([1e-30, 0.0]),
    }
    tree = [jnp.zeros(5, jnp.float16), jnp.zeros(2), jnp.zeros(2, jnp.complex64),
            jnp.zeros(2, jnp.bfloat16)]  # fmt: skip
    session = open_pair(tmp_path, tensors, tree)
    converted = session.convert(tmp_path / "out.eqx")
    none = {"[0]": CastLoss(flushed=2), "[1]": CastLoss(flushed=1), "[2]": CastLoss(flushed=1)}
    assert converted.written.losses == none
    assert "[0]: 2 numbers became zero" in session.report_of(converted).warnings
    session.close()


def test_numbers_a_format_has_no_infinity_for_become_nan(tmp_path: Path) -> None:
    inf = float("inf")
    half = torch.tensor([1.0, -1.0, inf], dtype=torch.float16)
    tensors = {"a": torch.tensor([1.0, 1e4, inf]), "b": half}
    tree = [
        jax.ShapeDtypeStruct((3,), "float8_e4m3fn"), jax.ShapeDtypeStruct((3,), "float8_e8m0fnu"),
    ]  # fmt: skip
    session = open_pair(tmp_path, tensors, tree)
    with pytest.raises(OutputError, match="2 leaves"):
        session.convert(tmp_path / "out.safetensors")
    out = tmp_path / "out.safetensors"
    losses = session.convert(out, allow_overflow=True).written.losses
    assert losses == {"[0]": CastLoss(0, 2), "[1]": CastLoss(0, 2)}
    session.close()


TOO_LARGE = [
    ("int64", 2**31, "int32"), ("int64", -(2**31) - 1, "int32"), ("int64", -1, "uint8"),
    ("int8", -1, "uint8"), ("uint8", 200, "int8"), ("int32", -1, "uint32"), ("int64", 256, "uint8"),
    ("float32", 0.5, "int32"), ("float32", float("nan"), "int32"), ("float32", 1e20, "int32"),
    ("float32", 0.5, "bool"), ("int32", 2, "bool"), ("int8", -1, "uint16"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "value", "target"), TOO_LARGE)
def test_whole_numbers_that_do_not_fit_are_refused(
    tmp_path: Path, source: str, value: float, target: str
) -> None:
    tensors = {"a": torch.tensor([1, value, 0], dtype=getattr(torch, source))}
    session = open_pair(tmp_path, tensors, [np.zeros(3, target)])
    session.edit(SetRows(((0, Row(Take("a"), trusted=True)),)))
    with pytest.raises(AlignmentError, match=rf"\[0\]: its {source} numbers do not fit {target}"):
        session.convert(tmp_path / "out.eqx")
    assert not (tmp_path / "out.eqx").exists()
    session.close()


def _damaged(good: bytes, how: str) -> bytes:
    first = good.index(b"\x93NUMPY", 1)
    records = [b"\x93NUMPY" + part for part in good.split(b"\x93NUMPY")[1:]]
    return {
        "first byte of data": good[:200] + bytes([good[200] ^ 1]) + good[201:],
        "last byte": good[:-1] + bytes([good[-1] ^ 128]),
        "in the cast": good[:-1000] + bytes([good[-1000] ^ 1]) + good[-999:],
        "in the permuted": good[: first + 40_000] + b"\xff" + good[first + 40_001 :],
        "header": good.replace(b"(200, 100)", b"(100, 200)"),
        "dtype": good.replace(b"'<V2'", b"'<f2'").replace(b"'|V2'", b"'<f2'"),
        "appended": good + b"\0",
        "record appended": good + records[-1],
        "cut": good[:-1],
        "record missing": b"".join(records[:-1]),
        "swapped": b"".join([*records[1::-1], *records[2:]]),
        "empty": b"",
    }[how]


DAMAGE = ("first byte of data", "last byte", "in the cast", "in the permuted", "header", "dtype",
          "appended", "record appended", "cut", "record missing", "swapped", "empty")  # fmt: skip


@pytest.mark.parametrize("how", DAMAGE)
def test_verify_finds_any_damage(session: Session, out: Path, how: str) -> None:
    session.convert(out)
    good = out.read_bytes()
    assert session.verify(out) == len(good)
    bad = _damaged(good, how)
    assert bad != good
    out.write_bytes(bad)
    with pytest.raises(OutputError, match="does not match the alignment"):
        session.verify(out)


def test_verify_finds_damage_in_safetensors(session: Session, out: Path) -> None:
    path = out.with_name("model.safetensors")
    session.convert(path)
    good = path.read_bytes()
    session.verify(path)
    for bad in (good[:-1] + b"\xff", good.replace(b'"[0]"', b'"[9]"', 1)):
        assert bad != good
        path.write_bytes(bad)
        with pytest.raises(OutputError, match="does not match the alignment"):
            session.verify(path)
    with pytest.raises(InputError, match="does not exist"):
        session.verify(path.with_name("missing.eqx"))


def test_what_was_written_badly_never_gets_its_name(
    session: Session, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, bytes(data)[:-1] + b"!", at)
                        if len(data) > 300 else real(fd, data, at))  # fmt: skip
    with pytest.raises(OutputError, match="differs from its source"):
        session.convert(out)
    assert_untouched(out)


def test_a_stream_that_fails_leaves_the_old_file(out: Path) -> None:
    def fail() -> None:
        with written_atomically(out) as stream:
            stream.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert_untouched(out)
    with written_atomically(out) as stream:
        stream.write(b"whole")
    assert out.read_bytes() == b"whole"
