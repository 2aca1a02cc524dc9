"""A fault of the program: one line with the way out, a traceback in a log, and the app goes on."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest
from textual.widgets import Label, Static

from s2p_tui.alignment.fit import Fit
from s2p_tui.app import failures, flows
from s2p_tui.app.screens import questions
from s2p_tui.app.screens.ask_claude import AskClaude
from s2p_tui.app.screens.look import Look
from s2p_tui.app.screens.main import Workspace
from s2p_tui.app.screens.questions import LoadMapping
from s2p_tui.app.start import S2PApp
from s2p_tui.conversion import statistics
from s2p_tui.proposals.claude.ask import Claude
from s2p_tui.session import opening
from s2p_tui.session.session import Session
from tests.app.pairs import BY_NAME, BY_ORDER, soon
from tests.app.reading import keys, shows, status
from tests.helpers.running_app import Opened, make_app, until
from tests.helpers.sessions import fitting, reordered

_WIDE = (200, 30)
_FAULTS = [MemoryError(), RuntimeError("a rare fault"), RecursionError("too deep")]


def raising(error: BaseException):
    def fails(*_arguments: object, **_named: object):
        raise error

    return fails


def logged() -> str:
    return failures.log_file().read_text()


@pytest.mark.parametrize("at_once", [0, 2000], ids=["beside the keys", "when opened"])
@pytest.mark.parametrize("fault", _FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.slow("opens the app for every case")
async def test_a_matcher_that_fails(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, fault: Exception, at_once: int
) -> None:
    match = opening.evidence_of
    monkeypatch.setattr(opening, "_MATCHED_AT_ONCE", at_once)
    monkeypatch.setattr(opening, "evidence_of", raising(fault))
    async with opened(soon(), size=_WIDE) as (pilot, workspace):
        await until(pilot, lambda: "failed" in status(workspace))
        assert status(workspace).startswith("Matching failed: ")
        assert "a tries again." in status(workspace)
        assert str(failures.log_file()) in status(workspace)
        assert "Traceback (most recent call last):\n" in logged()
        assert type(fault).__name__ in logged()
        # Nothing is certain that nobody looked at, and the user can go on by hand.
        assert workspace.session.counts[Fit.EXACT] == 0
        assert keys(workspace) == BY_ORDER
        await pilot.press("J", "u")
        assert keys(workspace) == BY_ORDER
        monkeypatch.setattr(opening, "evidence_of", match)
        await pilot.press("a")
        await until(pilot, lambda: not workspace.session.awaits_evidence)
        await until(pilot, lambda: "Matched" in status(workspace) or "Lined" in status(workspace))
        await pilot.press("a")
        await pilot.press("enter")
        assert keys(workspace) == BY_NAME
        assert workspace.session.counts[Fit.EXACT] == 6


async def test_rows_without_a_matcher_are_trusted_by_hand(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "evidence_of", raising(RuntimeError("a rare fault")))
    async with opened(soon(), size=_WIDE) as (pilot, workspace):
        await until(pilot, lambda: "failed" in status(workspace))
        blocking = workspace.session.blocking
        await pilot.press("g", "y")
        assert workspace.session.blocking == blocking - 1


def _matching_without_end(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Have the matcher begin again for ever; the event says that its thread has ended."""
    match, ended = opening.evidence_of, threading.Event()

    def slow(state_dict, skeleton, task):
        try:
            while True:
                match(state_dict, skeleton, task)
        finally:
            ended.set()

    monkeypatch.setattr(opening, "_MATCHED_AT_ONCE", 0)
    monkeypatch.setattr(opening, "evidence_of", slow)
    return ended


@pytest.mark.slow("drives the app through many screens")
async def test_escape_ends_the_matcher(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    match = opening.evidence_of
    ended = _matching_without_end(monkeypatch)
    async with opened(soon(), size=_WIDE) as (pilot, workspace):
        await pilot.press("c")
        assert "Esc stops it" in status(workspace)
        await pilot.press("escape")
        await until(pilot, lambda: "Matching stopped" in status(workspace))
        assert ended.is_set()
        assert not failures.log_file().exists()
        assert workspace.session.counts[Fit.EXACT] == 0
        monkeypatch.setattr(opening, "evidence_of", match)
        await pilot.press("a")
        await until(pilot, lambda: "Lined up" in status(workspace))
        assert keys(workspace) == BY_NAME


@pytest.mark.slow("drives the app through many screens")
async def test_the_matcher_ends_with_the_app(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = _matching_without_end(monkeypatch)
    async with opened(soon()) as (pilot, _):
        await pilot.press("ctrl+q")
        await until(pilot, lambda: not pilot.app.is_running)
    assert ended.wait(300)


async def test_statistics_that_fail(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "statistics", raising(ZeroDivisionError("no numbers")))
    async with opened(reordered(), size=_WIDE) as (pilot, workspace):
        await pilot.press("g", "i")
        assert isinstance(pilot.app.screen, Look)
        look = pilot.app.screen.query_one("#look", Static)
        await until(
            pilot, lambda: "Reading failed: Unexpected ZeroDivisionError" in str(look.content)
        )
        assert str(failures.log_file()) in str(look.content)
        assert "ZeroDivisionError: no numbers" in logged()
        await pilot.press("escape", "j")
        assert pilot.app.screen is workspace


@pytest.mark.slow("drives the app through several screens")
async def test_a_conversion_that_fails(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Session, "convert", raising(MemoryError()))
    async with opened(fitting(), size=_WIDE, output=tmp_path / "out.eqx") as (pilot, workspace):
        await pilot.press("c", "enter")
        await until(pilot, lambda: "failed" in status(workspace))
        assert status(workspace).startswith(
            "Converting failed: Unexpected MemoryError, not enough memory. Try again."
        )
        assert "MemoryError" in logged()
        await pilot.press("space", "J")
        assert len(workspace.session.history) == 1


async def test_a_mapping_file_that_cannot_be_read_by_a_fault(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "_read", raising(RuntimeError("a rare fault")))
    async with opened(fitting(), size=_WIDE) as (pilot, workspace):
        await pilot.press("ctrl+o")
        assert isinstance(pilot.app.screen, LoadMapping)
        await pilot.press("enter")
        remark = pilot.app.screen.query_one("#remark", Label)
        await until(pilot, lambda: "failed: Unexpected RuntimeError" in str(remark.content))
        await pilot.press("escape", "j")
        assert pilot.app.screen is workspace
        assert "a rare fault" in logged()


@pytest.mark.usefixtures("script")
async def test_what_a_client_of_claude_raises_is_told_to_nobody(
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
    session: Session,
) -> None:
    monkeypatch.setattr(Claude, "answer", raising(RuntimeError("sk-ant-secret")))
    async with opened(session, size=_WIDE) as (pilot, workspace):
        await pilot.press("p")
        await shows(pilot, AskClaude)
        await pilot.press("enter")
        await shows(pilot, Workspace)
        await until(pilot, lambda: "failed" in status(workspace))
        assert status(workspace).startswith(
            "Asking Claude failed: Unexpected RuntimeError. Try again."
        )
        assert "test_failures.py" in logged()
        assert "secret" not in logged()


async def test_a_worker_that_nobody_watches(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows, "_convert", raising(KeyError("x")))
    async with opened(fitting(), size=_WIDE) as (pilot, workspace):
        await pilot.press("c")
        await until(pilot, lambda: "failed: Unexpected KeyError" in status(workspace))
        await pilot.press("space", "J")
        assert len(workspace.session.history) == 1
        assert "KeyError" in logged()


async def test_reading_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(fitting())
    monkeypatch.setattr(app, "_open_session", raising(RuntimeError("a rare fault")))
    async with app.run_test() as pilot:
        await until(pilot, lambda: not app.is_running)
    assert app.return_code == 1
    assert app.fatal is not None
    assert app.fatal.message == "Opening failed: Unexpected RuntimeError: a rare fault."
    assert "Traceback" in logged()


async def test_a_key_that_fails_ends_in_one_line(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Workspace, "action_swap", raising(RuntimeError("a rare fault")))
    apps: list[S2PApp] = []

    async def press() -> None:
        async with opened(fitting()) as (pilot, _):
            assert isinstance(pilot.app, S2PApp)
            apps.append(pilot.app)
            await pilot.press("x")
            await until(pilot, lambda: not pilot.app.is_running)

    # The pilot raises again what ended the app.
    with pytest.raises(RuntimeError, match="a rare fault"):
        await press()
    assert apps[0].return_code == 1
    assert apps[0].fatal is not None
    assert apps[0].fatal.message == "The app failed: Unexpected RuntimeError: a rare fault."
    assert "Traceback" in logged()
    assert "locals" not in capsys.readouterr().err


def test_the_log_is_the_users_own_and_stays_small() -> None:
    for number in range(40):
        failures.unexpected(ValueError(f"number {number} {'x' * 20_000}"), "Trying")
    log = failures.log_file()
    assert log.stat().st_size <= 256 << 10
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert "number 39 " in logged()
    assert "number 0 " not in logged()


def test_a_log_that_cannot_be_written_is_said() -> None:
    failures.log_file().parent.write_text("in the way")
    failure = failures.unexpected(ValueError("why"), "Trying")
    assert failure.line.startswith("Trying failed: Unexpected ValueError: why. Try again.")
    assert "cannot be written" in failure.line
