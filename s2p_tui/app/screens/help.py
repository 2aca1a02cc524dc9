"""The help screen and the palette, both made from the key table."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.fuzzy import Matcher
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static

from s2p_tui.app.background import keymap_of
from s2p_tui.app.keys import GROUPS, Key, Keymap, actions
from s2p_tui.app.text import wrap
from s2p_tui.app.theme import Symbols
from s2p_tui.app.widgets.frame import Box, BoxKeys, draw_plainly

_SHOWN = 26
_SHOWN_BRIEFLY = 13
_BRIEF_BELOW = 68
_MOST_LINES = 6
_SIGNS = (
    ("exact", "the same shape and dtype"),
    ("transformed", "fits after the steps in the details"),
    ("doubtful", "fits, but may be wrong: look, y trusts it"),
    ("trusted", "doubtful, and trusted by you"),
    ("mismatched", "cannot fit, or has no entry yet"),
    ("gap", "keeps the skeleton's value"),
    ("agrees", "at the left: its module agreed when both models were run"),
    ("differs", "at the left: its module differed"),
)


def help_text(symbols: Symbols, keymap: Keymap | None = None, width: int = 80) -> Content:
    """The table of keys as they are keymap, and of signs, in lines of some width."""
    brief = width < _BRIEF_BELOW
    column = _SHOWN_BRIEFLY if brief else _SHOWN
    lines: list[Content | tuple[str, str]] = []

    def add(shown: str, does: str) -> None:
        room = width - column - 3
        first, *more = wrap(symbols.plain(does), room, _MOST_LINES)
        lines.append((f"  {shown:<{column}} {first}\n", ""))
        lines.extend((f"{'':<{column + 3}}{line}\n", "") for line in more)

    for title in GROUPS:
        lines.append((f"{title}\n", "bold"))
        for shown, does in (keymap or Keymap()).help_lines(
            title, ascii_only=symbols.is_ascii, briefly=brief
        ):
            add(shown, does)
    lines.append(("Signs\n", "bold"))
    agreement = {"agrees": symbols.agreement[True], "differs": symbols.agreement[False]}
    signs = {**symbols.fits, "trusted": symbols.trusted, **agreement}
    for name, does in _SIGNS:
        add(signs[name] if brief else f"{signs[name]} {name}", does)
    return Content.assemble(*lines)


class _Table(Static):
    """The text, as wide as the scrollbar leaves it room."""

    def __init__(self, symbols: Symbols) -> None:
        super().__init__()
        self._symbols = symbols

    def on_resize(self) -> None:
        self.update(help_text(self._symbols, keymap_of(self), self.size.width))


class Help(BoxKeys, ModalScreen[None]):
    """Scrollable; any of the usual keys closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "dismiss", show=False),
        Binding("question_mark", "dismiss", show=False, id="help"),
        *BoxKeys.bindings(),
    ]

    def __init__(self, symbols: Symbols) -> None:
        super().__init__()
        self._symbols = symbols

    def compose(self) -> ComposeResult:
        with Box(self._symbols, "Keys", "Esc closes  j/k scroll", can_focus=True):
            yield _Table(self._symbols)

    @property
    def box(self) -> Box:
        return self.query_one(Box)


_KEYS_SHOWN = 2
_COMMANDS_SHOWN = 13
_ITSELF = "palette"


class Palette(ModalScreen["str | None"]):
    """Typing narrows the list, Enter does what is highlighted: its action is the result."""

    AUTO_FOCUS = "Input"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,ctrl+p", "dismiss(None)", show=False, priority=True),
        Binding("down,ctrl+n", "move(1)", show=False, priority=True),
        Binding("up", "move(-1)", show=False, priority=True),
        Binding("pagedown", "move(10)", show=False, priority=True),
        Binding("pageup", "move(-10)", show=False, priority=True),
    ]

    def __init__(self, keymap: Keymap, symbols: Symbols) -> None:
        super().__init__()
        self._keymap = keymap
        self._symbols = symbols
        self._all = [key for key in actions() if key.id != _ITSELF]
        self._found = self._all

    def compose(self) -> ComposeResult:
        with Box(self._symbols, "Actions", "Enter does it  Esc closes"):
            yield Input(placeholder="type to search", compact=True)
            yield OptionList(id="choices", compact=True)

    def on_mount(self) -> None:
        draw_plainly(self._list, self._symbols)
        self._list.can_focus = False
        self._fill("")

    @property
    def _list(self) -> OptionList:
        return self.query_one(OptionList)

    @on(Input.Changed)
    def search(self, event: Input.Changed) -> None:
        self._fill(event.value.strip())

    @on(Input.Submitted)
    def take(self) -> None:
        if self._list.highlighted is not None and self._found:
            self.dismiss(self._found[self._list.highlighted].action)

    @on(OptionList.OptionSelected)
    def click(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._found[event.option_index].action)

    def action_move(self, lines: int) -> None:
        if self._found:
            last = len(self._found) - 1
            self._list.highlighted = max(0, min((self._list.highlighted or 0) + lines, last))

    def _fill(self, query: str) -> None:
        self._found = _ranked(self._all, query)
        self._list.clear_options()
        self._list.add_options([self._line(key) for key in self._found])
        self._list.highlighted = 0 if self._found else None

    def _line(self, key: Key) -> Content:
        shown = self._keymap.shown(key, _KEYS_SHOWN, ascii_only=self._symbols.is_ascii)
        return Content(f"{shown:<{_COMMANDS_SHOWN}} {self._symbols.plain(key.words)}")


def _ranked(keys: list[Key], query: str) -> list[Key]:
    """Those that every word of the query is in; where there are none, those like it, best first."""
    texts = {key.id: f"{key.words} {key.id.replace('_', ' ')}".lower() for key in keys}
    words = query.lower().split()
    if found := [key for key in keys if all(word in texts[key.id] for word in words)]:
        return found
    matcher = Matcher(query)
    scores = {key.id: matcher.match(texts[key.id]) for key in keys}
    return sorted((key for key in keys if scores[key.id]), key=lambda key: -scores[key.id])
