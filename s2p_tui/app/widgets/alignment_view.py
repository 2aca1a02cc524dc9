"""The scrolling list: entries on the left, leaves on the right, the fit between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rich.style import Style
from textual import events
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from s2p_tui.app.cursor import Cursor
from s2p_tui.app.terminal.output_diff import difference
from s2p_tui.app.theme import Symbols
from s2p_tui.app.widgets.frame import draw_plainly
from s2p_tui.app.widgets.list_line import Columns, ListLine

if TYPE_CHECKING:
    from s2p_tui.app.agreement import Agreement
    from s2p_tui.session.session import Session


class AlignmentView(ScrollView, can_focus=False):
    """Draws a session; the keys are the screen's.

    Attributes:
        session: What is drawn.
        cursor: Where the user is; changed through `go` and followed by `redraw`.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "view--cursor",
        "view--marked",
        "view--picked",
        "view--match",
        "view--muted",
        "view--exact",
        "view--transformed",
        "view--doubtful",
        "view--mismatched",
        "view--gap",
    }

    @dataclass
    class Pressed(Message):
        """A row was clicked."""

        index: int

    class Refolded(Message):
        """Lines came or went."""

    def __init__(
        self,
        session: Session,
        cursor: Cursor,
        symbols: Symbols,
        *,
        id: str | None = None,  # noqa: A002
    ) -> None:
        super().__init__(id=id)
        self.session = session
        self.cursor = cursor
        self._symbols = symbols
        self._styles: dict[tuple[str, ...], Style] = {}
        self._drawn: dict[int, Strip] = {}
        # What was made for comparison already, by line, until it is drawn.
        self._ready: dict[int, Strip] = {}
        self._line = ListLine(session, cursor, symbols, self._style)
        session.subscribe(self._rows_changed)

    @property
    def agreement(self) -> Agreement | None:
        """The rows whose modules agreed when both models were run, if they were."""
        return self._line.agreement

    def show_agreement(self, agreement: Agreement) -> None:
        """Draw all lines with what was found."""
        self._line.agreement = agreement
        self._ready.clear()
        self.refresh()

    @property
    def columns(self) -> Columns:
        """The current layout of a line."""
        return self._line.columns(self._width)

    @property
    def _width(self) -> int:
        """Cells of a line, except the scrollbar."""
        return self.scrollable_content_region.width

    def on_mount(self) -> None:
        draw_plainly(self, self._symbols)
        self._resize()

    def on_resize(self) -> None:
        self._forget_strips()
        self._resize()
        self._show_cursor()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Forget lines that may go out of sight undrawn and come back changed."""
        self._ready.clear()
        super().watch_scroll_y(old_value, new_value)

    def _forget_strips(self) -> None:
        self._drawn.clear()
        self._ready.clear()

    def go(self, index: int) -> None:
        """Move the cursor, scrolling by half a page at the edge."""
        if self.cursor.filtering is not None:
            self._refolded(self.cursor.filtering.reveal(index))
        before = self.line_of(self.cursor.index)
        self.cursor.go(index, len(self.session))
        after = self.line_of(self.cursor.index)
        low, high = sorted((before, after))
        if self.cursor.anchor is not None:
            self._redraw_lines(low, high + 1)
        else:
            self._redraw_lines(low, low + 1)
            self._redraw_lines(high, high + 1)
        self._show_cursor()

    def redraw(self) -> None:
        """Bring all visible lines up to date, as after marks or matches changed."""
        self._redraw_lines(0, self.line_count)

    def page(self, halves: int) -> None:
        step = halves * max(1, self.size.height // 2)
        self._scroll(self.scroll_offset.y + step)
        self.go(self.cursor.beside(step))

    def toggle_fold(self) -> bool:
        """Unfold what is under the cursor, or fold the block around it; False if there is none."""
        folding, here = self.cursor.folding, self.cursor.index
        return folding is not None and self._refolded(folding.unfold(here) or folding.fold(here))

    def fold_around(self) -> bool:
        """Fold the block around the line under the cursor; False if there is none."""
        folding = self.cursor.folding
        return folding is not None and self._refolded(folding.fold(self.cursor.index))

    def reveal(self, index: int) -> None:
        """Unfold what hides an index."""
        if self.cursor.folding is not None:
            self._refolded(self.cursor.folding.reveal(index))

    def toggle_all(self) -> None:
        """Unfold everything, or fold everything if nothing is folded."""
        folding = self.cursor.folding
        if folding is not None:
            is_unfolded = folding.lines == len(self.session)
            (folding.fold_all if is_unfolded else folding.unfold_all)()
            self._refolded(range(len(self.session)))

    def refold(self) -> None:
        """Bring all lines up to date, as after rows were hidden, marked or found."""
        if self.cursor.is_refolded:
            self.cursor.is_refolded = False
            self._refolded(range(len(self.session)))
        else:
            self.redraw()

    def _refolded(self, changed: range) -> bool:
        if not changed:
            return False
        # The line under the cursor stays where it is on the screen.
        row = self.line_of(self.cursor.index) - self.scroll_offset.y
        self._resize()
        self.cursor.go(self.cursor.index, len(self.session))
        line = self.line_of(self.cursor.index)
        top = self.scroll_offset.y
        if not top <= line < top + self.size.height:
            row = max(0, min(row, self.size.height // 2))
            self._scroll(line - row)
        self.redraw()
        self.post_message(self.Refolded())
        return True

    def on_click(self, event: events.Click) -> None:
        line = event.y + self.scroll_offset.y
        if line < self.line_count:
            self.post_message(self.Pressed(self.index_of(line)))

    def notify_style_update(self) -> None:
        self._styles.clear()
        self._forget_strips()
        super().notify_style_update()

    def render_line(self, y: int) -> Strip:
        line = y + self.scroll_offset.y
        strip = self._ready.pop(line, None)
        # A scrollbar that comes or goes changes the width, and nothing says so.
        if strip is None or strip.cell_length != self._width:
            strip = self._line_strip(line)
        self._drawn[y] = strip
        return strip

    def _line_strip(self, line: int) -> Strip:
        width = self._width
        if line >= self.line_count:
            return Strip.blank(width, self._style())
        return self._line.draw(self.index_of(line), width)

    def _style(self, *names: str) -> Style:
        style = self._styles.get(names)
        if style is None:
            style = self.visual_style.rich_style
            for name in names:
                style += self.get_component_rich_style(f"view--{name}", partial=True)
            self._styles[names] = style
        return style

    @property
    def line_count(self) -> int:
        """The number of lines."""
        folding = self.cursor.folding
        return len(self.session) if folding is None else folding.lines

    def line_of(self, index: int) -> int:
        """Return the line that shows an index."""
        folding = self.cursor.folding
        return index if folding is None else folding.line_of(index)

    def index_of(self, line: int) -> int:
        """Return the first index that a line shows."""
        folding = self.cursor.folding
        return line if folding is None else folding.index_of(line)

    def _rows_changed(self, changed: range) -> None:
        if self.cursor.folding is not None:
            self.cursor.folding.set_bench(len(self.session.alignment.bench))
        if not self.is_mounted:
            return
        self._resize()
        if changed:
            # In the line below, names are quiet where they are as above.
            self._redraw_lines(self.line_of(changed.start), self.line_of(changed[-1]) + 2)
        rows = len(self.session.alignment.rows)
        if rows < len(self.session) or self.line_of(rows) < self.scroll_offset.y + self.size.height:
            below = self.line_of(rows)
            self._redraw_lines(below, max(below, self.scroll_offset.y) + self.size.height)

    def _redraw_lines(self, start: int, stop: int) -> None:
        """Draw again what differs on the visible ones of some lines, except the scrollbar."""
        top = self.scroll_offset.y
        for line in range(max(start, top), min(stop, top + self.size.height)):
            y = line - top
            old, new = self._drawn.get(y), self._line_strip(line)
            self._ready.pop(line, None)
            if old is None or old.cell_length != new.cell_length:
                self.refresh(Region(0, y, self._width, 1))
            elif old != new:
                first, last = difference(old, new)
                self.refresh(Region(first, y, last - first, 1))
                self._ready[line] = new

    def _resize(self) -> None:
        before, size = self.virtual_size.height, Size(0, self.line_count)
        if before == size.height:
            return
        top = self.scroll_offset.y + self.size.height
        if min(before, size.height) > self.size.height and top <= size.height:
            # Only the scrollbar's thumb changes, where a new layout would draw everything again.
            # Textual declares it as the size it holds.
            reactive: Any = AlignmentView.virtual_size
            self.set_reactive(reactive, size)
            self.vertical_scrollbar.window_virtual_size = size.height
        else:
            self.virtual_size = size

    def _scroll(self, line: int) -> None:
        # Before the next layout there may be no scrollbar yet, which is no reason not to scroll.
        self.scroll_to(y=max(0, line), animate=False, force=True, immediate=True)

    def _show_cursor(self) -> None:
        top, height = self.scroll_offset.y, self.size.height
        line = self.line_of(self.cursor.index)
        if height and not top <= line < top + height:
            self._scroll(line - height // 2)
