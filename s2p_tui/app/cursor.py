"""The cursor, the marks, the picked-up entry, the typed digits and the search."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, field

from s2p_tui.app.filtering import Filtering

if TYPE_CHECKING:
    from s2p_tui.app.folding import Folding

Mode = Literal["normal", "picked", "range", "find"]
_MAX_DIGITS = 9


class Cursor(Struct):
    """Positions are those of the session: rows, then benched entries.

    On a folded block the cursor is on its first row, and what is done here is done to all of them.

    Attributes:
        index: The row under the cursor.
        marks: Marked rows.
        anchor: Where a range mark was started, while it is being made.
        picked: The row of the entry that was picked up, or the first of the block that was.
        picked_rows: How many rows were picked up.
        fits: Rows where that would fit, ascending.
        typed: Digits of a row number typed so far.
        query: What was searched for; empty if no search is on.
        matches: Rows that match it, ascending.
        folding: Which rows are shown, and which as one line; None if each is a line of its own.
        is_refolded: True if lines have come or gone that are not drawn yet.
    """

    index: int = 0
    marks: set[int] = field(default_factory=lambda: set[int]())
    anchor: int | None = None
    picked: int | None = None
    picked_rows: int = 1
    fits: tuple[int, ...] = ()
    typed: str = ""
    query: str = ""
    matches: tuple[int, ...] = ()
    folding: Folding | Filtering | None = None
    is_refolded: bool = False

    @property
    def here(self) -> range:
        """The rows of the line under the cursor: one, or a folded block's."""
        return self.line_at(self.index)

    @property
    def is_block(self) -> bool:
        """True if a folded block is under the cursor, not a single leaf or entry."""
        return len(self.here) > 1

    def line_at(self, index: int) -> range:
        """The indices that are shown on one line with this one."""
        if self.folding is None:
            return range(index, index + 1)
        return self.folding.span(index)

    def beside(self, lines: int) -> int:
        """The index that many lines below or, where negative, above; or the outermost."""
        if self.folding is None:
            return self.index + lines
        line = self.folding.line_of(self.index) + lines
        last = self.folding.lines - 1
        return self.folding.index_of(max(0, min(line, last))) if last >= 0 else 0

    @property
    def mode(self) -> Mode:
        """The mode that decides which hints are shown."""
        if self.picked is not None:
            return "picked"
        if self.anchor is not None:
            return "range"
        return "find" if self.query else "normal"

    @property
    def typed_index(self) -> int | None:
        """The row whose number was typed, rows being counted from 1."""
        return int(self.typed) - 1 if self.typed else None

    def marked(self) -> list[int]:
        """Marked rows, those of an unfinished range included, ascending."""
        return sorted(self.marks.union(self._range()))

    def is_match(self, index: int) -> bool:
        """Return True if the search found the row."""
        return self.matches_in(range(index, index + 1))

    def matches_in(self, span: range) -> bool:
        """Return True if the search found one of these rows."""
        return bisect_left(self.matches, span.start) < bisect_left(self.matches, span.stop)

    def fits_in(self, span: range) -> bool:
        """Return True if what is picked up would fit in one of these rows."""
        if self.picked is None:
            return False
        return bisect_left(self.fits, span.start) < bisect_left(self.fits, span.stop)

    def marks_in(self, span: range) -> bool:
        """Return True if one of these rows is marked, or would be if the range ended here."""
        ranged, marks = self._range(), self.marks
        if ranged.start < span.stop and span.start < ranged.stop:
            return True
        if len(marks) < len(span):
            return any(mark in span for mark in marks)
        return any(index in marks for index in span)

    def chosen(self) -> list[int]:
        """The rows an edit is about: the marked ones, or those under the cursor."""
        return self.marked() or list(self.here)

    def go(self, index: int, count: int) -> None:
        """Move, within `count` indices; to the first row of a folded block."""
        index = max(0, min(index, count - 1))
        self.index = self.line_at(index).start if count else index

    def type_digit(self, digit: str) -> None:
        """Add a digit to the row number; a leading 0 is none."""
        if (self.typed or digit != "0") and len(self.typed) < _MAX_DIGITS:
            self.typed += digit

    def toggle_mark(self) -> None:
        """Mark what is under the cursor, or take the mark away; of a range, mark all."""
        if self.anchor is not None:
            self.finish_range()
            return
        here = self.here
        if all(index in self.marks for index in here):
            self.marks.difference_update(here)
        else:
            self.marks.update(here)

    def pick_up(self, here: range, fits: Iterable[int] = ()) -> None:
        """Pick up rows that are next to each other, and fit where they say."""
        self.picked, self.picked_rows, self.fits = here.start, len(here), tuple(fits)

    @property
    def picked_span(self) -> range:
        """The rows that were picked up; empty if nothing was."""
        if self.picked is None:
            return range(0)
        return range(self.picked, self.picked + self.picked_rows)

    def toggle_range(self) -> None:
        """Start marking a range here, or give it up; what is done to it, or a mark, ends it."""
        self.anchor = self.index if self.anchor is None else None

    def finish_range(self) -> None:
        """Turn the range into marks."""
        self.marks.update(self._range())
        self.anchor = None

    def mark_only(self, indices: set[int]) -> None:
        self.anchor, self.marks = None, indices

    def next_match(self, step: Literal[1, -1]) -> int | None:
        """The nearest match, or the nearest row where what is picked up fits."""
        found = self.matches if self.picked is None else self.fits
        if not found:
            return None
        if step > 0:
            # What a folded block hides was not walked through yet.
            find = bisect_left if self.is_block else bisect_right
            return found[find(found, self.index) % len(found)]
        return found[bisect_left(found, self.index) - 1]

    def escape(self) -> bool:
        """Give up the innermost thing in hand; False if there was none."""
        if self.typed:
            self.typed = ""
        elif self.picked is not None:
            self.picked = None
        elif self.anchor is not None:
            self.anchor = None
        elif self.query:
            self.query, self.matches = "", ()
            self.show_all()
        elif self.marks:
            self.marks = set()
        else:
            return False
        return True

    @property
    def filtering(self) -> Filtering | None:
        """The view that shows only what was searched for; None if nothing is hidden."""
        return self.folding if isinstance(self.folding, Filtering) else None

    def hide_others(self, rows: int) -> None:
        """Show only what the search found, of so many rows before the bench."""
        folding = self.filtering.unfiltered if self.filtering is not None else self.folding
        if folding is not None and not isinstance(folding, Filtering):
            self.folding, self.is_refolded = Filtering(self.matches, rows, folding), True

    def show_all(self) -> None:
        """Show what the search did not find, too."""
        if self.filtering is not None:
            self.folding, self.is_refolded = self.filtering.unfiltered, True

    @property
    def match_number(self) -> int:
        """The number of the match here, counted from 1; 0 if this is none."""
        at = bisect_left(self.matches, self.index)
        return at + 1 if self.matches_in(self.here) else 0

    def forget_beyond(self, count: int) -> None:
        """Drop whatever points past the last index, as after the bench has shrunk."""
        self.go(self.index, count)
        self.marks = {mark for mark in self.marks if mark < count}
        self.matches = self.matches[: bisect_left(self.matches, count)]
        self.anchor = None if self.anchor is not None and self.anchor >= count else self.anchor
        self.picked = None if self.picked is not None and self.picked >= count else self.picked

    def _range(self) -> range:
        if self.anchor is None:
            return range(0)
        low, high = sorted((self.anchor, self.index))
        return range(self.line_at(low).start, self.line_at(high).stop)
