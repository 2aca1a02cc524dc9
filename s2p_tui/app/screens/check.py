"""The form that asks what to run both models on, and the screen while they run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label

from s2p_tui.app.agreement import Found
from s2p_tui.app.checks import CheckJob, Source, Typed
from s2p_tui.app.screens.busy import Busy
from s2p_tui.app.theme import Symbols
from s2p_tui.app.widgets.frame import Box
from s2p_tui.errors import printable

if TYPE_CHECKING:
    from s2p_tui.session.session import Session


class CheckForm(ModalScreen[Typed | None]):
    """Asks for both factories and an input, and says that their code is run; Enter runs it.

    Args:
        typed: What the fields hold at first.
        symbols: The symbols.
        settles: Whether the forward is to decide then.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", show=False),
        Binding("down", "app.focus_next", show=False),
        Binding("up", "app.focus_previous", show=False),
    ]

    def __init__(self, typed: Typed, symbols: Symbols, *, settles: bool = False) -> None:
        super().__init__()
        self._typed = typed
        self._symbols = symbols
        self._settles = settles

    def compose(self) -> ComposeResult:
        """Compose the fields, of which the first empty one has the cursor."""
        typed = self._typed
        title = "Settle by both models" if self._settles else "Run both models"
        with Box(self._symbols, title, "Tab next  Enter runs them  Esc cancel"):
            if self._settles:
                yield Label("Other sources are tried for doubtful rows, and where modules differ;")
                yield Label("you review what is found.")
            yield Label("The code of both is run, in a process of its own.")
            yield Label("PyTorch model")
            yield Input(printable(typed.torch), "net.py:TorchNet", id="torch", compact=True)
            yield Label("JAX model")
            yield Input(printable(typed.jax), "net.py:Net", id="jax", compact=True)
            yield Label("Input of one example: shapes and dtypes, or a function")
            yield Input(
                printable(typed.inputs),
                self._symbols.plain("3x32x32   128 int32 --below 30000   net.py:example"),
                id="inputs",
                compact=True,
            )
            yield Label("", id="remark")

    def on_mount(self) -> None:
        fields = list(self.query(Input))
        empty = (field for field in fields if not field.value.strip())
        next(empty, fields[-1]).focus()

    @on(Input.Changed)
    def forget(self) -> None:
        self.query_one("#remark", Label).update("")

    @on(Input.Submitted)
    def accept(self) -> None:
        torch, jax, inputs = (field.value.strip() for field in self.query(Input))
        typed = Typed(torch, jax, inputs)
        if stop := typed.obstacle():
            words = self._symbols.plain(printable(stop))
            self.query_one("#remark", Label).update(Content(words))
            empty = (field for field in self.query(Input) if not field.value.strip())
            if (field := next(empty, None)) is not None:
                field.focus()
        else:
            self.dismiss(typed)


class Checking(Busy[Found]):
    """Runs both models; dismissed with what was found.

    Attributes:
        job: The run, to watch and to cancel.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("q", "cancel", show=False)]

    def __init__(
        self,
        session: Session,
        typed: Typed,
        source: Source,
        symbols: Symbols,
        *,
        settles: bool = False,
    ) -> None:
        super().__init__("Settling by both models" if settles else "Running both models", symbols)
        self.job = CheckJob()
        self._session = session
        self._typed = typed
        self._source = source
        self._settles = settles

    def compose_box(self) -> ComposeResult:
        yield from super().compose_box()
        yield Button("Cancel", id="cancel", compact=True)

    def words(self) -> str:
        return self.job.step

    def stop(self) -> None:
        self.job.cancel()

    async def run(self) -> Found:
        """Run them, in a thread that the program waits for: no process may outlive the app."""
        return await asyncio.to_thread(
            self.job.run,
            self._session,
            self._typed,
            self._source,
            settles=self._settles,
        )
