"""The review screen: a proposal is accepted whole, by hunk, by row, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from s2p_tui.app import review, wording
from s2p_tui.app.review import Reviewing
from s2p_tui.app.text import clip, fit, many
from s2p_tui.app.theme import BY_COLUMNS, BY_LINES, Symbols
from s2p_tui.app.widgets.frame import framed, keys_line, rule
from s2p_tui.app.widgets.line_list import LineList, ListKeys
from s2p_tui.app.widgets.lines import Lines, Part
from s2p_tui.errors import printable
from s2p_tui.proposals.proposal import Change, Confidence

if TYPE_CHECKING:
    from s2p_tui.alignment.alignment import Row
    from s2p_tui.alignment.fit import Verdict
    from s2p_tui.app.review import ReviewLine
    from s2p_tui.session.session import Session

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
    """Draws the lines of a proposal under review."""

    def __init__(self, session: Session, reviewing: Reviewing, symbols: Symbols) -> None:
        self._session = session
        self._reviewing = reviewing
        self._symbols = symbols
        self._verdicts: dict[int, Verdict] = {}

    def __call__(self, number: int, width: int) -> list[Part]:
        """The parts of a line; see `LineList`."""
        line = self._reviewing.lines[number]
        here = self._symbols.cursor if number == self._reviewing.line_number else " "
        if line.change is not None:
            return self._change(line.change, here, width)
        if line.hunk < 0:
            return [(f"{here}note: {self._symbols.plain(printable(line.note))}", "doubtful")]
        return self._title(line, here, width)

    def heading(self, width: int) -> str:
        """Return the titles of the columns, for the same width."""
        leaf, side, sure = _columns(width)
        words = " " * (1 + _BOX) + (fit("leaf", leaf) if leaf else "")
        words += " " * _SIGN + fit("now", side) + " " * _SIGN + fit("proposed", side)
        return words + (" sure" if sure else "")

    def _title(self, line: ReviewLine, here: str, width: int) -> list[Part]:
        symbols, hunk = self._symbols, self._reviewing.hunk(line.hunk)
        taken, count = self._reviewing.taken(line.hunk)
        box = "[x]" if taken == count else "[-]" if taken else "[ ]"
        title = symbols.plain(printable(hunk.title))
        rest = f"  {many(count, 'row')}, "
        reason = f"  {symbols.plain(printable(hunk.reason))}" if hunk.reason else ""
        room = width - 1 - len(box) - 1 - len(rest) - len(hunk.confidence)
        title = fit(title, min(cell_len(title), max(1, room)), ellipsis=symbols.ellipsis)
        return [
            (f"{here}{box} ", "strong"),
            (title, "strong"),
            (rest, "muted"),
            (str(hunk.confidence), _STYLES[hunk.confidence]),
            (clip(reason, max(0, room - cell_len(title)), ellipsis=symbols.ellipsis), "muted"),
        ]

    def _change(self, change: Change, here: str, width: int) -> list[Part]:
        symbols = self._symbols
        accepted = change.index in self._reviewing.accepted
        box = "[x]" if accepted else "[ ]"
        leaf, side, sure = _columns(width)
        old = self._session.verdict(change.index)
        new = self._verdict(change)
        loses = change.index in self._reviewing.effects.emptied
        parts: list[Part] = [(f"{here}{' ' * _INDENT}{box} ", "")]
        if leaf:
            path = symbols.plain(printable(self._session.target.skeleton[change.index].path))
            parts.append((fit(path, leaf, ellipsis=symbols.ellipsis), ""))
        if old is not None:
            parts.append((f" {symbols.fits[old.fit]} ", old.fit.value))
        parts.append((self._side(change.old, side), "muted" if accepted or loses else ""))
        parts.append((f" {symbols.fits[new.fit]} ", new.fit.value))
        parts.append((self._side(change.new, side), "" if accepted else "muted"))
        if sure:
            doubt = "!" if change.objection else ""
            words = fit(f" {change.confidence}{doubt}", sure)
            parts.append((words, _STYLES[change.confidence]))
        return parts

    def _side(self, row: Row, width: int) -> str:
        name, words = review.taken_in_words(row, self._symbols)
        dots = self._symbols.ellipsis
        room = width - cell_len(name) - 2
        if words and room < len(words):
            room = max(min(len(words), width // 2), width - cell_len(name) - 2)
        if not words or width - room - 2 < _FEWEST_FOR_NAME:
            return fit(name, width, ellipsis=dots)
        name = fit(name, min(cell_len(name), width - room - 2), ellipsis=dots)
        return fit(f"{name}  {clip(words, room, ellipsis=dots)}", width, ellipsis=dots)

    def _verdict(self, change: Change) -> Verdict:
        if change.index not in self._verdicts:
            self._verdicts[change.index] = review.verdict_of(self._session, self._reviewing, change)
        return self._verdicts[change.index]


def _columns(width: int) -> tuple[int, int, int]:
    """Cells of the leaf, of each of the two sides, and of the confidence; 0 for none."""
    sure = _SURE if width >= _SURE_FROM else 0
    room = width - 1 - _BOX - 2 * _SIGN - sure
    if width < _LEAF_FROM:
        return 0, max(1, room // 2), sure
    leaf = room // 3
    return leaf, (room - leaf) // 2, sure


_KEYS = (
    ("Enter", "take"),
    ("Esc", "reject"),
    ("space", "toggle"),
    ("h", "hunk"),
    ("a", "all"),
    ("r", "none"),
    ("f", "filter"),
    ("n/N", "next hunk"),
)
_DETAILS = 5


class Review(ListKeys, Screen[frozenset[int] | None]):
    """Shows a proposal and is dismissed with the rows that were accepted, or None if none were.

    Changes nothing: whoever shows it makes the edit, `proposal.accepted(indices)`.

    Args:
        session: What the proposal was made for; it must not change meanwhile.
        reviewing: The proposal, which has at least one change.
        can_widen: Whether L closes this in favour of a wider proposal.

    Attributes:
        reviewing: What is accepted and where the cursor is.
        widened: Whether it was closed for that.
    """

    AUTO_FOCUS = ""
    HORIZONTAL_BREAKPOINTS = BY_COLUMNS
    VERTICAL_BREAKPOINTS = BY_LINES
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "take", show=False),
        Binding("escape,q,ctrl+c", "reject", show=False),
        Binding("space", "toggle_here", show=False),
        Binding("h", "toggle_hunk", show=False),
        Binding("a", "set_all(True)", show=False),
        Binding("r", "set_all(False)", show=False),
        Binding("f", "filter", show=False),
        Binding("L", "widen", show=False),
        Binding("n,tab", "hunk(1)", show=False),
        Binding("N,shift+tab", "hunk(-1)", show=False),
        *ListKeys.bindings(),
    ]

    def __init__(
        self, session: Session, reviewing: Reviewing, symbols: Symbols, *, can_widen: bool = False
    ) -> None:
        super().__init__()
        self.widened = False
        self._can_widen = can_widen
        self.reviewing = reviewing
        self._session = session
        self._symbols = symbols
        self._draw = ReviewLines(session, self.reviewing, symbols)

    def compose(self) -> ComposeResult:
        changes = LineList(self._draw, self._symbols, id="changes")
        yield from framed(
            [Lines(id="columns"), changes], [Lines(_DETAILS, id="change"), Lines(id="status")]
        )

    def on_mount(self) -> None:
        self._show_lines()

    def on_resize(self) -> None:
        self.call_after_refresh(self._show)

    def action_take(self) -> None:
        self.dismiss(frozenset(self.reviewing.accepted) or None)

    def action_reject(self) -> None:
        self.dismiss(None)

    def action_widen(self) -> None:
        if self._can_widen:
            self.widened = True
            self.dismiss(None)

    def action_toggle_here(self) -> None:
        """Accept or reject a row, or the hunk whose title this is, and go down from a row."""
        self.reviewing.toggle()
        if self.reviewing.here.change is not None:
            self.reviewing.go(self.reviewing.line_number + 1)
        self._show_lines()

    def action_toggle_hunk(self) -> None:
        self.reviewing.toggle_hunk()
        self._show_lines()

    def action_set_all(self, accept: bool) -> None:
        self.reviewing.set_shown(accept=accept)
        self._show_lines()

    def action_filter(self) -> None:
        self.reviewing.show_next_confidence()
        self._show_lines()

    def action_hunk(self, step: Literal[1, -1]) -> None:
        self.go_to_line(self.reviewing.next_hunk(step))

    @property
    def line(self) -> int:
        """The line that the cursor is on."""
        return self.reviewing.line_number

    @property
    def line_count(self) -> int:
        return len(self.reviewing.lines)

    def show_line(self, line: int) -> None:
        self.reviewing.go(line)
        self.line_list.go(line)
        self._show()

    def _show_lines(self) -> None:
        if not self.has_list:
            return
        self.line_list.show(len(self.reviewing.lines), self.reviewing.line_number)
        self._show()

    def _show(self) -> None:
        if not self.has_list or not self.size.width:
            return
        reviewing, symbols, width = self.reviewing, self._symbols, self.size.width
        proposal = reviewing.proposal
        title = f"proposed {wording.AUTHORS[proposal.by]}"
        facts = [wording.many(reviewing.total, "row"), wording.many(len(proposal.hunks), "hunk")]
        top = rule(symbols, (title, *facts), symbols.corners[0] + symbols.corners[2], width)
        self.query_one("#top", Lines).set_line(0, (top, ""))
        columns = self._draw.heading(self.line_list.scrollable_content_region.width)
        self.query_one("#columns", Lines).set_line(0, (columns, "lines--muted"))
        self.query_one("#rule", Lines).set_line(
            0, (rule(symbols, ("details",), symbols.corners[3:5], width), "")
        )
        self._show_details()
        self._show_status()
        keys = (*_KEYS[:2], ("L", "outer block"), *_KEYS[2:]) if self._can_widen else _KEYS
        self.query_one("#bottom", Lines).set_line(0, *keys_line(symbols, keys, width))

    def _show_details(self) -> None:
        details = self.query_one("#change", Lines)
        room = max(1, self.query_one("#about").size.width - 2)
        about = review.about(
            self._session, self.reviewing, self.reviewing.here, self._symbols, room
        )
        short = self.has_class("-short")
        details.set_height(1 if short else max(_DETAILS, len(about)))
        for number in range(1 if short else max(_DETAILS, len(about))):
            line = about[number] if number < len(about) else ""
            details.set_line(number, (f" {self._symbols.plain(line)}", ""))

    def _show_status(self) -> None:
        said = review.consequences(self._session, self.reviewing)
        style = "lines--bad"
        if not self.reviewing.accepted:
            said, style = "Nothing is accepted: Enter changes nothing.", "lines--muted"
        elif not said:
            said, style = "Nothing else changes.", "lines--muted"
        counts = review.summary(self.reviewing)
        status = self.query_one("#status", Lines)
        room = max(0, self.query_one("#about").size.width - 1)
        line = self._symbols.plain(f" {said}")
        parts = wording.left_and_right(line, style, counts, room, self._symbols.ellipsis)
        status.set_line(0, *parts)
