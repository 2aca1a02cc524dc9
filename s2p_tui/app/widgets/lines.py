"""A few lines of text that send only what changed to the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

from rich.segment import Segment
from textual.app import App
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from s2p_tui.app.terminal.output_diff import difference
from s2p_tui.app.text import clip

Part = tuple[str, str]
"""Text and the component class it is drawn in, an empty one for the widget's own style."""


class Lines(Widget, can_focus=False):
    """Lines made of styled parts; each is clipped to the width."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "lines--muted",
        "lines--strong",
        "lines--bad",
        "lines--good",
    }

    def __init__(self, height: int = 1, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._lines: list[Sequence[Part]] = [()] * height
        self._shown: dict[int, Strip] = {}
        self._facts: tuple[object, ...] = ()

    @property
    def texts(self) -> list[str]:
        """The lines without their styles, as they were set."""
        return ["".join(text for text, _ in line) for line in self._lines]

    def is_new(self, *facts: object) -> bool:
        """Return True unless the lines were made of these facts, and of this width, before."""
        facts = (*facts, self.size.width)
        is_new, self._facts = facts != self._facts, facts
        return is_new

    def set_height(self, height: int) -> None:
        """Set the number of lines; new ones are empty."""
        if height != len(self._lines):
            self._lines = [*self._lines[:height], *([()] * (height - len(self._lines)))]
            self._shown.clear()
            self.refresh(layout=True)

    def set_line(self, number: int, *parts: Part) -> None:
        """Replace a line; only the cells that differ are drawn again."""
        if self._lines[number] == parts:
            return
        self._lines[number] = parts
        if not self.is_mounted or not self.size.width:
            return
        old, new = self._shown.get(number), self._strip(number)
        if old is None or old.cell_length != new.cell_length:
            self.refresh(Region(0, number, self.size.width, 1))
        else:
            start, stop = difference(old, new)
            self.refresh(Region(start, number, stop - start, 1))

    def notify_style_update(self) -> None:
        self._shown.clear()
        super().notify_style_update()

    def render_line(self, y: int) -> Strip:
        if y >= len(self._lines):
            return Strip.blank(self.size.width, self.visual_style.rich_style)
        strip = self._strip(y)
        self._shown[y] = strip
        return strip

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        del container, viewport, width
        return len(self._lines)

    def _strip(self, number: int) -> Strip:
        width, base = self.size.width, self.visual_style.rich_style
        segments: list[Segment] = []
        left = width
        ellipsis = ".." if cast("App[object]", self.app).has_class("-ascii") else "…"
        for text, name in self._lines[number]:
            shown = clip(text, left, ellipsis=ellipsis)
            style = base + self.get_component_rich_style(name, partial=True) if name else base
            segment = Segment(shown, style)
            segments.append(segment)
            left -= segment.cell_length
        return Strip(segments).adjust_cell_length(width, base)
