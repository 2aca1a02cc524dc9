"""Long work, as whoever waits for it sees it: how far it is, and how to end it."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, TypeVar

from s2p_tui.errors import CancelledError

T = TypeVar("T")
Phase = Literal["writing", "syncing", "verifying", "done"]
_CHECKS: ContextVar[tuple[Callable[[], None], ...]] = ContextVar("checks", default=())
_STEP = 0.05
"""Seconds: within twice that a wait ends at a cancel."""


@contextmanager
def ended_by(check: Callable[[], None]) -> Generator[None]:
    """Have waits of this thread, and of those that get its context, end when a check raises."""
    token = _CHECKS.set((*_CHECKS.get(), check))
    try:
        yield
    finally:
        _CHECKS.reset(token)


def wait(seconds: float) -> None:
    """Wait, unless the work that waits is to end.

    Raises:
        CancelledError: It is, now or meanwhile.
    """
    end = time.monotonic() + seconds
    while True:
        for check in _CHECKS.get():
            check()
        left = end - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(_STEP, left))


def unless_ended(call: Callable[[], T]) -> T:
    """Return what a call returns that hears no cancel; do without it if the work is to end.

    Raises:
        CancelledError: It is, now or meanwhile; the call goes on, and nobody waits for it.
    """
    if not _CHECKS.get():
        return call()
    outcome: list[T] = []
    failures: list[BaseException] = []
    is_over = threading.Event()

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            failures.append(error)
        is_over.set()

    threading.Thread(target=run, daemon=True, name="s2p-request").start()
    while not is_over.wait(_STEP):
        for check in _CHECKS.get():
            check()
    if failures:
        raise failures[0]
    return outcome[0]


class Task:
    """Written by the worker, polled by watchers; no locks, no callbacks.

    Attributes:
        words: What is being done.
        total: Steps of the work; 0 until that is known.
        done: Steps that are done.
    """

    cancelled = "Cancelled; nothing was changed."

    def __init__(self, words: str = "") -> None:
        self.words = words
        self.total = 0
        self.done = 0
        self._cancel = threading.Event()

    def cancel(self) -> None:
        """Ask the worker to stop; it does soon."""
        self._cancel.set()

    @property
    def is_cancelled(self) -> bool:
        """True if someone asked the worker to stop."""
        return self._cancel.is_set()

    @property
    def share(self) -> float:
        """The done part of the work, 0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 0.0

    def check(self) -> None:
        """Stop here if someone asked for it.

        Raises:
            CancelledError: `cancel` was called.
        """
        if self._cancel.is_set():
            raise CancelledError(self.cancelled)


class Job(Task):
    """One conversion; its steps are the bytes of the output.

    Attributes:
        free: Bytes the output's file system had free before; 0 until that is known.
        memory: Bytes of memory the work takes at most, beside the program's own; 0 until known.
        written: Bytes written so far.
        verified: Bytes compared so far.
        leaf: Key path of the current leaf.
        phase: The current phase.
        started: `time.monotonic()` at the start.
    """

    cancelled = "Cancelled; nothing was written."

    def __init__(self) -> None:
        super().__init__()
        self.free = 0
        self.memory = 0
        self.written = 0
        self.verified = 0
        self.leaf = ""
        self.phase: Phase = "writing"
        self.started = time.monotonic()


@contextmanager
def gc_paused() -> Generator[None]:
    """Pause the garbage collector: many small objects and no garbage take half the time then."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
