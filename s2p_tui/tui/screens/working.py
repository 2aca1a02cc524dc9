"""What takes a while, in a box that can be left."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar

from textual import events, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Label

from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.running import app_of
from s2p_tui.tui.threads import in_thread
from s2p_tui.tui.widgets.box import Box

T = TypeVar("T")
_PER_SECOND = 4
_SIGNS = "|/-\\"


class Working(ModalScreen["T | None"], Generic[T]):
    """Works in a thread and is dismissed with what came of it, or with None.

    Keys typed ahead are meant for what comes next: whoever opened this hands them on.

    Args:
        words: What is being done.
        find: Does it. What it finds is dropped if the user does not wait for it.
        glyphs: The signs to draw with.

    Attributes:
        typed: Keys that were pressed meanwhile.
        is_done: Whether there is nothing more to wait for.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,ctrl+c", "cancel", show=False)]

    def __init__(self, words: str, find: Callable[[], T], glyphs: Glyphs) -> None:
        super().__init__()
        self.typed: list[events.Key] = []
        self._words = words
        self._find = find
        self._glyphs = glyphs
        self._polls = 0
        self._found: T | None = None
        self.is_done = False
        self._is_closed = False

    def compose(self) -> ComposeResult:
        """What goes on, in a box."""
        with Box(self._glyphs, "One moment", "Esc cancels"):
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
            Content(self._glyphs.plain(f"{sign} {self._words}"))
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
