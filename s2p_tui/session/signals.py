"""Signals that ask the program to stop, as one exception that nothing takes for an error."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Generator
from types import FrameType

from s2p_tui.conversion.job import Job

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Handler = Callable[[int, FrameType | None], None]


class StoppedError(BaseException):
    """A signal asked to stop. Like `KeyboardInterrupt` it is no `Exception`.

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


@contextlib.contextmanager
def handled_by(handler: Handler) -> Generator[None]:
    """Have the handler called for every signal that asks to stop, and put back what was there.

    Signals that are ignored stay so: `nohup` and shells ignore some for work in the background.
    Outside the main thread nothing happens.
    """
    before: dict[int, object] = {}
    if threading.current_thread() is threading.main_thread():
        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous if callable(previous) else signal.SIG_DFL)


def stopping() -> contextlib.AbstractContextManager[None]:
    """Raise `StoppedError` in the main thread when a signal asks to stop."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise StoppedError(number)

    return handled_by(stop)


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_USUAL = (signal.SIG_DFL, signal.default_int_handler)


class _EndedError(BaseException):
    """Unwinds the stack after a signal, past everything that catches ordinary exceptions."""


@contextlib.contextmanager
def cleaned_up_first(job: Job) -> Generator[None]:
    """Have SIGINT, SIGTERM and SIGHUP unwind the block, then do what they would have done.

    The first of them raises once; later ones wait, so that cleaning up is not cut short. Handlers
    of the caller's own, and ignored signals, are left as they are. Outside the main thread, where
    Python handles no signals, nothing changes.

    Args:
        job: Cancelled by the signal too, in case the exception is swallowed on its way.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        job.cancel()
        if len(received) == 1:
            raise _EndedError

    usual = [number for number in _SIGNALS if signal.getsignal(number) in _USUAL]
    previous = {number: signal.signal(number, on_signal) for number in usual}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])
