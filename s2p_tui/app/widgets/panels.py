"""Widgets around the list: headings, details, status, key hints, find bar and overview."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar, Protocol

from rich.cells import cell_len
from rich.segment import Segment
from textual import events, on
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input

from s2p_tui.alignment.fit import Fit
from s2p_tui.app import wording
from s2p_tui.app.background import keymap_of
from s2p_tui.app.cursor import Cursor, Mode
from s2p_tui.app.text import wrap
from s2p_tui.app.theme import Symbols
from s2p_tui.app.widgets.frame import keys_line, rule, top_line
from s2p_tui.app.widgets.lines import Lines, Part

if TYPE_CHECKING:
    from s2p_tui.app.agreement import Agreement
    from s2p_tui.session.session import Session


_DETAILS = 4
_MOST_SAID = 3
_MOST_TIPS = 4
_MOST_ASIDE = 12


class Heading(Lines):
    """The frame's top line."""

    def show(self, session: Session, symbols: Symbols, middle: int) -> None:
        """Name both sides; `middle` is the cell between them."""
        if self.is_new(symbols, middle):
            line = top_line(symbols, wording.titles(session), middle, self.size.width)
            self.set_line(0, (line, ""))


class Divider(Lines):
    """The line between list and details."""

    def show(self, symbols: Symbols, *title: str) -> None:
        if self.is_new(symbols, title):
            self.set_line(0, (rule(symbols, title, symbols.corners[3:5], self.size.width), ""))


class Details(Lines):
    """All about the row under the cursor."""

    def __init__(self, name: str) -> None:
        super().__init__(_DETAILS, id=name)

    def show(
        self,
        session: Session,
        cursor: Cursor,
        symbols: Symbols,
        agreement: Agreement | None = None,
    ) -> None:
        if not self.display:
            return
        fold = cursor.folding and cursor.folding.shut_at(cursor.index)
        if fold:
            lines = wording.folded_details(session, fold, symbols)
        else:
            room = self.size.width - 2
            lines = wording.details(session, cursor.index, symbols, room, agreement)
        if self.id == "aside":
            lines = [
                part for line in lines for part in wrap(line, self.size.width - 2, _MOST_ASIDE)
            ]
        self.set_height(len(lines))
        for number, line in enumerate(lines):
            style = "lines--muted" if number == len(lines) - 1 else ""
            self.set_line(number, (f" {symbols.plain(line)}", style))


class Status(Lines):
    """The picked-up entry, the last message and the counts; more lines for a long message."""

    def show(self, session: Session, cursor: Cursor, symbols: Symbols, message: Part) -> None:
        """Say it; the situation if there is nothing else to say."""
        said, style = message
        if hand := wording.in_hand(session, cursor):
            said, style = f"{hand}  {said}".rstrip(), style or "lines--strong"
        if not said:
            said, style = wording.situation(session), "lines--muted"
        counts, room = wording.tally(session, symbols), max(0, self.size.width - 1)
        lines = wrap(symbols.plain(said), max(1, room - 1), _MOST_SAID)
        self.set_height(len(lines))
        for number, line in enumerate(lines, 1):
            beside = counts if number == len(lines) else ""
            parts = wording.left_and_right(f" {line}", style, beside, room, symbols.ellipsis)
            self.set_line(number - 1, *parts)


class Tip(Lines):
    """The tip of a guided run."""

    def show(self, tip: str, symbols: Symbols) -> None:
        lines = wrap(symbols.plain(tip), max(1, self.size.width - 2), _MOST_TIPS)
        self.set_height(len(lines))
        for number, line in enumerate(lines):
            self.set_line(number, (f" {line}", "lines--good"))


class Hints(Lines):
    """The frame's bottom line: the keys that matter now, and where the cursor is."""

    _keys: tuple[Part, ...] = ()
    _rest = ""
    _mode: Mode = "normal"

    def show(self, cursor: Cursor, symbols: Symbols, location: str = "") -> None:
        """Name as many keys as there is room for beside the cursor's location."""
        end = f" {location} {symbols.across}" if location else ""
        if self.is_new(symbols, cursor.mode, len(end)):
            hints = keymap_of(self).hints(cursor.mode, ascii_only=symbols.is_ascii)
            self._mode = cursor.mode
            *keys, (rest, _) = keys_line(symbols, hints, self.size.width, end)
            self._keys, self._rest = tuple(keys), rest.removesuffix(end + symbols.corners[6])
        self.set_line(0, *self._keys, (f"{self._rest}{end}{symbols.corners[6]}", ""))

    async def on_click(self, event: events.Click) -> None:
        """Do what the key under the pointer does."""
        ends = accumulate(cell_len(text) for text, _ in self._keys)
        number = next((n for n, end in enumerate(ends) if event.x < end), 0)
        # The corner, then a key and what it does, in turn.
        words = self._keys[number + number % 2][0].strip() if number else ""
        if action := keymap_of(self).action_of(self._mode, words):
            await self.screen.run_action(action)


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
        super().__init__(
            placeholder="name, *.bias, re:…, 10x10, bfloat16, Linear, doubtful",
            id="find",
            compact=True,
        )
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


_NARROW = 60
_Cell = tuple[str, str]
"""A sign and the component class it is drawn in."""


class Lined(Protocol):
    """A list of lines, each of which shows one row or a folded block of them."""

    @property
    def line_count(self) -> int:
        """The number of lines."""
        ...

    def line_of(self, index: int) -> int:
        """Return the line that shows a row."""
        ...

    def index_of(self, line: int) -> int:
        """Return the first row that a line shows."""
        ...


class Overview(Widget, can_focus=False):
    """The worst fit of each part of all lines, beside the scrollbar; what lines up is blank.

    Args:
        session: The session.
        lines: The list's lines: how many, and the rows from one to another.
        symbols: The signs.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "overview--doubtful",
        "overview--mismatched",
        "overview--quiet",
    }

    @dataclass
    class Pressed(Message):
        """A part was clicked: its first row that blocks, else its first row."""

        index: int

    def __init__(self, session: Session, lines: Lined, symbols: Symbols) -> None:
        super().__init__(id="overview")
        self._session, self._list = session, lines
        self._symbols = symbols
        self._cells: list[_Cell] = []
        self.display = False
        session.subscribe(self.rows_changed)

    def fit_in(self, width: int, height: int) -> bool:
        """Show the strip only if the list scrolls and the screen is wide enough.

        Returns:
            Whether it came or went.
        """
        before = self.display
        self.display = width >= _NARROW and self._list.line_count > height
        return self.display != before

    def on_resize(self) -> None:
        self.look_again()

    def look_again(self) -> None:
        """Look at all parts again, as after lines came or went."""
        before = self._cells
        self._cells = [self._cell(self._part(y)) for y in range(self.size.height)]
        if self._cells != before:
            self.refresh()

    def rows_changed(self, changed: range) -> None:
        """Look at the parts that hold these rows again."""
        count, height = self._list.line_count, len(self._cells)
        if not self.display or not changed or not height:
            return
        first = self._list.line_of(changed.start) * height // count
        last = self._list.line_of(changed[-1]) * height // count
        for y in range(max(0, first - 1), min(height, last + 2)):
            cell = self._cell(self._part(y))
            if cell != self._cells[y]:
                self._cells[y] = cell
                self.refresh(Region(0, y, 1, 1))

    def on_click(self, event: events.Click) -> None:
        part = self._part(event.y)
        if part:
            blocking = self._session.verdicts.blocking_in(part)
            self.post_message(self.Pressed(part.start if blocking is None else blocking))

    def render_line(self, y: int) -> Strip:
        sign, name = self._cells[y] if y < len(self._cells) else (" ", "quiet")
        style = self.visual_style.rich_style
        style += self.get_component_rich_style(f"overview--{name}", partial=True)
        return Strip([Segment(sign, style)], 1)

    def _part(self, y: int) -> range:
        """The rows that a cell stands for."""
        count, height = self._list.line_count, max(1, self.size.height)
        first = y * count // height
        if first >= count:
            return range(0)
        beyond = min(count, max(first + 1, (y + 1) * count // height))
        rows = len(self._session.verdicts)
        stop = rows if beyond == count else self._list.index_of(beyond)
        return range(self._list.index_of(first), min(rows, stop))

    def _cell(self, part: range) -> _Cell:
        worst = self._session.verdicts.worst(part) if part else None
        if worst is None or not worst.blocks:
            return " ", "quiet"
        is_bad = worst.fit is Fit.MISMATCHED
        return self._symbols.fits[worst.fit], "mismatched" if is_bad else "doubtful"
