"""Long work on the command line: in a thread, cancelled by signals, with a progress bar."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

from s2p_tui.alignment.task import Job, Task, ended_by
from s2p_tui.errors import CancelledError, S2PError
from s2p_tui.session.signals import cancelling

T = TypeVar("T")
_POLL_SECONDS = 0.08
_QUIET_SECONDS = 1.0


def run_with_progress(work: Callable[[Job], T]) -> T:
    """Run work in a thread, with a progress bar on stderr if that is a terminal.

    SIGINT, SIGTERM and SIGHUP cancel it; it has cleaned up by the time this returns.

    Raises:
        S2PError: What the work raised, or that a signal stopped it.
    """
    job = Job()
    outcome: list[T | BaseException] = []

    def target() -> None:
        try:
            with ended_by(job.check):
                outcome.append(work(job))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=target, name="conversion", daemon=True)
    with cancelling(job) as received:
        thread.start()
        if sys.stderr.isatty():
            _show_progress(thread, job)
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
    result = outcome[0]
    if received and isinstance(result, S2PError):
        raise CancelledError(job.cancelled, signal_number=received[0])
    if isinstance(result, BaseException):
        raise result
    return result


@contextmanager
def narrated() -> Generator[Callable[[str], None]]:
    """Return what shows a step at once, in a line of stderr that goes at the end.

    Imports of PyTorch, JAX and Equinox take seconds, in which a terminal would stay empty. Where
    stderr is none, nothing is shown.
    """
    is_shown = sys.stderr.isatty()

    def say(step: str) -> None:
        if is_shown:
            sys.stderr.write(f"\r\x1b[K{step} …")
            sys.stderr.flush()

    try:
        yield say
    finally:
        if is_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


@contextmanager
def matching_shown() -> Generator[Task]:
    """A task for the matcher, shown on stderr once it has been at work for a second.

    The work stays in this thread, where signals end it and users' factories may run.
    """
    task, is_over = Task("matching"), threading.Event()
    watcher = threading.Thread(target=_watch, args=(task, is_over), daemon=True, name="matching")
    watcher.start()
    try:
        yield task
    finally:
        is_over.set()
        watcher.join()


def _watch(task: Task, is_over: threading.Event) -> None:
    while not task.total:
        if is_over.wait(_POLL_SECONDS):
            return
    if is_over.wait(_QUIET_SECONDS):
        return
    if not sys.stderr.isatty():
        sys.stderr.write("s2p-tui: matching by names and structure ...\n")
        sys.stderr.flush()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        shown = progress.add_task(task.words, total=task.total)
        while not is_over.wait(_POLL_SECONDS):
            progress.update(shown, completed=task.done)


def _show_progress(thread: threading.Thread, job: Job) -> None:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(job.phase, total=None)
        phase = job.phase
        is_said = False
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
            if job.memory and not is_said:
                is_said = True
                progress.console.print(needs_of(job), markup=False, highlight=False)
            if job.phase != phase:
                phase = job.phase
                progress.reset(task)
            done = job.verified if phase == "verifying" else job.written
            progress.update(task, description=phase, completed=done, total=job.total or None)


def needs_of(job: Job) -> str:
    """Say in one line how much space and memory a conversion will take."""
    return (
        f"{job.total:,} bytes to write, {job.free:,} free; "
        f"up to {job.memory / (1 << 20):,.0f} MiB of memory beside the program's own"
    )
