"""The box of a modal screen."""

from __future__ import annotations

from typing import Any

from textual.containers import VerticalScroll
from textual.scrollbar import ScrollBarRender
from textual.widget import Widget

from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.text import clip

_CORNERS = 6


class _PlainBar(ScrollBarRender):
    """A scrollbar without the block characters that end its thumb."""

    VERTICAL_BARS = [" "] * 8


def draw_plainly(widget: Widget, glyphs: Glyphs) -> None:
    """Have a scrollable widget's bar drawn in ASCII if that is the set of signs."""
    if glyphs.is_ascii:
        # Textual has it as a constant of the class and reads it of the bar.
        untyped: Any = widget.vertical_scrollbar
        untyped.renderer = _PlainBar


class Box(VerticalScroll):
    """A titled frame that scrolls what does not fit.

    Args:
        glyphs: The signs to draw with.
        title: Words in the top line.
        keys: The keys that work, in the bottom line.
        can_focus: Whether the keys that scroll are its own.
    """

    def __init__(self, glyphs: Glyphs, title: str, keys: str, *, can_focus: bool = False) -> None:
        super().__init__(classes="box", can_focus=can_focus)
        self.border_title = title
        self.border_subtitle = keys
        self._keys = keys
        self._glyphs = glyphs

    def on_mount(self) -> None:
        """Choose how the scrollbar looks, and begin at the top."""
        draw_plainly(self, self._glyphs)
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
        self.border_subtitle = clip(self._keys, room, ellipsis=self._glyphs.ellipsis)
