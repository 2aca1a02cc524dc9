"""Whatever goes wrong on the way to Claude is one line, and nothing is changed."""

from __future__ import annotations

import pickle
import socket
import threading
import traceback
from pathlib import Path

import pytest

from s2p_tui.errors import CancelledError, ProposerError
from s2p_tui.proposals.claude.account import find_key
from s2p_tui.proposals.claude.ask import Claude
from s2p_tui.proposals.claude.job import Asking, Budget
from s2p_tui.proposals.claude.question import question_about
from s2p_tui.session.session import Session
from tests.helpers.claude_server import (
    KEY,
    Script,
    fails,
    hangs,
    says,
)
from tests.helpers.unlike import RIGHT_KEYS
from tests.proposals.claude.conftest import Ask, refusal
from tests.proposals.claude.failures import LINES, NOW, WHOLE


@pytest.mark.parametrize("name", LINES)
def test_every_failure_is_one_line(script: Script, ask: Ask, name: str) -> None:
    play, line = LINES[name]
    script.plays = [play]
    said = refusal(ask)
    assert line in said
    assert KEY not in said


@pytest.mark.parametrize(
    ("name", "attempts"), [("401", 1), ("429", 1), ("500", 3), ("429 for ever", 3), ("cut", 1)]
)
def test_only_what_may_pass_is_tried_again(
    script: Script, ask: Ask, name: str, attempts: int
) -> None:
    script.plays = [LINES[name][0]]
    refusal(ask)
    assert len(script.asked) == attempts


def test_failure_that_passes_is_not_seen(script: Script, ask: Ask) -> None:
    script.plays = [fails(500, **NOW), fails(529, **NOW), says(WHOLE)]
    assert [change.new.keys[0] for change in ask().changes] == RIGHT_KEYS


def test_service_may_forbid_another_attempt(script: Script, ask: Ask) -> None:
    script.plays = [fails(500, x_should_retry="false")]
    refusal(ask)
    assert len(script.asked) == 1


def test_wait_is_shown_and_can_be_cancelled(script: Script, ask: Ask) -> None:
    script.plays = [fails(429, retry_after="29")]
    seen: list[str] = []

    class Cancelling(Asking):
        def wait(self, seconds: float) -> None:
            seen.append(self.progress)
            self.cancel()
            super().wait(seconds)

    job = Cancelling()
    with pytest.raises(CancelledError):
        ask(job=job)
    assert "rate limit is reached; trying again in 29 s" in seen[0]


@pytest.mark.parametrize("begun", [None, '{"groups": ['])
def test_hang_is_cancelled(script: Script, ask: Ask, begun: str | None) -> None:
    script.plays = [hangs(begun)]
    job = Asking()
    outcome: list[str] = []

    def run() -> None:
        outcome.append(refusal(lambda: ask(job=job)))

    thread = threading.Thread(target=run)
    thread.start()
    assert script.hanging.wait(300)
    job.cancel()
    thread.join(60)
    assert outcome == ["Asking Claude was cancelled; nothing was changed."]
    # It hangs still.
    assert not script.released.is_set()


def test_silence_is_not_waited_out(script: Script, ask: Ask) -> None:
    script.plays = [hangs()]
    budget = Budget(silence=0.05, attempts=1)
    assert "127.0.0.1 did not answer within 0 s." in refusal(lambda: ask(budget=budget))


def test_answer_without_end_is_bounded(script: Script, ask: Ask) -> None:
    script.plays = [says(" " * 5000)]
    budget = Budget(answer_bytes=1000)
    assert "longer than 1,000 bytes" in refusal(lambda: ask(budget=budget))


def test_answer_that_takes_too_long_is_given_up(script: Script, ask: Ask) -> None:
    script.plays = [says(WHOLE)]
    assert "Claude took longer than" in refusal(lambda: ask(budget=Budget(deadline=0.0)))


@pytest.mark.usefixtures("script")
def test_refused_connection(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("ANTHROPIC_BASE_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        said = refusal(lambda: ask(budget=Budget(attempts=1)))
    assert "127.0.0.1 refuses the connection." in said


@pytest.mark.usefixtures("script")
def test_unknown_name(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://claude.invalid")
    said = refusal(lambda: ask(budget=Budget(attempts=1)))
    assert "The name claude.invalid cannot be resolved." in said


@pytest.mark.usefixtures("script")
@pytest.mark.parametrize("url", ["http://[", "claude", "ftp://claude", "http://a:b"])
def test_address_that_is_none(ask: Ask, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
    said = refusal(lambda: ask(budget=Budget(attempts=1)))
    assert "ANTHROPIC_BASE_URL" in said


@pytest.mark.usefixtures("script")
def test_proxy_that_is_none(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("ALL_PROXY", "nonsense://x")
    assert "cannot be used. Check ANTHROPIC_BASE_URL and the proxy settings." in refusal(ask)


def test_retired_model_can_be_asked(script: Script, session: Session) -> None:
    script.plays = [says(WHOLE)]
    budget = Budget.of(4)
    claude = Claude(find_key(), "claude-sonnet-4-20250514", budget, Asking())
    assert claude.answer(question_about(session.situation, budget)).hunks


def test_no_key(script: Script, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert "ANTHROPIC_API_KEY is not set. Set it" in refusal(ask)
    assert not script.received


def test_key_from_env_file(
    script: Script, ask: Ask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    below = tmp_path / "work" / "here"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    (tmp_path / "work" / ".env").write_text(f"# mine\nexport ANTHROPIC_API_KEY='{KEY}'\nOTHER=1\n")
    script.plays = [says(WHOLE)]
    assert ask().hunks
    assert script.asked[0].headers["authorization"] == f"Bearer {KEY}"


def test_environment_wins_over_env_file(script: Script, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ANTHROPIC_API_KEY=other\n")
    script.plays = [says(WHOLE)]
    ask()
    assert script.asked[0].headers["authorization"] == f"Bearer {KEY}"


def test_new_lines_around_a_key_are_no_part_of_it(
    script: Script, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", f"\n {KEY}\n")
    script.plays = [says(WHOLE)]
    ask()
    assert script.asked[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("between", ["\n", "\r\n", " ", "\x00", "é"])
def test_key_that_is_none_is_not_shown_anywhere(
    script: Script, ask: Ask, monkeypatch: pytest.MonkeyPatch, between: str
) -> None:
    if between != "\x00":
        monkeypatch.setenv("ANTHROPIC_API_KEY", f"{KEY}{between}{KEY}")
    else:
        monkeypatch.setattr("os.environ", {"ANTHROPIC_API_KEY": f"{KEY}\x00{KEY}"})
    with pytest.raises(ProposerError, match="is no key") as caught:
        ask()
    assert not any(KEY in text for text in shown_of_package(caught.value))
    assert not script.received


def shown_of_package(error: BaseException) -> list[str]:
    """A traceback with this package's local variables, as some debuggers and loggers show it."""
    frames = traceback.TracebackException.from_exception(error, capture_locals=True).stack
    of_package = [frame for frame in frames if "/s2p_tui/" in frame.filename]
    values = [value for frame in of_package for value in (frame.locals or {}).values()]
    return [*traceback.StackSummary.from_list(of_package).format(), *values]


def test_no_traceback_holds_the_key(script: Script, ask: Ask) -> None:
    """Not even one that shows every local variable of this package."""
    script.plays = [fails(401, "authentication_error", f"no such key: {KEY}")]
    with pytest.raises(ProposerError) as caught:
        ask()
    shown = shown_of_package(caught.value)
    assert len(shown) > 3
    assert not any(KEY in text for text in shown)
    assert KEY not in str(caught.value)


@pytest.mark.usefixtures("script")
def test_key_shows_itself_to_nobody() -> None:
    secret = find_key()
    assert KEY not in f"{secret} {secret!r} {[secret]}"
    assert secret.scrub(f"key {KEY}!") == "key [key]!"
    with pytest.raises(TypeError):
        pickle.dumps(secret)


def test_log_of_the_sdk_does_not_hold_the_key(
    script: Script, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    script.plays = [fails(500, **NOW), says(WHOLE)]
    with caplog.at_level("DEBUG"):
        ask()
    assert "v1/messages" in caplog.text
    assert KEY not in caplog.text
