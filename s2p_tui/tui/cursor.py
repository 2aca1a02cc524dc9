"""Where the user is and what they hold: cursor, marks, the picked-up entry, typed digits, find."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["normal", "picked", "range", "find"]
_MAX_DIGITS = 9


@dataclass(slots=True)
class Cursor:
    """Positions are those of the session: rows, then benched entries.

    Attributes:
        position: The row under the cursor.
        marks: Marked rows.
        anchor: Where a range mark was started, while it is being made.
        picked: The row of the entry that was picked up.
        typed: Digits of a row number typed so far.
        query: What was searched for; empty if no search is on.
        matches: Rows that match it, ascending.
    """

    position: int = 0
    marks: set[int] = field(default_factory=lambda: set[int]())
    anchor: int | None = None
    picked: int | None = None
    typed: str = ""
    query: str = ""
    matches: tuple[int, ...] = ()

    @property
    def mode(self) -> Mode:
        """What the next key means."""
        if self.picked is not None:
            return "picked"
        if self.anchor is not None:
            return "range"
        return "find" if self.query else "normal"

    @property
    def typed_position(self) -> int | None:
        """The row whose number was typed, rows being counted from 1."""
        return int(self.typed) - 1 if self.typed else None

    def marked(self) -> list[int]:
        """Marked rows, those of an unfinished range included, ascending."""
        return sorted(self.marks.union(self._range()))

    def is_marked(self, position: int) -> bool:
        """Whether the row is marked, or would be if the range ended here."""
        return position in self.marks or position in self._range()

    def is_match(self, position: int) -> bool:
        """Whether the search found the row."""
        place = bisect_left(self.matches, position)
        return place < len(self.matches) and self.matches[place] == position

    def chosen(self) -> list[int]:
        """The rows an edit is about: the marked ones, or the one under the cursor."""
        return self.marked() or [self.position]

    def go(self, position: int, count: int) -> None:
        """Move, within `count` positions."""
        self.position = max(0, min(position, count - 1))

    def type_digit(self, digit: str) -> None:
        """Add a digit to the row number; a leading 0 is none."""
        if (self.typed or digit != "0") and len(self.typed) < _MAX_DIGITS:
            self.typed += digit

    def toggle_mark(self) -> None:
        """Mark the row under the cursor, or take the mark away."""
        self.finish_range()
        self.marks ^= {self.position}

    def toggle_range(self) -> None:
        """Start marking a range here, or finish it here."""
        if self.anchor is None:
            self.anchor = self.position
        else:
            self.finish_range()

    def finish_range(self) -> None:
        """Turn the range into marks."""
        self.marks.update(self._range())
        self.anchor = None

    def mark_only(self, positions: set[int]) -> None:
        """Replace all marks."""
        self.anchor, self.marks = None, positions

    def next_match(self, step: Literal[1, -1]) -> int | None:
        """The nearest match after (or before) the cursor, going round."""
        if not self.matches:
            return None
        if step > 0:
            place = bisect_right(self.matches, self.position)
            return self.matches[place % len(self.matches)]
        return self.matches[bisect_left(self.matches, self.position) - 1]

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
        elif self.marks:
            self.marks = set()
        else:
            return False
        return True

    def forget_beyond(self, count: int) -> None:
        """Drop whatever points past the last position, as after the bench has shrunk."""
        self.go(self.position, count)
        self.marks = {mark for mark in self.marks if mark < count}
        self.matches = self.matches[: bisect_left(self.matches, count)]
        self.anchor = None if self.anchor is not None and self.anchor >= count else self.anchor
        self.picked = None if self.picked is not None and self.picked >= count else self.picked

    def _range(self) -> range:
        if self.anchor is None:
            return range(0)
        low, high = sorted((self.anchor, self.position))
        return range(low, high + 1)
