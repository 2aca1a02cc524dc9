"""Asks before unsaved edits are left behind."""

from __future__ import annotations

from typing import ClassVar, Literal

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen
from textual.widgets import Label

from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.widgets.box import Box

Answer = Literal["save", "quit", "stay"]


class ConfirmQuit(ModalScreen[Answer]):
    """One question, three keys."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,q,ctrl+c,ctrl+q", "dismiss('quit')", show=False),
        Binding("s,ctrl+s", "dismiss('save')", show=False),
        Binding("n,escape", "dismiss('stay')", show=False),
    ]

    def __init__(self, glyphs: Glyphs) -> None:
        super().__init__()
        self._glyphs = glyphs

    def compose(self) -> ComposeResult:
        """The question in a box."""
        with Box(self._glyphs, "Quit?", ""):
            yield Label("Your edits are not saved.\n")
            yield Label("s    save the mapping and quit")
            yield Label("y    quit without saving")
            yield Label("Esc  stay")
