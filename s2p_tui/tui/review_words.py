"""What the review screen says, as plain text."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from s2p_tui.core.evidence import weigh
from s2p_tui.core.proposal import Change
from s2p_tui.core.transform import describe, show
from s2p_tui.core.verdict import Verdict
from s2p_tui.tui.amounts import many
from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.text import inert, wrap
from s2p_tui.tui.together import part_taken, together
from s2p_tui.tui.words import AUTHORS

if TYPE_CHECKING:
    from s2p_tui.core.rows import Row
    from s2p_tui.session import Session
    from s2p_tui.tui.reviewing import Line, Reviewing

GAP = "(gap)"
_MOST_NAMED = 2
_MOST_LINES = 3


def taken_in_words(row: Row, glyphs: Glyphs) -> tuple[str, str]:
    """What a row takes: a name, and what is done to it."""
    if row.source is None:
        return (GAP if row.gap else glyphs.nothing), ""
    words = glyphs.plain(describe(row.source))
    if not row.keys:
        return words, ""
    name = inert(together(row.keys, glyphs.ellipsis), ascii_only=glyphs.is_ascii)
    if part := part_taken(row.source):
        return name + part, ""
    return name, words


def verdict_of(session: Session, change: Change) -> Verdict:
    """How good the row would be."""
    return weigh(
        change.place,
        change.new,
        session.checkpoint.state_dict,
        session.target.skeleton,
        session.evidence,
    )


def about(
    session: Session, reviewing: Reviewing, line: Line, glyphs: Glyphs, width: int
) -> list[str]:
    """Lines about the line under the cursor."""
    if line.change is None:
        if line.hunk < 0:
            return wrap(inert(line.note), width, _MOST_LINES)
        hunk = reviewing.hunk(line.hunk)
        taken, count = reviewing.taken(line.hunk)
        head = f"{inert(hunk.title)}  {taken:,} of {many(count, 'row')} accepted, {hunk.confidence}"
        return [head, *(wrap(inert(hunk.reason), width, _MOST_LINES) if hunk.reason else [])]
    change = line.change
    leaf = session.target.skeleton[change.place]
    owner = f"  {inert(leaf.owner)}" if leaf.owner else ""
    old = session.verdict(change.place)
    why = f": {inert(change.new.why)}" if change.new.why else ""
    sure = f"{change.confidence}, {AUTHORS[change.new.by]}{why}"
    lines = [
        f"{inert(leaf.path)}  {show(leaf.shape)} {leaf.dtype}{owner}",
        f"now {_row(session, change.old, old, glyphs)}",
        *wrap(f"new {_row(session, change.new, verdict_of(session, change), glyphs)}", width, 2),
        *wrap(sure, width, _MOST_LINES),
    ]
    if change.objection:
        lines += wrap(f"but {inert(change.objection)}", width, 2)
    return lines


def _row(session: Session, row: Row, verdict: Verdict | None, glyphs: Glyphs) -> str:
    state_dict = session.checkpoint.state_dict
    name = taken_in_words(row, glyphs)[0]
    if len(row.keys) == 1:
        entry = state_dict[row.keys[0]]
        name = f"{name}  {show(entry.shape)} {entry.dtype}"
    if verdict is None:
        return name
    why = f": {inert(verdict.why)}" if verdict.why else ""
    return f"{name}  {glyphs.fits[verdict.fit]} {verdict.fit}{why}"


def consequences(session: Session, reviewing: Reviewing) -> str:
    """What becomes of rows and entries that are not among the accepted ones; empty if nothing."""
    outcome = reviewing.outcome
    parts: list[str] = []
    if outcome.emptied:
        paths = [session.target.skeleton[place].path for place in sorted(outcome.emptied)[:3]]
        parts.append(f"{_named(paths, len(outcome.emptied), 'row')} left empty")
    if outcome.benched:
        keys = session.checkpoint.state_dict
        few = len(outcome.benched) <= _MOST_NAMED
        named = sorted(outcome.benched, key=keys.position) if few else outcome.benched
        parts.append(f"{_named(named, len(named), 'entry', 'entries')} to the bench")
    return "; ".join(parts)


def _named(names: Collection[str], count: int, word: str, plural: str = "") -> str:
    if count <= _MOST_NAMED:
        return " and ".join(map(inert, names))
    return many(count, word, plural)


def summary(reviewing: Reviewing) -> str:
    """How much is accepted, and what is shown: `3 of 12 accepted`."""
    shown = f", only {reviewing.only} shown" if reviewing.only is not None else ""
    return f"{len(reviewing.outcome.accepted):,} of {reviewing.total:,} accepted{shown}"
