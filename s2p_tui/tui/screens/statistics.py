"""What `i` opens: all about a row, and its tensors' own numbers, read while one looks."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from s2p_tui.core.errors import CancelledError, S2PError
from s2p_tui.tui import looking
from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.looking import Subject
from s2p_tui.tui.text import inert
from s2p_tui.tui.threads import in_thread
from s2p_tui.tui.widgets.box import Box

if TYPE_CHECKING:
    from s2p_tui.session import Session
    from s2p_tui.streaming.statistics import Progress, Statistics

_POLLS_PER_SECOND = 10
_MOST = 32


class Look(ModalScreen[None]):
    """Reads one tensor after the other in a thread; Esc stops that and closes.

    Args:
        session: Where to look.
        position: The row, or the benched entry.
        glyphs: The signs to draw with.

    Attributes:
        progress: How far the reading is; None before it starts and after it ends.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,i,enter,ctrl+c", "dismiss(None)", show=False),
        Binding("down,j", "scroll(1)", show=False),
        Binding("up,k", "scroll(-1)", show=False),
        Binding("pagedown,space,ctrl+f", "scroll(10)", show=False),
        Binding("pageup,ctrl+b", "scroll(-10)", show=False),
        Binding("home,g", "scroll(-100000)", show=False),
        Binding("end,G", "scroll(100000)", show=False),
    ]

    def __init__(self, session: Session, position: int, glyphs: Glyphs) -> None:
        super().__init__()
        self.progress: Progress | None = None
        self._session = session
        self._position = position
        self._glyphs = glyphs
        all_of_them = looking.subjects(session, position)
        self._subjects = all_of_them[:_MOST]
        self._more = len(all_of_them) - len(self._subjects)
        self._found: dict[int, Statistics | str] = {}

    def compose(self) -> ComposeResult:
        """One text in a box."""
        with Box(self._glyphs, "Look", "Esc closes  j/k scroll"):
            yield Static(id="look")

    def on_mount(self) -> None:
        """Start reading."""
        self.set_interval(1 / _POLLS_PER_SECOND, self._poll)
        self._show()
        self._read()

    def on_resize(self) -> None:
        """Draw the bars in the new width."""
        self.call_after_refresh(self._show)

    def on_unmount(self) -> None:
        """Read no more."""
        if self.progress is not None:
            self.progress.cancel()

    def action_scroll(self, lines: int) -> None:
        """Scroll the text."""
        self.query_one(Box).scroll_relative(y=lines, animate=False)

    @property
    def text(self) -> str:
        """What is shown."""
        width = max(1, self.query_one("#look").size.width)
        lines = looking.about_row(self._session, self._position, self._glyphs)
        for number, subject in enumerate(self._subjects):
            lines += ["", inert(subject.title), looking.kind_of(subject), subject.where]
            lines += self._numbers(number, subject, width)
        if self._more:
            lines += ["", f"and {self._more:,} more entries"]
        return "\n".join(map(self._glyphs.plain, lines))

    def _numbers(self, number: int, subject: Subject, width: int) -> list[str]:
        found = self._found.get(number)
        if found is None:
            is_next = number == len(self._found)
            progress = self.progress if is_next else None
            if progress is None or not progress.total:
                return ["reading …"]
            return [f"reading … {progress.done / progress.total:.0%}"]
        if isinstance(found, str):
            return [found]
        figures = looking.figures(found, subject.entry.dtype)
        return [*figures, *looking.histogram(found, width, self._glyphs)]

    def _poll(self) -> None:
        if self.progress is not None:
            self._show()

    def _show(self) -> None:
        if self.is_mounted:
            self.query_one("#look", Static).update(Content(self.text))

    @work
    async def _read(self) -> None:
        from s2p_tui.streaming.statistics import Progress, statistics

        for number, subject in enumerate(self._subjects):
            progress = self.progress = Progress()
            entry = subject.entry
            try:
                self._found[number] = await in_thread(
                    partial(
                        statistics,
                        subject.tensors,
                        entry.key,
                        entry.shape,
                        entry.dtype,
                        progress,
                    )
                )
            except CancelledError:
                return
            except S2PError as error:
                self._found[number] = inert(str(error))
            except OSError as error:
                self._found[number] = f"It cannot be read: {error.strerror}."
            self.progress = None
            self._show()
