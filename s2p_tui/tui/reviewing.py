"""Where the user is in a proposal: what is accepted, what is shown, and where the cursor is."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from s2p_tui.core.alignment import Alignment
from s2p_tui.core.garbage import no_garbage_collection
from s2p_tui.core.outcome import Outcome
from s2p_tui.core.proposal import Change, Confidence, Hunk, Proposal

if TYPE_CHECKING:
    from typing import Literal


class Line(NamedTuple):
    """One line of the list: a note, a hunk's title, or a change.

    Attributes:
        note: What the proposer says; empty for the others.
        hunk: The hunk's number; -1 for a note.
        change: The change; None for a title or a note.
    """

    note: str = ""
    hunk: int = -1
    change: Change | None = None


class Reviewing:
    """A proposal under review; at first all of it is accepted and shown.

    Attributes:
        proposal: What is reviewed.
        outcome: What is accepted and what comes of it.
        only: The one confidence that is shown; None for all.
        position: The line under the cursor.
        lines: What is shown.
    """

    def __init__(self, alignment: Alignment, proposal: Proposal) -> None:
        self.proposal = proposal
        self.only: Confidence | None = None
        self.position = 0
        self._taken = [len(hunk.changes) for hunk in proposal.hunks]
        with no_garbage_collection():
            self.outcome = Outcome(alignment, proposal)
            self.lines = self._shown()
        self.position = next((n for n, line in enumerate(self.lines) if line.change), 0)

    @cached_property
    def total(self) -> int:
        """How many changes there are."""
        return sum(len(hunk.changes) for hunk in self.proposal.hunks)

    @property
    def here(self) -> Line:
        """The line under the cursor; an empty note if nothing is shown."""
        return self.lines[self.position] if self.lines else Line()

    def hunk(self, number: int) -> Hunk:
        """The hunk of that number."""
        return self.proposal.hunks[number]

    def taken(self, number: int) -> tuple[int, int]:
        """How many changes of a hunk are accepted, and how many it has."""
        return self._taken[number], len(self.hunk(number).changes)

    def go(self, position: int) -> None:
        """Move, within the lines."""
        self.position = max(0, min(position, len(self.lines) - 1))

    def next_hunk(self, step: Literal[1, -1]) -> int:
        """The nearest title after (or before) the cursor; the cursor's line if there is none."""
        position = self.position + step
        while 0 <= position < len(self.lines):
            line = self.lines[position]
            if line.hunk >= 0 and line.change is None:
                return position
            position += step
        return self.position

    def toggle(self) -> None:
        """Accept what the cursor is on, or reject it: a change, or the shown part of its hunk."""
        line = self.here
        if line.change is not None:
            self._set([line.change], line.hunk, line.change.place not in self.outcome.accepted)
        elif line.hunk >= 0:
            self.toggle_hunk()

    def toggle_hunk(self) -> None:
        """Reject the shown part of the cursor's hunk; accept it if any of it is rejected."""
        number = self.here.hunk
        if number < 0:
            return
        changes = [change for change in self.hunk(number).changes if self._is_shown(change)]
        accept = any(change.place not in self.outcome.accepted for change in changes)
        self._set(changes, number, accept)

    def set_shown(self, *, accept: bool) -> None:
        """Accept all that is shown, or reject it."""
        for number, hunk in enumerate(self.proposal.hunks):
            self._set(filter(self._is_shown, hunk.changes), number, accept)

    def show_next_confidence(self) -> None:
        """Show all, then the certain ones only, the likely, the unsure, and all again.

        Confidences that no change has are passed over.
        """
        there = {change.confidence for change in self.proposal.changes}
        kinds = [None, *(kind for kind in Confidence if kind in there)]
        self.only = kinds[(kinds.index(self.only) + 1) % len(kinds)]
        here = self.here
        self.lines = self._shown()
        place = here.change.place if here.change is not None else -1
        self.position = next(
            (n for n, line in enumerate(self.lines) if line.change and line.change.place >= place),
            0,
        )

    def _set(self, changes: Iterable[Change], number: int, accept: bool) -> None:
        accepted = self.outcome.accepted
        before = len(accepted)
        self.outcome.set([change.place for change in changes], accept=accept)
        self._taken[number] += len(accepted) - before

    def _is_shown(self, change: Change) -> bool:
        return self.only is None or change.confidence is self.only

    def _shown(self) -> list[Line]:
        lines = [Line(note=note) for note in self.proposal.notes]
        for number, hunk in enumerate(self.proposal.hunks):
            shown = [
                Line(hunk=number, change=change)
                for change in hunk.changes
                if self._is_shown(change)
            ]
            if shown:
                lines.append(Line(hunk=number))
                lines += shown
        return lines
