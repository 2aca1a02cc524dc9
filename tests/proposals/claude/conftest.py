"""A server, a pair of models, and Claude asked about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from s2p_tui.errors import S2PError
from s2p_tui.proposals.claude.account import find_key
from s2p_tui.proposals.claude.ask import Claude
from s2p_tui.proposals.claude.job import Asking, Budget
from s2p_tui.proposals.claude.question import question_about
from s2p_tui.proposals.proposal import Proposal
from s2p_tui.session.session import Session
from tests.helpers.claude_server import Script, connect, serving
from tests.helpers.unlike import session

__all__ = ["script", "session"]

Ask = Callable[..., Proposal]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    """What the server is to do, and what it received."""
    script = Script()
    with serving(script) as url:
        connect(monkeypatch, tmp_path, url)
        yield script


@pytest.fixture
def ask(session: Session) -> Ask:
    """Ask about a session, by default the one of this test, and see that asking changes nothing."""

    def asked(
        about: Session | None = None, budget: Budget | None = None, job: Asking | None = None
    ) -> Proposal:
        about = about or session
        before = about.alignment
        budget = budget or Budget.of(len(about.checkpoint.state_dict))
        claude = Claude(find_key(), "claude-haiku-5-5", budget, job or Asking())
        try:
            return claude.answer(question_about(about.situation, budget))
        finally:
            assert about.alignment is before

    return asked


def refusal(ask: Callable[[], object]) -> str:
    """The error's one line."""
    with pytest.raises(S2PError) as caught:
        ask()
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return text
