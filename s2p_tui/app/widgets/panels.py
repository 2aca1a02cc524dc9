"""Widgets around the list: headings, details, status and key hints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s2p_tui.app import wording
from s2p_tui.app.background import keymap_of
from s2p_tui.app.cursor import Cursor
from s2p_tui.app.text import wrap
from s2p_tui.app.theme import Symbols
from s2p_tui.app.widgets.frame import keys_line, rule, top_line
from s2p_tui.app.widgets.lines import Lines, Part

if TYPE_CHECKING:
    from s2p_tui.session.session import Session

_DETAILS = 4
_MOST_SAID = 3
_MOST_TIPS = 4


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

    def __init__(self) -> None:
        super().__init__(_DETAILS, id="details")

    def show(self, session: Session, cursor: Cursor, symbols: Symbols) -> None:
        fold = cursor.folding and cursor.folding.shut_at(cursor.index)
        if fold:
            lines = wording.folded_details(session, fold, symbols)
        else:
            lines = wording.details(session, cursor.index, symbols, self.size.width - 2)
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

    def show(self, cursor: Cursor, symbols: Symbols, location: str = "") -> None:
        """Name as many keys as there is room for beside the cursor's location."""
        end = f" {location} {symbols.across}" if location else ""
        if self.is_new(symbols, cursor.mode, len(end)):
            hints = keymap_of(self).hints(cursor.mode, ascii_only=symbols.is_ascii)
            *keys, (rest, _) = keys_line(symbols, hints, self.size.width, end)
            self._keys, self._rest = tuple(keys), rest.removesuffix(end + symbols.corners[6])
        self.set_line(0, *self._keys, (f"{self._rest}{end}{symbols.corners[6]}", ""))
