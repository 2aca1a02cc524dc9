"""Asks for a mapping file to go on from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Label

from s2p_tui.core.errors import S2PError
from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.screens.convert import typable
from s2p_tui.tui.text import inert
from s2p_tui.tui.threads import in_thread
from s2p_tui.tui.widgets.box import Box

if TYPE_CHECKING:
    from s2p_tui.core.mapping import Mapping
    from s2p_tui.session import Session

    MappingScreen = ModalScreen[Mapping | None]
else:
    MappingScreen = ModalScreen


class LoadMapping(MappingScreen):
    """The result is a mapping that belongs to the pair, or None.

    Args:
        session: What it has to belong to.
        path: The name proposed.
        glyphs: The signs to draw with.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", show=False)]

    def __init__(self, session: Session, path: Path, glyphs: Glyphs) -> None:
        super().__init__()
        self._session = session
        self._path = path
        self._glyphs = glyphs

    def compose(self) -> ComposeResult:
        """The line to type in, and what is wrong with what it names."""
        with Box(self._glyphs, "Load mapping", "Enter loads  Esc cancels"):
            yield Label("Mapping file; u takes it back")
            yield Input(typable(self._path), compact=True)
            yield Label("", id="remark")

    @on(Input.Changed)
    def forget(self) -> None:
        """What was said was about another name."""
        self._say("")

    @on(Input.Submitted)
    def load(self, event: Input.Submitted) -> None:
        """Read it, unless nothing is typed."""
        if event.value.strip():
            self._say("reading")
            self._load(Path(event.value.strip()).expanduser())

    @work(exclusive=True)
    async def _load(self, path: Path) -> None:
        try:
            mapping = await in_thread(lambda: _read(path, self._session))
        except S2PError as error:
            self._say(str(error))
        else:
            self.dismiss(mapping)

    def _say(self, text: str) -> None:
        self.query_one("#remark", Label).update(Content(self._glyphs.plain(inert(text))))


def _read(path: Path, session: Session) -> Mapping:
    """The mapping in a file.

    Raises:
        S2PError: It cannot be read, or was made for other files.
    """
    from s2p_tui.core.mapping import replay
    from s2p_tui.opening import load_mapping

    mapping = load_mapping(path)
    replay(mapping, session.checkpoint.state_dict, session.target.skeleton)
    return mapping
