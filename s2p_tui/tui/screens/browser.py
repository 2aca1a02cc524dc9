"""Looking around: both lists, what stands around them, cursor, marks and find."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.screen import Screen

from s2p_tui.core.folding import Folding
from s2p_tui.core.folds import find_folds
from s2p_tui.tui import words
from s2p_tui.tui.breakpoints import BY_COLUMNS, BY_LINES
from s2p_tui.tui.cursor import Cursor
from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.moves import ImpossibleError, Step
from s2p_tui.tui.placing import typed_row
from s2p_tui.tui.running import app_of
from s2p_tui.tui.screens.help import Help
from s2p_tui.tui.settling import AT_ONCE, Settling
from s2p_tui.tui.text import inert
from s2p_tui.tui.widgets.alignment_view import AlignmentView
from s2p_tui.tui.widgets.find_bar import FindBar
from s2p_tui.tui.widgets.lines import Part
from s2p_tui.tui.widgets.overview import Overview
from s2p_tui.tui.widgets.panels import Details, Divider, Heading, Hints, Status, Tip

if TYPE_CHECKING:
    from s2p_tui.session import Session


_FOLDED_FROM = 300
"""Rows and benched entries from which on the list opens folded."""


class Browser(Screen[None]):
    """Shows a session; changes nothing in it.

    Attributes:
        session: The model of everything on the screen.
        cursor: Where the user is.
    """

    AUTO_FOCUS = ""
    HORIZONTAL_BREAKPOINTS = BY_COLUMNS
    VERTICAL_BREAKPOINTS = BY_LINES

    def __init__(self, session: Session, glyphs: Glyphs) -> None:
        super().__init__()
        self.session = session
        self.cursor = Cursor(folding=self._folding())
        self._glyphs = glyphs
        self._message: Part = ("", "")
        self._settling = Settling(self, session, self._settled)

    def compose(self) -> ComposeResult:
        """The frame from top to bottom."""
        yield Heading(id="top")
        # The frame's sides belong to containers: a line's own border would be sent with the line.
        with Horizontal(id="list", classes="sides"):
            yield AlignmentView(self.session, self.cursor, self._glyphs, id="view")
            yield Overview(self.session, self._glyphs)
        yield Divider(id="rule")
        with Vertical(id="about", classes="sides"):
            yield Details()
            yield Status(id="status")
            if self.tip:
                yield Tip(id="tip")
        yield FindBar(len(self.session))
        yield Hints(id="bottom")

    @property
    def tip(self) -> str:
        """What to try next, if anybody should be told."""
        return ""

    def _folding(self) -> Folding:
        paths = [leaf.path for leaf in self.session.target.skeleton]
        folding = Folding(find_folds(paths), len(paths))
        folding.set_bench(len(self.session.alignment.bench))
        if len(self.session) > _FOLDED_FROM:
            folding.fold_all()
        return folding

    @property
    def view(self) -> AlignmentView:
        """The list."""
        return self.query_one("#view", AlignmentView)

    def on_mount(self) -> None:
        """Start where there is something to do, as far as that is known at once."""
        self._settling.begin()
        self.go_where_it_blocks()
        self.say(*self.first_words())

    def go_where_it_blocks(self) -> None:
        """Put the cursor on the first row that stands in the way, folded as it may be."""
        known = range(min(AT_ONCE, len(self.session.verdicts)))
        first = self.session.verdicts.blocking_in(known)
        self.cursor.go(first or 0, len(self.session))

    def _settled(self) -> None:
        """Show what has been judged meanwhile."""
        self.view.redraw()
        self.query_one(Overview).rows_changed(range(len(self.session.verdicts)))
        self._show()

    def first_words(self) -> Part:
        """What is said before the first key, and in which style."""
        return inert("; ".join(self.session.checkpoint.notes)), "lines--muted"

    def on_resize(self) -> None:
        """Lay the words out anew."""
        self.call_after_refresh(self._fit_overview)
        self.call_after_refresh(self._show)

    def _fit_overview(self) -> None:
        if self.query_one(Overview).fit_in(self.size.width, self.view.size.height):
            self.call_after_refresh(self._show)

    @on(AlignmentView.Pressed)
    def pressed(self, event: AlignmentView.Pressed) -> None:
        """Go where the mouse was pressed."""
        self.go_to(event.position)

    @on(Overview.Pressed)
    def overview_pressed(self, event: Overview.Pressed) -> None:
        """Go to the trouble there."""
        self.go_to(event.position, reveal=True)

    def action_go(self, step: int) -> None:
        """Move the cursor by rows."""
        self.go_to(self.cursor.beside(step))

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
            position = self._next_blocking(step)
            none = "Every row lines up: c converts."
        if position is None:
            self.say(none, "lines--good")
        else:
            self.go_to(position, reveal=True)

    def _next_blocking(self, step: Step) -> int | None:
        verdicts, here = self.session.verdicts, self.cursor.here
        if step > 0 and len(here) > 1:
            rows = range(here.start, min(here.stop, len(verdicts)))
            if (within := verdicts.blocking_in(rows)) is not None:
                return within
        return verdicts.next_blocking(here[-1] if step > 0 else here.start, step)

    def action_fold(self) -> None:
        """Unfold what is here, or fold the block around it."""
        if self.view.toggle_fold():
            self.say()
        else:
            self.say("There is no repeated block here to fold.", "lines--bad")

    def action_fold_around(self) -> None:
        """Fold the block around the line."""
        if self.view.fold_around():
            self.say()
        else:
            self.say("There is no repeated block around this to fold.", "lines--bad")

    def action_fold_all(self) -> None:
        """Unfold everything, or fold everything."""
        self.view.toggle_all()
        self.say()

    def action_digit(self, digit: str) -> None:
        """Type a row number."""
        self.cursor.type_digit(digit)
        self.say()

    def action_mark(self) -> None:
        """Mark the row and go down."""
        self.cursor.toggle_mark()
        self.go_to(self.cursor.beside(1))

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

    def go_to(self, position: int, *, reveal: bool = False) -> None:
        """Move the cursor; unfold what hides the position if it is to be seen."""
        if reveal:
            self.view.reveal(position)
        self.view.go(position)
        self.say()

    def jump(self) -> None:
        """Go to the typed row."""
        try:
            position = typed_row(self.session, self.cursor)
        except ImpossibleError as reason:
            self.cursor.typed = ""
            self.say(str(reason), "lines--bad")
            return
        self.cursor.typed = ""
        self.go_to(position, reveal=True)

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

    def _find_again(self, changed: range) -> None:
        """Bring the matches up to date once rows have changed; the bench may have too."""
        cursor = self.cursor
        if not cursor.query:
            return
        rows = len(self.session.alignment.rows)
        kept = [place for place in cursor.matches if place < rows and place not in changed]
        found = self.session.find(cursor.query, changed)
        benched = self.session.find(cursor.query, range(rows, len(self.session)))
        cursor.matches = tuple(sorted((*kept, *found, *benched)))

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
        for tip in self.query(Tip):
            tip.show(self.tip, glyphs)
        self.query_one(Hints).show(cursor, glyphs, place)
