"""What a conversion left on the disk, and how to load it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from s2p_tui.core.remarks import remarks
from s2p_tui.core.unused import parts_unused
from s2p_tui.tui.amounts import many, size_in_words
from s2p_tui.tui.copying import copy
from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.loading import snippet
from s2p_tui.tui.text import inert
from s2p_tui.tui.widgets.box import Box

if TYPE_CHECKING:
    from s2p_tui.saving import Converted
    from s2p_tui.session import Session

_SHOWN_LOSSES = 5


def report(session: Session, converted: Converted) -> list[str]:
    """The facts, one line each."""
    written = converted.written
    lines = [
        f"{inert(str(written.path))}  {size_in_words(written.size)} in {written.seconds:.1f} s",
        "Read back and compared with its sources: equal." if written.verified else "Not verified.",
    ]
    if converted.mapping is not None:
        lines.append(f"Mapping: {inert(str(converted.mapping))}")
    if unused := len(session.alignment.bench):
        lines.append(f"Not used: {many(unused, 'entry', 'entries')} on the bench.")
    parts = parts_unused(session.alignment.rows, session.checkpoint.state_dict)
    for key, left in list(parts.items())[:_SHOWN_LOSSES]:
        lines.append(f"Not used of {inert(key)}: {left}.")
    lines += map(inert, remarks(session.alignment.rows, session.target.skeleton))
    losses = list(written.losses.items())
    for path, loss in losses[:_SHOWN_LOSSES]:
        lines.append(
            f"! {inert(path)}: {loss.overflowed:,} became infinite, {loss.new_nan:,} became NaN."
        )
    if len(losses) > _SHOWN_LOSSES:
        lines.append(f"! And {len(losses) - _SHOWN_LOSSES:,} more leaves lost numbers in the cast.")
    return lines


class Result(ModalScreen[None]):
    """Shown once after each conversion."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,space", "dismiss", show=False),
        Binding("y,Y", "copy", show=False),
        Binding("q", "app.ask_quit", show=False),
    ]

    def __init__(
        self,
        session: Session,
        converted: Converted,
        glyphs: Glyphs,
        dtype: str | None = None,
        found: str = "",
    ) -> None:
        super().__init__()
        self._lines = [*report(session, converted), *([found] if found else [])]
        paths = [leaf.path for leaf in session.target.skeleton]
        self._snippet = snippet(converted.written.path, paths, dtype)
        self._glyphs = glyphs

    def compose(self) -> ComposeResult:
        """Facts and snippet in a box."""
        with Box(self._glyphs, "Converted", "y copy the code  Enter go on  q quit", can_focus=True):
            facts = "\n".join(map(self._glyphs.plain, self._lines))
            yield Static(Content(facts), id="facts")
            yield Static(Content(self._snippet), id="snippet")
            yield Static("", id="copied")

    def action_copy(self) -> None:
        """Put the code on the terminal's clipboard."""
        self.query_one("#copied", Static).update(Content(copy(self, self._snippet)))
