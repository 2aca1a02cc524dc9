"""A conversion while it runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Label, ProgressBar

from s2p_tui.app.background import app_of, in_thread
from s2p_tui.app.screens.ask_claude import Consent
from s2p_tui.app.screens.convert import Order
from s2p_tui.app.text import shorten, size_in_words
from s2p_tui.app.theme import Symbols
from s2p_tui.app.widgets.frame import Box
from s2p_tui.errors import CancelledError, OutputError, ProposerError, S2PError, printable

if TYPE_CHECKING:
    from s2p_tui.conversion.job import Job, Phase


@dataclass(frozen=True, slots=True)
class Reading:
    """How far a job is.

    Attributes:
        phase: What it does now.
        done: Bytes written and compared.
        total: Bytes to write and to compare.
        figures: Bytes, rate and remaining time in words.
    """

    phase: Phase
    done: int
    total: int
    figures: str


class Pace:
    """Watches one job. The rate is the current phase's own: reading back is faster than writing."""

    def __init__(self) -> None:
        self._phase: Phase | None = None
        self._since = 0.0
        self._from = 0

    def read(self, job: Job, now: float) -> Reading:
        """The job at `now` seconds of the monotonic clock."""
        done = job.verified if job.phase == "verifying" else job.written
        if job.phase != self._phase:
            self._phase, self._since, self._from = job.phase, now, done
        return Reading(
            job.phase, job.written + job.verified, 2 * job.total, self._figures(job, done, now)
        )

    def _figures(self, job: Job, done: int, now: float) -> str:
        words = f"{size_in_words(done)} of {size_in_words(job.total)}"
        elapsed = now - self._since
        if elapsed < 0.5 or done <= self._from or job.phase not in ("writing", "verifying"):
            return words
        rate = (done - self._from) / elapsed
        return f"{words} · {size_in_words(rate)}/s · {duration((job.total - done) / rate)} left"


def duration(seconds: float) -> str:
    """`8 s`, `2 min 05 s`, `1 h 12 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


if TYPE_CHECKING:
    from s2p_tui.conversion.output import Converted
    from s2p_tui.session.session import Session

    OutcomeScreen = ModalScreen[Converted | S2PError]
else:
    OutcomeScreen = ModalScreen

_POLLS_PER_SECOND = 12


class Progress(OutcomeScreen):
    """Runs a conversion in a thread, polls its job, and hands on what became of it.

    Args:
        session: What to convert.
        order: What to write where.
        symbols: The signs to draw with.
        mapping: Where to save the mapping.
        chunk_bytes: Memory to stay within, about.
        jobs: Threads that share the work; None for two, or one on a single core.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,ctrl+c", "cancel", show=False)]

    def __init__(
        self,
        session: Session,
        order: Order,
        symbols: Symbols,
        *,
        mapping: Path,
        chunk_bytes: int,
        jobs: int | None = None,
    ) -> None:
        super().__init__()
        from s2p_tui.conversion.job import Job

        self.job = Job()
        self._session = session
        self._order = order
        self._mapping = mapping
        self._chunk_bytes = chunk_bytes
        self._jobs = jobs
        self._symbols = symbols
        self._pace = Pace()
        self._outcome: Converted | S2PError | None = None

    @property
    def output(self) -> Path:
        """The file that is written."""
        return self._order.output

    def compose(self) -> ComposeResult:
        """Bar and figures in a box."""
        with Box(self._symbols, "Converting", "Esc cancels"):
            yield Label("", id="phase")
            yield ProgressBar(total=None, show_eta=False, id="bar")
            yield Label("", id="figures")
            yield Label("", id="leaf")
            yield Button("Cancel", id="cancel", compact=True)

    def on_mount(self) -> None:
        """Start."""
        self.set_interval(1 / _POLLS_PER_SECOND, self.poll)
        self._run_conversion()

    def poll(self) -> None:
        """Show how far the job is."""
        job = self.job
        reading = self._pace.read(job, time.monotonic())
        phase = "cancelling" if job.is_cancelled else reading.phase
        self.query_one("#phase", Label).update(Content(phase))
        if reading.total:
            self.query_one("#bar", ProgressBar).update(total=reading.total, progress=reading.done)
        self.query_one("#figures", Label).update(Content(self._symbols.plain(reading.figures)))
        name = self._symbols.plain(printable(job.leaf))
        room = max(1, self.query_one("#leaf").size.width)
        leaf = shorten(name, room, ellipsis=self._symbols.ellipsis)
        self.query_one("#leaf", Label).update(Content(leaf))

    @on(Button.Pressed)
    def action_cancel(self) -> None:
        """Ask the job to stop; the screen closes when it has."""
        self.job.cancel()
        self.poll()

    def on_unmount(self) -> None:
        """Do not go on behind the back of an app that ends."""
        self.job.cancel()

    @work
    async def _run_conversion(self) -> None:
        try:
            converted = await asyncio.to_thread(
                self._session.convert,
                self._order.output,
                dtype=self._order.dtype,
                chunk_bytes=self._chunk_bytes,
                mapping=self._mapping,
                job=self.job,
                jobs=self._jobs,
            )
        except S2PError as error:
            self._finish(error)
        except Exception as error:
            # The user's edits are worth more than a traceback: keep the app alive, name the bug.
            words = f"{type(error).__name__}: {error}"
            self._finish(OutputError(f"Unexpected {words}.", "Please report this."))
        else:
            self._finish(converted)

    def _finish(self, outcome: Converted | S2PError) -> None:
        """Hand it on, at once or, while a question lies over this screen, after it."""
        self._outcome = outcome
        if self.is_active:
            self.dismiss(outcome)

    def on_screen_resume(self) -> None:
        """Hand on what became of it behind a question."""
        if self._outcome is not None:
            self.dismiss(self._outcome)


if TYPE_CHECKING:
    from s2p_tui.proposals.claude.account import Secret
    from s2p_tui.proposals.proposal import Proposal

    AnswerScreen = ModalScreen[Proposal | S2PError]
else:
    AnswerScreen = ModalScreen

_CLAUDE_POLLS_PER_SECOND = 10
_SIGNS = "|/-\\"


class Waiting(AnswerScreen):
    """Asks in a thread and is dismissed with the proposal, or with why there is none.

    Args:
        consent: What may be sent.
        key: The key.
        symbols: The signs to draw with.

    Attributes:
        job: The request, to watch and to cancel.
        outcome: What came of it; None as long as it is waited for.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,ctrl+c", "cancel", show=False)]

    def __init__(self, consent: Consent, key: Secret, symbols: Symbols) -> None:
        super().__init__()
        from s2p_tui.proposals.claude.job import Asking

        self.job = Asking()
        self._consent = consent
        self._key = key
        self._symbols = symbols
        self._polls = 0
        self.outcome: Proposal | S2PError | None = None
        self._is_left = False

    def compose(self) -> ComposeResult:
        """What goes on, in a box."""
        with Box(self._symbols, "Asking Claude", "Esc cancels"):
            yield Label(Content(self._symbols.plain(self._consent.model)))
            yield Label("", id="progress")
            yield Button("Cancel", id="cancel", compact=True)

    def on_mount(self) -> None:
        """Start."""
        self.set_interval(1 / _CLAUDE_POLLS_PER_SECOND, self.poll)
        self.poll()
        self._ask()

    def poll(self) -> None:
        """Show how far it is."""
        self._polls += 1
        sign = _SIGNS[self._polls // 2 % len(_SIGNS)]
        words = self._symbols.plain(printable(f"{sign} {self.job.words}"))
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
        from s2p_tui.proposals.claude.ask import Claude
        from s2p_tui.proposals.claude.job import Budget

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


T = TypeVar("T")
_PER_SECOND = 4


class Working(ModalScreen["T | None"], Generic[T]):
    """Works in a thread and is dismissed with what came of it, or with None.

    Keys typed ahead are meant for what comes next: whoever opened this hands them on.

    Args:
        words: What is being done.
        find: Does it. What it finds is dropped if the user does not wait for it.
        symbols: The signs to draw with.

    Attributes:
        typed: Keys that were pressed meanwhile.
        is_done: Whether there is nothing more to wait for.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,ctrl+c", "cancel", show=False)]

    def __init__(self, words: str, find: Callable[[], T], symbols: Symbols) -> None:
        super().__init__()
        self.typed: list[events.Key] = []
        self._words = words
        self._find = find
        self._symbols = symbols
        self._polls = 0
        self._found: T | None = None
        self.is_done = False
        self._is_closed = False

    def compose(self) -> ComposeResult:
        """What goes on, in a box."""
        with Box(self._symbols, "One moment", "Esc cancels"):
            yield Label("", id="progress")

    def on_mount(self) -> None:
        """Start."""
        self.set_interval(1 / _PER_SECOND, self.poll)
        self.poll()
        self._work()

    def poll(self) -> None:
        """Show that it goes on."""
        sign = _SIGNS[self._polls % len(_SIGNS)]
        self._polls += 1
        self.query_one("#progress", Label).update(
            Content(self._symbols.plain(f"{sign} {self._words}"))
        )

    def on_key(self, event: events.Key) -> None:
        """Keep keys for what comes next."""
        if event.key not in ("escape", "ctrl+c"):
            event.stop()
            self.typed.append(events.Key(event.key, event.character))

    def action_cancel(self) -> None:
        """Close at once; nothing is changed by what the thread still does."""
        self.typed.clear()
        self._end(None)

    def on_screen_resume(self) -> None:
        """Close if all was done while another screen lay over this one."""
        self._close()

    @work
    async def _work(self) -> None:
        self._end(await in_thread(self._find))

    def _end(self, found: T | None) -> None:
        if not self.is_done:
            self.is_done, self._found = True, found
            self._close()

    def _close(self) -> None:
        if self.is_done and app_of(self).screen is self and not self._is_closed:
            self._is_closed = True
            self.dismiss(self._found)
