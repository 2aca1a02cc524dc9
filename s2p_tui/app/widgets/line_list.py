"""A list of any length of which one line is current; lines are drawn when they come into sight."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.screen import Screen
from textual.scroll_view import ScrollView
from textual.strip import Strip

from s2p_tui.app.keys import navigation
from s2p_tui.app.text import clip
from s2p_tui.app.theme import Symbols
from s2p_tui.app.widgets.frame import draw_plainly
from s2p_tui.app.widgets.lines import Part

Draw = Callable[[int, int], Sequence[Part]]
"""Gives a line's parts, from its number and the cells there are for it."""


class ListKeys:
    """Mixed into a screen with one `LineList`: actions of the keys that go through it."""

    @staticmethod
    def bindings(*, typing: bool = False) -> list[BindingType]:
        """Return the keys of the main list, without letters where those are typed."""
        return [Binding(keys, does, show=False) for keys, does in navigation(typing=typing)]

    @property
    @abstractmethod
    def line(self) -> int:
        """The line that the cursor is on."""

    @property
    @abstractmethod
    def line_count(self) -> int:
        """The number of lines."""

    @abstractmethod
    def show_line(self, line: int) -> None:
        """Make one of the lines the current one, and show what belongs to it."""

    @property
    def has_list(self) -> bool:
        """False while the screen is not composed: keys typed ahead may reach it before."""
        return bool(cast("Screen[object]", self).query(LineList))

    @property
    def line_list(self) -> LineList:
        """The list."""
        return cast("Screen[object]", self).query_one(LineList)

    def go_to_line(self, line: int) -> None:
        """Move the cursor, within the lines."""
        if self.has_list:
            self.show_line(max(0, min(line, self.line_count - 1)))

    def action_go(self, step: int) -> None:
        self.go_to_line(self.line + step)

    def action_page(self, halves: int) -> None:
        if self.has_list:
            self.go_to_line(self.line + halves * self.line_list.half_page)

    def action_first(self) -> None:
        self.go_to_line(0)

    def action_last(self) -> None:
        self.go_to_line(self.line_count - 1)

    def on_line_list_pressed(self, event: LineList.Pressed) -> None:
        self.go_to_line(event.line)


class LineList(ScrollView, can_focus=False):
    """Draws lines; the keys are the screen's.

    Args:
        draw: Gives a line's parts; the second of each is a component class without its prefix.

    Attributes:
        current: The line the cursor is on.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "list--cursor",
        "list--muted",
        "list--strong",
        "list--exact",
        "list--transformed",
        "list--doubtful",
        "list--mismatched",
        "list--gap",
    }

    @dataclass
    class Pressed(Message):
        """A line was clicked."""

        line: int

    class Resized(Message):
        """The list has another size."""

    def __init__(self, draw: Draw, symbols: Symbols, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self.current = 0
        self._draw = draw
        self._symbols = symbols
        self._count = 0
        self._styles: dict[tuple[str, ...], Style] = {}

    @property
    def half_page(self) -> int:
        return max(1, self.size.height // 2)

    def on_mount(self) -> None:
        draw_plainly(self, self._symbols)

    def on_resize(self) -> None:
        if self.current < self.size.height:
            self.scroll_to(y=0, animate=False)
        self._show_current()
        self.post_message(self.Resized())

    def show(self, count: int, current: int) -> None:
        """Set the number of lines and the current one; redraw everything."""
        self._count, self.current = count, current
        if self.virtual_size.height != count:
            self.virtual_size = Size(0, count)
        self.refresh()
        self._show_current()

    def go(self, line: int) -> None:
        """Move the cursor, scrolling by half a page at the edge."""
        before, self.current = self.current, line
        if before != line:
            self.redraw(before, before + 1)
        self.redraw(line, line + 1)
        self._show_current()

    def redraw(self, start: int, stop: int) -> None:
        """Draw the visible ones of some lines again, except the scrollbar."""
        top = self.scroll_offset.y
        first, last = max(start, top), min(stop, top + self.size.height)
        if first < last:
            width = self.scrollable_content_region.width
            self.refresh(Region(0, first - top, width, last - first))

    def on_click(self, event: events.Click) -> None:
        line = event.y + self.scroll_offset.y
        if line < self._count:
            self.post_message(self.Pressed(line))

    def notify_style_update(self) -> None:
        self._styles.clear()
        super().notify_style_update()

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        line = y + self.scroll_offset.y
        if line >= self._count:
            return Strip.blank(width, self._style())
        under = ("cursor",) if line == self.current else ()
        segments: list[Segment] = []
        left = width
        for text, name in self._draw(line, width):
            style = self._style(*([name] if name else []), *under)
            segment = Segment(clip(text, left, ellipsis=self._symbols.ellipsis), style)
            segments.append(segment)
            left -= segment.cell_length
        return Strip(segments).adjust_cell_length(width, self._style(*under))

    def _style(self, *names: str) -> Style:
        style = self._styles.get(names)
        if style is None:
            style = self.visual_style.rich_style
            for name in names:
                style += self.get_component_rich_style(f"list--{name}", partial=True)
            self._styles[names] = style
        return style

    def _show_current(self) -> None:
        top, height = self.scroll_offset.y, self.size.height
        if height and not top <= self.current < top + height:
            self.scroll_to(y=max(0, self.current - height // 2), animate=False)
