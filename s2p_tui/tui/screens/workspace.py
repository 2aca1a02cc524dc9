"""The main screen: both lists, what can be said about them, and the keys that arrange them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import Screen

from s2p_tui.core.errors import S2PError
from s2p_tui.core.names import default_mapping
from s2p_tui.tui import moves, words
from s2p_tui.tui.cursor import Cursor
from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.keys import GROUPS
from s2p_tui.tui.moves import Impossible, Move, Step
from s2p_tui.tui.running import app_of
from s2p_tui.tui.screens.convert import ConvertForm, Order
from s2p_tui.tui.screens.help import Help
from s2p_tui.tui.screens.progress import Progress
from s2p_tui.tui.screens.result import Result
from s2p_tui.tui.text import inert
from s2p_tui.tui.widgets.alignment_view import AlignmentView
from s2p_tui.tui.widgets.find_bar import FindBar
from s2p_tui.tui.widgets.lines import Part
from s2p_tui.tui.widgets.panels import Details, Divider, Heading, Hints, Status

if TYPE_CHECKING:
    from s2p_tui.session import Converted, Session


class Workspace(Screen[None]):
    """Where the alignment is made.

    Attributes:
        session: The model of everything on the screen.
        cursor: Where the user is.
        order: What to write where; the last one asked for.
        converted: The last successful conversion.
    """

    AUTO_FOCUS = ""
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (60, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (16, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(key.keys, key.action, key.does, show=False)
            for group in GROUPS.values()
            for key in group
            if key.keys
        ),
        *(Binding(digit, f"digit('{digit}')", show=False) for digit in "0123456789"),
        Binding("ctrl+c", "app.ask_quit", show=False),
    ]

    def __init__(
        self,
        session: Session,
        order: Order,
        *,
        glyphs: Glyphs,
        mapping: Path | None = None,
        chunk_bytes: int,
    ) -> None:
        super().__init__()
        self.session = session
        self.cursor = Cursor()
        self.order = order
        self.converted: Converted | None = None
        self._glyphs = glyphs
        self._mapping = mapping
        self._chunk_bytes = chunk_bytes
        self._saved = session.alignment
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

    @property
    def has_unsaved_edits(self) -> bool:
        """Whether the alignment differs from what was last saved, converted or opened."""
        return self.session.alignment != self._saved

    def on_mount(self) -> None:
        """Start where there is something to do."""
        if self.session.verdict(0) is not None and self.session.blocking:
            first = self.session.next_blocking(-1, 1)
            self.cursor.go(first or 0, len(self.session))
        notes = "; ".join(self.session.checkpoint.notes)
        self._say(inert(notes), "lines--muted")

    def on_resize(self) -> None:
        """Lay the words out anew."""
        self.call_after_refresh(self._show)

    def action_go(self, step: int) -> None:
        """Move the cursor by rows."""
        self._go(self.cursor.position + step)

    def action_page(self, halves: int) -> None:
        """Move the cursor by half pages."""
        self.view.page(halves)
        self._say()

    def action_first(self) -> None:
        """Go to the first row."""
        self._go(0)

    def action_last_or_typed(self) -> None:
        """Go to the typed row, or to the last position."""
        if self.cursor.typed:
            self._jump()
        else:
            self._go(len(self.session) - 1)

    def action_next(self, step: Step) -> None:
        """Go to the next match while a find is on, else to the next row that blocks."""
        if self.cursor.query:
            position, none = self.cursor.next_match(step), "Nothing matches."
        else:
            position = self.session.next_blocking(self.cursor.position, step)
            none = "Every row lines up: c converts."
        if position is None:
            self._say(none, "lines--good")
        else:
            self._go(position)

    def action_digit(self, digit: str) -> None:
        """Type a row number."""
        self.cursor.type_digit(digit)
        self._say()

    def action_enter(self) -> None:
        """Put down what was picked up, or go to the typed row."""
        if self.cursor.picked is not None:
            self._make(lambda: moves.place(self.session, self.cursor, swap=False))
        elif self.cursor.typed:
            self._jump()

    def action_swap(self) -> None:
        """Swap what was picked up with what is here."""
        self._make(lambda: moves.place(self.session, self.cursor, swap=True))

    def action_pick(self) -> None:
        """Pick up the entry here, or put it back."""
        if self.cursor.picked is not None:
            self.cursor.picked = None
        else:
            try:
                moves.pick_up(self.session, self.cursor)
            except Impossible as reason:
                self._say(str(reason), "lines--bad")
                return
        self.view.redraw()
        self._say()

    def action_escape(self) -> None:
        """Give up what is in hand."""
        self.cursor.escape()
        self.view.redraw()
        self._say()

    def action_mark(self) -> None:
        """Mark the row and go down."""
        self.cursor.toggle_mark()
        self.view.redraw()
        self._go(self.cursor.position + 1)

    def action_range(self) -> None:
        """Start or finish a range of marks."""
        self.cursor.toggle_range()
        self.view.redraw()
        self._say()

    def action_shift(self, step: Step) -> None:
        """Move the entry or block by one row."""
        self._make(lambda: moves.shift(self.session, self.cursor, step))

    def action_gap(self) -> None:
        """Gaps on or off."""
        self._make(lambda: moves.toggle_gap(self.session, self.cursor))

    def action_bench(self) -> None:
        """Send to the bench; while a number is being typed, take back its last digit."""
        if self.cursor.typed:
            self.cursor.typed = self.cursor.typed[:-1]
            self._say()
        else:
            self._make(lambda: moves.to_bench(self.session, self.cursor))

    def action_trust(self) -> None:
        """Trust on or off."""
        self._make(lambda: moves.toggle_trust(self.session, self.cursor))

    def action_undo(self) -> None:
        """Take the last edit back."""
        self._travel(self.session.undo, "Undone.", "There is nothing to undo.")

    def action_redo(self) -> None:
        """Make the last undone edit again."""
        self._travel(self.session.redo, "Done again.", "There is nothing to redo.")

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
        self._say()

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

    def action_save(self) -> None:
        """Save the mapping."""
        path = self._mapping_path(self.order.output)
        try:
            self.session.save_mapping(path)
        except S2PError as error:
            self._say(inert(str(error)), "lines--bad")
        else:
            self._saved = self.session.alignment
            self._say(inert(f"Mapping saved: {path}"), "lines--good")

    def action_convert(self) -> None:
        """Convert, or go to the first row that stands in the way."""
        if self.session.blocking:
            first = self.session.next_blocking(len(self.session.alignment.rows) - 1, 1)
            if first is not None:
                self._go(first)
                self._say(words.blocked(self.session, first), "lines--bad")
        else:
            self._convert()

    @work(exclusive=True)
    async def _convert(self) -> None:
        order = await app_of(self).push_screen_wait(ConvertForm(self.order, self._glyphs))
        if order is None:
            return
        self.order = order
        alignment, path = self.session.alignment, self._mapping_path(order.output)
        outcome = await app_of(self).push_screen_wait(
            Progress(
                self.session,
                order,
                self._glyphs,
                mapping=path,
                chunk_bytes=self._chunk_bytes,
            )
        )
        if isinstance(outcome, S2PError):
            self._say(inert(str(outcome)), "lines--bad")
            return
        self.converted, self._saved = outcome, alignment
        name = os.path.basename(outcome.written.path)
        self._say(inert(f"Converted: {name}"), "lines--good")
        await app_of(self).push_screen_wait(Result(self.session, outcome, self._glyphs))

    @on(AlignmentView.Pressed)
    def pressed(self, event: AlignmentView.Pressed) -> None:
        """Go where the mouse was pressed."""
        self._go(event.position)

    def _mapping_path(self, output: Path) -> Path:
        return self._mapping or default_mapping(output)

    def _go(self, position: int) -> None:
        self.view.go(position)
        self._say()

    def _jump(self) -> None:
        try:
            position = moves.jump(self.session, self.cursor)
        except Impossible as reason:
            self.cursor.typed = ""
            self._say(str(reason), "lines--bad")
            return
        self.cursor.typed = ""
        self._go(position)

    def _make(self, decide: Callable[[], Move]) -> None:
        try:
            move = decide()
        except Impossible as reason:
            self.cursor.typed = ""
            self._say(str(reason), "lines--bad")
            return
        self.session.edit(move.edit)
        self.cursor.picked, self.cursor.typed = None, ""
        self._after_edit(move.position, move.marks)
        self._say(move.said)

    def _travel(self, change: Callable[[], range], done: str, none: str) -> None:
        before = self.session.alignment
        changed = change()
        if self.session.alignment is before:
            self._say(none, "lines--bad")
            return
        here = self.cursor.position
        self.cursor.picked = None
        outside = changed and here not in changed
        self._after_edit(changed.start if outside else here, None)
        self._say(done)

    def _after_edit(self, position: int, marks: frozenset[int] | None) -> None:
        had_marks = bool(self.cursor.marked())
        if marks is not None:
            self.cursor.mark_only(set(marks))
        self.cursor.forget_beyond(len(self.session))
        if self.cursor.query:
            self.cursor.matches = tuple(self.session.find(self.cursor.query))
        if had_marks or self.cursor.query:
            self.view.redraw()
        self.view.go(position)

    def _find(self, query: str) -> None:
        if query != self.cursor.query:
            self.cursor.query = query
            self.cursor.matches = tuple(self.session.find(query)) if query else ()
        self.view.redraw()
        self._say()

    def _say(self, text: str = "", style: str = "") -> None:
        self._message = (text, style)
        self._show()

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
        self.query_one(Hints).show(cursor, glyphs)
