"""The screen that lists entries for a leaf, or leaves for a benched entry."""

from __future__ import annotations

from string import ascii_letters, digits
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from rich.cells import cell_len
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Label

from s2p_tui.alignment.transform import describe, keys_of, show
from s2p_tui.app.commands.sources import SourceOffer, SourceOption
from s2p_tui.app.text import clip, fit, shorten_among
from s2p_tui.app.theme import BY_LINES, Symbols
from s2p_tui.app.widgets.frame import Box
from s2p_tui.app.widgets.line_list import LineList, ListKeys
from s2p_tui.app.widgets.lines import Lines, Part
from s2p_tui.app.wording import together
from s2p_tui.errors import printable

if TYPE_CHECKING:
    from s2p_tui.session.session import Session

_CHARACTERS = {character: character for character in f"{ascii_letters}{digits}"} | {
    "full_stop": ".",
    "underscore": "_",
    "minus": "-",
    "slash": "/",
    "colon": ":",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "space": " ",
}
_SHAPE = 16
_DTYPE = 11
_NAME_FROM = 16
_USED_FROM = 56


class Chosen(NamedTuple):
    """The choice made in the list.

    Attributes:
        option: The line.
        swap: Whether the row that loses its entry gets what this one held.
        holder: The row that takes the entry now.
    """

    option: SourceOption
    swap: bool
    holder: int | None


class ChooseSource(ListKeys, ModalScreen[Chosen | None]):
    """Typing filters, Enter takes, ctrl+x swaps, ctrl+a shows all, Esc leaves.

    Args:
        offered: The candidates.
        symbols: What is drawn with.
        can_swap: False where several rows take theirs at once.
    """

    AUTO_FOCUS = ""
    VERTICAL_BREAKPOINTS = BY_LINES
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,ctrl+c", "dismiss(None)", show=False),
        Binding("enter", "take(False)", show=False),
        Binding("ctrl+x", "take(True)", show=False),
        Binding("ctrl+a", "show_all", show=False),
        Binding("ctrl+n", "go(1)", show=False),
        Binding("ctrl+p", "go(-1)", show=False),
        *ListKeys.bindings(typing=True),
        Binding("backspace,ctrl+h", "take_back", show=False),
        Binding("ctrl+u,ctrl+w", "clear", show=False),
        # Keymap one by one, as what is typed before the list is drawn reaches its bindings alone.
        *(
            Binding(key, f"filter({character!r})", show=False)
            for key, character in _CHARACTERS.items()
        ),
    ]

    def __init__(self, offered: SourceOffer, symbols: Symbols, *, can_swap: bool = True) -> None:
        super().__init__()
        self._can_swap = can_swap
        self._offer = offered
        self._symbols = symbols
        self._at = 0
        self._query = ""

    def compose(self) -> ComposeResult:
        """Compose the target, the filter, the list, and the details of the current line."""
        title = "Source" if self._offer.key is None else "Leaf"
        swaps = "  ctrl+x swaps" if self._can_swap else ""
        keys = f"Enter takes{swaps}  ctrl+a all  type to filter  Esc leaves"
        with Box(self._symbols, title, keys):
            yield Label(Content(self._symbols.plain(self._heading())), id="what")
            yield Lines(id="filter")
            yield LineList(self._draw, self._symbols, id="candidates")
            yield Label("", id="why")

    def on_mount(self) -> None:
        self._show()

    def on_resize(self) -> None:
        self.call_after_refresh(self._explain)

    def on_key(self, event: events.Key) -> None:
        if event.is_printable and event.character not in (None, *_CHARACTERS.values()):
            event.stop()
            self.action_filter(event.character or "")

    def action_filter(self, character: str) -> None:
        self._search(self._query + character)

    def action_take_back(self) -> None:
        self._search(self._query[:-1])

    def action_clear(self) -> None:
        self._search("")

    def action_show_all(self) -> None:
        """List what can never be converted too, or leave it out again."""
        self._offer.shows_all = not self._offer.shows_all
        self._search(self._query)

    def action_take(self, swap: bool) -> None:
        if self._offer.listed and (self._can_swap or not swap):
            option = self._offer.option(self._at)
            self.dismiss(Chosen(option, swap, self._offer.holder(option.source)))

    @property
    def line(self) -> int:
        """The line that the cursor is on."""
        return self._at

    @property
    def line_count(self) -> int:
        return len(self._offer.listed)

    def show_line(self, line: int) -> None:
        self._at = line
        self.line_list.go(line)
        self._explain()

    @property
    def _session(self) -> Session:
        return self._offer.session

    def _heading(self) -> str:
        session, offer = self._session, self._offer
        if offer.key is not None:
            entry = session.checkpoint.state_dict[offer.key]
            return f"{printable(entry.key)}  {show(entry.shape)} {entry.dtype}"
        leaf = session.target.skeleton[offer.index]
        owner = f"  {printable(leaf.owner)}" if leaf.owner else ""
        return f"{printable(leaf.path)}  {show(leaf.shape)} {leaf.dtype}{owner}"

    def _search(self, query: str) -> None:
        """List what is typed, best first."""
        self._query = query
        self._offer.search(query)
        self._at = 0
        self._show()

    def _show(self) -> None:
        if not self.has_list:
            return
        shown = self._symbols.plain(printable(self._query))
        hint = ("part of a name", "lines--muted")
        prompt = self.query_one("#filter", Lines)
        hidden = f"  ctrl+a: {self._offer.hidden} more, which cannot be converted"
        prompt.set_line(
            0,
            ("/ ", "lines--muted"),
            (shown, "lines--strong") if shown else hint,
            (hidden if self._offer.hidden else "", "lines--muted"),
        )
        self.line_list.show(len(self._offer.listed), self._at)
        self._explain()

    def _draw(self, number: int, width: int) -> list[Part]:
        option, symbols = self._offer.option(number), self._symbols
        name, shape, dtype = self._named(option)
        used = self._used(option)
        wide = width >= _USED_FROM + _NAME_FROM
        room = width - 4 - _SHAPE - (_DTYPE + width // 4 if wide else 0)
        here = symbols.cursor if number == self._at else " "
        parts: list[Part] = [
            (f"{here} ", ""),
            (f"{symbols.fits[option.verdict.fit]} ", option.verdict.fit.value),
            (fit(self._shortened(number, name, room), max(1, room), ellipsis=symbols.ellipsis), ""),
            (fit(f" {shape}", _SHAPE, ellipsis=symbols.ellipsis), "muted"),
        ]
        if wide:
            parts.append((fit(f" {dtype}", _DTYPE, ellipsis=symbols.ellipsis), "muted"))
            beside = width // 4 - 1
            used = clip(used, beside, ellipsis=symbols.ellipsis)
            parts.append((f" {fit(used, beside, ellipsis=symbols.ellipsis)}", "muted"))
        return parts

    def _shortened(self, number: int, name: str, room: int) -> str:
        """Return a name in so many cells, unlike those of other lines."""
        if cell_len(name) <= room:
            return name
        names = (self._symbols.plain(printable(one)) for one in self._offer.names())
        others = [other for at, other in enumerate(names) if at != number]
        return shorten_among(name, others, max(1, room), ellipsis=self._symbols.ellipsis)

    def _named(self, option: SourceOption) -> tuple[str, str, str]:
        """Name, shape and dtype of what is listed."""
        session, symbols = self._session, self._symbols
        if self._offer.key is not None:
            leaf = session.target.skeleton[option.index]
            return symbols.plain(printable(leaf.path)), symbols.plain(show(leaf.shape)), leaf.dtype
        keys = keys_of(option.source)
        if not keys:
            return describe(option.source), "", ""
        entry = session.checkpoint.state_dict[keys[0]]
        name = symbols.plain(printable(together(keys, symbols.ellipsis)))
        return name, symbols.plain(show(entry.shape)), entry.dtype

    def _used(self, option: SourceOption) -> str:
        """Return where an entry is used now, or a leaf's present source."""
        session = self._session
        if self._offer.key is not None:
            row = session.alignment.rows[option.index]
            taken = printable(together(row.keys)) if row.keys else "a gap" if row.gap else "nothing"
            return self._symbols.plain(f"takes {taken}")
        holder = self._offer.holder(option.source)
        if holder is None:
            return "on the bench"
        if holder == self._offer.index:
            return "here"
        path = session.target.skeleton[holder].path
        return self._symbols.plain(f"row {holder + 1} {printable(path)}")

    def _explain(self) -> None:
        """Say how good the row would be and why, and where the entry is now."""
        if not self._offer.listed:
            hidden = self._offer.hidden
            none = "No name is like this."
            if hidden:
                none = f"Nothing that fits: ctrl+a shows {hidden} that cannot be converted."
            self.query_one("#why", Label).update(none)
            return
        option = self._offer.option(self._at)
        words = describe(option.source)
        verdict = option.verdict
        why = f": {printable(verdict.why)}" if verdict.why else ""
        said = f"{self._used(option)}; {verdict.fit}{why}"
        if words and words not in verdict.why:
            said = f"{said}; {words}"
        self.query_one("#why", Label).update(Content(self._symbols.plain(said)))
