"""Signals that end the program, after what was begun has been cleaned up."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Generator
from types import FrameType

from s2p_tui.streaming.job import Job

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
