"""Every action of the workspace, found by its name."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.fuzzy import Matcher
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList

from s2p_tui.tui.bound import Bound
from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.keys import Key, actions
from s2p_tui.tui.widgets.box import Box, draw_plainly

_KEYS_SHOWN = 2
_SHOWN = 13
_ITSELF = "palette"


class Palette(ModalScreen["str | None"]):
    """Typing narrows the list, Enter does what is highlighted: its action is the result.

    Args:
        bound: The keys of every action.
        glyphs: The signs to draw with.
    """

    AUTO_FOCUS = "Input"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,ctrl+p", "dismiss(None)", show=False, priority=True),
        Binding("down,ctrl+n", "move(1)", show=False, priority=True),
        Binding("up", "move(-1)", show=False, priority=True),
        Binding("pagedown", "move(10)", show=False, priority=True),
        Binding("pageup", "move(-10)", show=False, priority=True),
    ]

    def __init__(self, bound: Bound, glyphs: Glyphs) -> None:
        super().__init__()
        self._bound = bound
        self._glyphs = glyphs
        self._all = [key for key in actions() if key.id != _ITSELF]
        self._found = self._all

    def compose(self) -> ComposeResult:
        """The line to type in and the list."""
        with Box(self._glyphs, "Actions", "Enter does it  Esc closes"):
            yield Input(placeholder="type to search", compact=True)
            yield OptionList(id="choices", compact=True)

    def on_mount(self) -> None:
        """Show them all."""
        draw_plainly(self._list, self._glyphs)
        self._list.can_focus = False
        self._fill("")

    @property
    def _list(self) -> OptionList:
        return self.query_one(OptionList)

    @on(Input.Changed)
    def search(self, event: Input.Changed) -> None:
        """Narrow the list."""
        self._fill(event.value.strip())

    @on(Input.Submitted)
    def take(self) -> None:
        """Do what is highlighted."""
        if self._list.highlighted is not None and self._found:
            self.dismiss(self._found[self._list.highlighted].action)

    @on(OptionList.OptionSelected)
    def click(self, event: OptionList.OptionSelected) -> None:
        """Do what was clicked."""
        self.dismiss(self._found[event.option_index].action)

    def action_move(self, lines: int) -> None:
        """Highlight another line."""
        if self._found:
            last = len(self._found) - 1
            self._list.highlighted = max(0, min((self._list.highlighted or 0) + lines, last))

    def _fill(self, query: str) -> None:
        self._found = _ranked(self._all, query)
        self._list.clear_options()
        self._list.add_options([self._line(key) for key in self._found])
        self._list.highlighted = 0 if self._found else None

    def _line(self, key: Key) -> Content:
        shown = self._bound.shown(key, _KEYS_SHOWN, ascii_only=self._glyphs.is_ascii)
        return Content(f"{shown:<{_SHOWN}} {self._glyphs.plain(key.words)}")


def _ranked(keys: list[Key], query: str) -> list[Key]:
    """Those that every word of the query is in; where there are none, those like it, best first."""
    texts = {key.id: f"{key.words} {key.id.replace('_', ' ')}".lower() for key in keys}
    words = query.lower().split()
    if found := [key for key in keys if all(word in texts[key.id] for word in words)]:
        return found
    matcher = Matcher(query)
    scores = {key.id: matcher.match(texts[key.id]) for key in keys}
    return sorted((key for key in keys if scores[key.id]), key=lambda key: -scores[key.id])
