"""A long calculation, as whoever waits for it sees it: how far it is, and how to end it."""

from __future__ import annotations

import threading

from s2p_tui.errors import CancelledError


class Task:
    """Written by the worker, polled by watchers; no locks, no callbacks.

    Attributes:
        words: What is being done.
        total: Steps of the work; 0 until that is known.
        done: Steps that are done.
    """

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
            raise CancelledError("Cancelled; nothing was changed.")
