"""The terminal app. Imports Textual only: everything heavy waits until the first frame is drawn."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import work
from textual.app import App
from textual.binding import Binding, BindingType

from s2p_tui.core.errors import AmbiguousStateDictError, S2PError
from s2p_tui.tui.glyphs import ASCII, UNICODE
from s2p_tui.tui.journalling import Journalled, Resume, begin, open_journal
from s2p_tui.tui.screens.confirm_quit import ConfirmQuit
from s2p_tui.tui.screens.convert import Order
from s2p_tui.tui.screens.opening import Reading, WhichStateDict
from s2p_tui.tui.screens.progress import Progress
from s2p_tui.tui.screens.workspace import Workspace
from s2p_tui.tui.threads import in_thread

if TYPE_CHECKING:
    from s2p_tui.saving import Converted
    from s2p_tui.session import Session

    ConvertedApp = App[Converted | None]
else:
    ConvertedApp = App

_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
_DEFAULT_CHUNK = 64 << 20


class S2PApp(ConvertedApp):
    """Opens a session and shows it. `run()` returns the last conversion, or None.

    Args:
        open_session: Opens both ends, slowly; takes the dotted place of the state dict, or None.
        model_label: What to call the checkpoint while it is being read.
        skeleton_label: What to call the skeleton.
        output: The file proposed for the conversion.
        dtype: The dtype proposed for it; None for the skeleton's.
        mapping: Where mappings are saved; None for beside the output.
        chunk_bytes: Memory a conversion stays within, about.
        jobs: Threads that share a conversion; None for two, or one on a single core.
        ascii_only: Use no signs beyond ASCII.
        resume: What to do with edits that an earlier session on the same pair left.

    Attributes:
        fatal: Why nothing could be opened; the app has ended then, with the error's exit code.
    """

    CSS_PATH = "tui/app.tcss"
    TITLE = "s2p-tui"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "ask_quit", show=False, priority=True),
        Binding("ctrl+c", "ask_quit", show=False, system=True),
    ]

    def __init__(
        self,
        open_session: Callable[[str | None], Session],
        *,
        model_label: str,
        skeleton_label: str,
        output: Path,
        dtype: str | None = None,
        mapping: Path | None = None,
        chunk_bytes: int = _DEFAULT_CHUNK,
        jobs: int | None = None,
        ascii_only: bool = False,
        resume: Resume = "ask",
    ) -> None:
        super().__init__()
        self.fatal: S2PError | None = None
        self._open_session = open_session
        self._labels = model_label, skeleton_label
        self._order = Order(output, dtype)
        self._mapping = mapping
        self._chunk_bytes = chunk_bytes
        self._jobs = jobs
        self._glyphs = ASCII if ascii_only else UNICODE
        self._resume: Resume = resume
        self._journalled = Journalled(None)
        self._workspace: Workspace | None = None
        self.set_class(ascii_only, "-ascii")

    def get_default_screen(self) -> Reading:
        """The first frame."""
        return Reading(self._glyphs, *self._labels)

    def on_mount(self) -> None:
        """Be told of signals, then start reading."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            # Outside the main thread, as in some test runners, there are no signals to handle.
            with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
                loop.add_signal_handler(number, self.end_by_signal, number)
        self.call_after_refresh(self._open)

    def on_unmount(self) -> None:
        """Bring the journal to the disk and give the signals back."""
        if self._journalled.journal is not None:
            self._journalled.journal.close()
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
                loop.remove_signal_handler(number)

    def end_by_signal(self, number: int) -> None:
        """End cleanly: stop a running conversion, restore the terminal, tell the shell."""
        self._leave(128 + number)

    @work
    async def action_ask_quit(self) -> None:
        """Quit; ask first if edits would be lost."""
        if isinstance(self.screen, ConfirmQuit):
            self._leave()
            return
        workspace = self._workspace
        if workspace is not None and workspace.has_unsaved_edits:
            answer = await self.push_screen_wait(ConfirmQuit(self._glyphs))
            if answer == "stay":
                return
            if answer == "save":
                workspace.action_save()
                if workspace.has_unsaved_edits:
                    return
        self._leave()

    def _leave(self, return_code: int = 0) -> None:
        for screen in self.screen_stack:
            if isinstance(screen, Progress):
                screen.job.cancel()
        converted = None if self._workspace is None else self._workspace.converted
        self.exit(converted, return_code=return_code)

    @work
    async def _open(self) -> None:
        key: str | None = None
        while True:
            try:
                session = await in_thread(lambda key=key: self._open_session(key))
            except AmbiguousStateDictError as error:
                key = await self.push_screen_wait(
                    WhichStateDict(self._glyphs, self._labels[0], error.choices)
                )
                if key is None:
                    self._fail(error)
                    return
            except S2PError as error:
                self._fail(error)
                return
            else:
                break
        await self._show(session)

    async def _show(self, session: Session) -> None:
        opened_with = session.alignment
        self._journalled = await open_journal(session)
        begun = await begin(
            session, self._journalled, self._resume, self._glyphs, self.push_screen_wait
        )
        if begun is None:
            self._leave()
            return
        self._journalled = begun
        self._workspace = Workspace(
            session,
            self._order,
            begun,
            saved=opened_with,
            glyphs=self._glyphs,
            mapping=self._mapping,
            chunk_bytes=self._chunk_bytes,
            jobs=self._jobs,
        )
        await self.push_screen(self._workspace)

    def _fail(self, error: S2PError) -> None:
        self.fatal = error
        self.exit(None, return_code=error.exit_code)
