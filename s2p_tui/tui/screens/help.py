"""The key table."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from s2p_tui.tui.bound import Bound
from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.keys import GROUPS
from s2p_tui.tui.running import bound_of
from s2p_tui.tui.text import wrap
from s2p_tui.tui.widgets.box import Box

_SHOWN = 26
_SHOWN_BRIEFLY = 13
_BRIEF_BELOW = 68
_MOST_LINES = 6
_SIGNS = (
    ("exact", "the same shape and dtype"),
    ("transformed", "fits after the steps in the details"),
    ("doubtful", "fits, but may be wrong: look, y trusts it"),
    ("mismatched", "cannot fit, or has no entry yet"),
    ("gap", "keeps the skeleton's value"),
)


def help_text(glyphs: Glyphs, bound: Bound | None = None, width: int = 80) -> Content:
    """The table of keys as they are bound, and of signs, in lines of some width."""
    brief = width < _BRIEF_BELOW
    column = _SHOWN_BRIEFLY if brief else _SHOWN
    lines: list[Content | tuple[str, str]] = []

    def add(shown: str, does: str) -> None:
        room = width - column - 3
        first, *more = wrap(glyphs.plain(does), room, _MOST_LINES)
        lines.append((f"  {shown:<{column}} {first}\n", ""))
        lines.extend((f"{'':<{column + 3}}{line}\n", "") for line in more)

    for title in GROUPS:
        lines.append((f"{title}\n", "bold"))
        for shown, does in (bound or Bound()).help_lines(
            title, ascii_only=glyphs.is_ascii, briefly=brief
        ):
            add(shown, does)
    lines.append(("Signs\n", "bold"))
    for fit, sign in glyphs.fits.items():
        add(sign if brief else f"{sign} {fit}", dict(_SIGNS)[fit])
    return Content.assemble(*lines)


class _Table(Static):
    """The text, as wide as the scrollbar leaves it room."""

    def __init__(self, glyphs: Glyphs) -> None:
        super().__init__()
        self._glyphs = glyphs

    def on_resize(self) -> None:
        """Fill the lines there are."""
        self.update(help_text(self._glyphs, bound_of(self), self.size.width))


class Help(ModalScreen[None]):
    """Scrollable; any of the usual keys closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "dismiss", show=False),
        Binding("question_mark", "dismiss", show=False, id="help"),
        Binding("j", "scroll(1)", show=False),
        Binding("k", "scroll(-1)", show=False),
        Binding("space,ctrl+f", "scroll(10)", show=False),
        Binding("ctrl+b", "scroll(-10)", show=False),
    ]

    def __init__(self, glyphs: Glyphs) -> None:
        super().__init__()
        self._glyphs = glyphs

    def compose(self) -> ComposeResult:
        """The table in a box."""
        with Box(self._glyphs, "Keys", "Esc closes", can_focus=True):
            yield _Table(self._glyphs)

    def action_scroll(self, lines: int) -> None:
        """Scroll the table."""
        self.query_one(Box).scroll_relative(y=lines, animate=False)
