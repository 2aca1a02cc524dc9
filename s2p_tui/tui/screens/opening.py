"""What is seen before there is anything to arrange: reading, and which state dict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Center, Middle
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.widgets import Label, OptionList
from textual.widgets.option_list import Option

from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.text import inert
from s2p_tui.tui.widgets.box import Box


class Reading(Screen[None]):
    """The first frame."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("q,escape,ctrl+c", "app.quit", show=False)]

    def __init__(self, glyphs: Glyphs, model_label: str, skeleton_label: str) -> None:
        super().__init__()
        self._words = glyphs.plain(f"reading {inert(model_label)} and {inert(skeleton_label)} …")

    def compose(self) -> ComposeResult:
        """One line in the middle."""
        with Middle(), Center():
            yield Label(Content(self._words))


class WhichStateDict(ModalScreen["str | None"]):
    """Asks which of several state dicts in a checkpoint is meant.

    Args:
        glyphs: The signs to draw with.
        label: The checkpoint.
        choices: Dotted key and number of tensors of each.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss(None)", show=False),
        Binding("j", "app.simulate_key('down')", show=False),
        Binding("k", "app.simulate_key('up')", show=False),
    ]

    def __init__(self, glyphs: Glyphs, label: str, choices: Sequence[tuple[str, int]]) -> None:
        super().__init__()
        self._glyphs = glyphs
        self._label = label
        self._choices = choices

    def compose(self) -> ComposeResult:
        """The list in a box."""
        plain = self._glyphs.plain
        with Box(self._glyphs, "Which state dict?", "Enter choose  Esc quit"):
            yield Label(Content(plain(f"{inert(self._label)} holds several:")))
            options = [plain(f"{inert(key)}  {count:,} tensors") for key, count in self._choices]
            yield OptionList(*(Option(Content(option)) for option in options), compact=True)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Take it."""
        self.dismiss(self._choices[event.option_index][0])
