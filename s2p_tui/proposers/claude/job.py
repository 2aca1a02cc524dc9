"""A question while it is being asked: how far it is, and how to stop it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any

from s2p_tui.core.errors import CancelledError
from s2p_tui.proposers.claude.budget import estimate_of


class Asking:
    """Read by whoever shows it, written by the thread that asks.

    Attributes:
        phase: What is going on, in words.
        request: The number of the request, counted from 1.
        requests: How many there are.
        sent: Tokens sent so far.
        counted: Whether the service counted them; if not, they are estimated.
        received: Bytes of answers received so far.
        started: When it began, on the monotonic clock.
    """

    def __init__(self) -> None:
        self.phase = "starting"
        self.request = 0
        self.requests = 0
        self.sent = 0
        self.counted = True
        self.received = 0
        self.started = time.monotonic()
        self._cancelled = threading.Event()
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.started

    @property
    def words(self) -> str:
        """How far it is, in a line."""
        parts = [self.phase]
        if self.requests > 1 and self.request:
            parts.append(f"request {self.request} of {self.requests}")
        if self.sent:
            parts.append(f"{'' if self.counted else 'about '}{self.sent:,} tokens sent")
        if self.received:
            parts.append(f"about {estimate_of(self.received):,} received")
        parts.append(f"{self.elapsed:.0f} s")
        return ", ".join(parts)

    @property
    def is_cancelled(self) -> bool:
        """Whether it was asked to stop."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Stop: connections are cut, so that a thread waiting for a byte wakes up."""
        self._cancelled.set()
        with self._lock:
            connections, self._sockets = self._sockets, []
        for connection in connections:
            # Not `connection.shutdown`: of a TLS socket that would pull the session away from
            # under the thread that reads from it.
            with contextlib.suppress(OSError, ValueError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def check(self) -> None:
        """Stop here if asked to.

        Raises:
            CancelledError: It was cancelled.
        """
        if self.is_cancelled:
            raise CancelledError("Asking Claude was cancelled; nothing was changed.")

    def wait(self, seconds: float) -> None:
        """Wait, unless cancelled meanwhile.

        Raises:
            CancelledError: It was cancelled.
        """
        self._cancelled.wait(seconds)
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
