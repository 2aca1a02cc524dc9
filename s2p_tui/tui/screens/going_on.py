"""Asks whether to go on where an earlier session on the same pair was left, or from its file."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar, Literal

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Label

from s2p_tui.tui.amounts import many
from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.text import inert
from s2p_tui.tui.widgets.box import Box

if TYPE_CHECKING:
    from s2p_tui.core.journal_replay import Replayed
    from s2p_tui.tui.offered import Offered

Answer = Literal["go on", "mapping", "afresh", "quit"]


class GoOn(ModalScreen[Answer]):
    """One question; Enter takes the newest of what there is.

    Args:
        glyphs: The signs to draw with.
        found: What the earlier session left, if it left edits.
        offered: The mapping file there is, if there is one.
        labels: What the checkpoint and the skeleton are called now.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "newest", show=False),
        Binding("y", "take('go on')", show=False),
        Binding("m", "take('mapping')", show=False),
        Binding("n", "take('afresh')", show=False),
        Binding("escape,q", "take('quit')", show=False),
    ]

    def __init__(
        self,
        glyphs: Glyphs,
        found: Replayed | None,
        offered: Offered | None,
        labels: tuple[str, str],
    ) -> None:
        super().__init__()
        self._glyphs = glyphs
        self._found = found
        self._offered = offered
        self._labels = labels
        self._choices = self._possible()

    def compose(self) -> ComposeResult:
        """The question in a box."""
        keys = {"go on": "y", "mapping": "m", "afresh": "n", "quit": "Esc"}
        keys[next(iter(self._choices))] = "Enter"
        with Box(self._glyphs, "Go on?", "", can_focus=True):
            for line in self._facts():
                yield self._label(line)
            yield Label("")
            for answer, words in self._choices.items():
                yield self._label(f"{keys[answer]:<7}{words}")

    def on_resize(self) -> None:
        """Where not all of it fits, show the answers."""
        self.call_after_refresh(self.query_one(Box).scroll_end, animate=False)

    def _label(self, text: str) -> Label:
        return Label(Content(self._glyphs.plain(inert(text))))

    def action_take(self, answer: Answer) -> None:
        """Answer, if that can be had."""
        if answer in self._choices:
            self.dismiss(answer)

    def action_newest(self) -> None:
        """Take the first of the answers."""
        self.dismiss(next(iter(self._choices)))

    def _possible(self) -> dict[Answer, str]:
        """The answers in words, the one for Enter first."""
        found, offered = self._found, self._offered
        choices: dict[Answer, str] = {}
        if found is not None:
            choices["go on"] = "go on with the edits" if offered else "go on with them"
        if offered is not None:
            choices["mapping"] = f"start from {offered.path.name}"
            if found is not None and offered.saved > found.last:
                choices = {"mapping": choices["mapping"], "go on": choices["go on"]}
        if offered is None or not offered.is_taken:
            choices["afresh"] = "start afresh"
        choices["quit"] = "quit, leaving all as it is"
        return choices

    def _facts(self) -> list[str]:
        found, offered = self._found, self._offered
        facts: list[str] = []
        if found is not None:
            made_with = found.header.source.file, found.header.target.file
            others = (
                ""
                if made_with == self._labels
                else f" They were made with {' and '.join(made_with)}."
            )
            last = _when(found.last)
            facts.append(f"This pair has {many(found.edits, 'edit')}, the last on {last}.{others}")
        if offered is not None:
            whose = "is a mapping of it too" if found else "is a mapping of this pair"
            facts.append(f"{offered.path.name} {whose}, saved on {_when(offered.saved)}.")
        if found is not None:
            facts.append("If you do not go on with the edits, they are kept aside.")
        return facts


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
