"""The main screen: the list, the keys that go through it, and the keys that arrange it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import Screen

from s2p_tui.alignment.fit import Fit
from s2p_tui.app import background, flows, running_both, search, wording
from s2p_tui.app.background import app_of
from s2p_tui.app.checks import typed_of
from s2p_tui.app.commands import arrange
from s2p_tui.app.commands.arrange import ImpossibleError, Move, Step, typed_row
from s2p_tui.app.commands.sources import Pools
from s2p_tui.app.cursor import Cursor
from s2p_tui.app.folding import folding_of
from s2p_tui.app.keys import actions
from s2p_tui.app.resume import Journalled
from s2p_tui.app.screens.convert import Order
from s2p_tui.app.screens.help import Help
from s2p_tui.app.screens.look import Look
from s2p_tui.app.terminal.clipboard import copy, row_text
from s2p_tui.app.theme import BROAD, BY_COLUMNS, BY_LINES, Symbols
from s2p_tui.app.tour import next_step
from s2p_tui.app.widgets.alignment_view import AlignmentView
from s2p_tui.app.widgets.lines import Part
from s2p_tui.app.widgets.panels import (
    Details,
    Divider,
    FindBar,
    Heading,
    Hints,
    Overview,
    Status,
    Tip,
)
from s2p_tui.conversion.output_names import default_mapping
from s2p_tui.errors import UsageError, printable
from s2p_tui.session.fitting import Fitting

if TYPE_CHECKING:
    from s2p_tui.alignment.alignment import Alignment
    from s2p_tui.alignment.edits import Edit
    from s2p_tui.alignment.task import Task
    from s2p_tui.app.app import AppOptions
    from s2p_tui.app.kinds import Kind
    from s2p_tui.conversion.output import Converted
    from s2p_tui.session.session import Session


class Workspace(Screen[None]):
    """The main screen, where the alignment is made.

    Actions are named in the key table, see `s2p_tui.app.keys`. An action moves the cursor, makes
    an edit that one of `s2p_tui.app.commands` decides on, or starts one of `s2p_tui.app.flows`.

    Attributes:
        session: The model of everything on the screen.
        cursor: Where the user is.
        pools: What the lists of entries and leaves are searched in.
        fitting: The rows where entries would fit.
        options: The app's options.
        order: The last output and dtype asked for.
        converted: The last successful conversion.
        saved: The alignment as it was last saved, converted or opened.
        saved_as_mapping: The alignment as it was last saved in a mapping file.
        typed: What both models were run on last, or are to be.
        is_busy: True while Claude is asked or a conversion runs: nothing may be changed then.
        is_comparing: True while a guided run compares both models.
    """

    AUTO_FOCUS = ""
    HORIZONTAL_BREAKPOINTS = BY_COLUMNS
    VERTICAL_BREAKPOINTS = BY_LINES
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(key.keys, key.action, show=False, id=key.id) for key in actions()),
        *(Binding(digit, f"digit('{digit}')", show=False) for digit in "0123456789"),
        Binding("ctrl+c", "app.ask_quit", show=False),
    ]

    def __init__(
        self,
        session: Session,
        journalled: Journalled,
        *,
        saved: Alignment,
        symbols: Symbols,
        options: AppOptions,
    ) -> None:
        super().__init__()
        self.session = session
        self.cursor = Cursor(folding=folding_of(session))
        self.pools = Pools(session)
        self.fitting = Fitting(session)
        self.symbols = symbols
        self.journalled = journalled
        self.options = options
        self.tour = options.get("tour")
        self.order = Order(options["output"], options.get("dtype"))
        self.saved = saved
        self.saved_as_mapping: Alignment | None = None
        self.converted: Converted | None = None
        self.typed = typed_of(session, options.get("models"), options.get("inputs", ""))
        self.is_busy = False
        self.is_comparing = False
        self.matching: Task | None = None
        self._announced: Edit | None = None
        self._message: Part = ("", "")

    def compose(self) -> ComposeResult:
        yield Heading(id="top")
        # The frame's sides belong to containers: a line's own border would be sent with the line.
        with Horizontal(id="list", classes="sides"):
            view = AlignmentView(self.session, self.cursor, self.symbols, id="view")
            yield view
            yield Overview(self.session, view, self.symbols)
            yield Details("aside")
        yield Divider(id="rule")
        with Vertical(id="about", classes="sides"):
            yield Details("details")
            yield Status(id="status")
            if self._tip:
                yield Tip(id="tip")
        yield FindBar(len(self.session))
        yield Hints(id="bottom")

    def on_mount(self) -> None:
        self.cursor.go(self.session.next_blocking(-1, 1) or 0, len(self.session))
        self.say(*self._first_words())
        if self.session.awaits_evidence:
            self.call_after_refresh(self._start, flows.match_in_background)

    def on_resize(self, event: events.Resize) -> None:
        self.set_class(event.size.width >= BROAD, "-broad")
        self.call_after_refresh(self._fit_overview)
        self.call_after_refresh(self._show)

    def _fit_overview(self) -> None:
        height = self.view.size.height
        is_all = self.cursor.filtering is None
        if self.query_one(Overview).fit_in(self.size.width if is_all else 0, height):
            self.call_after_refresh(self._show)

    @property
    def view(self) -> AlignmentView:
        return self.query_one("#view", AlignmentView)

    @property
    def has_unsaved_edits(self) -> bool:
        """True if the alignment differs from what was last saved, converted or opened."""
        return self.session.alignment != self.saved

    @property
    def mapping_path(self) -> Path:
        """The path the mapping is saved to."""
        return self.options.get("mapping") or default_mapping(self.order.output)

    @property
    def _tip(self) -> str:
        """The next step of a guided run; empty in others."""
        if self.tour is None:
            return ""
        bad = self.symbols.fits[Fit.MISMATCHED]
        return next_step(self.session, self.converted, bad, is_comparing=self.is_comparing)

    def _first_words(self) -> Part:
        """The opening status message: journal notices, then notes about the files."""
        note, bad = self.journalled.note, self.journalled.bad
        # A guided run always starts over; what an earlier one left is of no interest.
        notice = note if bad or not self.tour else ""
        notes = "; ".join((*self.session.checkpoint.notes, *self.session.told))
        said = [printable(part) for part in (notice, notes)]
        return "; ".join(filter(None, said)), "lines--bad" if bad else "lines--muted"

    @on(AlignmentView.Pressed)
    def row_pressed(self, event: AlignmentView.Pressed) -> None:
        self.go_to(event.index)

    @on(AlignmentView.Refolded)
    def refolded(self) -> None:
        """Bring the strip beside the list up to date."""
        self.query_one(Overview).look_again()
        self._fit_overview()

    @on(Overview.Pressed)
    def overview_pressed(self, event: Overview.Pressed) -> None:
        """Go to the row that blocks in the clicked part."""
        self.go_to(event.index, reveal=True)

    def go_to(self, index: int, *, reveal: bool = False) -> None:
        """Move the cursor; with `reveal`, unfold what hides the row."""
        if reveal:
            self.view.reveal(index)
        self.view.go(index)
        self.say()

    def go_back_to(self, index: int) -> None:
        """Move the cursor and leave the message."""
        self.view.go(index)
        self._show()

    def action_go(self, step: int) -> None:
        self.go_to(self.cursor.beside(step))

    def action_page(self, halves: int) -> None:
        self.view.page(halves)
        self.say()

    def action_first(self) -> None:
        self.go_to(0)

    def action_last_or_typed(self) -> None:
        if self.cursor.typed:
            self._go_to_typed()
        else:
            self.go_to(len(self.session) - 1)

    def action_next(self, step: Step) -> None:
        if self.cursor.picked is not None:
            index, none = self.cursor.next_match(step), "It fits in no other row."
        elif self.cursor.query:
            index, none = self.cursor.next_match(step), "Nothing matches."
        else:
            index, none = self._next_blocking(step), "Every row lines up: c converts."
        if index is None:
            self.say(none, "lines--good")
            return
        self.go_to(index, reveal=True)
        if not self.cursor.query and self.cursor.picked is None:
            self.say(wording.problem_number(self.session, index), "lines--muted")

    def _next_blocking(self, step: Step) -> int | None:
        verdicts, here = self.session.verdicts, self.cursor.here
        if step > 0 and len(here) > 1:
            rows = range(here.start, min(here.stop, len(verdicts)))
            if (within := verdicts.blocking_in(rows)) is not None:
                return within
        return self.session.next_blocking(here[-1] if step > 0 else here.start, step)

    def _go_to_typed(self) -> None:
        try:
            index = typed_row(self.session, self.cursor)
        except ImpossibleError as reason:
            self.cursor.typed = ""
            self.say(str(reason), "lines--bad")
            return
        self.cursor.typed = ""
        self.go_to(index, reveal=True)

    def action_digit(self, digit: str) -> None:
        self.cursor.type_digit(digit)
        self.say()

    def action_fold(self) -> None:
        if self.view.toggle_fold():
            self.say()
        else:
            self.say("There is no repeated block here to fold.", "lines--bad")

    def action_fold_around(self) -> None:
        if self.view.fold_around():
            self.say()
        else:
            self.say("There is no repeated block around this to fold.", "lines--bad")

    def action_fold_all(self) -> None:
        self.view.toggle_all()
        self.say()

    def action_mark(self) -> None:
        self.cursor.toggle_mark()
        self.go_to(self.cursor.beside(1))

    def action_range(self) -> None:
        self.cursor.toggle_range()
        self.view.redraw()
        self.say()

    def action_escape(self) -> None:
        if not self.cursor.escape() and self.matching is not None:
            self.matching.cancel()
        self.view.refold()
        self.say()

    # Finding

    async def action_kinds(self) -> None:
        if not (self.is_busy or self._must_wait()):
            await self._start(flows.kinds)

    async def do_to_all(self, what: str, kind: Kind, done: Callable[[], None]) -> None:
        """Do to all rows of a kind what a key does to one; they are shown on another screen."""
        cursor = Cursor(index=kind.indices[0], marks=set(kind.indices))
        match what:
            case "transform" | "choose":
                flow = flows.transform_kind if what == "transform" else flows.choose_for_kind
                await self._start(lambda workspace: flow(workspace, kind, done))
                return
            case "undo":
                self.action_undo()
            case "redo":
                self.action_redo()
            case "trust":
                self.make(lambda: arrange.toggle_trust(self.session, cursor))
            case "gap":
                self.make(lambda: arrange.toggle_gap(self.session, cursor))
            case _:
                self.make(lambda: arrange.to_bench(self.session, cursor))
        done()

    @property
    def message(self) -> Part:
        """The last message, and its style."""
        return self._message

    def show_only(self, query: str) -> None:
        """Search, and hide what does not match."""
        self._find(query)
        if self.cursor.matches:
            search.hide_others(self.session, self.cursor)
            self.view.refold()
            self.go_to(self.cursor.matches[0])

    def action_filter(self) -> None:
        """Hide what the search did not find, or else what does not block; again: show it."""
        if self.cursor.filtering is not None:
            self.cursor.show_all()
            self.view.refold()
            self.say()
            return
        here = self.cursor.index
        self.show_only(search.filter_query(self.cursor))
        if not self.cursor.matches:
            self._find("")
            self.say("Nothing matches: there is nothing to show alone.", "lines--good")
        elif self.cursor.is_match(here):
            self.go_to(here)

    def action_mark_all(self) -> None:
        search.mark_found(self.session, self.cursor)
        self.view.redraw()
        self.say()

    def action_find(self) -> None:
        self.query_one(FindBar).open(self.cursor.query)
        self.say()

    @on(FindBar.Searched)
    def searched(self, event: FindBar.Searched) -> None:
        self._find(event.query)

    @on(FindBar.Closed)
    def find_closed(self, event: FindBar.Closed) -> None:
        """Keep the matches and go to the next one, unless the search was given up."""
        self._find(event.query)
        if event.query and not self.cursor.is_match(self.cursor.index):
            self.action_next(1)

    def _find(self, query: str) -> None:
        wrong = ""
        try:
            search.search(self.session, self.cursor, query)
        except UsageError as error:
            wrong = error.line
        self.view.refold()
        self.say(printable(wrong), "lines--bad" if wrong else "")

    # Editing

    async def action_enter(self) -> None:
        if self.cursor.picked is not None:
            self.make(lambda: arrange.put_down(self.session, self.cursor, swap=False))
        elif self.cursor.typed:
            self._go_to_typed()
        elif self.cursor.is_block:
            self.action_fold()
        elif not self.is_busy:
            await self._start(flows.choose_source)

    def action_swap(self) -> None:
        self.make(lambda: arrange.put_down(self.session, self.cursor, swap=True))

    def action_pick(self) -> None:
        if self.cursor.picked is not None:
            self.cursor.picked = None
        else:
            try:
                arrange.pick_up(self.session, self.cursor, self.fitting)
            except ImpossibleError as reason:
                self.say(str(reason), "lines--bad")
                return
        self.view.redraw()
        self.say()

    def action_shift(self, step: Step) -> None:
        self.make(lambda: arrange.shift(self.session, self.cursor, step))

    def action_gap(self) -> None:
        self.make(lambda: arrange.toggle_gap(self.session, self.cursor))

    def action_bench(self) -> None:
        if self.cursor.typed:
            self.cursor.typed = self.cursor.typed[:-1]
            self.say()
        else:
            self.make(lambda: arrange.to_bench(self.session, self.cursor))

    def action_trust(self) -> None:
        """Trust what is here; once it blocks no more, go on to the next problem."""
        before = self.session.problem_count
        self.make(lambda: arrange.toggle_trust(self.session, self.cursor))
        if self.session.problem_count < before and (index := self._next_blocking(1)) is not None:
            self.view.reveal(index)
            self.go_back_to(index)

    def action_undo(self) -> None:
        self.travel(self.session.undo, "Undone.", "There is nothing to undo.")

    def action_redo(self) -> None:
        self.travel(self.session.redo, "Done again.", "There is nothing to redo.")

    def make(self, decide: Callable[[], Move]) -> None:
        """Make the edit that is decided on, or say why it is impossible."""
        if self.is_busy:
            # Keys typed on before the form is there must not change what it converts.
            return
        try:
            move = decide()
        except ImpossibleError as reason:
            self.cursor.typed = ""
            self.say(str(reason), "lines--bad")
            return
        if move.warning and move.edit != self._announced:
            self.say(move.warning, "lines--strong")
            self._announced = move.edit
            return
        before = self.session.alignment
        changed = self.session.edit(move.edit)
        self.cursor.typed = ""
        self._after_edit(move.index, move.marks, changed)
        if move.reveals:
            self.view.reveal(self.cursor.index)
        after = self.session.alignment
        said = move.said if isinstance(move.said, str) else move.said(before, after, changed)
        self._say_done(wording.after_edit(before, after, changed, said))

    def travel(self, change: Callable[[], range], done: str, none: str) -> None:
        """Change many rows; say `none` if nothing changed."""
        if self.is_busy:
            return
        before = self.session.alignment
        changed = change()
        if self.session.alignment is before:
            self.say(none, "lines--bad")
            return
        here = self.cursor.index
        outside = changed and here not in changed
        self._after_edit(changed.start if outside else here, None, changed)
        self._say_done(done)

    def _after_edit(self, index: int, marks: frozenset[int] | None, changed: range) -> None:
        had_signs = self.cursor.picked is not None or bool(self.cursor.marked())
        self.cursor.picked = None
        if marks is not None:
            self.cursor.mark_only(set(marks))
        self.cursor.forget_beyond(len(self.session))
        if self.cursor.query:
            search.search_again(self.session, self.cursor, changed)
        if had_signs or self.cursor.marks or self.cursor.query or self.view.agreement:
            self.view.redraw()
        self.view.go(index)

    def _say_done(self, done: str) -> None:
        """Say what was done, unless it could not be journalled."""
        journal = self.journalled.journal
        if journal is not None and journal.trouble:
            self.say(printable(journal.trouble), "lines--bad")
        else:
            self.say(done)

    # Other screens

    async def _start(self, flow: Callable[[Workspace], Coroutine[None, None, None]]) -> None:
        self.run_worker(flow(self))
        # The flow begins now and opens its first screen, which the next key is for.
        await asyncio.sleep(0)

    def _must_wait(self) -> bool:
        """Say so if the matcher has yet to tell which rows are doubtful."""
        if self.session.awaits_evidence:
            self.say(background.WAIT, "lines--bad")
        return self.session.awaits_evidence

    def _is_folded(self) -> bool:
        """Say so if a folded block is here, not one leaf or entry."""
        if self.cursor.is_block:
            self.say("This is a folded block: Tab unfolds it, then choose a row.", "lines--bad")
        return self.cursor.is_block

    async def action_match(self) -> None:
        if not (self.is_busy or self._must_wait()):
            await self._start(flows.match)

    async def action_lift(self) -> None:
        if not (self.is_busy or self._must_wait()):
            await self._start(flows.apply_to_siblings)

    async def action_transform(self) -> None:
        if not self.is_busy:
            await self._start(flows.choose_transform)

    async def action_claude(self) -> None:
        if not (self.is_busy or self._must_wait()):
            self.is_busy = True
            await self._start(flows.ask_claude)

    async def action_convert(self) -> None:
        if self._must_wait():
            return
        if not self.session.is_complete:
            first = self.session.next_blocking(-1, 1)
            if first is not None:
                self.go_to(first)
                self.say(wording.blocked(self.session, first), "lines--bad")
        elif not self.is_busy:
            self.is_busy = True
            await self._start(flows.convert)

    async def action_check(self) -> None:
        if not (self.is_busy or self._must_wait()):
            await self._start(running_both.check)

    async def action_settle(self) -> None:
        if not (self.is_busy or self._must_wait()):
            await self._start(running_both.settle)

    def action_save(self) -> None:
        """Save the mapping; again, without an edit between, a recipe of it."""
        if self.session.alignment is self.saved_as_mapping and not self.is_busy:
            self.run_worker(flows.save_recipe(self))
        else:
            flows.save_mapping(self)

    async def action_load_mapping(self) -> None:
        if not (self.is_busy or self._must_wait()):
            await self._start(flows.load_mapping)

    def action_look(self) -> None:
        if not self._is_folded() and self.cursor.index < len(self.session):
            app_of(self).push_screen(Look(self.session, self.cursor.index, self.symbols))

    def action_copy(self) -> None:
        text = row_text(self.session, self.cursor.index)
        if text:
            self.say(copy(self, text), "lines--good")

    def action_help(self) -> None:
        app_of(self).push_screen(Help(self.symbols))

    def action_details(self) -> None:
        self.toggle_class("-no-details")
        self.call_after_refresh(self._show)

    # Words around the list

    def say(self, text: str = "", style: str = "") -> None:
        """Show a message in the status line until the next key; bring everything up to date."""
        self._announced = None
        self._message = (text, style)
        self._show()

    def _show(self) -> None:
        if not self.is_mounted:
            return
        session, cursor, symbols = self.session, self.cursor, self.symbols
        side = 1 if self.has_class("-wide") else 0
        self.query_one(Heading).show(session, symbols, self.view.columns.left + side + 1)
        self.query_one(Divider).show(
            symbols, *(["details"] if self.query_one("#details").display else [])
        )
        for details in self.query(Details):
            details.show(session, cursor, symbols, self.view.agreement)
        self.query_one(Status).show(session, cursor, symbols, self._message)
        location = "" if self.view.columns.number else wording.location(session, cursor.index)
        for tip in self.query(Tip):
            tip.show(self._tip, symbols)
        self.query_one(Hints).show(cursor, symbols, location)
