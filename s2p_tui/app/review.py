"""The state of a review: the accepted changes, the shown lines and the cursor."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from s2p_tui.alignment.alignment import Alignment
from s2p_tui.alignment.edits import SetRows, apply
from s2p_tui.alignment.fit import Verdict
from s2p_tui.alignment.transform import describe, show
from s2p_tui.app.text import many, wrap
from s2p_tui.app.theme import Symbols
from s2p_tui.app.wording import AUTHORS, part_taken, reason_of, together
from s2p_tui.errors import printable
from s2p_tui.proposals.proposal import Change, Confidence, Hunk, Proposal

if TYPE_CHECKING:
    from typing import Literal

    from s2p_tui.alignment.alignment import Row
    from s2p_tui.session.session import Session


class ReviewLine(NamedTuple):
    """One line of the list: a note, a hunk's title, or a change.

    Attributes:
        note: What the proposer says; empty for the others.
        hunk: The hunk's number; -1 for a note.
        change: The change; None for a title or a note.
    """

    note: str = ""
    hunk: int = -1
    change: Change | None = None


class Effects(NamedTuple):
    """Consequences of an accepted part of a proposal for other rows and the bench.

    Attributes:
        emptied: Rows that would lose their entries and get none.
        benched: Keys that would go to the bench.
    """

    emptied: frozenset[int]
    benched: tuple[str, ...]


class Reviewing:
    """A proposal under review; at first what it has ticked is accepted, and all of it is shown.

    Attributes:
        proposal: What is reviewed.
        accepted: The rows of the accepted changes.
        only: The one confidence that is shown; None for all.
        line_number: The line under the cursor.
        lines: What is shown.
    """

    def __init__(self, alignment: Alignment, proposal: Proposal) -> None:
        self.proposal = proposal
        self.only: Confidence | None = None
        self.line_number = 0
        self._alignment = alignment
        self.accepted = {
            change.index for hunk in proposal.hunks if hunk.ticked for change in hunk.changes
        }
        self._taken = [hunk.ticked * len(hunk.changes) for hunk in proposal.hunks]
        self._effects: Effects | None = None
        self.lines = self._shown()
        self.line_number = next((n for n, line in enumerate(self.lines) if line.change), 0)

    @cached_property
    def changes(self) -> dict[int, Change]:
        """The changes by their rows."""
        return {change.index: change for change in self.proposal.changes}

    @cached_property
    def total(self) -> int:
        """The number of changes."""
        return sum(len(hunk.changes) for hunk in self.proposal.hunks)

    @property
    def effects(self) -> Effects:
        """The consequences of the accepted changes elsewhere, found by making the edit."""
        if self._effects is None:
            before = self._alignment
            after = apply(before, self.proposal.accepted(self.accepted))
            emptied = after.rows.emptied(before.rows)
            benched = dict.fromkeys(after.bench)
            for key in before.bench:
                benched.pop(key, None)
            others = frozenset(emptied).difference(self.accepted)
            self._effects = Effects(others, tuple(benched))
        return self._effects

    @property
    def here(self) -> ReviewLine:
        """The line under the cursor; an empty note if nothing is shown."""
        return self.lines[self.line_number] if self.lines else ReviewLine()

    def hunk(self, number: int) -> Hunk:
        return self.proposal.hunks[number]

    def taken(self, number: int) -> tuple[int, int]:
        """Return the numbers of accepted changes and of all changes of a hunk."""
        return self._taken[number], len(self.hunk(number).changes)

    def go(self, number: int) -> None:
        self.line_number = max(0, min(number, len(self.lines) - 1))

    def next_hunk(self, step: Literal[1, -1]) -> int:
        """The nearest title after (or before) the cursor; the cursor's line if there is none."""
        number = self.line_number + step
        while 0 <= number < len(self.lines):
            line = self.lines[number]
            if line.hunk >= 0 and line.change is None:
                return number
            number += step
        return self.line_number

    def toggle(self) -> None:
        """Accept what the cursor is on, or reject it: a change, or the shown part of its hunk."""
        line = self.here
        if line.change is not None:
            self._set([line.change], line.hunk, line.change.index not in self.accepted)
        elif line.hunk >= 0:
            self.toggle_hunk()

    def toggle_hunk(self) -> None:
        """Reject the shown part of the cursor's hunk; accept it if any of it is rejected."""
        number = self.here.hunk
        if number < 0:
            return
        changes = [change for change in self.hunk(number).changes if self._is_shown(change)]
        accept = any(change.index not in self.accepted for change in changes)
        self._set(changes, number, accept)

    def set_shown(self, *, accept: bool) -> None:
        """Accept all that is shown, or reject it.

        Hunks that are not ticked by themselves undo decisions: they are accepted one by one.
        """
        for number, hunk in enumerate(self.proposal.hunks):
            if hunk.ticked or not accept:
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
        index = here.change.index if here.change is not None else -1
        self.line_number = next(
            (n for n, line in enumerate(self.lines) if line.change and line.change.index >= index),
            0,
        )

    def _set(self, changes: Iterable[Change], number: int, accept: bool) -> None:
        before, indices = len(self.accepted), [change.index for change in changes]
        (self.accepted.update if accept else self.accepted.difference_update)(indices)
        self._taken[number] += len(self.accepted) - before
        self._effects = None

    def _is_shown(self, change: Change) -> bool:
        return self.only is None or change.confidence is self.only

    def _shown(self) -> list[ReviewLine]:
        lines = [ReviewLine(note=note) for note in self.proposal.notes]
        for number, hunk in enumerate(self.proposal.hunks):
            shown = [
                ReviewLine(hunk=number, change=change)
                for change in hunk.changes
                if self._is_shown(change)
            ]
            if shown:
                lines.append(ReviewLine(hunk=number))
                lines += shown
        return lines


GAP = "(gap)"
_MOST_NAMED = 2
_MOST_LINES = 3


def taken_in_words(row: Row, symbols: Symbols) -> tuple[str, str]:
    """Return the row's source in words: the entry's name, and its transform."""
    if row.source is None:
        return (GAP if row.gap else symbols.nothing), ""
    words = symbols.plain(describe(row.source))
    if not row.keys:
        return words, ""
    name = printable(together(row.keys, symbols.ellipsis), ascii_only=symbols.is_ascii)
    if part := part_taken(row.source):
        return name + part, ""
    return name, words


def verdict_of(session: Session, reviewing: Reviewing, change: Change) -> Verdict:
    """Return the verdict on the changed row, with the proposal for the rest of its layer."""
    siblings = session.verdicts.company.siblings(change.index)
    changes = [change, *(reviewing.changes[n] for n in siblings if n in reviewing.changes)]
    edit = SetRows(tuple((change.index, change.new) for change in changes))
    return session.verdict_after(change.index, edit)


def about(
    session: Session, reviewing: Reviewing, line: ReviewLine, symbols: Symbols, width: int
) -> list[str]:
    """Lines about the line under the cursor."""
    if line.change is None:
        if line.hunk < 0:
            return wrap(printable(line.note), width, _MOST_LINES)
        hunk = reviewing.hunk(line.hunk)
        taken, count = reviewing.taken(line.hunk)
        accepted = f"{taken:,} of {many(count, 'row')} accepted, {hunk.confidence}"
        head = f"{printable(hunk.title)}  {accepted}"
        return [head, *(wrap(printable(hunk.reason), width, _MOST_LINES) if hunk.reason else [])]
    change = line.change
    leaf = session.target.skeleton[change.index]
    owner = f"  {printable(leaf.owner)}" if leaf.owner else ""
    old = session.verdict(change.index)
    why = f": {printable(reason_of(change.new))}" if change.new.why else ""
    sure = f"{change.confidence}, {AUTHORS[change.new.by]}{why}"
    new = verdict_of(session, reviewing, change)
    lines = [
        f"{printable(leaf.path)}  {show(leaf.shape)} {leaf.dtype}{owner}",
        f"now {_row(session, change.old, old, symbols)}",
        *wrap(f"new {_row(session, change.new, new, symbols)}", width, 2),
        *wrap(sure, width, _MOST_LINES),
    ]
    if change.objection:
        lines += wrap(f"but {printable(change.objection)}", width, 2)
    return lines


def _row(session: Session, row: Row, verdict: Verdict | None, symbols: Symbols) -> str:
    state_dict = session.checkpoint.state_dict
    name = taken_in_words(row, symbols)[0]
    if len(row.keys) == 1:
        entry = state_dict[row.keys[0]]
        name = f"{name}  {show(entry.shape)} {entry.dtype}"
    if verdict is None:
        return name
    why = f": {printable(verdict.why)}" if verdict.why else ""
    return f"{name}  {symbols.fits[verdict.fit]} {verdict.fit}{why}"


def consequences(session: Session, reviewing: Reviewing) -> str:
    """Return the effects on rows and entries outside the accepted part; empty if none."""
    emptied, benched = reviewing.effects
    parts: list[str] = []
    if emptied:
        paths = [session.target.skeleton[index].path for index in sorted(emptied)[:_MOST_NAMED]]
        parts.append(f"{_named(paths, len(emptied), 'row')} left empty")
    if benched:
        named = sorted(benched, key=session.checkpoint.state_dict.index)
        parts.append(f"{_named(named, len(named), 'entry', 'entries')} to the bench")
    return "; ".join(parts)


def _named(names: Collection[str], count: int, word: str, plural: str = "") -> str:
    if count <= _MOST_NAMED:
        return " and ".join(map(printable, names))
    return many(count, word, plural)


def summary(reviewing: Reviewing) -> str:
    """Return the counts: `3 of 12 accepted`."""
    shown = f", only {reviewing.only} shown" if reviewing.only is not None else ""
    return f"{len(reviewing.accepted):,} of {reviewing.total:,} accepted{shown}"
