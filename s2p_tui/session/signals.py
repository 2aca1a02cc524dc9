"""Signals that ask the program to stop: as an exception, as a cancelled job, or from a thread.

`SIGINT`, `SIGTERM` and `SIGHUP`. A command raises `StoppedError`; while it converts, the job is
cancelled instead. A call from Python cleans up and then does what the signal would have done. The
app, whose main thread may wait for the terminal, watches from a thread.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from types import FrameType
from typing import Any

from s2p_tui.alignment.task import Job

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_USUAL = (signal.SIG_DFL, signal.default_int_handler)
Handler = Callable[[int, FrameType | None], None]


class StoppedError(BaseException):
    """A signal that asks to stop. Like `KeyboardInterrupt` it is not an `Exception`.

    Attributes:
        number: The signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def name(self) -> str:
        """The signal's name, such as SIGTERM."""
        return signal.Signals(self.number).name


class _EndedError(BaseException):
    """Unwinds the stack after a signal, past everything that catches ordinary exceptions."""


class Handlers:
    """Handlers put in place of others, until `restore`.

    Outside the main thread, where Python handles no signals, nothing changes.

    Args:
        handler: Called in the main thread with each signal.
        numbers: The signals.
    """

    def __init__(self, handler: Handler, numbers: Iterable[int]) -> None:
        self._before: dict[int, Any] = {}
        if is_main_thread():
            for number in numbers:
                self._before[number] = signal.signal(number, handler)

    def restore(self) -> None:
        """Put back what was there; once."""
        for number, previous in self._before.items():
            # None: a handler that was not set from Python, which cannot be put back.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
        self._before.clear()


def is_main_thread() -> bool:
    """Return True in the thread that signals are handled in."""
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def handled_by(handler: Handler, numbers: Iterable[int] | None = None) -> Generator[None]:
    """Call the handler for every signal that asks to stop, and restore the handlers afterwards.

    Args:
        handler: Called with each signal.
        numbers: The signals; None for all that are not ignored: `nohup` and shells ignore some for
            work in the background.
    """
    if numbers is None:
        numbers = [one for one in STOPPING if signal.getsignal(one) is not signal.SIG_IGN]
    handlers = Handlers(handler, numbers)
    try:
        yield
    finally:
        handlers.restore()


def stopping() -> contextlib.AbstractContextManager[None]:
    """Raise `StoppedError` in the main thread when a signal asks to stop."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise StoppedError(number)

    return handled_by(stop)


@contextlib.contextmanager
def cancelling(job: Job) -> Generator[list[int]]:
    """Cancel a job when a signal asks to stop; yields the signals that came."""
    received: list[int] = []

    def cancel(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        job.cancel()

    with handled_by(cancel):
        yield received


@contextlib.contextmanager
def cleaned_up_first(job: Job) -> Generator[None]:
    """Unwind the block when a signal asks to stop, then do what the signal would have done.

    The first signal raises once; later ones wait, so that cleaning up is not cut short. Handlers of
    the caller's own, and ignored signals, are left as they are.

    Args:
        job: Cancelled by the signal too, in case the exception is swallowed on its way.
    """
    received: list[int] = []

    def unwind(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        job.cancel()
        if len(received) == 1:
            raise _EndedError

    try:
        with handled_by(unwind, [one for one in STOPPING if signal.getsignal(one) in _USUAL]):
            yield
    finally:
        if received:
            signal.raise_signal(received[0])


class Watch:
    """Watches for signals from a thread.

    A handler runs in the main thread between two steps of Python, and an event loop's even later:
    too late where the main thread waits for a terminal that takes no more output.

    Args:
        on_signal: Called in the watching thread with the first signal; `SIGHUP` for a terminal that
            has hung up.
        terminal: True to watch standard input for a hang-up too.
    """

    def __init__(self, on_signal: Callable[[int], None], *, terminal: bool) -> None:
        self._on_signal = on_signal
        self._terminal = terminal
        self._read, self._written = os.pipe()
        os.set_blocking(self._written, False)
        self._wakeup = signal.set_wakeup_fd(self._written, warn_on_full_buffer=False)
        self._handlers = Handlers(_noted, STOPPING)
        threading.Thread(target=self._run, daemon=True, name="s2p-signals").start()

    def release(self) -> None:
        """Give the signals back; the thread ends unless a signal has come."""
        signal.set_wakeup_fd(self._wakeup)
        self._handlers.restore()
        os.close(self._written)

    def _run(self) -> None:
        number = self._first()
        if number is None:
            os.close(self._read)
        else:
            self._on_signal(number)

    def _first(self) -> int | None:
        """Wait for the first signal; None once the signals are given back."""
        waiting = select.poll()
        waiting.register(self._read, select.POLLIN)
        if self._terminal and sys.__stdin__ is not None:
            # Hang-ups only, which poll reports without being asked: where the program is in no
            # foreground job, nobody sends the signal.
            waiting.register(sys.__stdin__.fileno(), 0)
        while True:
            if any(file != self._read for file, _ in waiting.poll()):
                return signal.SIGHUP
            came = os.read(self._read, 64)
            if not came:
                return None
            if ours := [number for number in came if number in STOPPING]:
                return ours[0]


def _noted(*_: object) -> None:
    """Ignore a signal that the watching thread reads from the pipe."""
