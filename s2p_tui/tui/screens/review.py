"""A proposal beside what is there: accepted whole, hunk by hunk, row by row, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from s2p_tui.tui import review_words, words
from s2p_tui.tui.breakpoints import BY_COLUMNS, BY_LINES
from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.reviewing import Reviewing
from s2p_tui.tui.widgets.frame import rule
from s2p_tui.tui.widgets.framed import framed
from s2p_tui.tui.widgets.line_list import LineList
from s2p_tui.tui.widgets.lines import Lines, Part
from s2p_tui.tui.widgets.review_view import ReviewLines

if TYPE_CHECKING:
    from s2p_tui.session import Session

    ReviewScreen = Screen[frozenset[int] | None]
else:
    ReviewScreen = Screen

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


class Review(ReviewScreen):
    """Shows a proposal and is dismissed with the places that were accepted, or None if none were.

    Changes nothing: whoever shows it makes the edit, `proposal.accepted(places)`.

    Args:
        session: What the proposal was made for; it must not change meanwhile.
        reviewing: The proposal, which has at least one change.
        glyphs: The signs to draw with.
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
        Binding("down,j", "go(1)", show=False),
        Binding("up,k", "go(-1)", show=False),
        Binding("pagedown,ctrl+f", "page(2)", show=False),
        Binding("pageup,ctrl+b", "page(-2)", show=False),
        Binding("ctrl+d", "page(1)", show=False),
        Binding("ctrl+u", "page(-1)", show=False),
        Binding("home,g", "end(0)", show=False),
        Binding("end,G", "end(1)", show=False),
    ]

    def __init__(
        self, session: Session, reviewing: Reviewing, glyphs: Glyphs, *, can_widen: bool = False
    ) -> None:
        super().__init__()
        self.widened = False
        self._can_widen = can_widen
        self.reviewing = reviewing
        self._session = session
        self._glyphs = glyphs
        self._draw = ReviewLines(session, self.reviewing, glyphs)

    def compose(self) -> ComposeResult:
        """The changes, and all about the one that the cursor is on."""
        changes = LineList(self._draw, self._glyphs, id="changes")
        yield from framed(
            [Lines(id="columns"), changes], [Lines(_DETAILS, id="change"), Lines(id="status")]
        )

    def on_mount(self) -> None:
        """Start at the first change."""
        self._show_lines()

    def on_resize(self) -> None:
        """Lay the words out anew."""
        self.call_after_refresh(self._show)

    def action_take(self) -> None:
        """Close with what is accepted."""
        self.dismiss(frozenset(self.reviewing.outcome.accepted) or None)

    def action_reject(self) -> None:
        """Close with nothing."""
        self.dismiss(None)

    def action_widen(self) -> None:
        """Close in favour of a wider proposal."""
        if self._can_widen:
            self.widened = True
            self.dismiss(None)

    def action_toggle_here(self) -> None:
        """Accept or reject a row, or the hunk whose title this is, and go down from a row."""
        self.reviewing.toggle()
        if self.reviewing.here.change is not None:
            self.reviewing.go(self.reviewing.position + 1)
        self._show_lines()

    def action_toggle_hunk(self) -> None:
        """Accept or reject the hunk of this row."""
        self.reviewing.toggle_hunk()
        self._show_lines()

    def action_set_all(self, accept: bool) -> None:
        """Accept or reject all that is shown."""
        self.reviewing.set_shown(accept=accept)
        self._show_lines()

    def action_filter(self) -> None:
        """Show the rows of the next confidence only."""
        self.reviewing.show_next_confidence()
        self._show_lines()

    def action_hunk(self, step: Literal[1, -1]) -> None:
        """Go to the next or previous hunk."""
        self._go(self.reviewing.next_hunk(step))

    def action_go(self, step: int) -> None:
        """Move the cursor by lines."""
        self._go(self.reviewing.position + step)

    def action_page(self, halves: int) -> None:
        """Move the cursor by half pages."""
        self._go(self.reviewing.position + halves * self._list.half_page)

    def action_end(self, last: int) -> None:
        """Go to the first line, or to the last."""
        self._go(len(self.reviewing.lines) if last else 0)

    @on(LineList.Pressed)
    def pressed(self, event: LineList.Pressed) -> None:
        """Go where the mouse was pressed."""
        self._go(event.position)

    @property
    def _list(self) -> LineList:
        return self.query_one(LineList)

    def _go(self, position: int) -> None:
        self.reviewing.go(position)
        self._list.go(self.reviewing.position)
        self._show()

    def _show_lines(self) -> None:
        self._list.show(len(self.reviewing.lines), self.reviewing.position)
        self._show()

    def _show(self) -> None:
        if not self.is_mounted or not self.size.width:
            return
        reviewing, glyphs, width = self.reviewing, self._glyphs, self.size.width
        proposal = reviewing.proposal
        title = f"proposed {words.AUTHORS[proposal.by]}"
        facts = [words.many(reviewing.total, "row"), words.many(len(proposal.hunks), "hunk")]
        top = rule(glyphs, (title, *facts), glyphs.corners[0] + glyphs.corners[2], width)
        self.query_one("#top", Lines).set_line(0, (top, ""))
        columns = self._draw.heading(self._list.scrollable_content_region.width)
        self.query_one("#columns", Lines).set_line(0, (columns, "lines--muted"))
        self.query_one("#rule", Lines).set_line(
            0, (rule(glyphs, ("details",), glyphs.corners[3:5], width), "")
        )
        self._show_details()
        self._show_status()
        self._show_keys()

    def _show_details(self) -> None:
        details = self.query_one("#change", Lines)
        room = max(1, self.query_one("#about").size.width - 2)
        about = review_words.about(
            self._session, self.reviewing, self.reviewing.here, self._glyphs, room
        )
        short = self.has_class("-short")
        details.set_height(1 if short else max(_DETAILS, len(about)))
        for number in range(1 if short else max(_DETAILS, len(about))):
            line = about[number] if number < len(about) else ""
            details.set_line(number, (f" {self._glyphs.plain(line)}", ""))

    def _show_status(self) -> None:
        said = review_words.consequences(self._session, self.reviewing)
        style = "lines--bad"
        if not self.reviewing.outcome.accepted:
            said, style = "Nothing is accepted: Enter changes nothing.", "lines--muted"
        elif not said:
            said, style = "Nothing else changes.", "lines--muted"
        counts = review_words.summary(self.reviewing)
        status = self.query_one("#status", Lines)
        room = max(0, self.query_one("#about").size.width - 1)
        line = self._glyphs.plain(f" {said}")
        parts = words.left_and_right(line, style, counts, room, self._glyphs.ellipsis)
        status.set_line(0, *parts)

    def _show_keys(self) -> None:
        glyphs, width = self._glyphs, self.size.width
        parts: list[Part] = [(f"{glyphs.corners[5]} ", "")]
        used = 3
        keys = (*_KEYS[:2], ("L", "outer block"), *_KEYS[2:]) if self._can_widen else _KEYS
        for key, does in keys:
            if used + len(key) + len(does) + 3 > width - 1:
                break
            parts += [(key, "lines--strong"), (f" {does}  ", "lines--muted")]
            used += len(key) + len(does) + 3
        parts.append((glyphs.across * max(0, width - used) + glyphs.corners[6], ""))
        self.query_one("#bottom", Lines).set_line(0, *parts)
