"""The screen that shows the exact question before it is sent to Claude."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar

from msgspec import Struct
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.widgets import Input, Label, OptionList
from textual.widgets.option_list import Option

from s2p_tui.app.background import app_of, in_thread
from s2p_tui.app.text import many, size_in_words, wrap
from s2p_tui.app.theme import BY_COLUMNS, BY_LINES, Symbols
from s2p_tui.app.widgets.frame import Box, draw_plainly, framed, keys_line, rule
from s2p_tui.app.widgets.line_list import LineList, ListKeys
from s2p_tui.app.widgets.lines import Lines, Part
from s2p_tui.errors import S2PError, printable

if TYPE_CHECKING:
    from s2p_tui.proposals.claude.account import Model
    from s2p_tui.proposals.claude.client import Listed
    from s2p_tui.proposals.claude.job import Asking
    from s2p_tui.proposals.claude.question import Question

_TITLE = "Which Claude?"
_MODEL_KEYS = "Enter choose  Tab type an id  Esc leave"


class ChooseModel(ModalScreen["str | None"]):
    """Short names, what Anthropic lists, or any id typed in; dismissed with a name or None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", show=False)]

    def __init__(self, current: str, symbols: Symbols) -> None:
        super().__init__()
        self._current = current
        self._symbols = symbols
        self._names: list[str] = []
        self._job: Asking | None = None

    def compose(self) -> ComposeResult:
        with Box(self._symbols, _TITLE, _MODEL_KEYS):
            yield OptionList(id="choices", compact=True)
            yield Label("", id="why")
            yield Input(placeholder="or type a full id, Enter takes it", id="id", compact=True)

    def on_mount(self) -> None:
        """Show the short names; ask for the rest."""
        from s2p_tui.proposals.claude.account import ALIASES

        options = self.query_one(OptionList)
        draw_plainly(options, self._symbols)
        arrow = self._symbols.arrow
        for name, stands_for in ALIASES.items():
            self._add(name, f"{name:<10} {arrow} {stands_for}")
        if self._current not in self._names:
            self._add(self._current, self._current)
        options.highlighted = self._names.index(self._current)
        options.focus()
        self._list()

    def on_unmount(self) -> None:
        if self._job is not None:
            self._job.cancel()

    def _add(self, name: str, shown: str) -> None:
        self._names.append(name)
        self.query_one(OptionList).add_option(
            Option(Content(self._symbols.plain(printable(shown))))
        )

    @work(exclusive=True)
    async def _list(self) -> None:
        from s2p_tui.proposals.claude.job import Asking

        self._remark("Asking Anthropic which models there are …")
        self._job = job = Asking()

        def listed() -> list[Listed]:
            from s2p_tui.proposals.claude.account import find_key
            from s2p_tui.proposals.claude.client import Client
            from s2p_tui.proposals.claude.job import Budget

            with Client(find_key(), Budget(), job).connected() as client:
                return client.models()

        try:
            models = await in_thread(listed, "Asking Anthropic", is_private=True)
        except S2PError as error:
            self._remark(f"Anthropic's list cannot be had: {error}")
            return
        if not self.is_mounted:
            return
        for model in models:
            if model.id not in self._names:
                note = f", {model.note}" if model.note else ""
                self._add(model.id, f"{model.id}  {model.name}{note}")
        self._remark(f"{many(len(models), 'model')} from Anthropic." if models else "")

    @on(OptionList.OptionSelected)
    def choose(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._names[event.option_index])

    @on(Input.Submitted)
    def accept(self, event: Input.Submitted) -> None:
        from s2p_tui.proposals.claude.account import model_named

        try:
            model_named(event.value)
        except S2PError as error:
            self._remark(str(error))
            return
        self.dismiss(event.value.strip())

    def _remark(self, text: str) -> None:
        if self.is_mounted:
            self.query_one("#why", Label).update(Content(self._symbols.plain(printable(text))))


_KEYS = (("Enter", "send"), ("Esc", "send nothing"), ("m", "model"), ("j/k", "read"))
_NOTHING = (
    "Every row is settled by names, structure, layers or by you.",
    "There is nothing to ask Claude, and nothing is sent.",
    "",
    "i asks about all rows nonetheless.",
)
_MOST_WRAPPED = 40


class Consent(Struct, frozen=True):
    """The question and model that the user agreed to.

    Attributes:
        question: The question.
        name: The model's name as it was chosen, to be remembered.
        model: The model's full id.
    """

    question: Question
    name: str
    model: str


class AskClaude(ListKeys, Screen[Consent | None]):
    """Shows a question, about all rows on request; dismissed with what may be sent, or None."""

    AUTO_FOCUS = ""
    HORIZONTAL_BREAKPOINTS = BY_COLUMNS
    VERTICAL_BREAKPOINTS = BY_LINES
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", show=False),
        Binding("escape,q,ctrl+c", "dismiss(None)", show=False),
        Binding("m", "model", show=False),
        Binding("i", "everything", show=False),
        Binding("space", "page(2)", show=False),
        *ListKeys.bindings(),
    ]

    def __init__(
        self, question: Question, about_all: Callable[[], Question], name: str, symbols: Symbols
    ) -> None:
        super().__init__()
        self.question = question
        self._about_all = about_all
        self._name = name
        self._symbols = symbols
        self._text: list[str] = []
        self._line_reached: int | None = None
        self._here = 0
        self._warning = ""
        self._said: Part = ("", "")

    def compose(self) -> ComposeResult:
        sent = LineList(self._line, self._symbols, id="sent")
        yield from framed([sent], [Lines(2, id="cost"), Lines(id="status")])

    def on_mount(self) -> None:
        self._look_up()

    @on(LineList.Resized)
    def resized(self) -> None:
        self._lay_out()

    def action_send(self) -> None:
        if self.question.requests:
            self.dismiss(Consent(self.question, self._name, self._model.id))
        else:
            self.dismiss(None)

    def action_model(self) -> None:
        def chosen(name: str | None) -> None:
            if name is not None:
                self._name = name
                self._warning = ""
                self._look_up()
            self._show()

        app_of(self).push_screen(ChooseModel(self._name, self._symbols), chosen)

    @work(exclusive=True, group="everything")
    async def action_everything(self) -> None:
        self._say("Writing the question …")
        try:
            self.question = await in_thread(self._about_all, "Writing the question")
        except S2PError as error:
            self._say(printable(error.line))
            return
        self._line_reached = None
        self._say("Asks about all rows." if self.question.requests else "There are no rows to ask.")
        self._lay_out()

    @property
    def line(self) -> int:
        return self._here

    @property
    def line_count(self) -> int:
        return len(self._text)

    def show_line(self, line: int) -> None:
        self._line_reached = self._here = line
        self.line_list.go(line)

    @property
    def _model(self) -> Model:
        from s2p_tui.proposals.claude.account import model_named

        return model_named(self._name)

    @work(exclusive=True, group="retirement")
    async def _look_up(self) -> None:
        from s2p_tui.proposals.claude.account import retirement

        name = self._name
        try:
            warning = self._model.warning or await in_thread(
                lambda: retirement(self._model.id),
                "Looking up the model",
                expected=ImportError,
                is_private=True,
            )
        except (S2PError, ImportError):
            return
        if name == self._name:
            self._warning = warning
            self._show()

    def _line(self, line: int, width: int) -> list[Part]:
        del width
        return [(f" {self._text[line]}", "")]

    def _lay_out(self) -> None:
        if not self.has_list or not self.size.width:
            return
        lines = self.line_list
        room = max(1, lines.scrollable_content_region.width - 2)
        text = self.question.text.splitlines() if self.question.requests else _NOTHING
        self._text = self._wrapped(text, room)
        # What is said of the user's own models matters more than what comes before it.
        start = len(self._wrapped(self.question.preamble, room))
        here = start + lines.half_page if self._line_reached is None else self._line_reached
        self._here = max(0, min(here, len(self._text) - 1))
        lines.show(len(self._text), self._here)
        # A list that was shorter than its window cannot scroll before it is laid out again.
        self.call_after_refresh(self._scroll, start)
        self._show()

    def _scroll(self, start: int) -> None:
        lines = self.line_list
        if self._line_reached is None:
            lines.scroll_to(y=start, animate=False)
        lines.go(self._here)

    def _wrapped(self, text: Iterable[str], room: int) -> list[str]:
        plain = (self._symbols.plain(printable(line)) for line in text)
        return [part for line in plain for part in wrap(line, room, _MOST_WRAPPED)]

    def _say(self, text: str) -> None:
        self._said = (text, "lines--muted")
        self._show()

    def _show(self) -> None:
        if not self.has_list or not self.size.width:
            return
        symbols, width, question = self._symbols, self.size.width, self.question
        rows = many(len(question.asked), "row")
        count = many(len(question.requests), "request")
        title = ("what would be sent to Claude", rows, count) if question.requests else ("Claude",)
        top = rule(symbols, title, symbols.corners[0] + symbols.corners[2], width)
        self.query_one("#top", Lines).set_line(0, (top, ""))
        rest = (rule(symbols, ("cost",), symbols.corners[3:5], width), "")
        self.query_one("#rule", Lines).set_line(0, rest)
        self._show_cost()
        said, style = self._said
        if self._warning:
            said, style = printable(self._warning), "lines--bad"
        elif question.notes and not said:
            said, style = " ".join(question.notes), "lines--bad"
        self.query_one("#status", Lines).set_line(0, (symbols.plain(f" {said}"), style))
        keys = _KEYS if question.requests else (("Esc", "back"), ("i", "ask about all rows"))
        self.query_one("#bottom", Lines).set_line(0, *keys_line(symbols, keys, width))

    def _show_cost(self) -> None:
        question, dot = self.question, self._symbols.dot
        size = sum(len(request.text.encode()) for request in question.requests)
        model = f"{self._model.id} {dot} {size_in_words(size)} {dot} "
        tokens = f"about {question.tokens:,} tokens by estimate, {question.settled:,} rows settled"
        cost = self.query_one("#cost", Lines)
        shown = model + tokens if question.requests else self._model.id
        cost.set_line(0, (f" {shown}", "lines--strong"))
        privacy = "Names, shapes, dtypes and layer classes only: no numbers, no file names."
        cost.set_line(1, (f" {privacy}", "lines--muted"))
