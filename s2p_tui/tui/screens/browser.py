"""Looking around: both lists, what stands around them, cursor, marks and find."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import Screen

from s2p_tui.tui import moves, words
from s2p_tui.tui.cursor import Cursor
from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.moves import ImpossibleError, Step
from s2p_tui.tui.running import app_of
from s2p_tui.tui.screens.help import Help
from s2p_tui.tui.text import inert
from s2p_tui.tui.widgets.alignment_view import AlignmentView
from s2p_tui.tui.widgets.find_bar import FindBar
from s2p_tui.tui.widgets.lines import Part
from s2p_tui.tui.widgets.panels import Details, Divider, Heading, Hints, Status

if TYPE_CHECKING:
    from s2p_tui.session import Session


class Browser(Screen[None]):
    """Shows a session; changes nothing in it.

    Attributes:
        session: The model of everything on the screen.
        cursor: Where the user is.
    """

    AUTO_FOCUS = ""
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (60, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (16, "-tall")]  # noqa: RUF012

    def __init__(self, session: Session, glyphs: Glyphs) -> None:
        super().__init__()
        self.session = session
        self.cursor = Cursor()
        self._glyphs = glyphs
        self._message: Part = ("", "")

    def compose(self) -> ComposeResult:
        """The frame from top to bottom."""
        yield Heading(id="top")
        # The frame's sides belong to containers: a line's own border would be sent with the line.
        with Vertical(id="list", classes="sides"):
            yield AlignmentView(self.session, self.cursor, self._glyphs, id="view")
        yield Divider(id="rule")
        with Vertical(id="about", classes="sides"):
            yield Details()
            yield Status(id="status")
        yield FindBar(len(self.session))
        yield Hints(id="bottom")

    @property
    def view(self) -> AlignmentView:
        """The list."""
        return self.query_one("#view", AlignmentView)

    def on_mount(self) -> None:
        """Start where there is something to do."""
        if self.session.verdict(0) is not None and self.session.blocking:
            first = self.session.next_blocking(-1, 1)
            self.cursor.go(first or 0, len(self.session))
        self.say(*self.first_words())

    def first_words(self) -> Part:
        """What is said before the first key, and in which style."""
        return inert("; ".join(self.session.checkpoint.notes)), "lines--muted"

    def on_resize(self) -> None:
        """Lay the words out anew."""
        self.call_after_refresh(self._show)

    @on(AlignmentView.Pressed)
    def pressed(self, event: AlignmentView.Pressed) -> None:
        """Go where the mouse was pressed."""
        self.go_to(event.position)

    def action_go(self, step: int) -> None:
        """Move the cursor by rows."""
        self.go_to(self.cursor.position + step)

    def action_page(self, halves: int) -> None:
        """Move the cursor by half pages."""
        self.view.page(halves)
        self.say()

    def action_first(self) -> None:
        """Go to the first row."""
        self.go_to(0)

    def action_last_or_typed(self) -> None:
        """Go to the typed row, or to the last position."""
        if self.cursor.typed:
            self.jump()
        else:
            self.go_to(len(self.session) - 1)

    def action_next(self, step: Step) -> None:
        """Go to the next match while a find is on, else to the next row that blocks."""
        if self.cursor.query:
            position, none = self.cursor.next_match(step), "Nothing matches."
        else:
            position = self.session.next_blocking(self.cursor.position, step)
            none = "Every row lines up: c converts."
        if position is None:
            self.say(none, "lines--good")
        else:
            self.go_to(position)

    def action_digit(self, digit: str) -> None:
        """Type a row number."""
        self.cursor.type_digit(digit)
        self.say()

    def action_mark(self) -> None:
        """Mark the row and go down."""
        self.cursor.toggle_mark()
        self.view.redraw()
        self.go_to(self.cursor.position + 1)

    def action_range(self) -> None:
        """Start or finish a range of marks."""
        self.cursor.toggle_range()
        self.view.redraw()
        self.say()

    def action_details(self) -> None:
        """Show or hide the details."""
        self.toggle_class("-no-details")
        self.call_after_refresh(self._show)

    def action_help(self) -> None:
        """Show the key table."""
        app_of(self).push_screen(Help(self._glyphs))

    def action_find(self) -> None:
        """Open the input line."""
        self.query_one(FindBar).open(self.cursor.query)
        self.say()

    @on(FindBar.Searched)
    def searched(self, event: FindBar.Searched) -> None:
        """Show matches while typing."""
        self._find(event.query)

    @on(FindBar.Closed)
    def find_closed(self, event: FindBar.Closed) -> None:
        """Keep the matches and go to the next one, unless the search was given up."""
        self._find(event.query)
        if event.query and not self.cursor.is_match(self.cursor.position):
            self.action_next(1)

    def go_to(self, position: int) -> None:
        """Move the cursor."""
        self.view.go(position)
        self.say()

    def jump(self) -> None:
        """Go to the typed row."""
        try:
            position = moves.jump(self.session, self.cursor)
        except ImpossibleError as reason:
            self.cursor.typed = ""
            self.say(str(reason), "lines--bad")
            return
        self.cursor.typed = ""
        self.go_to(position)

    def say(self, text: str = "", style: str = "") -> None:
        """Show a message in the status line until the next key; bring everything up to date."""
        self._message = (text, style)
        self._show()

    def _find(self, query: str) -> None:
        if query != self.cursor.query:
            self.cursor.query = query
            self.cursor.matches = tuple(self.session.find(query)) if query else ()
        self.view.redraw()
        self.say()

    def _show(self) -> None:
        if not self.is_mounted:
            return
        session, cursor, glyphs = self.session, self.cursor, self._glyphs
        side = 1 if self.has_class("-wide") else 0
        self.query_one(Heading).show(session, glyphs, self.view.columns.left + side + 1)
        self.query_one(Divider).show(
            glyphs, *([] if self.has_class("-no-details") else ["details"])
        )
        self.query_one(Details).show(session, cursor, glyphs)
        self.query_one(Status).show(session, cursor, glyphs, self._message)
        place = "" if self.view.columns.number else words.place(session, cursor.position)
        self.query_one(Hints).show(cursor, glyphs, place)
