"""What is looked at before it is taken: proposals, block lifts, candidates for a row."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from s2p_tui.core.garbage import no_garbage_collection
from s2p_tui.core.lift import Block, blocks_at, lift
from s2p_tui.tui import sources, words
from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.moves import ImpossibleError, Move
from s2p_tui.tui.running import app_of
from s2p_tui.tui.screens.browser import Browser
from s2p_tui.tui.screens.choose_source import ChooseSource, Chosen
from s2p_tui.tui.screens.review import Review
from s2p_tui.tui.screens.statistics import Look
from s2p_tui.tui.sources import Sources
from s2p_tui.tui.text import inert

if TYPE_CHECKING:
    from s2p_tui.core.proposal import Proposal
    from s2p_tui.session import Session


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
        self, proposal: Proposal, none: str, *, wider: Callable[[], None] | None = None
    ) -> None:
        """Have a proposal reviewed, and make what is accepted of it one edit.

        Args:
            proposal: Made for the alignment as it is.
            none: What to say if it changes nothing.
            wider: Shows a wider proposal instead, if there is one.
        """
        if not proposal.hunks:
            self.say(inert(" ".join((none, *proposal.notes))), "lines--good")
            return
        screen = Review(self.session, proposal, self._glyphs, can_widen=wider is not None)
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

    def action_match(self) -> None:
        """Review what the offline matcher would change."""
        if self.is_busy or self.must_wait():
            return
        self.review(self.session.match_proposal(), "Everything is as the matcher would have it.")

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
        session = self.session
        said: list[str] = []
        for number, block in enumerate(blocks):
            with no_garbage_collection():
                proposal = lift(
                    session.checkpoint.state_dict,
                    session.target.skeleton,
                    session.alignment,
                    block,
                    session.evidence,
                )
            if proposal.hunks:
                outer = blocks[number + 1 :]
                self.review(proposal, "", wider=partial(self._lift, outer) if outer else None)
                return
            if not proposal.notes:
                said.append(f"Nothing in {block.prefix} feeds a leaf yet.")
            else:
                said.append(f"No sibling of {block.prefix} changes: {'; '.join(proposal.notes)}.")
        self.say(inert(" ".join(said)), "lines--good")

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
