"""The line that `/` opens."""

from __future__ import annotations

from dataclasses import dataclass

from textual import on
from textual.message import Message
from textual.widgets import Input

_LIVE_LIMIT = 20_000
_PAUSE = 0.2


class FindBar(Input):
    """Reports what is searched for while it is typed; in long lists, once typing pauses."""

    @dataclass
    class Searched(Message):
        """The query changed."""

        query: str

    @dataclass
    class Closed(Message):
        """The line was left, with the query to keep; empty if the search was given up."""

        query: str

    def __init__(self, rows: int) -> None:
        super().__init__(placeholder="name, 10x10 or doubtful", id="find", compact=True)
        self._is_long = rows > _LIVE_LIMIT
        self._last = ""

    @property
    def is_open(self) -> bool:
        return self.has_class("-open")

    def open(self, query: str) -> None:
        self.value = query
        self.add_class("-open")
        self.focus()

    @on(Input.Changed)
    def changed(self, event: Input.Changed) -> None:
        event.stop()
        if self._is_long:
            self.set_timer(_PAUSE, lambda: self._search(event.value))
        else:
            self._search(event.value)

    @on(Input.Submitted)
    def submitted(self, event: Input.Submitted) -> None:
        """Keep the matches; an empty line repeats the last search."""
        event.stop()
        self._last = event.value.strip() or self._last
        self._close(self._last)

    def key_escape(self) -> None:
        self._close("")

    def _search(self, query: str) -> None:
        if self.is_open and self.value == query:
            self.post_message(self.Searched(query.strip()))

    def _close(self, query: str) -> None:
        self.remove_class("-open")
        self.screen.set_focus(None)
        self.post_message(self.Closed(query))
