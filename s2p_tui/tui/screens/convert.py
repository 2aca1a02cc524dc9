"""What to write, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, RadioButton, RadioSet

from s2p_tui.core.names import output_path
from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.text import inert
from s2p_tui.tui.widgets.box import Box

_DTYPES = (None, "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Order:
    """What to write.

    Attributes:
        output: The file.
        dtype: Dtype of the floating-point leaves; None for the skeleton's.
    """

    output: Path
    dtype: str | None = None


def typable(path: Path) -> str:
    """The name as one could type it: bytes that are no text, and control characters, become `_`."""
    return "".join(char if char.isprintable() else "_" for char in str(path))


def obstacle(name: str) -> str:
    """Why nothing can be written under an output name; empty if something can."""
    if not name.strip():
        return "Give the file a name."
    path = output_path(name.strip())
    if path.is_dir():
        return f"{inert(str(path))} is a folder."
    if not path.parent.is_dir():
        return f"There is no folder {inert(str(path.parent))}."
    return ""


def remark(name: str) -> str:
    """What there is to know about an output name before it is written to."""
    if stop := obstacle(name):
        return stop
    path = output_path(name.strip())
    if path.exists():
        return f"{inert(str(path))} exists and will be replaced."
    if path != Path(name.strip()):
        return f"Will be written as {inert(str(path))}."
    return ""


class Choice(RadioButton):
    """A radio button whose state is a sign, not a colour."""

    BUTTON_LEFT = "("
    BUTTON_INNER = " "
    BUTTON_RIGHT = ")"

    def watch_value(self) -> None:
        """Show the state."""
        # Textual has it as a constant of the class and reads it of the button.
        untyped: Any = self
        untyped.BUTTON_INNER = "x" if self.value else " "
        super().watch_value()


class ConvertForm(ModalScreen[Order | None]):
    """Asks for the output's name and dtype; Enter in the name converts."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", show=False),
        Binding("down", "app.focus_next", show=False),
        Binding("up", "app.focus_previous", show=False),
    ]

    def __init__(self, order: Order, glyphs: Glyphs, remarks: Sequence[str] = ()) -> None:
        super().__init__()
        self._remarks = [inert(line) for line in remarks]
        self._glyphs = glyphs
        self._order = order
        given = order.dtype
        self._dtypes = _DTYPES if given in _DTYPES else (*_DTYPES, given)

    def compose(self) -> ComposeResult:
        """The form in a box."""
        with Box(self._glyphs, "Convert", "Tab next  Enter convert  Esc cancel"):
            yield Label("Output (.eqx or .safetensors)")
            yield Input(typable(self._order.output), id="output", compact=True)
            yield Label("", id="remark")
            yield Label("Floating-point numbers")
            with RadioSet(id="dtype", compact=True):
                for dtype in self._dtypes:
                    yield Choice(dtype or "as in the skeleton", dtype == self._order.dtype)
            for line in self._remarks:
                yield Label(Content(self._glyphs.plain(line)), classes="told")
            with Horizontal(id="buttons"):
                yield Button("Convert", variant="primary", id="convert", compact=True)
                yield Button("Cancel", id="cancel", compact=True)

    @on(Input.Changed)
    def warn(self, event: Input.Changed) -> None:
        """Say what would happen to a file of this name."""
        self.query_one("#remark", Label).update(Content(self._glyphs.plain(remark(event.value))))

    @on(Input.Submitted)
    @on(Button.Pressed, "#convert")
    def accept(self) -> None:
        """Convert, unless the name cannot be written to."""
        name = self.query_one(Input).value.strip()
        if obstacle(name):
            self.query_one(Input).focus()
            return
        pressed = self.query_one(RadioSet).pressed_index
        self.dismiss(Order(Path(name), self._dtypes[max(0, pressed)]))

    @on(Button.Pressed, "#cancel")
    def action_cancel(self) -> None:
        """Close without converting."""
        self.dismiss(None)
