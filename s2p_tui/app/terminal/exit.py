"""Ending by a signal, in time, even if the main thread is blocked."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
PATIENCE = 0.8
"""Seconds for a clean end; after them the process ends as it is."""

# Kitty's keys, bracketed paste, focus and mouse reports off, lines wrapped, cursor shown, the
# other screen left.
_RESTORED = (
    b"\x1b[<u\x1b[?2004l\x1b[?1004l\x1b[?1000l\x1b[?1003l\x1b[?1006l\x1b[?7h\x1b[?1049l\x1b[?25h"
)

Number = int
Handler = Callable[[int, FrameType | None], Any] | int | None


class Ending:
    """Watches for signals from a thread.

    A signal handler runs in the main thread between two steps of Python, and an event loop's even
    later: too late where the main thread waits for a terminal that takes no more output.

    Args:
        last_resort: Ends the process, given its exit status, if it has not ended in time; None
            where the process is to live on, as in tests.
    """

    def __init__(self, last_resort: Callable[[int], object] | None = None) -> None:
        self._last_resort = last_resort
        self._before: dict[int, Handler] = {}
        self._terminal: list[Any] | None = None
        self._number: Number | None = None
        self._wakeup = self._written = self._read = -1

    def watch(self, on_signal: Callable[[Number], None], clear_up: Callable[[], None]) -> None:
        """Start watching. To be called in the main thread; elsewhere there are no signals.

        Args:
            on_signal: Called in the watching thread when a signal has come.
            clear_up: Called there before the last resort.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        with contextlib.suppress(termios.error, OSError, ValueError):
            self._terminal = termios.tcgetattr(sys.__stdin__.fileno()) if sys.__stdin__ else None
        self._read, self._written = os.pipe()
        os.set_blocking(self._written, False)
        self._wakeup = signal.set_wakeup_fd(self._written, warn_on_full_buffer=False)
        for number in SIGNALS:
            self._before[number] = signal.signal(number, _noted)
        threading.Thread(
            target=self._run, args=(on_signal, clear_up), daemon=True, name="s2p-signals"
        ).start()

    def release(self) -> None:
        """Give the signals back. A last resort that waits already is not called off."""
        if not self._before:
            return
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
        os.close(self._written)

    def hasten(self) -> None:
        """End now, where a signal has come and all is done: to free large lists takes seconds."""
        if self._number is not None and self._last_resort is not None:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            self._last_resort(128 + self._number)

    def _run(self, on_signal: Callable[[Number], None], clear_up: Callable[[], None]) -> None:
        number = self._first()
        if number is None:
            os.close(self._read)
            return
        self._number = number
        on_signal(number)
        if self._last_resort is not None:
            threading.Event().wait(PATIENCE)
            clear_up()
            self._restore()
            self._last_resort(128 + number)

    def _first(self) -> Number | None:
        """The first signal to come, a hung-up terminal counting as one; None once given back."""
        waiting = select.poll()
        waiting.register(self._read, select.POLLIN)
        if self._terminal is not None and sys.__stdin__ is not None:
            # Hang-ups alone, which are reported unasked: where the program is in no foreground
            # job, nobody sends the signal.
            waiting.register(sys.__stdin__.fileno(), 0)
        while True:
            if any(file != self._read for file, _ in waiting.poll()):
                return signal.SIGHUP
            came = os.read(self._read, 64)
            if not came:
                return None
            if ours := [number for number in came if number in SIGNALS]:
                return ours[0]

    def _restore(self) -> None:
        """Leave the terminal usable, if that can be had without waiting for it."""
        with contextlib.suppress(Exception):
            out = sys.__stderr__.fileno() if sys.__stderr__ else 2
            if self._terminal is not None:
                termios.tcsetattr(out, termios.TCSANOW, self._terminal)
            if os.isatty(out) and select.select([], [out], [], 0)[1]:
                os.write(out, _RESTORED)


def _noted(*_: object) -> None:
    """A signal has been received; the watching thread reads which."""
