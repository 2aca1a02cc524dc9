"""What is looked at before it is taken: proposals, block lifts, candidates for a row."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from s2p_tui.core.garbage import no_garbage_collection
from s2p_tui.core.lift import Block, blocks_at
from s2p_tui.tui import sources, words
from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.lifting import Lifted, lifted
from s2p_tui.tui.moves import ImpossibleError, Move
from s2p_tui.tui.reviewing import Reviewing
from s2p_tui.tui.running import app_of
from s2p_tui.tui.screens.browser import Browser
from s2p_tui.tui.screens.choose_source import ChooseSource, Chosen
from s2p_tui.tui.screens.review import Review
from s2p_tui.tui.screens.statistics import Look
from s2p_tui.tui.screens.working import Working
from s2p_tui.tui.sources import Sources
from s2p_tui.tui.text import inert
from s2p_tui.tui.turns import KeysInTurn

if TYPE_CHECKING:
    from s2p_tui.core.proposal import Proposal
    from s2p_tui.session import Session

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
                    f"{words.many(len(places), 'row')} changed; u takes it back.",
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
