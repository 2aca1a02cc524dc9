"""The list: entries on the left, leaves on the right, the fit between them; one line of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from s2p_tui.alignment.fit import Fit, Verdict
from s2p_tui.alignment.transform import Shape, describe, show
from s2p_tui.app import wording
from s2p_tui.app.cursor import Cursor
from s2p_tui.app.terminal.output_diff import difference
from s2p_tui.app.text import fit
from s2p_tui.app.theme import Symbols
from s2p_tui.app.widgets.frame import draw_plainly
from s2p_tui.app.wording import part_taken, together
from s2p_tui.errors import printable

if TYPE_CHECKING:
    from s2p_tui.alignment.alignment import Row
    from s2p_tui.app.folding import Fold
    from s2p_tui.session.session import Session


_NUMBERS_FROM = 100
_NAME_WITH_SHAPE = 14
_NAME_WITH_DTYPE = 18
_MAX_SHAPE = 16
_MAX_DTYPE = 10


@dataclass(frozen=True, slots=True)
class Columns:
    """Cells of each column; 0 for one that is left out. Both sides are alike.

    Attributes:
        flags: Cursor and mark, with the space after them.
        number: The row's number, with the space after it.
        name: Entry key, leaf path.
        shape: Its shape, with the space before it.
        dtype: Its dtype, with the space before it.
        symbol: The fit's sign, with the spaces around it.
        spare: Cells left over at the right end.
    """

    flags: int
    number: int
    name: int
    shape: int
    dtype: int
    symbol: int
    spare: int

    @property
    def side(self) -> int:
        return self.name + self.shape + self.dtype

    @property
    def left(self) -> int:
        return self.flags + self.number + self.side


def lay_out_columns(width: int, rows: int, shape: int, dtype: int) -> Columns:
    """Divide a line: names first, then shapes, then dtypes, then row numbers, as room allows."""
    flags, symbol = 3, 3
    number = len(str(rows)) + 1 if width >= _NUMBERS_FROM else 0
    side = max(2, (width - flags - number - symbol) // 2)
    shape, dtype = min(shape, _MAX_SHAPE) + 1, min(dtype, _MAX_DTYPE) + 1
    if side < _NAME_WITH_DTYPE + shape + dtype:
        dtype = 0
    if side < _NAME_WITH_SHAPE + shape:
        shape = dtype = 0
    used = flags + number + symbol + 2 * side
    return Columns(flags, number, side - shape - dtype, shape, dtype, symbol, max(0, width - used))


def widest(texts: Iterable[str]) -> int:
    """Cells of the longest of some ASCII-like texts, at least 3."""
    return max(map(len, texts), default=3)


_MIXED = "mixed"
_Side = tuple[str, str, str]


class ListLine:
    """Draws lines of a session where the cursor is."""

    def __init__(
        self, session: Session, cursor: Cursor, symbols: Symbols, style: Callable[..., Style]
    ) -> None:
        self.session = session
        self.cursor = cursor
        self._symbols = symbols
        self._style = style

    def columns(self, width: int) -> Columns:
        """The layout of a line of so many cells."""
        shape, dtype = self._needs
        return lay_out_columns(width, len(self.session.alignment.rows), shape, dtype)

    @cached_property
    def _needs(self) -> tuple[int, int]:
        """Cells of the widest shape and dtype."""
        items = (*self.session.checkpoint.state_dict, *self.session.target.skeleton)
        shapes = {item.shape for item in items}
        return widest(map(show, shapes)), widest({item.dtype for item in items})

    def draw(self, index: int, width: int) -> Strip:
        """The line that shows an index, exactly as wide as it is to be."""
        columns = self.columns(width)
        folding = self.cursor.folding
        fold = folding.shut_at(index) if folding is not None else None
        strip = self._row(index, columns) if fold is None else self._fold(fold, columns)
        return strip.adjust_cell_length(width, self._style())

    def _fold(self, fold: Fold, columns: Columns) -> Strip:
        span, symbols = range(fold.start, fold.stop), self._symbols
        states = self._states(span)
        plain = self._style(*states)
        muted = self._style("muted", *states) if not states else plain
        segments = [Segment(self._flags(span, is_folded=True), plain)]
        if columns.number:
            number = f"{fold.start + 1} " if fold.blocks else ""
            segments.append(Segment(number.rjust(columns.number), muted))
        taken = wording.entries(self.session, span, symbols) or symbols.nothing
        self._add_side(segments, (taken, "", ""), columns, plain, muted)
        worst = self.session.verdicts.worst(span) if fold.blocks else self._worst_unused()
        if worst is None:
            segments.append(Segment(" " * columns.symbol, muted))
        else:
            style = self._style(_sign_style(worst), *states)
            segments.append(Segment(f" {symbols.fits[worst.fit]} ", style))
        self._add_side(segments, (wording.title(fold, symbols), "", ""), columns, plain, muted)
        if rest := columns.side - columns.name:
            count = fit(wording.rows_in_words(fold), rest - 1, ellipsis=symbols.ellipsis)
            segments[-1] = Segment(f" {count}", muted)
        segments.append(Segment(" " * columns.spare, plain))
        return Strip(Segment.simplify(segments))

    def _fit_unused(self, index: int) -> Fit | None:
        """Return the fit whose symbol a benched entry has: accepted is left out on purpose."""
        account = self.session.unused_at(index)
        if account is None or account.key in self.session.alignment.accepted:
            return Fit.GAP
        return Fit.DOUBTFUL if account.blocks else None

    def _worst_unused(self) -> Verdict | None:
        return Verdict(Fit.DOUBTFUL, blocks=True) if len(self.session.unused.blocking) else None

    def _row(self, index: int, columns: Columns) -> Strip:
        span = range(index, index + 1)
        states = self._states(span)
        plain = self._style(*states)
        muted = self._style("muted", *states) if not states else plain
        verdict = self.session.verdict(index)
        row = self.session.row(index)
        segments = [Segment(self._flags(span), plain)]
        if columns.number:
            number = f"{index + 1:>{columns.number - 1}} " if row is not None else ""
            segments.append(Segment(number.rjust(columns.number), muted))
        left = self._entry_side(row, self.session.benched(index))
        self._add_side(
            segments, left, columns, plain if self.cursor.index == index or row else muted, muted
        )
        if row is None or verdict is None:
            fit_of = self._fit_unused(index)
            symbol = self._symbols.fits[fit_of] if fit_of is not None else ""
            style = self._style(fit_of.value, *states) if fit_of is not None else muted
            segments.append(Segment(fit(f" {symbol}", columns.symbol), style))
            segments.append(Segment(fit("(bench)", columns.side), muted))
        else:
            style = self._style(_sign_style(verdict), *states)
            segments.append(Segment(f" {self._symbols.fits[verdict.fit]} ", style))
            leaf = self.session.target.skeleton[index]
            right = (leaf.path, self._shape(leaf.shape), leaf.dtype)
            self._add_side(segments, right, columns, plain, muted)
        segments.append(Segment(" " * columns.spare, plain))
        return Strip(Segment.simplify(segments))

    def _add_side(
        self, segments: list[Segment], side: _Side, columns: Columns, plain: Style, muted: Style
    ) -> None:
        name, shape, dtype = side
        dots = self._symbols.ellipsis
        name = printable(name, ascii_only=self._symbols.is_ascii)
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
            return (constant or self._symbols.nothing, "", "")
        entries = [self.session.checkpoint.state_dict[key] for key in keys]
        name = together(keys, self._symbols.ellipsis)
        if len(keys) == 1 and row is not None and row.source is not None:
            name += part_taken(row.source)
        shapes, dtypes = {entry.shape for entry in entries}, {entry.dtype for entry in entries}
        shape = self._shape(shapes.pop()) if len(shapes) == 1 else _MIXED
        return (name, shape, dtypes.pop() if len(dtypes) == 1 else _MIXED)

    def _shape(self, shape: Shape) -> str:
        return self._symbols.plain(show(shape))

    def _flags(self, span: range, *, is_folded: bool = False) -> str:
        symbols, cursor = self._symbols, self.cursor
        here = symbols.cursor if cursor.index in span else " "
        sign = symbols.folded if is_folded else " "
        if cursor.picked is not None and cursor.picked in span:
            return f"{here}{symbols.picked}{sign}"
        if cursor.marks_in(span):
            return f"{here}{symbols.marked}{sign}"
        return f"{here}{symbols.match if cursor.matches_in(span) else ' '}{sign}"

    def _states(self, span: range) -> tuple[str, ...]:
        cursor = self.cursor
        states: list[str] = []
        if cursor.matches_in(span):
            states.append("match")
        if cursor.marks_in(span):
            states.append("marked")
        if cursor.index in span:
            states.append("cursor")
        if cursor.picked is not None and cursor.picked in span:
            states.append("picked")
        return tuple(states)


def _sign_style(verdict: Verdict) -> str:
    """Return the style of a fit; trusted rows are as quiet as those that do not block."""
    trusted = verdict.fit is Fit.DOUBTFUL and not verdict.blocks
    return "muted" if trusted else verdict.fit.value


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
        before = self._line_of(self.cursor.index)
        self.cursor.go(index, len(self.session))
        after = self._line_of(self.cursor.index)
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

    def _refolded(self, changed: range) -> bool:
        if not changed:
            return False
        # The line under the cursor stays where it is on the screen.
        row = self._line_of(self.cursor.index) - self.scroll_offset.y
        self._resize()
        self.cursor.go(self.cursor.index, len(self.session))
        line = self._line_of(self.cursor.index)
        top = self.scroll_offset.y
        if not top <= line < top + self.size.height:
            row = max(0, min(row, self.size.height // 2))
            self._scroll(line - row)
        self.redraw()
        return True

    def on_click(self, event: events.Click) -> None:
        line = event.y + self.scroll_offset.y
        if line < self._lines:
            self.post_message(self.Pressed(self._index_of(line)))

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
        if line >= self._lines:
            return Strip.blank(width, self._style())
        return self._line.draw(self._index_of(line), width)

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

    def _line_of(self, index: int) -> int:
        folding = self.cursor.folding
        return index if folding is None else folding.line_of(index)

    def _index_of(self, line: int) -> int:
        folding = self.cursor.folding
        return line if folding is None else folding.index_of(line)

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
        before, size = self.virtual_size.height, Size(0, self._lines)
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
        line = self._line_of(self.cursor.index)
        if height and not top <= line < top + height:
            self._scroll(line - height // 2)
