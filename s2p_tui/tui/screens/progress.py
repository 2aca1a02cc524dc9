"""A conversion while it runs."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Label, ProgressBar

from s2p_tui.core.errors import OutputError, S2PError
from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.pace import Pace
from s2p_tui.tui.screens.convert import Order
from s2p_tui.tui.text import inert, shorten
from s2p_tui.tui.widgets.box import Box

if TYPE_CHECKING:
    from s2p_tui.saving import Converted
    from s2p_tui.session import Session

    OutcomeScreen = ModalScreen[Converted | S2PError]
else:
    OutcomeScreen = ModalScreen

_POLLS_PER_SECOND = 12


class Progress(OutcomeScreen):
    """Runs a conversion in a thread, polls its job, and hands on what became of it.

    Args:
        session: What to convert.
        order: What to write where.
        glyphs: The signs to draw with.
        mapping: Where to save the mapping.
        chunk_bytes: Memory to stay within, about.
        jobs: Threads that share the work; None for two, or one on a single core.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,ctrl+c", "cancel", show=False)]

    def __init__(
        self,
        session: Session,
        order: Order,
        glyphs: Glyphs,
        *,
        mapping: Path,
        chunk_bytes: int,
        jobs: int | None = None,
    ) -> None:
        super().__init__()
        from s2p_tui.streaming.job import Job

        self.job = Job()
        self._session = session
        self._order = order
        self._mapping = mapping
        self._chunk_bytes = chunk_bytes
        self._jobs = jobs
        self._glyphs = glyphs
        self._pace = Pace()
        self._outcome: Converted | S2PError | None = None

    @property
    def output(self) -> Path:
        """The file that is written."""
        return self._order.output

    def compose(self) -> ComposeResult:
        """Bar and figures in a box."""
        with Box(self._glyphs, "Converting", "Esc cancels"):
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
        self.query_one("#figures", Label).update(Content(self._glyphs.plain(reading.figures)))
        name = self._glyphs.plain(inert(job.leaf))
        room = max(1, self.query_one("#leaf").size.width)
        leaf = shorten(name, room, ellipsis=self._glyphs.ellipsis)
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
