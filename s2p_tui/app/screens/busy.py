"""Screens shown while work runs in a thread: converting, asking Claude, long computations."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from msgspec import Struct
from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Label, ProgressBar

from s2p_tui.app.background import app_of, in_thread
from s2p_tui.app.failures import in_words_of_the_app, unexpected
from s2p_tui.app.screens.ask_claude import Consent
from s2p_tui.app.screens.convert import Order
from s2p_tui.app.text import shorten, size_in_words
from s2p_tui.app.theme import Symbols
from s2p_tui.app.widgets.frame import Box
from s2p_tui.errors import S2PError, printable

if TYPE_CHECKING:
    from s2p_tui.alignment.task import Job, Phase
    from s2p_tui.conversion.output import Converted
    from s2p_tui.proposals.claude.account import Secret
    from s2p_tui.proposals.proposal import Proposal
    from s2p_tui.session.session import Session

T = TypeVar("T")
_POLLS_PER_SECOND = 12
_POLLS_PER_TURN = 3
"""A slow line has room for four turns of the sign per second beside what else is sent."""
_TURNING = "|/-\\"


class Busy(ModalScreen["T | S2PError | None"], Generic[T]):
    """Runs work beside the event loop; dismissed with its result, its error, or None if left.

    Attributes:
        is_done: True once there is nothing more to wait for.
    """

    # Keys typed on after those that began the work must not cancel it.
    AUTO_FOCUS = ""
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,ctrl+c", "cancel", show=False)]

    def __init__(self, title: str, symbols: Symbols) -> None:
        super().__init__()
        self.is_done = False
        self._title = title
        self._symbols = symbols
        self._outcome: T | S2PError | None = None
        self._polls = 0
        self._is_left = False

    @abstractmethod
    async def run(self) -> T:
        """Do the work; errors become the screen's result."""

    @abstractmethod
    def words(self) -> str:
        """Return the current step, shown after a turning sign."""

    def stop(self) -> None:
        """Ask the work to end; nobody waits for it."""

    def compose(self) -> ComposeResult:
        with Box(self._symbols, self._title, "Esc cancels"):
            yield from self.compose_box()

    def compose_box(self) -> ComposeResult:
        yield Label("", id="progress")

    def on_mount(self) -> None:
        self.set_interval(1 / _POLLS_PER_SECOND, self.poll)
        self.poll()
        self.start()

    def poll(self) -> None:
        """Show how far the work is."""
        sign = _TURNING[self._polls // _POLLS_PER_TURN % len(_TURNING)]
        self._polls += 1
        self.show("#progress", printable(f"{sign} {self.words()}"))

    def show(self, selector: str, text: str) -> None:
        self.query_one(selector, Label).update(Content(self._symbols.plain(text)))

    @work
    async def start(self) -> None:
        """Do the work and keep the app alive whatever comes of it: edits are worth more."""
        try:
            outcome: T | S2PError = await self.run()
        except S2PError as error:
            outcome = in_words_of_the_app(error)
        except Exception as error:
            outcome = unexpected(error, self._title.rstrip(" …"))
        self.finish(outcome)

    @on(Button.Pressed)
    def action_cancel(self) -> None:
        """Close at once; what the thread still does changes nothing."""
        self.stop()
        self.finish(None)

    def finish(self, outcome: T | S2PError | None) -> None:
        """Close with a result, once no other screen lies over this one."""
        if not self.is_done:
            self.is_done, self._outcome = True, outcome
        self.on_screen_resume()

    def on_screen_resume(self) -> None:
        if self.is_done and app_of(self).screen is self and not self._is_left:
            self._is_left = True
            self.dismiss(self._outcome)

    def on_unmount(self) -> None:
        # An app that ends must not leave work running behind its back.
        self.stop()


class JobProgress(Struct, frozen=True):
    """The progress of a conversion.

    Attributes:
        phase: The current step.
        done: Bytes written and compared.
        total: Bytes to write and to compare.
        figures: Bytes, rate and remaining time in words.
    """

    phase: Phase
    done: int
    total: int
    figures: str


class Pace:
    """Rate and remaining time of one job, of its current phase: reading back is faster."""

    def __init__(self) -> None:
        self._phase: Phase | None = None
        self._since = 0.0
        self._from = 0

    def read(self, job: Job, now: float) -> JobProgress:
        """Return the progress at `now` seconds of the monotonic clock."""
        done = job.verified if job.phase == "verifying" else job.written
        if job.phase != self._phase:
            self._phase, self._since, self._from = job.phase, now, done
        return JobProgress(
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


class Converting(Busy["Converted"]):
    """Runs a conversion; cancelling waits until it has stopped.

    Attributes:
        job: The conversion's progress and its cancellation.
        output: The file that is written.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("q", "cancel", show=False)]

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
        super().__init__("Converting", symbols)
        from s2p_tui.alignment.task import Job

        self.job = Job()
        self.output = order.output
        self._session = session
        self._order = order
        self._mapping = mapping
        self._chunk_bytes = chunk_bytes
        self._jobs = jobs
        self._pace = Pace()

    def compose_box(self) -> ComposeResult:
        yield Label("", id="phase")
        yield ProgressBar(total=None, show_eta=False, id="bar")
        yield Label("", id="figures")
        yield Label("", id="leaf")
        yield Button("Cancel", id="cancel", compact=True)

    def words(self) -> str:
        return self.job.leaf

    def poll(self) -> None:
        progress = self._pace.read(self.job, time.monotonic())
        self.show("#phase", "cancelling" if self.job.is_cancelled else progress.phase)
        if progress.total:
            bar = self.query_one("#bar", ProgressBar)
            bar.update(total=progress.total, progress=progress.done)
        self.show("#figures", progress.figures)
        name = self._symbols.plain(printable(self.words()))
        room = max(1, self.query_one("#leaf").size.width)
        self.show("#leaf", shorten(name, room, ellipsis=self._symbols.ellipsis))

    @on(Button.Pressed)
    def action_cancel(self) -> None:
        """Ask the job to stop; the screen closes when it has."""
        self.stop()
        self.poll()

    def stop(self) -> None:
        self.job.cancel()

    async def run(self) -> Converted:
        """Convert, in a thread that the program waits for: no half-written file may stay."""
        from s2p_tui.alignment.task import ended_by

        with ended_by(self.job.check):
            return await asyncio.to_thread(
                self._session.convert,
                self._order.output,
                dtype=self._order.dtype,
                allow_overflow=self._order.allow_overflow,
                chunk_bytes=self._chunk_bytes,
                mapping=self._mapping,
                job=self.job,
                jobs=self._jobs,
            )


class WaitingForClaude(Busy["Proposal"]):
    """Asks Claude; dismissed with the proposal.

    Attributes:
        job: The request, to watch and to cancel.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("q", "cancel", show=False)]

    def __init__(self, consent: Consent, key: Secret, symbols: Symbols) -> None:
        super().__init__("Asking Claude", symbols)
        from s2p_tui.proposals.claude.job import Asking

        self.job = Asking()
        self._consent = consent
        self._key = key

    def compose_box(self) -> ComposeResult:
        yield Label(Content(self._symbols.plain(self._consent.model)))
        yield from super().compose_box()
        yield Button("Cancel", id="cancel", compact=True)

    def words(self) -> str:
        return self.job.progress

    def stop(self) -> None:
        self.job.cancel()

    async def run(self) -> Proposal:
        from s2p_tui.proposals.claude.ask import Claude
        from s2p_tui.proposals.claude.job import Budget

        question = self._consent.question
        budget = Budget.of(len(question.situation.state_dict))
        claude = Claude(self._key, self._consent.model, budget, self.job)
        # The message of another error might hold what must not be shown.
        return await in_thread(lambda: claude.answer(question), "Asking Claude", is_private=True)


class Working(Busy[T]):
    """Computes something; whoever opened this hands the keys typed meanwhile to what comes next.

    Attributes:
        typed: Keys that were pressed meanwhile.
    """

    def __init__(self, words: str, find: Callable[[], T], symbols: Symbols) -> None:
        super().__init__("One moment", symbols)
        self.typed: list[events.Key] = []
        self._words = words
        self._find = find

    def words(self) -> str:
        return self._words

    async def run(self) -> T:
        return await in_thread(self._find, self._words.rstrip(" …"))

    def on_key(self, event: events.Key) -> None:
        if event.key not in ("escape", "ctrl+c"):
            event.stop()
            self.typed.append(events.Key(event.key, event.character))
