"""Which Claude to ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Label, OptionList
from textual.widgets.option_list import Option

from s2p_tui.core.errors import S2PError
from s2p_tui.tui.amounts import many
from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.text import inert
from s2p_tui.tui.threads import in_thread
from s2p_tui.tui.widgets.box import Box, draw_plainly

if TYPE_CHECKING:
    from s2p_tui.proposers.claude.client import Listed
    from s2p_tui.proposers.claude.job import Asking

_TITLE = "Which Claude?"
_KEYS = "Enter choose  Tab type an id  Esc leave"


class ChooseModel(ModalScreen["str | None"]):
    """Short names, what Anthropic lists, or any id typed in; dismissed with a name or None.

    Args:
        current: The name chosen so far.
        glyphs: The signs to draw with.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", show=False)]

    def __init__(self, current: str, glyphs: Glyphs) -> None:
        super().__init__()
        self._current = current
        self._glyphs = glyphs
        self._names: list[str] = []
        self._job: Asking | None = None

    def compose(self) -> ComposeResult:
        """List, remark and input in a box."""
        with Box(self._glyphs, _TITLE, _KEYS):
            yield OptionList(id="choices", compact=True)
            yield Label("", id="why")
            yield Input(placeholder="or type a full id, Enter takes it", id="id", compact=True)

    def on_mount(self) -> None:
        """Show the short names; ask for the rest."""
        from s2p_tui.proposers.claude.models import ALIASES

        options = self.query_one(OptionList)
        draw_plainly(options, self._glyphs)
        arrow = self._glyphs.arrow
        for name, stands_for in ALIASES.items():
            self._add(name, f"{name:<10} {arrow} {stands_for}")
        if self._current not in self._names:
            self._add(self._current, self._current)
        options.highlighted = self._names.index(self._current)
        options.focus()
        self._list()

    def on_unmount(self) -> None:
        """Do not go on asking."""
        if self._job is not None:
            self._job.cancel()

    def _add(self, name: str, shown: str) -> None:
        self._names.append(name)
        self.query_one(OptionList).add_option(Option(Content(self._glyphs.plain(inert(shown)))))

    @work(exclusive=True)
    async def _list(self) -> None:
        from s2p_tui.proposers.claude.job import Asking

        self._remark("Asking Anthropic which models there are …")
        self._job = job = Asking()

        def listed() -> list[Listed]:
            from s2p_tui.proposers.claude.budget import Budget
            from s2p_tui.proposers.claude.client import Client
            from s2p_tui.proposers.claude.secrets import find_key

            with Client(find_key(), Budget(), job).connected() as client:
                return client.models()

        try:
            models = await in_thread(listed)
        except S2PError as error:
            self._remark(f"Anthropic's list cannot be had: {error}")
            return
        if not self.is_mounted:
            return
        for model in models:
            if model.id not in self._names:
                note = f", {model.note}" if model.note else ""
                self._add(model.id, f"{model.id}  {model.name}{note}")
        self._remark(f"{many(len(models), 'model')} from Anthropic." if models else "")

    @on(OptionList.OptionSelected)
    def choose(self, event: OptionList.OptionSelected) -> None:
        """Take it."""
        self.dismiss(self._names[event.option_index])

    @on(Input.Submitted)
    def accept(self, event: Input.Submitted) -> None:
        """Take the id, unless it can be none."""
        from s2p_tui.proposers.claude.models import model_named

        try:
            model_named(event.value)
        except S2PError as error:
            self._remark(str(error))
            return
        self.dismiss(event.value.strip())

    def _remark(self, text: str) -> None:
        if self.is_mounted:
            self.query_one("#why", Label).update(Content(self._glyphs.plain(inert(text))))
