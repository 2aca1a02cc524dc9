"""The kinds view: one line per kind of row, where keys act on all rows of the kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from s2p_tui.alignment.fit import Fit, Verdict
from s2p_tui.alignment.transform import Shape, show
from s2p_tui.app import wording
from s2p_tui.app.background import app_of
from s2p_tui.app.kinds import Kind, Kinds
from s2p_tui.app.screens.help import Help
from s2p_tui.app.screens.look import Look
from s2p_tui.app.text import fit, many, shorten_among
from s2p_tui.app.theme import BY_COLUMNS, BY_LINES, Symbols
from s2p_tui.app.widgets.frame import framed, keys_line, rule
from s2p_tui.app.widgets.line_list import LineList, ListKeys
from s2p_tui.app.widgets.lines import Lines, Part
from s2p_tui.app.widgets.list_line import Needs, lay_out_columns, widest
from s2p_tui.errors import printable

if TYPE_CHECKING:
    from s2p_tui.app.screens.main import Workspace

_KEYS = (
    ("Enter", "its rows"),
    ("y", "trust"),
    ("t", "transform"),
    ("e", "entry"),
    ("i", "look"),
    ("s", "gap"),
    ("Del", "bench"),
    ("n", "next problem"),
    ("u", "undo"),
    ("c", "convert"),
    ("Esc", "back"),
)
_SETTLING = ("trust", "transform", "choose", "gap")
_DETAILS = 4
_CONTENTS = 9
"""Cells for how many rows of a kind are how good: `×40 ?40`."""


class KindsView(ListKeys, Screen[str | None]):
    """Ends with the pattern of the kind whose rows are to be shown, or with nothing.

    Args:
        workspace: The main screen, which makes the edits.
        kinds: The kinds of its session's rows.
        symbols: The signs.
    """

    AUTO_FOCUS = ""
    HORIZONTAL_BREAKPOINTS = BY_COLUMNS
    VERTICAL_BREAKPOINTS = BY_LINES
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", show=False),
        Binding("escape,o,q,ctrl+c", "dismiss(None)", show=False),
        Binding("n,tab", "next(1)", show=False),
        Binding("N,shift+tab", "next(-1)", show=False),
        Binding("y", "do('trust')", show=False),
        Binding("s", "do('gap')", show=False),
        Binding("delete,backspace", "do('bench')", show=False),
        Binding("t", "do('transform')", show=False),
        Binding("e", "do('choose')", show=False),
        Binding("u,ctrl+z", "do('undo')", show=False),
        Binding("ctrl+y,ctrl+r", "do('redo')", show=False),
        Binding("c", "convert", show=False),
        Binding("i", "look", show=False),
        Binding("question_mark", "help", show=False),
        *ListKeys.bindings(),
    ]

    def __init__(self, workspace: Workspace, kinds: Kinds, symbols: Symbols) -> None:
        super().__init__()
        self._workspace, self._kinds, self._symbols = workspace, kinds, symbols
        self._listed = kinds.all()
        self._at = 0
        self._said: Part = ("", "")
        self._alignment = workspace.session.alignment
        self._blocked = False
        self._needs = self._measured()

    def compose(self) -> ComposeResult:
        kinds = LineList(self._draw, self._symbols, id="kinds")
        yield from framed([kinds], [Lines(_DETAILS, id="change"), Lines(id="status")])

    def on_mount(self) -> None:
        self._at = self._next(-1, 1) or 0
        self._look_again()

    def on_resize(self) -> None:
        self.call_after_refresh(self._show)

    @property
    def here(self) -> Kind | None:
        """The kind under the cursor."""
        return self._listed[self._at] if self._listed else None

    @property
    def line(self) -> int:
        """The line that the cursor is on."""
        return self._at

    @property
    def line_count(self) -> int:
        return len(self._listed)

    def show_line(self, line: int) -> None:
        self._at, self._said = line, ("", "")
        self.line_list.go(line)
        self._show()

    def _look_again(self) -> None:
        """Look at all rows again; go on to the next kind that blocks if this one does no more."""
        here = self.here
        self._listed, self._alignment = self._kinds.all(), self._workspace.session.alignment
        self._needs = self._measured()
        if here is not None:
            same = (n for n, one in enumerate(self._listed) if one.indices[0] == here.indices[0])
            self._at = next(same, min(self._at, max(0, len(self._listed) - 1)))
        blocked, self._blocked = self._blocked, False
        if blocked and self._listed and not self._kinds.blocking(self._listed[self._at]):
            following = self._next(self._at, 1)
            self._at = self._at if following is None else following
        self._said = self._workspace.message
        self._show_lines()

    def _show_lines(self) -> None:
        if self.has_list:
            self.line_list.show(len(self._listed), self._at)
            self._show()

    def action_next(self, step: Literal[1, -1]) -> None:
        found = self._next(self._at, step)
        if found is None:
            self._said = ("Every row lines up: c converts.", "lines--good")
            self._show()
        else:
            self.go_to_line(found)

    def _next(self, line: int, step: Literal[1, -1]) -> int | None:
        """Return the nearest kind that blocks after (or before) a line, going round."""
        count = len(self._listed)
        lines = [(line + step * far) % count for far in range(1, count + 1)] if count else []
        return next((n for n in lines if self._kinds.blocking(self._listed[n])), None)

    def action_open(self) -> None:
        if self.here is not None:
            self.dismiss(self.here.name)

    async def action_do(self, what: str) -> None:
        """Have the main screen do to all rows of the kind what it does to one."""
        if (kind := self.here) is None:
            return
        self._blocked = what in _SETTLING and bool(self._kinds.blocking(kind))
        await self._workspace.do_to_all(what, kind, self._look_again)

    def action_look(self) -> None:
        """Show all about the worst row of the kind here."""
        if (kind := self.here) is not None:
            worst = self._kinds.worst(kind)
            app_of(self).push_screen(Look(self._workspace.session, worst, self._symbols))

    def action_help(self) -> None:
        app_of(self).push_screen(Help(self._symbols))

    def action_convert(self) -> None:
        self.dismiss(None)
        self._workspace.call_after_refresh(self._workspace.run_action, "convert")

    def _measured(self) -> tuple[Needs, Needs]:
        keys, paths = (one.key for one in self._listed), (one.path for one in self._listed)
        entries = widest(self._shape(kind.entry_shape) for kind in self._listed)
        leaves = widest(self._shape(kind.shape) for kind in self._listed)
        return Needs(widest(keys), 0, entries), Needs(widest(paths), _CONTENTS, leaves)

    def _shape(self, shape: Shape | None) -> str:
        return "" if shape is None else self._symbols.plain(show(shape))

    def _short(self, number: int, width: int, of: Callable[[Kind], str]) -> str:
        ascii_only, dots = self._symbols.is_ascii, self._symbols.ellipsis
        name, *others = (
            printable(of(kind), ascii_only=ascii_only)
            for kind in (self._listed[number], *self._listed)
        )
        return fit(shorten_among(name, others, width, ellipsis=dots), width, ellipsis=dots)

    def _draw(self, number: int, width: int) -> list[Part]:
        if self._workspace.session.alignment is not self._alignment:
            # An edit is made, and the rows are about to be looked at again.
            return []
        kind, symbols = self._listed[number], self._symbols
        columns = lay_out_columns(width, 0, *self._needs)
        signs = self._kinds.signs(kind)
        worst = signs[0][0] if signs else None
        here = symbols.cursor if number == self._at else " "
        entry, leaf = columns.entry, columns.leaf
        parts: list[Part] = [
            (here.ljust(columns.flags + columns.number), ""),
            (self._short(number, entry.name, lambda one: one.key or symbols.nothing), ""),
            (" " * entry.dtype, ""),
        ]
        if entry.shape:
            parts.append((fit(self._shape(kind.entry_shape), entry.shape, right=True), ""))
        sign = symbols.sign(worst) if worst is not None else ""
        parts.append((f" {sign}".ljust(columns.symbol), _style(worst)))
        if leaf.shape:
            parts.append((fit(self._shape(kind.shape), leaf.shape), ""))
        contents: list[Part] = [(f"{symbols.times}{len(kind.indices):,}", "muted")]
        contents += [(f" {symbols.sign(one)}{count:,}", _style(one)) for one, count in signs]
        used = sum(len(text) for text, _ in contents)
        room = leaf.name + leaf.dtype + columns.spare - 1 - used
        parts.append((self._short(number, max(2, room), lambda one: one.path or "(bench)"), ""))
        return [*parts, (" ", ""), *contents]

    def _show(self) -> None:
        if not self.has_list or not self.size.width:
            return
        symbols, width, session = self._symbols, self.size.width, self._workspace.session
        facts = ("kinds of rows", many(len(self._listed), "kind"), many(len(session), "row"))
        corners = symbols.corners[0] + symbols.corners[2]
        self.query_one("#top", Lines).set_line(0, (rule(symbols, facts, corners, width), ""))
        middle = rule(symbols, ("details",), symbols.corners[3:5], width)
        self.query_one("#rule", Lines).set_line(0, (middle, ""))
        self._show_details()
        said, style = self._said
        said, style = (said, style) if said else (wording.situation(session), "lines--muted")
        status = self.query_one("#status", Lines)
        room = max(0, self.query_one("#about").size.width - 1)
        counts = wording.tally(session, symbols)
        line = symbols.plain(f" {said}")
        parts = wording.left_and_right(line, style, counts, room, symbols.ellipsis)
        status.set_line(0, *parts)
        self.query_one("#bottom", Lines).set_line(0, *keys_line(symbols, _KEYS, width))

    def _show_details(self) -> None:
        lines = self.query_one("#change", Lines)
        about = self._about(max(1, self.query_one("#about").size.width - 2))
        count = 1 if self.has_class("-short") else max(_DETAILS, len(about))
        lines.set_height(count)
        for number in range(count):
            text = about[number] if number < len(about) else ""
            lines.set_line(number, (f" {self._symbols.plain(text)}", ""))

    def _about(self, room: int) -> list[str]:
        """Lines about the worst row of the kind here, and why it is as good as it is."""
        kind = self.here
        if kind is None:
            return ["There are no rows."]
        worst = self._kinds.worst(kind)
        lines = wording.details(self._workspace.session, worst, self._symbols, room)
        if len(kind.indices) == 1:
            return lines
        rows = many(len(kind.indices), *(("entry", "entries") if kind.is_bench else ("row",)))
        return [*lines[:-1], f"the worst of {rows} of {printable(kind.name)}"]


def _style(verdict: Verdict | None) -> str:
    if verdict is None:
        return "muted"
    return Fit.EXACT.value if verdict.is_trusted else verdict.fit.value
