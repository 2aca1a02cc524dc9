"""Claude while it is being asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Label

from s2p_tui.core.errors import CancelledError, ProposerError, S2PError
from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.running import app_of
from s2p_tui.tui.screens.ask_claude import Consent
from s2p_tui.tui.text import inert
from s2p_tui.tui.threads import in_thread
from s2p_tui.tui.widgets.box import Box

if TYPE_CHECKING:
    from s2p_tui.core.proposal import Proposal
    from s2p_tui.proposers.claude.secrets import Secret

    AnswerScreen = ModalScreen[Proposal | S2PError]
else:
    AnswerScreen = ModalScreen

_POLLS_PER_SECOND = 10
_SIGNS = "|/-\\"


class Waiting(AnswerScreen):
    """Asks in a thread and is dismissed with the proposal, or with why there is none.

    Args:
        consent: What may be sent.
        key: The key.
        glyphs: The signs to draw with.

    Attributes:
        job: The request, to watch and to cancel.
        outcome: What came of it; None as long as it is waited for.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,ctrl+c", "cancel", show=False)]

    def __init__(self, consent: Consent, key: Secret, glyphs: Glyphs) -> None:
        super().__init__()
        from s2p_tui.proposers.claude.job import Asking

        self.job = Asking()
        self._consent = consent
        self._key = key
        self._glyphs = glyphs
        self._polls = 0
        self.outcome: Proposal | S2PError | None = None
        self._is_left = False

    def compose(self) -> ComposeResult:
        """What goes on, in a box."""
        with Box(self._glyphs, "Asking Claude", "Esc cancels"):
            yield Label(Content(self._glyphs.plain(self._consent.model)))
            yield Label("", id="progress")
            yield Button("Cancel", id="cancel", compact=True)

    def on_mount(self) -> None:
        """Start."""
        self.set_interval(1 / _POLLS_PER_SECOND, self.poll)
        self.poll()
        self._ask()

    def poll(self) -> None:
        """Show how far it is."""
        self._polls += 1
        sign = _SIGNS[self._polls // 2 % len(_SIGNS)]
        words = self._glyphs.plain(inert(f"{sign} {self.job.words}"))
        self.query_one("#progress", Label).update(Content(words))

    @on(Button.Pressed)
    def action_cancel(self) -> None:
        """Close at once; the thread that asks is woken up and ends by itself."""
        self.job.cancel()
        self._close(CancelledError("Asking Claude was cancelled; nothing was changed."))

    def on_unmount(self) -> None:
        """Do not go on behind the back of an app that ends."""
        self.job.cancel()

    @work
    async def _ask(self) -> None:
        from s2p_tui.proposers.claude.asking import Claude
        from s2p_tui.proposers.claude.budget import Budget

        question = self._consent.question
        budget = Budget.of(len(question.situation.state_dict))
        claude = Claude(self._key, self._consent.model, budget, self.job)
        try:
            proposal = await in_thread(lambda: claude.answer(question))
        except S2PError as error:
            self._close(error)
        except Exception as error:
            # The user's edits are worth more than a traceback, and a traceback might say too much.
            words = f"Unexpected {type(error).__name__} while asking Claude."
            self._close(ProposerError(words, "Please report this."))
        else:
            self._close(proposal)

    def on_screen_resume(self) -> None:
        """Close if the answer came while another screen lay over this one."""
        self._leave()

    def _close(self, outcome: Proposal | S2PError) -> None:
        if self.outcome is None:
            self.outcome = outcome
            self._leave()

    def _leave(self) -> None:
        if self.outcome is not None and app_of(self).screen is self and not self._is_left:
            self._is_left = True
            self.dismiss(self.outcome)
