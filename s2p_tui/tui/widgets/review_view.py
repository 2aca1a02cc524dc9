"""A proposal's lines: what is accepted, the leaf, what it takes now and what it would take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len

from s2p_tui.core.proposal import Change, Confidence
from s2p_tui.tui import review_words
from s2p_tui.tui.amounts import many
from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.text import clip, fit, inert
from s2p_tui.tui.widgets.lines import Part

if TYPE_CHECKING:
    from s2p_tui.core.rows import Row
    from s2p_tui.core.verdict import Verdict
    from s2p_tui.session import Session
    from s2p_tui.tui.reviewing import Line, Reviewing

_BOX = 6
_INDENT = 2
_SIGN = 3
_SURE = 10
_LEAF_FROM = 60
_SURE_FROM = 76
_FEWEST_FOR_NAME = 10
_STYLES = {
    Confidence.CERTAIN: "exact",
    Confidence.LIKELY: "doubtful",
    Confidence.UNSURE: "mismatched",
}


class ReviewLines:
    """Draws the lines of a proposal under review.

    Args:
        session: What the proposal was made for.
        reviewing: The proposal and what is accepted of it.
        glyphs: The signs to draw with.
    """

    def __init__(self, session: Session, reviewing: Reviewing, glyphs: Glyphs) -> None:
        self._session = session
        self._reviewing = reviewing
        self._glyphs = glyphs
        self._verdicts: dict[int, Verdict] = {}

    def __call__(self, position: int, width: int) -> list[Part]:
        """The parts of a line; see `LineList`."""
        line = self._reviewing.lines[position]
        here = self._glyphs.cursor if position == self._reviewing.position else " "
        if line.change is not None:
            return self._change(line.change, here, width)
        if line.hunk < 0:
            return [(f"{here}note: {self._glyphs.plain(inert(line.note))}", "doubtful")]
        return self._title(line, here, width)

    def heading(self, width: int) -> str:
        """What the columns are, for the same width."""
        leaf, side, sure = _columns(width)
        words = " " * (1 + _BOX) + (fit("leaf", leaf) if leaf else "")
        words += " " * _SIGN + fit("now", side) + " " * _SIGN + fit("proposed", side)
        return words + (" sure" if sure else "")

    def _title(self, line: Line, here: str, width: int) -> list[Part]:
        glyphs, hunk = self._glyphs, self._reviewing.hunk(line.hunk)
        taken, count = self._reviewing.taken(line.hunk)
        box = "[x]" if taken == count else "[-]" if taken else "[ ]"
        title = glyphs.plain(inert(hunk.title))
        rest = f"  {many(count, 'row')}, "
        reason = f"  {glyphs.plain(inert(hunk.reason))}" if hunk.reason else ""
        room = width - 1 - len(box) - 1 - len(rest) - len(hunk.confidence)
        title = fit(title, min(cell_len(title), max(1, room)), ellipsis=glyphs.ellipsis)
        return [
            (f"{here}{box} ", "strong"),
            (title, "strong"),
            (rest, "muted"),
            (str(hunk.confidence), _STYLES[hunk.confidence]),
            (clip(reason, max(0, room - cell_len(title)), ellipsis=glyphs.ellipsis), "muted"),
        ]

    def _change(self, change: Change, here: str, width: int) -> list[Part]:
        glyphs = self._glyphs
        accepted = change.place in self._reviewing.outcome.accepted
        box = "[x]" if accepted else "[ ]"
        leaf, side, sure = _columns(width)
        old = self._session.verdict(change.place)
        new = self._verdict(change)
        loses = change.place in self._reviewing.outcome.emptied
        parts: list[Part] = [(f"{here}{' ' * _INDENT}{box} ", "")]
        if leaf:
            path = glyphs.plain(inert(self._session.target.skeleton[change.place].path))
            parts.append((fit(path, leaf, ellipsis=glyphs.ellipsis), ""))
        if old is not None:
            parts.append((f" {glyphs.fits[old.fit]} ", old.fit.value))
        parts.append((self._side(change.old, side), "muted" if accepted or loses else ""))
        parts.append((f" {glyphs.fits[new.fit]} ", new.fit.value))
        parts.append((self._side(change.new, side), "" if accepted else "muted"))
        if sure:
            doubt = "!" if change.objection else ""
            words = fit(f" {change.confidence}{doubt}", sure)
            parts.append((words, _STYLES[change.confidence]))
        return parts

    def _side(self, row: Row, width: int) -> str:
        name, words = review_words.taken_in_words(row, self._glyphs)
        dots = self._glyphs.ellipsis
        room = width - cell_len(name) - 2
        if words and room < len(words):
            room = max(min(len(words), width // 2), width - cell_len(name) - 2)
        if not words or width - room - 2 < _FEWEST_FOR_NAME:
            return fit(name, width, ellipsis=dots)
        name = fit(name, min(cell_len(name), width - room - 2), ellipsis=dots)
        return fit(f"{name}  {clip(words, room, ellipsis=dots)}", width, ellipsis=dots)

    def _verdict(self, change: Change) -> Verdict:
        if change.place not in self._verdicts:
            self._verdicts[change.place] = review_words.verdict_of(self._session, change)
        return self._verdicts[change.place]


def _columns(width: int) -> tuple[int, int, int]:
    """Cells of the leaf, of each of the two sides, and of the confidence; 0 for none."""
    sure = _SURE if width >= _SURE_FROM else 0
    room = width - 1 - _BOX - 2 * _SIGN - sure
    if width < _LEAF_FROM:
        return 0, max(1, room // 2), sure
    leaf = room // 3
    return leaf, (room - leaf) // 2, sure
