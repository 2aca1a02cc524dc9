"""The key that asks Claude: from what would be sent to a proposal, or to why there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import work

from s2p_tui.core.errors import S2PError
from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.running import app_of
from s2p_tui.tui.screens.ask_claude import AskClaude
from s2p_tui.tui.screens.transforming import Transforming
from s2p_tui.tui.screens.waiting import Waiting
from s2p_tui.tui.text import inert
from s2p_tui.tui.threads import in_thread

if TYPE_CHECKING:
    from s2p_tui.core.proposal import Proposal
    from s2p_tui.proposers.claude.question import Question
    from s2p_tui.session import Session


class Asking(Transforming):
    """Asks Claude.

    Attributes:
        is_asking: Whether a question is being written, read or answered, so that nothing it is
            about may change.
    """

    def __init__(self, session: Session, glyphs: Glyphs) -> None:
        super().__init__(session, glyphs)
        self.is_asking = False

    def action_claude(self) -> None:
        """Ask Claude about the rows that are not settled, and review what it proposes."""
        if not (self.is_busy or self.must_wait()):
            self.is_asking = True
            self.say("Writing the question …", "lines--muted")
            self._ask_claude()

    @work(exclusive=True, group="claude")
    async def _ask_claude(self) -> None:
        try:
            proposal = await self._proposal()
        except S2PError as error:
            self.say(inert(str(error)), "lines--bad")
            return
        finally:
            self.is_asking = False
        if proposal is None:
            self.say("Nothing was sent to Claude.")
        else:
            self.review(proposal, "Claude proposes no change.")

    async def _proposal(self) -> Proposal | None:
        """Show what would be sent, and if the user agrees wait for the answer; None if not.

        Raises:
            S2PError: There is no answer, in one line.
        """
        from s2p_tui.proposers.claude import models
        from s2p_tui.proposers.claude.secrets import find_key

        question = await in_thread(self._question)
        self.say()
        if question.requests:
            # Before the user reads a question that could not be sent.
            find_key()
        name = models.last_choice()
        shown = AskClaude(question, lambda: self._question(everything=True), name, self._glyphs)
        consent = await app_of(self).push_screen_wait(shown)
        if consent is None:
            return None
        key = find_key()
        models.remember(consent.name)
        outcome = await app_of(self).push_screen_wait(Waiting(consent, key, self._glyphs))
        if isinstance(outcome, S2PError):
            raise outcome
        return outcome

    def _question(self, *, everything: bool = False) -> Question:
        from s2p_tui.proposers.claude.budget import Budget
        from s2p_tui.proposers.claude.question import question_about

        budget = Budget.of(len(self.session.checkpoint.state_dict))
        return question_about(self.session.situation, budget, everything=everything)
