"""The main screen: the keys that arrange, save and convert."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import Screen

from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.garbage import no_garbage_collection
from s2p_tui.app import background, wording
from s2p_tui.app.background import app_of, in_thread, match_meanwhile
from s2p_tui.app.commands import arrange, sources, transforms
from s2p_tui.app.commands.arrange import ImpossibleError, Move, Step, typed_row
from s2p_tui.app.commands.sources import Sources
from s2p_tui.app.commands.transforms import offer_many
from s2p_tui.app.cursor import Cursor
from s2p_tui.app.folding import Folding, find_folds
from s2p_tui.app.keys import actions
from s2p_tui.app.resume import Journalled
from s2p_tui.app.review import Reviewing
from s2p_tui.app.screens.ask_claude import AskClaude
from s2p_tui.app.screens.busy import Progress, Waiting, Working
from s2p_tui.app.screens.choose_source import ChooseSource, Chosen
from s2p_tui.app.screens.choose_transform import ChooseTransform
from s2p_tui.app.screens.convert import ConvertForm, Order, Result
from s2p_tui.app.screens.help import Help
from s2p_tui.app.screens.look import Look
from s2p_tui.app.screens.questions import LoadMapping
from s2p_tui.app.screens.review import Review
from s2p_tui.app.settling import AT_ONCE, Settling
from s2p_tui.app.terminal.clipboard import copy, row_text
from s2p_tui.app.terminal.key_queue import KeysInTurn
from s2p_tui.app.text import inert, shorten
from s2p_tui.app.theme import BY_COLUMNS, BY_LINES, Glyphs
from s2p_tui.app.tour import Tour, next_step
from s2p_tui.app.widgets.alignment_view import AlignmentView
from s2p_tui.app.widgets.find_bar import FindBar
from s2p_tui.app.widgets.lines import Part
from s2p_tui.app.widgets.overview import Overview
from s2p_tui.app.widgets.panels import Details, Divider, Heading, Hints, Status, Tip
from s2p_tui.conversion.output_names import default_mapping
from s2p_tui.conversion.report import remarks
from s2p_tui.errors import S2PError
from s2p_tui.proposals.lift import Block, blocks_at, lift

if TYPE_CHECKING:
    from collections.abc import Sequence

    from s2p_tui.alignment.alignment import Alignment
    from s2p_tui.alignment.mapping_file import Mapping
    from s2p_tui.app.commands.transforms import Offer, Option
    from s2p_tui.conversion.output import Converted
    from s2p_tui.proposals.claude.question import Question
    from s2p_tui.proposals.proposal import Proposal
    from s2p_tui.session.session import Session


@dataclass(frozen=True, slots=True)
class Lifted:
    """What came of trying blocks one after the other.

    Attributes:
        reviewing: What the first that changes something would change; None if none does.
        said: About those before it.
        tried: How many were tried.
    """

    reviewing: Reviewing | None
    said: tuple[str, ...]
    tried: int


def lifted(session: Session, blocks: Sequence[Block]) -> Lifted:
    """Try blocks, the innermost first. Slow in a long list; changes nothing, for a thread."""
    said: list[str] = []
    for tried, block in enumerate(blocks, 1):
        with no_garbage_collection():
            proposal = lift(
                session.checkpoint.state_dict,
                session.target.skeleton,
                session.alignment,
                block,
                session.evidence,
            )
        if proposal.hunks:
            return Lifted(Reviewing(session.alignment, proposal), tuple(said), tried)
        if not proposal.notes:
            said.append(f"Nothing in {block.prefix} feeds a leaf yet.")
        else:
            said.append(f"No sibling of {block.prefix} changes: {'; '.join(proposal.notes)}.")
    return Lifted(None, tuple(said), len(blocks))


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
        return self.session.next_blocking(here[-1] if step > 0 else here.start, step)

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
        place = "" if self.view.columns.number else wording.place(session, cursor.position)
        for tip in self.query(Tip):
            tip.show(self.tip, glyphs)
        self.query_one(Hints).show(cursor, glyphs, place)


T = TypeVar("T")
_AT_ONCE = 2000
"""Rows that a proposal about is made before anybody notices."""


class Proposing(Browser):
    """Opens the screens that propose edits; making edits is the main screen's."""

    def __init__(self, session: Session, glyphs: Glyphs) -> None:
        super().__init__(session, glyphs)
        self._sources = Sources(session)

    @property
    @abstractmethod
    def is_busy(self) -> bool:
        """Whether nothing may be changed now."""

    @abstractmethod
    def must_wait(self) -> bool:
        """Say so if the matcher has yet to tell which rows are doubtful."""

    @abstractmethod
    def make(self, decide: Callable[[], Move]) -> None:
        """Make the edit that is decided on, or say why it is impossible."""

    @abstractmethod
    def travel(self, change: Callable[[], range], done: str, none: str) -> None:
        """Change many rows; say `none` if nothing changed."""

    def review(
        self,
        proposal: Proposal,
        none: str,
        *,
        wider: Callable[[], None] | None = None,
    ) -> None:
        """Have a proposal reviewed, and make what is accepted of it one edit.

        Args:
            proposal: Made for the alignment as it is.
            none: What to say if it changes nothing.
            wider: Shows a wider proposal instead, if there is one.
        """
        self._review(Reviewing(self.session.alignment, proposal), none, wider)

    def _review(self, reviewing: Reviewing, none: str, wider: Callable[[], None] | None) -> None:
        proposal = reviewing.proposal
        if not proposal.hunks:
            self.say(inert(" ".join((none, *proposal.notes))), "lines--good")
            return
        screen = Review(self.session, reviewing, self._glyphs, can_widen=wider is not None)
        here = self.cursor.position

        def decided(places: frozenset[int] | None) -> None:
            if screen.widened and wider is not None:
                wider()
            elif places is None:
                self.say("Rejected: nothing was changed.")
            else:
                self.travel(
                    lambda: self.session.edit(proposal.accepted(places)),
                    f"{wording.many(len(places), 'row')} changed; u takes it back.",
                    none,
                )
                if proposal.by == "user":
                    self.view.go(here)
                    self._show()

        app_of(self).push_screen(screen, decided)

    def work_out(
        self, words: str, rows: int, find: Callable[[], T], show: Callable[[T], None]
    ) -> None:
        """Find something about so many rows and show it: at once, or if many beside the keys.

        Keys typed ahead are for what is shown.
        """
        if rows <= _AT_ONCE:
            show(find())
            return

        def found(result: T | None) -> None:
            if result is None:
                self.say("Cancelled: nothing was changed.")
                return
            show(result)
            app = app_of(self)
            if isinstance(app, KeysInTurn):
                app.press_next(*screen.typed)

        screen = Working(words, find, self._glyphs)
        app_of(self).push_screen(screen, found)

    def action_match(self) -> None:
        """Review what the offline matcher would change."""
        if self.is_busy or self.must_wait():
            return
        session = self.session

        def find() -> Reviewing:
            with no_garbage_collection():
                return Reviewing(session.alignment, session.match_proposal())

        none = "Everything is as the matcher would have it."
        self.work_out(
            "Comparing the rows with what the matcher found …",
            len(session),
            find,
            lambda reviewing: self._review(reviewing, none, None),
        )

    def action_lift(self) -> None:
        """Review what the arrangement of this block would make of its siblings.

        The innermost block first whose siblings are not so already.
        """
        if self.is_busy or self.must_wait():
            return
        position = self.cursor.position
        if self.session.row(position) is None:
            self.say("A benched entry is in no block: go to a row.", "lines--bad")
            return
        skeleton, folded = self.session.target.skeleton, self.cursor.here
        blocks = tuple(
            block
            for block in blocks_at(skeleton, position)
            if all(skeleton[place].path.startswith(block.prefix) for place in folded)
        )
        if not blocks:
            self.say("There is no numbered block here that has siblings.", "lines--bad")
            return
        self._lift(blocks)

    def _lift(self, blocks: tuple[Block, ...]) -> None:
        def show(lifted: Lifted) -> None:
            outer = blocks[lifted.tried :]
            if lifted.reviewing is None:
                self.say(inert(" ".join(lifted.said)), "lines--good")
            else:
                wider = partial(self._lift, outer) if outer else None
                self._review(lifted.reviewing, "", wider)

        self.work_out(
            "Applying this block's arrangement to its siblings …",
            len(self.session),
            partial(lifted, self.session, blocks),
            show,
        )

    def action_look(self) -> None:
        """Show all about the row here, and its tensors' own numbers."""
        if self._is_folded():
            return
        if self.cursor.position < len(self.session):
            app_of(self).push_screen(Look(self.session, self.cursor.position, self._glyphs))

    def _is_folded(self) -> bool:
        """Say so if a folded block is here, not one leaf or entry."""
        if self.cursor.is_block:
            self.say("This is a folded block: Tab unfolds it, then choose a row.", "lines--bad")
        return self.cursor.is_block

    def choose_source(self) -> None:
        """Choose the entry for this leaf, or the leaf for this benched entry, from a list."""
        if self.is_busy or self._is_folded():
            return
        try:
            offered = sources.offer(self.session, self.cursor.position, self._sources)
        except ImpossibleError as reason:
            self.say(str(reason), "lines--bad")
            return

        def chosen(choice: Chosen | None) -> None:
            if choice is None:
                self.say()
                return
            self.make(
                lambda: sources.take(
                    self.session, choice.option, swap=choice.swap, other=choice.holder
                )
            )

        app_of(self).push_screen(ChooseSource(offered, self._glyphs), chosen)


class Transforming(Proposing):
    """Has transforms chosen."""

    def action_transform(self) -> None:
        """Choose what is done to entries on their way into this leaf."""
        if self.is_busy:
            return
        session, cursor = self.session, self.cursor
        is_block = cursor.is_block and not cursor.marked() and cursor.picked is None

        def find() -> Offer | ImpossibleError:
            try:
                return (offer_many if is_block else transforms.offer)(session, cursor)
            except ImpossibleError as reason:
                return reason

        self.work_out(
            "Looking for what these rows allow …",
            len(cursor.here) if is_block else 1,
            find,
            self._offer_transforms,
        )

    def _offer_transforms(self, offered: Offer | ImpossibleError) -> None:
        if isinstance(offered, ImpossibleError):
            self.say(str(offered), "lines--bad")
            return
        self.cursor.typed = ""

        def chosen(option: Option | None) -> None:
            if option is None:
                self.say()
            elif option.is_current:
                self.say("It is so already.")
            else:
                self.make(lambda: transforms.take(self.session, offered, option))

        app_of(self).push_screen(ChooseTransform(self.session, offered, self._glyphs), chosen)


class Asking(Transforming):
    """Asks Claude.

    Attributes:
        is_asking: Whether a question is being written, read or answered, so that nothing it is
            about may change.
    """

    def __init__(self, session: Session, glyphs: Glyphs) -> None:
        super().__init__(session, glyphs)
        self.is_asking = False

    def action_claude(self) -> None:
        """Ask Claude about the rows that are not settled, and review what it proposes."""
        if not (self.is_busy or self.must_wait()):
            self.is_asking = True
            self.say("Writing the question …", "lines--muted")
            self._ask_claude()

    @work(exclusive=True, group="claude")
    async def _ask_claude(self) -> None:
        try:
            proposal = await self._proposal()
        except S2PError as error:
            self.say(inert(str(error)), "lines--bad")
            return
        finally:
            self.is_asking = False
        if proposal is None:
            self.say("Nothing was sent to Claude.")
        else:
            self.review(proposal, "Claude proposes no change.")

    async def _proposal(self) -> Proposal | None:
        """Show what would be sent, and if the user agrees wait for the answer; None if not.

        Raises:
            S2PError: There is no answer, in one line.
        """
        from s2p_tui.proposals.claude import account
        from s2p_tui.proposals.claude.account import find_key

        question = await in_thread(self._question)
        self.say()
        if question.requests:
            # Before the user reads a question that could not be sent.
            find_key()
        name = account.last_choice()
        shown = AskClaude(question, lambda: self._question(everything=True), name, self._glyphs)
        consent = await app_of(self).push_screen_wait(shown)
        if consent is None:
            return None
        key = find_key()
        account.remember(consent.name)
        outcome = await app_of(self).push_screen_wait(Waiting(consent, key, self._glyphs))
        if isinstance(outcome, S2PError):
            raise outcome
        return outcome

    def _question(self, *, everything: bool = False) -> Question:
        from s2p_tui.proposals.claude.job import Budget
        from s2p_tui.proposals.claude.question import question_about

        budget = Budget.of(len(self.session.checkpoint.state_dict))
        return question_about(self.session.situation, budget, everything=everything)


_FRAME = 4
"""Cells of the status line that no words can take."""


class Workspace(Asking):
    """Where the alignment is made.

    Attributes:
        order: What to write where; the last one asked for.
        converted: The last successful conversion.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(key.keys, key.action, show=False, id=key.id) for key in actions()),
        *(Binding(digit, f"digit('{digit}')", show=False) for digit in "0123456789"),
        Binding("ctrl+c", "app.ask_quit", show=False),
    ]

    def __init__(
        self,
        session: Session,
        order: Order,
        journalled: Journalled,
        *,
        saved: Alignment,
        glyphs: Glyphs,
        mapping: Path | None = None,
        chunk_bytes: int,
        tour: Tour | None = None,
        jobs: int | None = None,
    ) -> None:
        super().__init__(session, glyphs)
        self._journalled = journalled
        self._tour = tour
        self._is_comparing = False
        self.order = order
        self.converted: Converted | None = None
        self._mapping = mapping
        self._chunk_bytes = chunk_bytes
        self._jobs = jobs
        self._saved = saved
        self._converting = False

    def on_mount(self) -> None:
        """Have the matcher at work if it has not had its say yet."""
        if self.session.awaits_evidence:
            self.call_after_refresh(self._match_meanwhile)

    @work
    async def _match_meanwhile(self) -> None:
        is_taken = await match_meanwhile(
            self.session, self._journalled.journal, lambda: self.is_current
        )
        self._settling.begin()
        if is_taken:
            self._saved = self.session.alignment
            self.cursor.picked = None
            self.cursor.forget_beyond(len(self.session))
        self.view.redraw()
        self.say(*((background.TAKEN, "") if is_taken else (background.OFFERED, "lines--strong")))

    def first_words(self) -> Part:
        """What became of the journal, if there is something to say, and what the files are like."""
        notes, style = super().first_words()
        note, bad = self._journalled.note, self._journalled.bad
        # A guided run always starts afresh; what an earlier one left is of no interest.
        said = [part for part in (inert(note if bad or not self._tour else ""), notes) if part]
        return "; ".join(said), "lines--bad" if bad else style

    @property
    def tip(self) -> str:
        """What to try next, in a guided run."""
        if self._tour is None:
            return ""
        return next_step(
            self.session,
            self.converted,
            self._glyphs.fits[Fit.MISMATCHED],
            is_comparing=self._is_comparing,
        )

    @property
    def is_busy(self) -> bool:
        """Whether a conversion is asked for or runs, so that nothing may be changed."""
        return self._converting or self.is_asking

    @property
    def has_unsaved_edits(self) -> bool:
        """Whether the alignment differs from what was last saved, converted or opened."""
        return self.session.alignment != self._saved

    def action_enter(self) -> None:
        """Put down what was picked up, go to the typed row, or choose what belongs here."""
        if self.cursor.picked is not None:
            self.make(lambda: arrange.place(self.session, self.cursor, swap=False))
        elif self.cursor.typed:
            self.jump()
        else:
            self.choose_source()

    def action_swap(self) -> None:
        """Swap what was picked up with what is here."""
        self.make(lambda: arrange.place(self.session, self.cursor, swap=True))

    def action_pick(self) -> None:
        """Pick up the entry here, or put it back."""
        if self.cursor.picked is not None:
            self.cursor.picked = None
        else:
            try:
                arrange.pick_up(self.session, self.cursor)
            except ImpossibleError as reason:
                self.say(str(reason), "lines--bad")
                return
        self.view.redraw()
        self.say()

    def action_escape(self) -> None:
        """Give up what is in hand."""
        self.cursor.escape()
        self.view.redraw()
        self.say()

    def action_shift(self, step: Step) -> None:
        """Move the entry or block by one row."""
        self.make(lambda: arrange.shift(self.session, self.cursor, step))

    def action_gap(self) -> None:
        """Gaps on or off."""
        self.make(lambda: arrange.toggle_gap(self.session, self.cursor))

    def action_bench(self) -> None:
        """Send to the bench; while a number is being typed, take back its last digit."""
        if self.cursor.typed:
            self.cursor.typed = self.cursor.typed[:-1]
            self.say()
        else:
            self.make(lambda: arrange.to_bench(self.session, self.cursor))

    def action_trust(self) -> None:
        """Trust on or off."""
        self.make(lambda: arrange.toggle_trust(self.session, self.cursor))

    def action_undo(self) -> None:
        """Take the last edit back."""
        self.travel(self.session.undo, "Undone.", "There is nothing to undo.")

    def action_redo(self) -> None:
        """Make the last undone edit again."""
        self.travel(self.session.redo, "Done again.", "There is nothing to redo.")

    def action_save(self) -> None:
        """Save the mapping."""
        path = self._mapping_path(self.order.output)
        try:
            kept = self.session.save_mapping(path)
        except S2PError as error:
            self.say(inert(error.line), "lines--bad")
        else:
            self._saved = self.session.alignment
            said = "Mapping saved: "
            other = "" if kept is None else f"; another was there: now {inert(kept.name)}"
            room = self.size.width - len(said) - len(other) - _FRAME
            name = shorten(inert(str(path)), max(1, room), ellipsis=self._glyphs.ellipsis)
            self.say(said + name + other, "lines--good")

    def action_load_mapping(self) -> None:
        """Take over the alignment of a mapping file, in one step."""
        if self.is_busy or self.must_wait():
            return

        def loaded(mapping: Mapping | None) -> None:
            if mapping is not None:
                name = inert(os.path.basename(mapping.name))
                self.travel(
                    lambda: self.session.start_from(mapping),
                    f"Loaded {name}; u takes it back.",
                    f"Everything is as in {name}.",
                )

        proposed = self._mapping_path(self.order.output)
        app_of(self).push_screen(LoadMapping(self.session, proposed, self._glyphs), loaded)

    def action_copy(self) -> None:
        """Copy the row's key and key path."""
        text = row_text(self.session, self.cursor.position)
        if text:
            self.say(copy(self, text), "lines--good")

    def action_convert(self) -> None:
        """Convert, or go to the first row that stands in the way."""
        if self.must_wait():
            return
        if self.session.blocking or self.session.blocking_entries:
            first = self.session.first_blocking()
            if first is not None:
                self.go_to(first)
                self.say(wording.blocked(self.session, first), "lines--bad")
        elif not self.is_busy:
            self._converting = True
            self._convert()

    @work(exclusive=True)
    async def _convert(self) -> None:
        try:
            await self._ask_and_convert()
        finally:
            self._converting = False

    async def _ask_and_convert(self) -> None:
        told = tuple(remarks(self.session.alignment.rows, self.session.target.skeleton))
        order = await app_of(self).push_screen_wait(ConvertForm(self.order, self._glyphs, told))
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
                jobs=self._jobs,
            )
        )
        if isinstance(outcome, S2PError):
            self.say(inert(outcome.line), "lines--bad")
            return
        self.converted, self._saved = outcome, alignment
        name = os.path.basename(outcome.written.path)
        self.say(inert(f"Converted: {name}"), "lines--good")
        found = "" if self._tour is None else await self._compare(self._tour)
        await app_of(self).push_screen_wait(
            Result(self.session, outcome, self._glyphs, order.dtype, found)
        )

    async def _compare(self, tour: Tour) -> str:
        self._is_comparing = True
        self.say("Running both models …", "lines--good")
        found = await in_thread(tour.compare)
        self._is_comparing = False
        self.say(inert(found), "lines--good")
        return found

    def must_wait(self) -> bool:
        """Say so if the matcher has yet to tell which rows are doubtful."""
        if self.session.awaits_evidence:
            self.say(background.WAIT, "lines--bad")
        return self.session.awaits_evidence

    def _mapping_path(self, output: Path) -> Path:
        return self._mapping or default_mapping(output)

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
        before = self.session.alignment
        changed = self.session.edit(move.edit)
        self.cursor.picked, self.cursor.typed = None, ""
        self._after_edit(move.position, move.marks, changed)
        if move.reveals:
            self.view.reveal(self.cursor.position)
        after = self.session.alignment
        said = move.said if isinstance(move.said, str) else move.said(before, after, changed)
        self._tell(wording.after_edit(before, after, changed, said))

    def travel(self, change: Callable[[], range], done: str, none: str) -> None:
        """Change many rows; say `none` if nothing changed."""
        if self.is_busy:
            return
        before = self.session.alignment
        changed = change()
        if self.session.alignment is before:
            self.say(none, "lines--bad")
            return
        here = self.cursor.position
        self.cursor.picked = None
        outside = changed and here not in changed
        self._after_edit(changed.start if outside else here, None, changed)
        self._tell(done)

    def _tell(self, done: str) -> None:
        """Say what was done, unless it could not be journalled."""
        journal = self._journalled.journal
        if journal is not None and journal.trouble:
            self.say(inert(journal.trouble), "lines--bad")
        else:
            self.say(done)

    def _after_edit(self, position: int, marks: frozenset[int] | None, changed: range) -> None:
        had_marks = bool(self.cursor.marked())
        if marks is not None:
            self.cursor.mark_only(set(marks))
        self.cursor.forget_beyond(len(self.session))
        self._find_again(changed)
        if had_marks or self.cursor.marks or self.cursor.query:
            self.view.redraw()
        self.view.go(position)
        self._settling.begin()
