"""Asks before unsaved edits are left behind, or a conversion is stopped."""

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
    """One question, three keys.

    Args:
        glyphs: The signs to draw with.
        unsaved: Whether there are edits that no mapping file holds.
        kept: Whether the journal holds them.
        converting: Whether a conversion runs.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss('quit')", show=False),
        Binding("q", "again", show=False),
        Binding("s,ctrl+s", "save", show=False),
        Binding("n,escape", "dismiss('stay')", show=False),
    ]

    def __init__(
        self, glyphs: Glyphs, *, unsaved: bool = True, kept: bool, converting: bool = False
    ) -> None:
        super().__init__()
        self._glyphs = glyphs
        self._unsaved = unsaved
        self._kept = kept
        self._converting = converting

    def compose(self) -> ComposeResult:
        """The question in a box."""
        again = "  (or the same key again)" if self._harmless else ""
        with Box(self._glyphs, "Quit?", ""):
            yield Label("\n".join(self._lines()) + "\n")
            if self._can_save:
                yield Label("s    save the mapping and quit")
            yield Label(f"y    {'quit without saving' if self._unsaved else 'quit'}{again}")
            yield Label("Esc  stay")

    def action_again(self) -> None:
        """Quit by the key that asked for it, where nothing is lost by pressing it twice."""
        if self._harmless:
            self.dismiss("quit")

    def action_save(self) -> None:
        """Save and quit."""
        if self._can_save:
            self.dismiss("save")

    @property
    def _harmless(self) -> bool:
        return self._kept and not self._converting

    @property
    def _can_save(self) -> bool:
        return self._unsaved and not self._converting

    def _lines(self) -> list[str]:
        lines: list[str] = []
        if self._converting:
            lines.append("The conversion has not ended: it would be stopped, nothing written.")
        if self._unsaved and self._kept:
            lines.append(
                "Your edits are in no mapping file. The journal has them: opening the pair again "
                "goes on with them."
            )
        elif self._unsaved:
            lines.append("Your edits are in no mapping file and not journalled: they get lost.")
        return lines
