"""Threads that share a conversion: the same bytes, the same errors, and none left behind."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import SetRows
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.task import Job
from s2p_tui.alignment.transform import Norm, Permute, Take, WeightNorm
from s2p_tui.cli import run
from s2p_tui.conversion.evaluate import Evaluator
from s2p_tui.conversion.units import share
from s2p_tui.errors import AlignmentError, CancelledError, InputError, OutputError
from s2p_tui.formats.skeleton_file import Target
from s2p_tui.formats.tensors import ArrayTensors
from s2p_tui.session.session import Session
from tests.helpers.exprs import Case, cases
from tests.helpers.files import folder
from tests.helpers.sessions import checkpoint_of, open_pair

MANY = 5


@settings(max_examples=100, deadline=None)
@given(cases(), st.sampled_from(["float32", "float64"]), st.sampled_from([4096, 5000, 1 << 20]))
@pytest.mark.slow("converts a hundred models with several numbers of threads")
def test_any_number_of_threads_writes_the_same_bytes(case: Case, dtype: str, chunk: int) -> None:
    checkpoint = checkpoint_of(case.arrays)
    leaf = Leaf(".leaf", case.result.shape, dtype)
    target = Target("memory", (), 0, Skeleton((leaf,)), ArrayTensors({}))
    session = Session(checkpoint, target)
    session.edit(SetRows(((0, Row(case.expr, trusted=True)),)))
    session.allow_unused(None)
    with folder() as where:
        files = [where / f"{jobs}.eqx" for jobs in (1, 2, MANY)]
        for jobs, file in zip((1, 2, MANY), files, strict=True):
            session.convert(file, jobs=jobs, chunk_bytes=chunk)
        assert len({file.read_bytes() for file in files}) == 1
        found = np.load(files[0])
        assert np.array_equal(found, case.result.astype(dtype))


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """Copies, casts and permuted leaves, small and large; some 700 kB, many chunks of 4 KiB."""
    tensors: dict[str, torch.Tensor] = {}
    tree: list[np.ndarray] = []
    for n in range(12):
        size = (5, 40, 120)[n % 3]
        tensors[f"{n}"] = torch.randn(size, size + 1, generator=torch.Generator().manual_seed(n))
        shape = (size + 1, size) if n % 2 else (size, size + 1)
        tree.append(np.zeros(shape, ("float32", "float64")[n % 4 == 2]))
    (tmp_path / "in").mkdir()
    found = open_pair(tmp_path / "in", tensors, tree)
    turned = (Row(Permute(Take(f"{n}"), (1, 0))) for n in range(1, 12, 2))
    found.edit(SetRows(tuple(zip(range(1, 12, 2), turned, strict=True))))
    yield found
    found.close()


@pytest.mark.parametrize("suffix", [".eqx", ".safetensors"])
def test_threads_and_chunks_change_nothing(session: Session, tmp_path: Path, suffix: str) -> None:
    contents: set[bytes] = set()
    for jobs in (1, 2, MANY):
        for chunk in (4096, 1 << 16, 64 << 20):
            job = Job()
            out = tmp_path / f"out{suffix}"
            session.convert(out, jobs=jobs, chunk_bytes=chunk, job=job)
            contents.add(out.read_bytes())
            assert job.written == job.total == out.stat().st_size
            assert session.verify(out, jobs=jobs) == job.total
    assert len(contents) == 1


@pytest.mark.parametrize("phase", ["writing", "verifying"])
@pytest.mark.parametrize("jobs", [1, 2, MANY])
def test_cancelling_stops_every_thread(
    session: Session, tmp_path: Path, jobs: int, phase: str
) -> None:
    before = set(threading.enumerate())

    class Cancelled(Job):
        def check(self) -> None:
            if self.phase == phase and max(self.written * (phase == "writing"), self.verified):
                self.cancel()
            super().check()

    with pytest.raises(CancelledError):
        session.convert(tmp_path / "out.eqx", jobs=jobs, chunk_bytes=4096, job=Cancelled())
    assert set(threading.enumerate()) <= before
    assert [file.name for file in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("jobs", [2, MANY])
def test_what_was_read_back_is_not_written_again(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    out = tmp_path / "out.eqx"
    session.convert(out)
    was_read = np.zeros(out.stat().st_size, bool)
    out.unlink()
    lock = threading.Lock()
    writes, copies, reads = os.pwrite, os.copy_file_range, os.preadv

    def begun(position: int, count: int) -> None:
        with lock:
            assert not was_read[position : position + count].any()

    def pwrite(descriptor: int, data: memoryview, position: int) -> int:
        begun(position, len(data))
        return writes(descriptor, data, position)

    def copied(source: int, descriptor: int, count: int, start: int, position: int) -> int:
        begun(position, count)
        return copies(source, descriptor, count, start, position)

    def preadv(descriptor: int, buffers: list[memoryview], position: int) -> int:
        count = reads(descriptor, buffers, position)
        if out.name in os.readlink(f"/proc/self/fd/{descriptor}"):
            with lock:
                was_read[position : position + count] = True
        return count

    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(os, "copy_file_range", copied)
    monkeypatch.setattr(os, "preadv", preadv)
    session.convert(out, jobs=jobs, chunk_bytes=1 << 15)
    assert was_read.all()


@pytest.mark.parametrize("jobs", [1, 2, MANY])
@pytest.mark.parametrize("call", ["pwrite", "copy_file_range"])
def test_a_write_that_goes_wrong_is_found_by_any_number_of_threads(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, jobs: int
) -> None:
    real, write = getattr(os, call), os.pwrite
    is_done = threading.Event()

    def wrong(*arguments: Any) -> int:
        count = real(*arguments)
        descriptor, position = arguments[-3 if call == "pwrite" else 1], arguments[-1]
        if count > 4000 and not is_done.is_set():
            is_done.set()
            there = os.pread(descriptor, 1, position + count - 1)
            write(descriptor, bytes([there[0] ^ 1]), position + count - 1)
        return count

    monkeypatch.setattr(os, call, wrong)
    with pytest.raises(OutputError, match="differs from its source"):
        session.convert(tmp_path / "out.eqx", jobs=jobs, chunk_bytes=1 << 15)
    assert is_done.is_set()
    assert [file.name for file in tmp_path.iterdir()] == ["in"]


def test_a_failure_in_any_thread_is_the_same_error(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(threading.enumerate())
    real = os.preadv
    caller = threading.get_ident()
    elsewhere = threading.Event()

    def fails_elsewhere(*arguments: Any) -> int:
        if threading.get_ident() == caller:
            assert elsewhere.wait(300)
            return real(*arguments)
        elsewhere.set()
        return 0

    monkeypatch.setattr(os, "preadv", fails_elsewhere)
    with pytest.raises(InputError, match="was cut short"):
        session.convert(tmp_path / "out.eqx", jobs=2, chunk_bytes=4096)
    monkeypatch.undo()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    for call in ("pwrite", "copy_file_range"):
        monkeypatch.setattr(os, call, full)
        with pytest.raises(OutputError, match="the disk is full"):
            session.convert(tmp_path / "out.eqx", jobs=MANY, chunk_bytes=4096)
        monkeypatch.undo()
    assert set(threading.enumerate()) <= before
    assert [file.name for file in tmp_path.iterdir()] == ["in"]


def test_a_number_that_does_not_fit_is_named_whichever_thread_meets_it(tmp_path: Path) -> None:
    numbers = torch.zeros(50_000, dtype=torch.int64)
    numbers[-1] = 300
    session = open_pair(tmp_path, {"a": numbers}, [np.zeros(50_000, np.uint8)])
    session.edit(SetRows(((0, Row(Take("a"), trusted=True)),)))
    for jobs in (1, 2, MANY):
        with pytest.raises(AlignmentError, match=r"\[0\]: its int64 numbers do not fit uint8"):
            session.convert(tmp_path / "out.eqx", jobs=jobs, chunk_bytes=4096)
    session.close()


def test_the_earliest_failure_is_the_one_told() -> None:
    both = threading.Barrier(2)

    def fail(number: int) -> None:
        both.wait(300)
        raise ValueError(f"{number}")

    for _ in range(20):
        with pytest.raises(ValueError, match=r"^0$"):
            share(range(100), fail, 2)


def test_work_that_cannot_be_listed_fails_too() -> None:
    def work() -> Iterator[int]:
        yield from range(3)
        raise KeyError("next")

    done: list[int] = []
    for jobs in (1, 2):
        with pytest.raises(KeyError, match="next"):
            share(work(), done.append, jobs)
    assert sorted(done) == [0, 0, 1, 1, 2, 2]


def test_without_more_threads_one_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    done: list[int] = []
    share(range(9), done.append, 4)
    assert done == list(range(9))


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(1, 12))
def test_a_norm_depends_on_no_region(data: st.DataObject, rows: int) -> None:
    weight = np.random.default_rng(rows).normal(size=(12, 700)).astype(np.float32)
    checkpoint = checkpoint_of({"v": weight, "g": np.ones((12, 1), np.float32)})
    start = data.draw(st.integers(0, 12 - rows))
    for expr in (Norm(Take("v"), (1,)), WeightNorm((Take("g"), Take("v")))):
        evaluator = Evaluator(checkpoint.state_dict, checkpoint.tensors, limit=600)
        last = evaluator.shape(expr)[1]
        whole = evaluator.again().region(expr, ((0, 12), (0, last)))
        fresh = Evaluator(checkpoint.state_dict, checkpoint.tensors, limit=600)
        part = fresh.region(expr, ((start, start + rows), (0, last)))
        assert np.array_equal(part, whole[start : start + rows])


_CHILD = """
import sys
from pathlib import Path
from s2p_tui.session.session import Session

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

session = Session.open(*sys.argv[1:3], mapping=sys.argv[3])
Path("/proc/self/clear_refs").write_text("5")
idle = peak()
session.convert(sys.argv[4], chunk_bytes=4 << 20, jobs=int(sys.argv[5]))
print((peak() - idle) >> 10)
"""


@pytest.mark.parametrize("jobs", [1, 2, 4])
@pytest.mark.slow("starts programs that convert 96 MiB")
def test_memory_is_bounded_whatever_the_threads(tmp_path: Path, jobs: int) -> None:
    tensors = {"w": torch.zeros(4096, 4096), "copied": torch.zeros(4096, 2048)}
    session = open_pair(
        tmp_path, tensors, [np.zeros((4096, 4096), np.float32), np.zeros((4096, 2048), np.float32)]
    )
    session.edit(SetRows(((0, Row(Permute(Take("w"), (1, 0)), by="user")),)))
    session.edit(SetRows(((1, Row(Take("copied"), by="user")),)))
    session.save_mapping(tmp_path / "m.json")
    session.close()
    names = ("model.pt", "skeleton.eqx", "m.json", "out.eqx")
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, *(str(tmp_path / name) for name in names), f"{jobs}"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 24  # MiB; the largest tensor has 64


def _rows(session: Session) -> Iterator[tuple[int, Row]]:
    yield from enumerate(session.alignment.rows)


def test_jobs_on_the_command_line(
    session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mapping, out = tmp_path / "m.json", tmp_path / "out.eqx"
    session.trust(None)
    session.edit(
        SetRows(tuple((n, structs.replace(row, trusted=True)) for n, row in _rows(session)))
    )
    session.save_mapping(mapping)
    files = [str(tmp_path / "in" / name) for name in ("model.pt", "skeleton.eqx")]
    shared = ["--mapping", str(mapping), "--jobs"]
    assert run(["convert", *files, "-o", str(out), *shared, "1"]) == 0
    ends = ["--model", files[0], "--skeleton", files[1]]
    assert run(["verify", str(out), *ends, *shared, "3"]) == 0
    capsys.readouterr()
    assert run(["convert", *files, "-o", str(out), *shared, "0"]) == 2
    assert re.search("jobs", capsys.readouterr().err, re.IGNORECASE)
