"""A question while it is being asked: how far it is, and how to stop it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

from s2p_tui.alignment.task import Task

BYTES_PER_TOKEN = 2.5
"""For estimates without asking anyone: names and numbers take more tokens than prose does."""
_SMALL = 2_000


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds of one question.

    Attributes:
        input_tokens: Of one request, by `estimate`, everything in it counted.
        output_tokens: Of one answer.
        lines: Groups of leaves asked for in one request.
        requests: Limit for one question, not counting repairs: each may be repaired once.
        attempts: To get one answer begun.
        longest_wait: Seconds between two attempts, whatever the service asks for.
        deadline: Seconds for one answer, waiting included.
        silence: Seconds without a byte after which a connection counts as dead.
        answer_bytes: Of one answer's text.
    """

    input_tokens: int = 28_000
    output_tokens: int = 16_000
    lines: int = 250
    requests: int = 8
    attempts: int = 3
    longest_wait: float = 30.0
    deadline: float = 600.0
    silence: float = 90.0
    answer_bytes: int = 400_000

    @classmethod
    def of(cls, entries: int) -> Budget:
        """The bounds for a checkpoint of that many entries."""
        return cls(input_tokens=11_500) if entries <= _SMALL else cls()


def estimate(*texts: str) -> int:
    """Tokens of some texts, rather too many than too few: one for every 2.5 bytes of UTF-8."""
    return estimate_of(sum(len(text.encode()) for text in texts))


def estimate_of(size: int) -> int:
    """Tokens of so many bytes."""
    return int(size / BYTES_PER_TOKEN) + 1


class Asking(Task):
    """Read by whoever shows it, written by the thread that asks.

    Attributes:
        phase: The current phase, in words.
        request: The number of the request, counted from 1.
        requests: Number of requests.
        sent: Tokens sent so far.
        counted: True if the service counted them; otherwise they are estimated.
        received: Bytes of answers received so far.
        started: Start time on the monotonic clock.
    """

    cancelled = "Asking Claude was cancelled; nothing was changed."

    def __init__(self) -> None:
        super().__init__()
        self.phase = "starting"
        self.request = 0
        self.requests = 0
        self.sent = 0
        self.counted = True
        self.received = 0
        self.started = time.monotonic()
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.started

    @property
    def progress(self) -> str:
        """The progress in one line."""
        parts = [self.phase]
        if self.requests > 1 and self.request:
            parts.append(f"request {self.request} of {self.requests}")
        if self.sent:
            parts.append(f"{'' if self.counted else 'about '}{self.sent:,} tokens sent")
        if self.received:
            parts.append(f"about {estimate_of(self.received):,} received")
        parts.append(f"{self.elapsed:.0f} s")
        return ", ".join(parts)

    def cancel(self) -> None:
        """Stop: connections are cut, so that a thread waiting for a byte wakes up."""
        self._cancel.set()
        with self._lock:
            connections, self._sockets = self._sockets, []
        for connection in connections:
            # Not `connection.shutdown`: of a TLS socket that would pull the session away from
            # under the thread that reads from it.
            with contextlib.suppress(OSError, ValueError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def wait(self, seconds: float) -> None:
        """Wait until the time is over or the job is cancelled.

        Raises:
            CancelledError: It was cancelled.
        """
        self._cancel.wait(seconds)
        self.check()

    def watch(self, request: Any) -> None:
        """Learn of the connections that an `httpx2` request opens; a hook for its client."""
        request.extensions["trace"] = self._traced

    def _traced(self, event: str, info: dict[str, Any]) -> None:
        if event not in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            return
        connection = info["return_value"].get_extra_info("socket")
        if isinstance(connection, socket.socket):
            with self._lock:
                self._sockets.append(connection)
            if self.is_cancelled:
                self.cancel()
