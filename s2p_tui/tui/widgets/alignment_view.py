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
from s2p_tui.tui import folded
from s2p_tui.tui.columns import Columns, lay_out_columns, widest
from s2p_tui.tui.cursor import Cursor
from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.text import fit, inert
from s2p_tui.tui.together import part_taken, together
from s2p_tui.tui.widgets.box import draw_plainly
from s2p_tui.tui.widgets.difference import difference

if TYPE_CHECKING:
    from s2p_tui.core.alignment import Row
    from s2p_tui.core.folds import Fold
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
        self._drawn: dict[int, Strip] = {}
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
        self._drawn.clear()
        self._resize()
        self._show_cursor()

    def go(self, position: int) -> None:
        """Move the cursor, scrolling by half a page at the edge."""
        before = self._line_of(self.cursor.position)
        self.cursor.go(position, len(self.session))
        after = self._line_of(self.cursor.position)
        low, high = sorted((before, after))
        if self.cursor.anchor is not None:
            self._redraw_lines(low, high + 1)
        else:
            self._redraw_lines(low, low + 1)
            self._redraw_lines(high, high + 1)
        self._show_cursor()

    def redraw(self) -> None:
        """Bring all visible lines up to date, as after marks or matches changed."""
        self._redraw_lines(0, self._lines)

    def page(self, halves: int) -> None:
        """Move the cursor by half pages; the list scrolls along."""
        step = halves * max(1, self.size.height // 2)
        self._scroll(self.scroll_offset.y + step)
        self.go(self.cursor.beside(step))

    def toggle_fold(self) -> bool:
        """Unfold what is under the cursor, or fold the block around it; False if there is none."""
        folding, here = self.cursor.folding, self.cursor.position
        return folding is not None and self._refolded(folding.unfold(here) or folding.fold(here))

    def fold_around(self) -> bool:
        """Fold the block around the line under the cursor; False if there is none."""
        folding = self.cursor.folding
        return folding is not None and self._refolded(folding.fold(self.cursor.position))

    def reveal(self, position: int) -> None:
        """Unfold what hides a position."""
        if self.cursor.folding is not None:
            self._refolded(self.cursor.folding.reveal(position))

    def toggle_all(self) -> None:
        """Unfold everything, or fold everything if nothing is folded."""
        folding = self.cursor.folding
        if folding is not None:
            is_unfolded = folding.lines == len(self.session)
            (folding.fold_all if is_unfolded else folding.unfold_all)()
            self._refolded(range(len(self.session)))

    def _refolded(self, changed: range) -> bool:
        if not changed:
            return False
        # The line under the cursor stays where it is on the screen.
        row = self._line_of(self.cursor.position) - self.scroll_offset.y
        self._resize()
        self.cursor.go(self.cursor.position, len(self.session))
        line = self._line_of(self.cursor.position)
        top = self.scroll_offset.y
        if not top <= line < top + self.size.height:
            row = max(0, min(row, self.size.height // 2))
            self._scroll(line - row)
        self.redraw()
        return True

    def on_click(self, event: events.Click) -> None:
        """Report the row."""
        line = event.y + self.scroll_offset.y
        if line < self._lines:
            self.post_message(self.Pressed(self._position_of(line)))

    def notify_style_update(self) -> None:
        """Forget styles made from the old theme."""
        self._styles.clear()
        self._drawn.clear()
        super().notify_style_update()

    def render_line(self, y: int) -> Strip:
        """One line, exactly as wide as the widget."""
        strip = self._line_strip(y + self.scroll_offset.y)
        self._drawn[y] = strip
        return strip

    def _line_strip(self, line: int) -> Strip:
        width = self._width
        if line >= self._lines:
            return Strip.blank(width, self._style())
        position = self._position_of(line)
        folding = self.cursor.folding
        fold = folding.shut_at(position) if folding is not None else None
        strip = self._row_strip(position) if fold is None else self._fold_strip(fold)
        return strip.adjust_cell_length(width, self._style())

    def _fold_strip(self, fold: Fold) -> Strip:
        columns, span, glyphs = self.columns, range(fold.start, fold.stop), self._glyphs
        states = self._states(span)
        plain = self._style(*states)
        muted = self._style("muted", *states) if not states else plain
        segments = [Segment(self._flags(span, is_folded=True), plain)]
        if columns.number:
            number = f"{fold.start + 1} " if fold.blocks else ""
            segments.append(Segment(number.rjust(columns.number), muted))
        taken = folded.entries(self.session, span, glyphs) or glyphs.nothing
        self._add_side(segments, (taken, "", ""), columns, plain, muted)
        worst = self.session.verdicts.worst(span) if fold.blocks else None
        if worst is None:
            segments.append(Segment(" " * columns.glyph, muted))
        else:
            style = self._style(worst.fit.value, *states)
            segments.append(Segment(f" {glyphs.fits[worst.fit]} ", style))
        self._add_side(segments, (folded.title(fold, glyphs), "", ""), columns, plain, muted)
        if rest := columns.side - columns.name:
            count = fit(folded.rows_in_words(fold), rest - 1, ellipsis=glyphs.ellipsis)
            segments[-1] = Segment(f" {count}", muted)
        segments.append(Segment(" " * columns.spare, plain))
        return Strip(Segment.simplify(segments))

    def _row_strip(self, position: int) -> Strip:
        columns, cursor = self.columns, self.cursor
        span = range(position, position + 1)
        states = self._states(span)
        plain = self._style(*states)
        muted = self._style("muted", *states) if not states else plain
        verdict = self.session.verdict(position)
        row = self.session.row(position)
        segments = [Segment(self._flags(span), plain)]
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

    def _flags(self, span: range, *, is_folded: bool = False) -> str:
        glyphs, cursor = self._glyphs, self.cursor
        here = glyphs.cursor if cursor.position in span else " "
        sign = glyphs.folded if is_folded else " "
        if cursor.picked is not None and cursor.picked in span:
            return f"{here}{glyphs.picked}{sign}"
        if cursor.marks_in(span):
            return f"{here}{glyphs.marked}{sign}"
        return f"{here}{glyphs.match if cursor.matches_in(span) else ' '}{sign}"

    def _states(self, span: range) -> tuple[str, ...]:
        cursor = self.cursor
        states: list[str] = []
        if cursor.matches_in(span):
            states.append("match")
        if cursor.marks_in(span):
            states.append("marked")
        if cursor.position in span:
            states.append("cursor")
        if cursor.picked is not None and cursor.picked in span:
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

    @property
    def _lines(self) -> int:
        folding = self.cursor.folding
        return len(self.session) if folding is None else folding.lines

    def _line_of(self, position: int) -> int:
        folding = self.cursor.folding
        return position if folding is None else folding.line_of(position)

    def _position_of(self, line: int) -> int:
        folding = self.cursor.folding
        return line if folding is None else folding.position_of(line)

    def _rows_changed(self, changed: range) -> None:
        if self.cursor.folding is not None:
            self.cursor.folding.set_bench(len(self.session.alignment.bench))
        if not self.is_mounted:
            return
        self._resize()
        if changed:
            self._redraw_lines(self._line_of(changed.start), self._line_of(changed[-1]) + 1)
        rows = len(self.session.alignment.rows)
        if (
            rows < len(self.session)
            or self._line_of(rows) < self.scroll_offset.y + self.size.height
        ):
            below = self._line_of(rows)
            self._redraw_lines(below, max(below, self.scroll_offset.y) + self.size.height)

    def _redraw_lines(self, start: int, stop: int) -> None:
        """Draw again what differs on the visible ones of some lines, the scrollbar aside."""
        top = self.scroll_offset.y
        for line in range(max(start, top), min(stop, top + self.size.height)):
            y = line - top
            old, new = self._drawn.get(y), self._line_strip(line)
            if old is None or old.cell_length != new.cell_length:
                self.refresh(Region(0, y, self._width, 1))
            elif old != new:
                first, last = difference(old, new)
                self.refresh(Region(first, y, last - first, 1))

    def _resize(self) -> None:
        before, size = self.virtual_size.height, Size(0, self._lines)
        if before == size.height:
            return
        top = self.scroll_offset.y + self.size.height
        if min(before, size.height) > self.size.height and top <= size.height:
            # Only the scrollbar's thumb changes, where a new layout would draw everything again.
            self.set_reactive(AlignmentView.virtual_size, size)  # pyright: ignore[reportArgumentType]
            self.vertical_scrollbar.window_virtual_size = size.height
        else:
            self.virtual_size = size

    def _scroll(self, line: int) -> None:
        # Before the next layout there may be no scrollbar yet, which is no reason not to scroll.
        self.scroll_to(y=max(0, line), animate=False, force=True, immediate=True)

    def _show_cursor(self) -> None:
        top, height = self.scroll_offset.y, self.size.height
        line = self._line_of(self.cursor.position)
        if height and not top <= line < top + height:
            self._scroll(line - height // 2)
