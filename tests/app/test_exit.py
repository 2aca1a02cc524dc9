"""Signals and lost terminals on a pseudo-terminal: how the program ends, and what it leaves."""

from __future__ import annotations

import os
import signal
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from s2p_tui.app.terminal.exit import Ending
from s2p_tui.session.journal import Journal
from s2p_tui.session.session import Session
from tests.benchmarks.inputs import Pair, equal_tensors, plain_pair
from tests.helpers.killing import Program

pytestmark = pytest.mark.slow("starts the app in a terminal")
Start = Callable[..., Program]
_FIRST_ROW = b"layers.0.weight"
_SIGNALS = [signal.SIGHUP, signal.SIGTERM, signal.SIGINT]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return plain_pair(tmp_path, "ended", equal_tensors(12, 12 * 64), ".safetensors")


@pytest.fixture
def start(pair: Pair, tmp_path: Path, state_home: Path) -> Iterator[Start]:
    programs: list[Program] = []

    def started(*options: str) -> Program:
        arguments = (str(pair.model), str(pair.skeleton), "-o", str(tmp_path / "out.eqx"))
        programs.append(Program(*arguments, *options, state_home=state_home))
        return programs[-1]

    yield started
    for program in programs:
        program.kill_after(0)


@pytest.mark.parametrize("number", _SIGNALS)
def test_a_signal_ends_it_and_the_terminal_is_as_it_was(start: Start, number: int) -> None:
    program = start()
    before = program.attributes()
    program.until(_FIRST_ROW)
    assert program.attributes() != before
    program.signal(number)
    assert program.status() == 128 + number
    assert program.attributes() == before
    assert b"\x1b[?1049l" in program.output


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        (b"?", b"half a page"),
        (b"\x10", b"ype to search"),
        (b"Jq", b"Quit?"),
        (b"vGyc", b"Floating"),
    ],
)
def test_a_signal_ends_it_whatever_is_open(start: Start, keys: bytes, shown: bytes) -> None:
    program = start()
    program.until(_FIRST_ROW)
    program.send(keys)
    program.until(shown)
    program.signal(signal.SIGTERM)
    assert program.status() == 143


def test_a_signal_ends_it_while_it_reads(start: Start) -> None:
    program = start()
    program.until(b"reading")
    program.signal(signal.SIGTERM)
    assert program.status() == 143


def test_a_terminal_that_takes_no_output_does_not_hold_it(start: Start, pair: Pair) -> None:
    program = start()
    program.until(_FIRST_ROW)
    program.send(b"J")
    program.until(b"edits 1")
    # More redrawing than the terminal and Textual's queue have room for; nobody reads it.
    program.send(b"?\r" * 400)
    program.until_stalled()
    program.signal(signal.SIGTERM)
    assert program.status() == 143
    assert _journalled(pair) == 1


@pytest.mark.parametrize("owned", [True, False])
def test_a_lost_terminal_ends_it(start: Start, pair: Pair, owned: bool) -> None:
    program = start(*(() if owned else ("--fresh",)))
    program.until(_FIRST_ROW)
    program.send(b"J")
    program.until(b"edits 1")
    program.hang_up()
    assert program.status() == 128 + signal.SIGHUP
    assert _journalled(pair) == 1


def test_a_signal_stops_a_conversion_and_leaves_nothing_unfinished(
    tmp_path: Path, state_home: Path
) -> None:
    large = plain_pair(tmp_path, "large", equal_tensors(4, 400 << 20), ".safetensors")
    arguments = (str(large.model), str(large.skeleton), "-o", str(tmp_path / "o" / "out.eqx"))
    (tmp_path / "o").mkdir()
    program = Program(*arguments, state_home=state_home)
    try:
        program.until(_FIRST_ROW)
        program.send(b"vGyc")
        program.until(b"Floating")
        program.send(b"\r")
        program.until(b"Converting")
        program.signal(signal.SIGTERM)
        assert program.status() == 143
    finally:
        program.kill_after(0)
    assert list((tmp_path / "o").iterdir()) == []


def _journalled(pair: Pair) -> int:
    """Edits that the next session could go on with."""
    session = Session.open(pair.model, pair.skeleton)
    journal = Journal.open(session.checkpoint, session.target)
    journal.close()
    return journal.found.edits if journal.found is not None else 0


def test_without_a_signal_the_last_resort_is_none() -> None:
    ended: list[int] = []
    ending = Ending(ended.append)
    before = signal.getsignal(signal.SIGTERM)
    ending.watch(lambda _: None, lambda: None)
    assert signal.getsignal(signal.SIGTERM) != before
    ending.release()
    ending.hasten()
    assert signal.getsignal(signal.SIGTERM) == before
    assert ended == []


def test_redirected_errors_leave_the_screen_where_it_is(
    pair: Pair, tmp_path: Path, state_home: Path
) -> None:
    arguments = (str(pair.model), str(pair.skeleton), "-o", str(tmp_path / "out.eqx"))
    with (tmp_path / "errors").open("wb") as errors:
        program = Program(*arguments, state_home=state_home, stderr=errors)
    try:
        program.until(_FIRST_ROW)
        program.send(b"q")
        assert program.status() == 0
    finally:
        program.kill_after(0)
    assert (tmp_path / "errors").read_bytes() == b""


@pytest.mark.parametrize("mouse", [True, False])
def test_the_mouse_is_left_to_the_terminal_if_asked(start: Start, mouse: bool) -> None:
    program = start(*([] if mouse else ["--no-mouse"]))
    seen = program.until(_FIRST_ROW)
    assert (b"\x1b[?1000h" in seen) is mouse


def test_osc_52_reaches_the_terminal(start: Start) -> None:
    program = start()
    program.until(_FIRST_ROW)
    program.send(b"Y")
    program.until(b"\x1b]52;c;bGF5ZXJz")


def test_attributes_can_be_told_apart() -> None:
    master, terminal = os.openpty()
    before = termios.tcgetattr(terminal)
    after = [*before]
    after[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSANOW, after)
    assert termios.tcgetattr(terminal) != before
    os.close(master)
    os.close(terminal)
