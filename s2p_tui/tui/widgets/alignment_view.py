"""Both lists in one: entries to the left, leaves to the right, the fit between them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from s2p_tui.core.transform import Shape, describe, show
from s2p_tui.tui.columns import Columns, lay_out_columns, widest
from s2p_tui.tui.cursor import Cursor
from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.text import fit, inert
from s2p_tui.tui.together import part_taken, together
from s2p_tui.tui.widgets.box import draw_plainly

if TYPE_CHECKING:
    from s2p_tui.core.alignment import Row
    from s2p_tui.session import Session

_MIXED = "mixed"
_Side = tuple[str, str, str]


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

    class Pressed(Message):
        """A row was clicked.

        Attributes:
            position: The row.
        """

        def __init__(self, position: int) -> None:
            super().__init__()
            self.position = position

    def __init__(
        self,
        session: Session,
        cursor: Cursor,
        glyphs: Glyphs,
        *,
        id: str | None = None,  # noqa: A002
    ) -> None:
        super().__init__(id=id)
        self.session = session
        self.cursor = cursor
        self._glyphs = glyphs
        self._styles: dict[tuple[str, ...], Style] = {}
        session.subscribe(self._rows_changed)

    @property
    def columns(self) -> Columns:
        """The current layout of a line."""
        shape, dtype = self._needs
        return lay_out_columns(self._width, len(self.session.alignment.rows), shape, dtype)

    @property
    def _width(self) -> int:
        """Cells of a line, the scrollbar aside."""
        return self.scrollable_content_region.width

    @cached_property
    def _needs(self) -> tuple[int, int]:
        """Cells of the widest shape and dtype."""
        items = (*self.session.checkpoint.state_dict, *self.session.target.skeleton)
        shapes = {item.shape for item in items}
        return widest(map(show, shapes)), widest({item.dtype for item in items})

    def on_mount(self) -> None:
        """Take the session's length."""
        draw_plainly(self, self._glyphs)
        self._resize()

    def on_resize(self) -> None:
        """Keep the cursor in sight."""
        self._resize()
        self._show_cursor()

    def go(self, position: int) -> None:
        """Move the cursor, scrolling by half a page at the edge."""
        before = self.cursor.position
        self.cursor.go(position, len(self.session))
        after = self.cursor.position
        if self.cursor.anchor is not None:
            low, high = sorted((before, after))
            self._redraw_lines(low, high + 1)
        elif after != before:
            self._redraw_lines(before, before + 1)
            self._redraw_lines(after, after + 1)
        self._show_cursor()

    def redraw(self) -> None:
        """Draw all visible lines again, as after marks or matches changed."""
        self.refresh()

    def page(self, halves: int) -> None:
        """Move the cursor by half pages; the list scrolls along."""
        step = halves * max(1, self.size.height // 2)
        self.scroll_to(y=self.scroll_offset.y + step, animate=False)
        self.go(self.cursor.position + step)

    def on_click(self, event: events.Click) -> None:
        """Report the row."""
        position = event.y + self.scroll_offset.y
        if position < len(self.session):
            self.post_message(self.Pressed(position))

    def notify_style_update(self) -> None:
        """Forget styles made from the old theme."""
        self._styles.clear()
        super().notify_style_update()

    def render_line(self, y: int) -> Strip:
        """One row, exactly as wide as the widget."""
        width = self._width
        position = y + self.scroll_offset.y
        if position >= len(self.session):
            return Strip.blank(width, self._style())
        return self._row_strip(position).adjust_cell_length(width, self._style())

    def _row_strip(self, position: int) -> Strip:
        columns, cursor = self.columns, self.cursor
        states = self._states(position)
        plain = self._style(*states)
        muted = self._style("muted", *states) if not states else plain
        verdict = self.session.verdict(position)
        row = self.session.row(position)
        segments = [Segment(self._flags(position), plain)]
        if columns.number:
            number = f"{position + 1:>{columns.number - 1}} " if row is not None else ""
            segments.append(Segment(number.rjust(columns.number), muted))
        left = self._entry_side(row, self.session.benched(position))
        self._add_side(
            segments, left, columns, plain if cursor.position == position or row else muted, muted
        )
        if row is None or verdict is None:
            segments.append(Segment(fit("   (bench)", columns.glyph + columns.side), muted))
        else:
            style = self._style(verdict.fit.value, *states)
            segments.append(Segment(f" {self._glyphs.fits[verdict.fit]} ", style))
            leaf = self.session.target.skeleton[position]
            right = (leaf.path, self._shape(leaf.shape), leaf.dtype)
            self._add_side(segments, right, columns, plain, muted)
        segments.append(Segment(" " * columns.spare, plain))
        return Strip(Segment.simplify(segments))

    def _add_side(
        self,
        segments: list[Segment],
        side: _Side,
        columns: Columns,
        plain: Style,
        muted: Style,
    ) -> None:
        name, shape, dtype = side
        dots = self._glyphs.ellipsis
        name = inert(name, ascii_only=self._glyphs.is_ascii)
        segments.append(Segment(fit(name, columns.name, ellipsis=dots), plain))
        rest = ""
        if columns.shape:
            rest += " " + fit(shape, columns.shape - 1, ellipsis=dots)
        if columns.dtype:
            rest += " " + fit(dtype, columns.dtype - 1, ellipsis=dots)
        if rest:
            segments.append(Segment(rest, muted))

    def _entry_side(self, row: Row | None, benched: str | None) -> _Side:
        keys = (benched,) if benched is not None else row.keys if row is not None else ()
        if not keys:
            constant = describe(row.source) if row is not None and row.source is not None else ""
            return (constant or self._glyphs.nothing, "", "")
        entries = [self.session.checkpoint.state_dict[key] for key in keys]
        name = together(keys, self._glyphs.ellipsis)
        if len(keys) == 1 and row is not None and row.source is not None:
            name += part_taken(row.source)
        shapes, dtypes = {entry.shape for entry in entries}, {entry.dtype for entry in entries}
        shape = self._shape(shapes.pop()) if len(shapes) == 1 else _MIXED
        return (name, shape, dtypes.pop() if len(dtypes) == 1 else _MIXED)

    def _shape(self, shape: Shape) -> str:
        return self._glyphs.plain(show(shape))

    def _flags(self, position: int) -> str:
        glyphs, cursor = self._glyphs, self.cursor
        here = glyphs.cursor if position == cursor.position else " "
        if position == cursor.picked:
            return f"{here}{glyphs.picked} "
        if cursor.is_marked(position):
            return f"{here}{glyphs.marked} "
        return f"{here}{glyphs.match} " if cursor.is_match(position) else f"{here}  "

    def _states(self, position: int) -> tuple[str, ...]:
        cursor = self.cursor
        states: list[str] = []
        if cursor.is_match(position):
            states.append("match")
        if cursor.is_marked(position):
            states.append("marked")
        if position == cursor.position:
            states.append("cursor")
        if position == cursor.picked:
            states.append("picked")
        return tuple(states)

    def _style(self, *names: str) -> Style:
        style = self._styles.get(names)
        if style is None:
            style = self.visual_style.rich_style
            for name in names:
                style += self.get_component_rich_style(f"view--{name}", partial=True)
            self._styles[names] = style
        return style

    def _rows_changed(self, changed: range) -> None:
        self._resize()
        self._redraw_lines(changed.start, changed.stop)
        rows = len(self.session.alignment.rows)
        self._redraw_lines(rows, max(rows, self.scroll_offset.y) + self.size.height)

    def _redraw_lines(self, start: int, stop: int) -> None:
        """Draw the visible ones of some positions again, the scrollbar beside them aside."""
        top = self.scroll_offset.y
        first, last = max(start, top), min(stop, top + self.size.height)
        if first < last:
            self.refresh(Region(0, first - top, self._width, last - first))

    def _resize(self) -> None:
        size = Size(0, len(self.session))
        if self.virtual_size != size:
            self.virtual_size = size

    def _show_cursor(self) -> None:
        top, height, position = self.scroll_offset.y, self.size.height, self.cursor.position
        if height and not top <= position < top + height:
            self.scroll_to(y=max(0, position - height // 2), animate=False)
