"""Asks whether to go on where an earlier session on the same pair was left."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar, Literal

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Label

from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.text import inert
from s2p_tui.tui.widgets.box import Box
from s2p_tui.tui.words import many

if TYPE_CHECKING:
    from s2p_tui.core.journal_replay import Replayed

Answer = Literal["go on", "afresh", "quit"]


class GoOn(ModalScreen[Answer]):
    """One question, three keys.

    Args:
        glyphs: The signs to draw with.
        found: What the earlier session left.
        labels: What the checkpoint and the skeleton are called now.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "dismiss('go on')", show=False),
        Binding("n", "dismiss('afresh')", show=False),
        Binding("escape,q,ctrl+c,ctrl+q", "dismiss('quit')", show=False),
    ]

    def __init__(self, glyphs: Glyphs, found: Replayed, labels: tuple[str, str]) -> None:
        super().__init__()
        self._glyphs = glyphs
        self._found = found
        self._labels = labels

    def compose(self) -> ComposeResult:
        """The question in a box."""
        with Box(self._glyphs, "Go on?", ""), Vertical():
            for line in self._lines():
                yield Label(Content(self._glyphs.plain(line)))

    def _lines(self) -> list[str]:
        found = self._found
        last = time.strftime("%Y-%m-%d %H:%M", time.localtime(found.last))
        made_with = found.header.source.file, found.header.target.file
        others = (
            "" if made_with == self._labels else f" They were made with {' and '.join(made_with)}."
        )
        return [
            inert(f"This pair has {many(found.edits, 'edit')}, the last on {last}.{others}"),
            "",
            "Enter  go on with them",
            "n      start afresh; they are kept aside",
            "Esc    quit and leave everything as it is",
        ]
