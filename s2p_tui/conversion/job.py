"""Progress and cancellation of one conversion, shared by its worker and whoever watches."""

from __future__ import annotations

import threading
import time
from typing import Literal

from s2p_tui.errors import CancelledError

Phase = Literal["writing", "syncing", "verifying", "done"]


class Job:
    """Written by the worker, polled by watchers; no locks, no callbacks.

    Attributes:
        total: Bytes of the output.
        free: Bytes the output's file system had free before; 0 until that is known.
        memory: Bytes of memory the work takes at most, beside the program's own; 0 until known.
        written: Bytes written so far.
        verified: Bytes compared so far.
        leaf: Key path of the current leaf.
        phase: The current phase.
        started: `time.monotonic()` at the start.
    """

    def __init__(self) -> None:
        self.total = 0
        self.free = 0
        self.memory = 0
        self.written = 0
        self.verified = 0
        self.leaf = ""
        self.phase: Phase = "writing"
        self.started = time.monotonic()
        self._cancel = threading.Event()

    def cancel(self) -> None:
        """Ask the worker to stop; it does within one chunk."""
        self._cancel.set()

    @property
    def is_cancelled(self) -> bool:
        """True if the worker was asked to stop."""
        return self._cancel.is_set()

    def check(self) -> None:
        """Stop here if someone asked for it.

        Raises:
            CancelledError: `cancel` was called.
        """
        if self._cancel.is_set():
            raise CancelledError("Cancelled; nothing was written.")
