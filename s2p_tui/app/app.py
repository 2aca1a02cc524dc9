"""The app class. Imports Textual only: the rest is loaded after the first frame is drawn."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Required, TypedDict, Unpack

from msgspec import structs
from textual import work
from textual.await_complete import AwaitComplete
from textual.binding import Binding, BindingType
from textual.driver import Driver
from textual.events import DescendantFocus, Key
from textual.widgets import Input
from textual.worker import WorkerFailed

from s2p_tui.app.background import in_thread
from s2p_tui.app.failures import unexpected
from s2p_tui.app.keys import Keymap
from s2p_tui.app.resume import Journalled, Resume
from s2p_tui.app.screens.busy import Busy, Converting
from s2p_tui.app.screens.help import Palette
from s2p_tui.app.screens.questions import ConfirmQuit, QuitAnswer, Reading, WhichStateDict
from s2p_tui.app.terminal.exit import Ending
from s2p_tui.app.terminal.key_queue import KeyQueue
from s2p_tui.app.terminal.output_diff import CellDiffDriver, with_cell_diff
from s2p_tui.app.theme import ASCII, OWN_COLOURS, UNICODE, quiet
from s2p_tui.app.tour import Tour
from s2p_tui.conversion.output_names import default_mapping
from s2p_tui.errors import AmbiguousStateDictError, S2PError, printable
from s2p_tui.formats.atomic import remove_unfinished
from s2p_tui.session.saved_mapping import Offered, missing, offered, taken

if TYPE_CHECKING:
    from s2p_tui.alignment.task import Job
    from s2p_tui.app.screens.main import Workspace
    from s2p_tui.conversion.output import Converted
    from s2p_tui.formats.models import Models
    from s2p_tui.session.session import Session

    ConvertedApp = KeyQueue[Converted | None]
else:
    ConvertedApp = KeyQueue

_AFTER_THE_FIRST_FRAME = ("s2p_tui.app.resume", "s2p_tui.app.screens.main")
# Parameters of `mallopt` of glibc, which otherwise raises both limits up to 64 MiB, so that what
# matching 100,000 rows takes and gives back stays: 430 bytes a row. The arrays of an edit at that
# size, 400 kB each, are below the limits, so that their pages are used again.
_MALLOC_LIMITS = {-1: 2 << 20, -3: 1 << 20}  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD


class AppOptions(TypedDict, total=False):
    """Options of the app.

    Attributes:
        model_label: Name of the checkpoint while it is being read.
        skeleton_label: Name of the skeleton.
        output: The file proposed for the conversion.
        dtype: The dtype proposed for it; None for the skeleton's.
        mapping: Where mappings are saved; None for beside the output.
        has_mapping: True if the session is opened with the mapping that is there already.
        chunk_bytes: Approximate memory limit of a conversion.
        jobs: Threads that share a conversion; None for two, or one on a single core.
        ascii_only: Use ASCII symbols only; None for the default.
        resume: What to do with edits that an earlier session on the same pair left.
        keymap: The keys of every action.
        theme: Name of one of Textual's themes; None for what suits the terminal.
        ending: Ends the program by a signal.
        tour: Makes it a guided run.
        checkpoint: The checkpoint's file, folder or address, for running both models; None for a
            state dict in memory.
        adapter: The LoRA adapter that was merged into it.
        allow_missing: Entries that its index names and no shard holds are left out.
        models: The factories of both models, before those that the skeleton records.
        inputs: What both models are run on, as one types it.
    """

    model_label: Required[str]
    skeleton_label: Required[str]
    output: Required[Path]
    dtype: str | None
    mapping: Path | None
    has_mapping: bool
    chunk_bytes: int
    jobs: int | None
    ascii_only: bool | None
    resume: Resume
    keymap: Keymap | None
    theme: str | None
    ending: Ending | None
    tour: Tour | None
    checkpoint: Path | str | None
    adapter: Path | str | None
    allow_missing: bool
    models: Models
    inputs: str


class S2PApp(ConvertedApp):
    """Opens a session and shows it. `run()` returns the last conversion, or None.

    Args:
        open_session: Opens both ends, slowly; takes the state dict's dotted key, or None.
        options: See `AppOptions`.

    Attributes:
        keymap: The keys of every action.
        farewell: What to say once the terminal is the shell's again; possibly empty.
        fatal: Why nothing could be opened; the app has ended then, with the error's exit code.
    """

    CSS_PATH = "app.tcss"
    TITLE = "s2p-tui"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "ask_quit", show=False, priority=True),
        Binding("ctrl+c", "interrupt", show=False, priority=True),
    ]

    def __init__(
        self, open_session: Callable[[str | None], Session], **options: Unpack[AppOptions]
    ) -> None:
        # Textual would draw in shades of grey, which are colours to a terminal too.
        is_colourless = "NO_COLOR" in os.environ
        super().__init__(ansi_color=True if is_colourless else None)
        self.animation_level = "none"
        self.keymap = options.get("keymap") or Keymap()
        self.set_keymap(self.keymap.for_textual)
        theme = options.get("theme")
        if is_colourless or theme is not None:
            self.theme = OWN_COLOURS if is_colourless or theme is None else theme
        self._ending = options.get("ending") or Ending()
        self.fatal: S2PError | None = None
        self.farewell = ""
        self._open_session = open_session
        self._options = options
        self._symbols = ASCII if options.get("ascii_only") else UNICODE
        self._resume: Resume = options.get("resume", "ask")
        self._mapping = options.get("mapping")
        self._journalled = Journalled(None)
        self._workspace: Workspace | None = None
        self._reading: Reading | None = None
        self.set_class(self._symbols.is_ascii, "-ascii")

    def get_css_variables(self) -> dict[str, str]:
        """Textual's, and `quiet`: the text's colour, nearer to the background in any theme."""
        variables = super().get_css_variables()
        return variables | {"quiet": quiet(variables["foreground"], variables["background"])}

    def get_driver_class(self) -> type[Driver]:
        """The driver of this platform, which sends no more than what has changed."""
        return with_cell_diff(super().get_driver_class())

    def on_resize(self) -> None:
        """Redraw everything; after a resize the terminal's contents are undefined."""
        if isinstance(self._driver, CellDiffDriver):
            self._driver.forget()

    def get_default_screen(self) -> Reading:
        """The first frame: which files are being read."""
        labels = self._options["model_label"], self._options["skeleton_label"]
        self._reading = Reading(self._symbols, *labels)
        return self._reading

    def on_load(self) -> None:
        loop = asyncio.get_running_loop()

        def end(number: int) -> None:
            self._stop_working()
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self.end_by_signal, number)

        self._ending.watch(end, self._clear_up)

    def on_mount(self) -> None:
        self.call_after_refresh(self._open)

    def on_unmount(self) -> None:
        if self._journalled.journal is not None:
            self._journalled.journal.close()
        gc.unfreeze()
        self._ending.release()

    def on_descendant_focus(self, event: DescendantFocus) -> None:
        if isinstance(event.widget, Input):
            event.widget.cursor_blink = False

    def end_by_signal(self, number: int) -> None:
        """End cleanly: stop a running conversion, restore the terminal, tell the shell."""
        self._leave(128 + number)

    def action_ask_quit(self) -> None:
        """Quit; ask first if that would stop a conversion or leave edits unsaved."""
        if isinstance(self.screen, ConfirmQuit):
            self.screen.action_again()
            return
        workspace, is_converting = self._workspace, self._job is not None
        unsaved = workspace is not None and workspace.has_unsaved_edits
        kept = self._journalled.keeps

        def answered(answer: QuitAnswer | None) -> None:
            if answer == "save" and workspace is not None:
                workspace.action_save()
                if workspace.has_unsaved_edits:
                    return
            if answer == "quit" and unsaved and kept:
                self.farewell = "Edits not saved; opening the same pair again resumes them."
            if answer in ("save", "quit"):
                self._leave()

        if is_converting or unsaved:
            question = ConfirmQuit(
                self._symbols, unsaved=unsaved, kept=kept, converting=is_converting
            )
            self.push_screen(question, answered)
        else:
            self._leave()

    def action_interrupt(self) -> None:
        """Close what is open, like Esc; ask to quit if nothing is."""
        screen = self.screen
        if isinstance(screen, ConfirmQuit):
            screen.action_again()
        elif self._is_something_open or isinstance(self.focused, Input):
            self.press_next(Key("escape", None))
        else:
            self.action_ask_quit()

    def action_palette(self) -> None:
        workspace = self._workspace

        async def chosen(action: str | None) -> None:
            if action is not None and workspace is not None:
                await workspace.run_action(action)

        if workspace is not None and self.screen is workspace:
            self.push_screen(Palette(self.keymap, self._symbols), chosen)

    def pop_screen(self) -> AwaitComplete:
        """Close what lies over the workspace; a question answered twice does not close that."""
        return AwaitComplete() if self.screen is self._workspace else super().pop_screen()

    @property
    def _is_something_open(self) -> bool:
        """True if a screen lies over the workspace, or a question comes before it."""
        return not (self.screen is self._workspace or isinstance(self.screen, Reading))

    @property
    def _job(self) -> Job | None:
        """The conversion that runs."""
        jobs = [screen.job for screen in self.screen_stack if isinstance(screen, Converting)]
        return jobs[0] if jobs else None

    def _stop_working(self) -> None:
        if self._job is not None:
            self._job.cancel()

    def _clear_up(self) -> None:
        """Leave nothing unfinished behind where the end cannot be waited for."""
        for screen in self.screen_stack:
            if isinstance(screen, Busy):
                screen.stop()
            if isinstance(screen, Converting):
                remove_unfinished(Path(os.path.realpath(screen.output)).parent)

    def _leave(self, return_code: int = 0) -> None:
        self._stop_working()
        converted = None if self._workspace is None else self._workspace.converted
        self.exit(converted, return_code=return_code)

    @work
    async def _open(self) -> None:
        key: str | None = None
        while True:
            try:
                session = await in_thread(lambda key=key: self._opened(key), "Opening")
            except AmbiguousStateDictError as error:
                key = await self.push_screen_wait(
                    WhichStateDict(
                        self._symbols, self._options["model_label"], error.choices, error.meanings
                    )
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

    def _opened(self, key: str | None) -> Session:
        """The session, with what will show it imported: the first frame has not waited for it."""
        for module in _AFTER_THE_FIRST_FRAME:
            import_module(module)
        _return_freed_memory()
        session = self._open_session(key)
        # The collector would go through a million objects in the middle of a key press.
        gc.freeze()
        return session

    async def _show(self, session: Session) -> None:
        from s2p_tui.app.resume import begin, open_journal
        from s2p_tui.app.screens.main import Workspace

        opened_with = session.alignment
        self._journalled = await open_journal(session)
        found = await self._mapping_of(session)
        begun = await begin(
            session,
            self._journalled,
            self._resume,
            found if isinstance(found, Offered) else None,
            self._symbols,
            self.push_screen_wait,
        )
        if begun is None:
            self._leave()
            return
        self._journalled = begun
        from s2p_tui.session.recipes import fitting

        recipes = await in_thread(lambda: fitting(session), "Looking for recipes")
        offer = f"Recipes that fit: {', '.join(recipes)}; ctrl+o takes one by name" * bool(recipes)
        more = (found if isinstance(found, str) else "", offer)
        if any(more):
            note = "; ".join(filter(None, (begun.note, *more)))
            self._journalled = structs.replace(begun, note=note)
        is_saved = isinstance(found, Offered) and found.alignment.says_as(session.alignment)
        saved = session.alignment if is_saved else opened_with
        self._workspace = Workspace(
            session,
            self._journalled,
            saved=saved,
            symbols=self._symbols,
            options=self._options,
        )
        await self.push_screen(self._workspace)
        self._workspace.call_after_refresh(
            self.press_next, *(self._reading.typed if self._reading else ())
        )

    async def _mapping_of(self, session: Session) -> Offered | str | None:
        """The mapping file to start from, or what there is to say of it."""
        path = self._mapping
        if path is None:
            if self._resume == "afresh":
                return None
            beside = default_mapping(self._options["output"])
            return await in_thread(lambda: offered(session, beside), "Reading the mapping file")
        return taken(session, path) if self._options.get("has_mapping") else missing(path)

    def _handle_exception(self, error: Exception) -> None:
        """Go on after a worker that failed; end in one line after anything else.

        Textual would end with a traceback that shows what every variable holds.
        """
        if isinstance(error, WorkerFailed) and self._workspace is not None:
            failure = unexpected(error.error, "The last key")
            self._workspace.say(printable(failure.line), "lines--bad")
            return
        cause = error.error if isinstance(error, WorkerFailed) else error
        self.fatal = unexpected(cause, "The app")
        # Textual keeps it for tests, which raise it again, and has no public way to end at once.
        untyped: Any = self
        untyped._return_code = self.fatal.exit_code
        if untyped._exception is None:
            untyped._exception = error
            untyped._exception_event.set()
        untyped._close_messages_no_wait()

    def _fail(self, error: S2PError) -> None:
        self.fatal = error
        self.exit(None, return_code=error.exit_code)


def _return_freed_memory() -> None:
    """Have memory given back to the system soon after it is freed, where malloc can be told."""
    # Other C libraries have no such function.
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in _MALLOC_LIMITS.items():
            mallopt(parameter, value)
