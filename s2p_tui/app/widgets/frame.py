"""The frame's lines with their titles, and the box around dialogs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.scrollbar import ScrollBarRender
from textual.widget import Widget

from s2p_tui.app.keys import navigation
from s2p_tui.app.text import clip, shorten
from s2p_tui.app.theme import Symbols
from s2p_tui.app.widgets.lines import Lines, Part
from s2p_tui.errors import printable

Title = tuple[str, ...]


def top_line(symbols: Symbols, titles: tuple[Title, Title], middle: int, width: int) -> str:
    """`┌ model.pt · 122 entries ──┬ skeleton.eqx · 122 leaves ──┐`."""
    left, tee, right = symbols.corners[:3]
    middle = max(1, min(middle, width - 2))
    first = _titled(symbols, titles[0], middle - 1)
    second = _titled(symbols, titles[1], width - middle - 2)
    return f"{left}{first}{tee}{second}{right}"


def rule(symbols: Symbols, title: Title, corners: str, width: int) -> str:
    """`├ details ─────┤`."""
    return f"{corners[0]}{_titled(symbols, title, width - 2)}{corners[1]}"


def _titled(symbols: Symbols, title: Title, width: int) -> str:
    if width < 4 or not title:
        return symbols.across * max(0, width)
    name, *facts = (printable(symbols.plain(part), ascii_only=symbols.is_ascii) for part in title)
    words = shorten(name, width - 2, ellipsis=symbols.ellipsis)
    for fact in facts:
        longer = f"{words} {symbols.dot} {fact}"
        if cell_len(longer) > width - 2:
            break
        words = longer
    return f" {words} " + symbols.across * (width - 2 - cell_len(words))


def keys_line(
    symbols: Symbols, keys: Iterable[tuple[str, str]], width: int, end: str = ""
) -> list[Part]:
    """Return the frame's bottom line: as many keys as there is room for, then `end`."""
    parts: list[Part] = [(f"{symbols.corners[5]} ", "")]
    used = 3 + len(end)
    for key, does in keys:
        if used + len(key) + len(does) + 3 > width - 1:
            break
        parts += [(key, "lines--strong"), (f" {does}  ", "lines--muted")]
        used += len(key) + len(does) + 3
    across = symbols.across * max(0, width - used)
    return [*parts, (f"{across}{end}{symbols.corners[6]}", "")]


def framed(listed: Iterable[Widget], about: Iterable[Widget]) -> ComposeResult:
    """Yield the frame as on the main screen: the list, the rule, and what is below it."""
    yield Lines(id="top")
    with Vertical(id="list", classes="sides"):
        yield from listed
    yield Lines(id="rule")
    with Vertical(id="about", classes="sides"):
        yield from about
    yield Lines(id="bottom")


_CORNERS = 6
_HALF_PAGE = 5


class _PlainBar(ScrollBarRender):
    """A scrollbar without the block characters that end its thumb."""

    VERTICAL_BARS = [" "] * 8


def draw_plainly(widget: Widget, symbols: Symbols) -> None:
    """Draw a scrollable widget's bar in ASCII if the symbols are."""
    if symbols.is_ascii:
        # Textual has it as a constant of the class and reads it of the bar.
        untyped: Any = widget.vertical_scrollbar
        untyped.renderer = _PlainBar


class BoxKeys:
    """Mixed into a screen with one `Box`: the keys of the main list scroll it."""

    @property
    @abstractmethod
    def box(self) -> Box:
        """The scrolling part."""

    @staticmethod
    def bindings() -> list[BindingType]:
        """Return the keys of the main list; the space bar pages too, as nothing is marked here."""
        keys = [*navigation(), ("space", "page(2)")]
        return [Binding(key, does, show=False) for key, does in keys]

    def action_go(self, lines: int) -> None:
        self.box.scroll_relative(y=lines, animate=False)

    def action_page(self, halves: int) -> None:
        self.action_go(halves * _HALF_PAGE)

    def action_first(self) -> None:
        self.box.scroll_home(animate=False)

    def action_last(self) -> None:
        self.box.scroll_end(animate=False)


class Box(VerticalScroll):
    """A titled frame that scrolls what does not fit; names the keys that work at its bottom."""

    def __init__(self, symbols: Symbols, title: str, keys: str, *, can_focus: bool = False) -> None:
        super().__init__(classes="box", can_focus=can_focus)
        self.border_title = title
        self.border_subtitle = keys
        self._keys = keys
        self._symbols = symbols

    def on_mount(self) -> None:
        draw_plainly(self, self._symbols)
        # What had the focus before the first layout is looked for where it is not, and the scroll
        # that comes of it waits for a refresh itself.
        self.call_after_refresh(self.call_after_refresh, self._begin)

    def _begin(self) -> None:
        # The screen may have been closed before its first refresh was over.
        if not self.is_attached:
            return
        self.scroll_home(animate=False, immediate=True)
        focused = self.screen.focused
        if focused is not None and self in focused.ancestors:
            self.scroll_to_widget(focused, animate=False, immediate=True)

    def on_resize(self) -> None:
        """Cut the keys with this set of signs' own ellipsis where they do not fit."""
        room = self.outer_size.width - _CORNERS
        self.border_subtitle = clip(self._keys, room, ellipsis=self._symbols.ellipsis)
