"""What is seen before there is anything to arrange: reading, and which state dict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Center, Middle, Vertical
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.widgets import Label, OptionList
from textual.widgets.option_list import Option

from s2p_tui.tui.text import inert


class Reading(Screen[None]):
    """The first frame."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("q,escape,ctrl+c", "app.quit", show=False)]

    def __init__(self, model_label: str, skeleton_label: str) -> None:
        super().__init__()
        self._names = inert(model_label), inert(skeleton_label)

    def compose(self) -> ComposeResult:
        """One line in the middle."""
        with Middle(), Center():
            yield Label(Content(f"reading {self._names[0]} and {self._names[1]} …"))


class WhichStateDict(ModalScreen["str | None"]):
    """Asks which of several state dicts in a checkpoint is meant.

    Args:
        label: The checkpoint.
        choices: Dotted key and number of tensors of each.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss(None)", show=False),
        Binding("j", "app.simulate_key('down')", show=False),
        Binding("k", "app.simulate_key('up')", show=False),
    ]

    def __init__(self, label: str, choices: Sequence[tuple[str, int]]) -> None:
        super().__init__()
        self._label = inert(label)
        self._choices = choices

    def compose(self) -> ComposeResult:
        """The list in a box."""
        with Vertical(classes="box") as box:
            box.border_title = "Which state dict?"
            box.border_subtitle = "Enter choose  Esc quit"
            yield Label(Content(f"{self._label} holds several:"))
            yield OptionList(
                *(
                    Option(Content(f"{inert(key)}  {count:,} tensors"))
                    for key, count in self._choices
                ),
                compact=True,
            )

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Take it."""
        self.dismiss(self._choices[event.option_index][0])
