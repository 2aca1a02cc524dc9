"""The screen that lists transforms."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Label, OptionList

from s2p_tui.alignment.transform import show
from s2p_tui.app.commands import transforms
from s2p_tui.app.commands.arrange import ImpossibleError
from s2p_tui.app.commands.transforms import TransformOffer, TransformOption
from s2p_tui.app.theme import Symbols
from s2p_tui.app.widgets.frame import Box, draw_plainly
from s2p_tui.errors import printable

if TYPE_CHECKING:
    from s2p_tui.session.session import Session

Asked = Literal["multiply", "constant"]
_ASKED: dict[Asked, str] = {
    "multiply": "multiply by a number…",
    "constant": "fill with a constant…",
}


class ChooseTransform(ModalScreen[TransformOption | None]):
    """Digits jump, Enter takes; the last lines ask for a number."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,t", "leave", show=False),
        Binding("j", "go(1)", show=False),
        Binding("k", "go(-1)", show=False),
        *(Binding(digit, f"digit('{digit}')", show=False) for digit in "0123456789"),
        Binding("backspace", "take_back", show=False),
    ]

    def __init__(self, session: Session, offered: TransformOffer, symbols: Symbols) -> None:
        super().__init__()
        self._session = session
        self._offer = offered
        self._symbols = symbols
        self._typed = ""
        self._asking: Asked | None = None
        asked: tuple[Asked, ...] = ("multiply", "constant")
        self._asked = asked if offered.source is not None else asked[1:]
        if offered.block:
            self._asked = ()

    def compose(self) -> ComposeResult:
        """The row, the list, what the judgement says, and the number when one is asked for."""
        leaf, arrow = self._offer.leaf, self._symbols.arrow
        ends = printable(self._offer.block) or f"{printable(leaf.path)}  {show(leaf.shape)}"
        heading = f"{self._offer.entries} {arrow} {ends}"
        with Box(self._symbols, "Transform", "Enter takes  0-9 number  Esc leaves"):
            yield Label(self._plain(heading))
            if self._offer.none:
                yield Label(self._plain(self._offer.none), id="none")
            yield OptionList(*self._prompts(), id="choices", compact=True)
            yield Label("", id="why")
            yield Input(id="number", compact=True)

    def on_mount(self) -> None:
        options = self._list
        draw_plainly(options, self._symbols)
        current = (n for n, option in enumerate(self._offer.options) if option.is_current)
        options.highlighted = next(current, 0)
        self.query_one(Input).display = False
        options.focus()

    @property
    def _list(self) -> OptionList:
        return self.query_one(OptionList)

    def _plain(self, text: str) -> Content:
        return Content(self._symbols.plain(text))

    def _prompts(self) -> list[Content]:
        count = len(self._offer.options) + len(self._asked)
        signs = [self._symbols.fits[option.verdict.fit] for option in self._offer.options]
        words = [
            f"{option.words}  (now)" if option.is_current else option.words
            for option in self._offer.options
        ]
        lines = zip(
            [*signs, *(" " for _ in self._asked)],
            [*words, *(_ASKED[asked] for asked in self._asked)],
            strict=True,
        )
        width = len(str(count))
        return [
            Content.assemble(f"{number:>{width}} {sign} ", self._plain(text))
            for number, (sign, text) in enumerate(lines, 1)
        ]

    @on(OptionList.OptionHighlighted)
    def explain(self, event: OptionList.OptionHighlighted) -> None:
        self._say(self._words_on(event.option_index))

    def _words_on(self, number: int) -> str:
        if number >= len(self._offer.options):
            return ""
        verdict = self._offer.options[number].verdict
        return f"{verdict.fit}: {printable(verdict.why)}" if verdict.why else str(verdict.fit)

    @on(OptionList.OptionSelected)
    def choose(self, event: OptionList.OptionSelected) -> None:
        number = event.option_index
        if number < len(self._offer.options):
            self.dismiss(self._offer.options[number])
            return
        self._asking = self._asked[number - len(self._offer.options)]
        field = self.query_one(Input)
        field.display = True
        field.value = ""
        field.placeholder = "a number, Enter takes it, Esc goes back"
        field.focus()

    @on(Input.Submitted)
    def accept(self, event: Input.Submitted) -> None:
        make = transforms.scaled if self._asking == "multiply" else transforms.constant
        try:
            option = make(self._session, self._offer, event.value)
        except ImpossibleError as reason:
            self._say(str(reason))
            return
        self.dismiss(option)

    def action_leave(self) -> None:
        if self._asking is None:
            self.dismiss(None)
            return
        self._asking = None
        self.query_one(Input).display = False
        self._list.focus()
        self._say("")

    def action_go(self, step: int) -> None:
        self._typed = ""
        if step > 0:
            self._list.action_cursor_down()
        else:
            self._list.action_cursor_up()

    def action_digit(self, digit: str) -> None:
        """Go to the line of the number typed so far; a digit too many starts a new one."""
        count = self._list.option_count
        typed = self._typed + digit
        if not 1 <= int(typed) <= count:
            typed = digit
        if 1 <= int(typed) <= count:
            self._typed = typed
            self._list.highlighted = int(typed) - 1
        else:
            self._typed = ""

    def action_take_back(self) -> None:
        self._typed = ""

    def _say(self, text: str) -> None:
        self.query_one("#why", Label).update(self._plain(text))
