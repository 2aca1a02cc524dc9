"""SIGINT, SIGTERM and SIGHUP: one clear line, the right exit status, nothing left behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from s2p_tui.cli import run
from s2p_tui.session.session import Session
from s2p_tui.session.signals import StoppedError, stopping
from tests.helpers.commands import ENDED, ended, large_pair, small_pair, started

pytestmark = pytest.mark.slow("starts programs")
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
LARGE = 3 << 30
"""Bytes that take longer to write than a signal takes to come."""


def wait_for(process: subprocess.Popen[str], what: Callable[[], object]) -> None:
    """Wait until something has come about while a process lives."""
    for _ in range(int(ENDED * 100)):
        if what():
            return
        select.select([], [], [], 0.01)
        assert process.poll() is None, ended(process)
    process.kill()
    pytest.fail("it never came about")


def assert_stopped(process: subprocess.Popen[str], number: int, line: str) -> None:
    process.send_signal(number)
    status, out, err = ended(process)
    assert (status, out) == (128 + number, "")
    assert err.startswith("s2p-tui: ")
    assert line in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("number", SIGNALS)
def test_while_it_converts(tmp_path: Path, number: int) -> None:
    model, skeleton = large_pair(tmp_path, LARGE)
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.eqx").write_bytes(b"old")
    process = started("convert", str(model), str(skeleton), "-o", str(out / "model.eqx"), "--force")
    wait_for(process, lambda: any(path.stat().st_size > 3 for path in out.iterdir()))
    assert_stopped(process, number, "Cancelled; nothing was written.")
    assert [path.name for path in out.iterdir()] == ["model.eqx"]
    assert (out / "model.eqx").read_bytes() == b"old"


@pytest.mark.parametrize("number", SIGNALS)
def test_while_a_skeleton_is_written(tmp_path: Path, number: int) -> None:
    factory = tmp_path / "made.py"
    factory.write_text(
        "import numpy as np\n"
        f"def make():\n    return [np.zeros({LARGE // 256}, np.float32) for _ in range(64)]\n"
    )
    out = tmp_path / "out"
    out.mkdir()
    process = started("skeleton", f"{factory}:make", "-o", str(out / "skeleton.eqx"))
    wait_for(process, lambda: any(path.stat().st_size > 1 << 20 for path in out.iterdir()))
    assert_stopped(process, number, f"Stopped by {signal.Signals(number).name}.")
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("what", ["factory", "module"])
def test_while_the_users_own_code_runs(tmp_path: Path, what: str) -> None:
    ready = tmp_path / "ready"
    wait = f"open({str(ready)!r}, 'w').close()\n{{0}}while True: pass\n"
    made = tmp_path / "made.py"
    inside = f"def make():\n    {wait.format('    ')}"
    made.write_text(inside if what == "factory" else wait.format(""))
    process = started("skeleton", f"{made}:make", "-o", str(tmp_path / "s.eqx"))
    wait_for(process, ready.exists)
    assert_stopped(process, signal.SIGTERM, "Stopped by SIGTERM.")
    assert not (tmp_path / "s.eqx").exists()


def test_while_it_verifies(tmp_path: Path) -> None:
    model, skeleton = large_pair(tmp_path, 1 << 28)
    output, mapping = tmp_path / "model.eqx", tmp_path / "m.json"
    session = Session.open(model, skeleton)
    session.convert(output, mapping=mapping, verify=False)
    session.close()
    before = sorted(tmp_path.iterdir())
    process = started("verify", str(output), "--model", str(model), "--skeleton", str(skeleton),
                      "--mapping", str(mapping), "--report", str(tmp_path / "r.json"))  # fmt: skip
    opened = Path(f"/proc/{process.pid}/fd")
    wait_for(process, lambda: output in {path.resolve() for path in opened.iterdir()})
    assert_stopped(process, signal.SIGTERM, "Cancelled; nothing was written.")
    assert sorted(tmp_path.iterdir()) == before


def test_while_it_inspects(tmp_path: Path) -> None:
    model, _ = small_pair(tmp_path)
    real = run

    def raising(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("s2p_tui.cli.listing.describe", raising)
        assert real(["inspect", str(model)]) == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("number", "before"),
    [
        (signal.SIGHUP, ["nohup"]),
        (signal.SIGINT, ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]),
    ],
)
def test_what_is_ignored_stays_ignored(tmp_path: Path, number: int, before: list[str]) -> None:
    model, skeleton = large_pair(tmp_path, 1 << 28)
    out = tmp_path / "out" / "model.eqx"
    out.parent.mkdir()
    process = started("convert", str(model), str(skeleton), "-o", str(out), before=before)
    wait_for(process, lambda: any(out.parent.iterdir()))
    process.send_signal(number)
    status, _, err = ended(process)
    assert status == 0, err
    assert out.stat().st_size > 1 << 28


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(StoppedError) as caught, stopping():
        os.kill(os.getpid(), signal.SIGHUP)
    assert caught.value.name == "SIGHUP"
    assert [signal.getsignal(number) for number in SIGNALS] == before
