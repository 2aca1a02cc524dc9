"""A one-column overview of the rows that block, in the whole list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rich.segment import Segment
from textual import events
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from s2p_tui.alignment.fit import Fit
from s2p_tui.app.theme import Symbols

if TYPE_CHECKING:
    from s2p_tui.session.session import Session

_NARROW = 60
_Cell = tuple[str, str]
"""A sign and the component class it is drawn in."""


class Overview(Widget, can_focus=False):
    """The worst fit of each part of all rows, folded or not; what lines up is left blank."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "overview--doubtful",
        "overview--mismatched",
        "overview--quiet",
    }

    @dataclass
    class Pressed(Message):
        """A part was clicked: its first row that blocks, else its first row."""

        index: int

    def __init__(self, session: Session, symbols: Symbols) -> None:
        super().__init__(id="overview")
        self._session = session
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
        self.display = width >= _NARROW and len(self._session.verdicts) > height
        return self.display != before

    def on_resize(self) -> None:
        self._cells = [self._cell(self._part(y)) for y in range(self.size.height)]
        self.refresh()

    def rows_changed(self, changed: range) -> None:
        """Look at the parts that hold these rows again."""
        count, height = len(self._session.verdicts), len(self._cells)
        if not count or not changed or not self.is_mounted:
            return
        first, last = changed.start * height // count, changed[-1] * height // count
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
        count, height = len(self._session.verdicts), max(1, self.size.height)
        start = y * count // height
        return (
            range(start, max(start + 1, (y + 1) * count // height)) if start < count else range(0)
        )

    def _cell(self, part: range) -> _Cell:
        worst = self._session.verdicts.worst(part) if part else None
        if worst is None or not worst.blocks:
            return " ", "quiet"
        is_bad = worst.fit is Fit.MISMATCHED
        return self._symbols.fits[worst.fit], "mismatched" if is_bad else "doubtful"
