"""From the key that asks Claude to a proposal, or to one line that says why there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s2p_tui.core.errors import S2PError
from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.running import app_of
from s2p_tui.tui.screens.ask_claude import AskClaude
from s2p_tui.tui.screens.browser import Browser
from s2p_tui.tui.screens.waiting import Waiting
from s2p_tui.tui.threads import in_thread

if TYPE_CHECKING:
    from s2p_tui.core.proposal import Proposal
    from s2p_tui.proposers.claude.question import Question
    from s2p_tui.session import Session


async def proposal_of_claude(screen: Browser, session: Session, glyphs: Glyphs) -> Proposal | None:
    """Show what would be sent, ask if the user agrees, and wait for the answer.

    Args:
        screen: The screen that asks.
        session: What to ask about; it must not change meanwhile.
        glyphs: The signs to draw with.

    Returns:
        The proposal, or None if the user did not agree.

    Raises:
        S2PError: There is none, in one line.
    """
    from s2p_tui.proposers.claude import models
    from s2p_tui.proposers.claude.budget import Budget
    from s2p_tui.proposers.claude.question import question_about
    from s2p_tui.proposers.claude.secrets import find_key

    budget = Budget.of(len(session.checkpoint.state_dict))

    def question(*, everything: bool) -> Question:
        return question_about(session.situation, budget, everything=everything)

    asked = await in_thread(lambda: question(everything=False))
    screen.say()
    if asked.requests:
        # Before the user reads a question that could not be sent.
        find_key()
    shown = AskClaude(asked, lambda: question(everything=True), models.last_choice(), glyphs)
    consent = await app_of(screen).push_screen_wait(shown)
    if consent is None:
        return None
    key = find_key()
    models.remember(consent.name)
    outcome = await app_of(screen).push_screen_wait(Waiting(consent, key, glyphs))
    if isinstance(outcome, S2PError):
        raise outcome
    return outcome
