"""The main screen: the keys that arrange, save and convert."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import work
from textual.binding import Binding, BindingType

from s2p_tui.core.errors import S2PError
from s2p_tui.core.names import default_mapping
from s2p_tui.core.remarks import remarks
from s2p_tui.core.verdict import Fit
from s2p_tui.tui import gaps_and_bench, matching, moves, placing, words
from s2p_tui.tui.copying import copy, row_text
from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.journalled import Journalled
from s2p_tui.tui.keys import actions
from s2p_tui.tui.matching import match_meanwhile
from s2p_tui.tui.moves import ImpossibleError, Move, Step
from s2p_tui.tui.running import app_of
from s2p_tui.tui.screens.asking import Asking
from s2p_tui.tui.screens.convert import ConvertForm, Order
from s2p_tui.tui.screens.load_mapping import LoadMapping
from s2p_tui.tui.screens.progress import Progress
from s2p_tui.tui.screens.result import Result
from s2p_tui.tui.text import inert, shorten
from s2p_tui.tui.threads import in_thread
from s2p_tui.tui.tour import Tour, next_step
from s2p_tui.tui.widgets.lines import Part

if TYPE_CHECKING:
    from s2p_tui.core.alignment import Alignment
    from s2p_tui.core.mapping import Mapping
    from s2p_tui.saving import Converted
    from s2p_tui.session import Session

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
        self.say(*((matching.TAKEN, "") if is_taken else (matching.OFFERED, "lines--strong")))

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
            self.make(lambda: placing.place(self.session, self.cursor, swap=False))
        elif self.cursor.typed:
            self.jump()
        else:
            self.choose_source()

    def action_swap(self) -> None:
        """Swap what was picked up with what is here."""
        self.make(lambda: placing.place(self.session, self.cursor, swap=True))

    def action_pick(self) -> None:
        """Pick up the entry here, or put it back."""
        if self.cursor.picked is not None:
            self.cursor.picked = None
        else:
            try:
                placing.pick_up(self.session, self.cursor)
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
        self.make(lambda: moves.shift(self.session, self.cursor, step))

    def action_gap(self) -> None:
        """Gaps on or off."""
        self.make(lambda: gaps_and_bench.toggle_gap(self.session, self.cursor))

    def action_bench(self) -> None:
        """Send to the bench; while a number is being typed, take back its last digit."""
        if self.cursor.typed:
            self.cursor.typed = self.cursor.typed[:-1]
            self.say()
        else:
            self.make(lambda: gaps_and_bench.to_bench(self.session, self.cursor))

    def action_trust(self) -> None:
        """Trust on or off."""
        self.make(lambda: gaps_and_bench.toggle_trust(self.session, self.cursor))

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
        if self.session.blocking:
            first = self.session.next_blocking(len(self.session.alignment.rows) - 1, 1)
            if first is not None:
                self.go_to(first)
                self.say(words.blocked(self.session, first), "lines--bad")
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
            self.say(matching.WAIT, "lines--bad")
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
        self._tell(words.after_edit(before, after, changed, said))

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
