"""The terminal app, and the calls that open it from Python.

Imports Textual only: everything heavy waits until the first frame is drawn.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

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
from s2p_tui.tui.terminal import require_foreground, require_terminal
from s2p_tui.tui.threads import in_thread

if TYPE_CHECKING:
    from s2p_tui.report import Report
    from s2p_tui.saving import Converted
    from s2p_tui.session import Session

    ConvertedApp = App[Converted | None]
else:
    ConvertedApp = App

_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
_DEFAULT_CHUNK = 64 << 20
_BY_SIGNAL = 128


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
        )
        await self.push_screen(self._workspace)

    def _fail(self, error: S2PError) -> None:
        self.fatal = error
        self.exit(None, return_code=error.exit_code)


def start_conversion_from_pytree_and_state_dict(
    pytree: Any,
    state_dict: Any,
    *,
    target_name: str = "model.eqx",
    target_dir: str | Path = ".",
    dtype: str | None = None,
    mapping: str | Path | None = None,
    key: str | None = None,
    resume: Resume = "ask",
    ascii_only: bool = False,
) -> Report | None:
    """Open the app on objects in memory; returns when the user quits.

    Edits are journalled like those on files: the same names, shapes and dtypes are the same pair.

    Args:
        pytree: As for `s2p_tui.convert`: a module, `(model, state)`, any pytree, an abstract one.
        state_dict: As for `s2p_tui.convert`; its tensors are viewed, not copied.
        target_name: The file proposed for the conversion.
        target_dir: Its folder.
        dtype: The dtype proposed for it; None for the pytree's.
        mapping: Where the mapping is saved; None for beside the output.
        key: Dotted place of the state dict in a nested one; the app asks where several could be
            meant.
        resume: What to do with edits that an earlier session on the same pair left.
        ascii_only: Use no signs beyond ASCII.

    Returns:
        What was converted last, or None if nothing was.

    Raises:
        UsageError: There is no terminal, or an event loop runs already; the message says what to
            call instead.
        S2PError: One side cannot be converted.
    """

    def open_session(chosen: str | None) -> Session:
        from s2p_tui.memory import checkpoint_in_memory
        from s2p_tui.objects import target_in_memory
        from s2p_tui.session import Session

        checkpoint = checkpoint_in_memory(state_dict, key=key if chosen is None else chosen)
        return Session.between(checkpoint, target_in_memory(pytree))

    return _start(
        open_session,
        "state dict in memory",
        "pytree in memory",
        Path(target_dir) / target_name,
        dtype,
        mapping,
        resume,
        ascii_only,
        "s2p_tui.convert(from_memory=True, state_dict=…, pytree=…)",
    )


def start_conversion_from_paths(
    pytree_path: str | Path,
    state_dict_path: str | Path,
    *,
    target_name: str = "model.eqx",
    target_dir: str | Path = ".",
    dtype: str | None = None,
    mapping: str | Path | None = None,
    key: str | None = None,
    like: str | None = None,
    resume: Resume = "ask",
    ascii_only: bool = False,
) -> Report | None:
    """Open the app on chunk folders, files or import paths; returns when the user quits.

    Args:
        pytree_path: A chunk folder, a skeleton file, an `.eqx`, or `pkg.module:object`.
        state_dict_path: A chunk folder, a checkpoint, or `pkg.module:object`.
        target_name: The file proposed for the conversion.
        target_dir: Its folder.
        dtype: The dtype proposed for it; None for the pytree's.
        mapping: Where the mapping is saved; None for beside the output.
        key: Dotted place of the state dict in a nested checkpoint.
        like: `pkg.module:factory` that names the leaves of a plain `.eqx`.
        resume: What to do with edits that an earlier session on the same pair left.
        ascii_only: Use no signs beyond ASCII.

    Returns:
        What was converted last, or None if nothing was.

    Raises:
        UsageError: There is no terminal, or an event loop runs already; the message says what to
            call instead. Or the two paths are the wrong way round.
        S2PError: One side cannot be read.
    """

    def open_session(chosen: str | None) -> Session:
        from s2p_tui.objects import pytree_at, require_order, state_dict_at
        from s2p_tui.session import Session

        require_order(pytree_path, state_dict_path)
        checkpoint = state_dict_at(state_dict_path, key if chosen is None else chosen)
        return Session.between(checkpoint, pytree_at(pytree_path, like))

    return _start(
        open_session,
        str(state_dict_path),
        str(pytree_path),
        Path(target_dir) / target_name,
        dtype,
        mapping,
        resume,
        ascii_only,
        "s2p_tui.convert(from_path=True, …)",
    )


def _start(
    open_session: Callable[[str | None], Session],
    model_label: str,
    skeleton_label: str,
    output: Path,
    dtype: str | None,
    mapping: str | Path | None,
    resume: Resume,
    ascii_only: bool,
    way_out: str,
) -> Report | None:
    require_terminal(way_out)
    require_foreground(way_out)
    opened: list[Session] = []

    def open_and_keep(chosen: str | None) -> Session:
        session = open_session(chosen)
        opened.append(session)
        session.require_kinship()
        return session

    ui = S2PApp(
        open_and_keep,
        model_label=model_label,
        skeleton_label=skeleton_label,
        output=output,
        dtype=dtype,
        mapping=None if mapping is None else Path(mapping),
        ascii_only=ascii_only,
        resume=resume,
    )
    converted = ui.run()
    for session in opened:
        session.close()
    if ui.fatal is not None:
        raise ui.fatal
    if ui.return_code and ui.return_code > _BY_SIGNAL:
        signal.raise_signal(ui.return_code - _BY_SIGNAL)
    if converted is None:
        return None
    from s2p_tui.report import report_of

    return report_of(opened[-1], converted)
