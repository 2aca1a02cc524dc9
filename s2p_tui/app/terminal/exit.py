"""Ending by a signal, in time, even if the main thread is blocked."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import threading
from collections.abc import Callable
from typing import Any

from s2p_tui.session.signals import Watch, is_main_thread

PATIENCE = 0.8
"""Seconds for a clean end; after them the process ends as it is."""

# Kitty's keys, bracketed paste, focus and mouse reports off, lines wrapped, cursor shown, the
# other screen left.
_RESTORED = (
    b"\x1b[<u\x1b[?2004l\x1b[?1004l\x1b[?1000l\x1b[?1003l\x1b[?1006l\x1b[?7h\x1b[?1049l\x1b[?25h"
)


class Ending:
    """Ends the program when a signal asks to.

    Args:
        last_resort: Ends the process, given its exit status, if it has not ended in time; None
            where the process is to live on, as in tests.
    """

    def __init__(self, last_resort: Callable[[int], object] | None = None) -> None:
        self._last_resort = last_resort
        self._terminal: list[Any] | None = None
        self._number: int | None = None
        self._watch: Watch | None = None

    def watch(self, on_signal: Callable[[int], None], clear_up: Callable[[], None]) -> None:
        """Start watching, in the main thread; elsewhere there are no signals.

        Args:
            on_signal: Called in the watching thread when a signal has come.
            clear_up: Called there before the last resort.
        """
        if not is_main_thread():
            return
        with contextlib.suppress(termios.error, OSError, ValueError):
            self._terminal = termios.tcgetattr(sys.__stdin__.fileno()) if sys.__stdin__ else None

        def end(number: int) -> None:
            self._number = number
            on_signal(number)
            if self._last_resort is not None:
                threading.Event().wait(PATIENCE)
                clear_up()
                self._restore()
                self._last_resort(128 + number)

        self._watch = Watch(end, terminal=self._terminal is not None)

    def release(self) -> None:
        """Give the signals back. A last resort that waits already is not called off."""
        if self._watch is not None:
            self._watch.release()
            self._watch = None

    def hasten(self) -> None:
        """End now, where a signal has come and all is done: to free large lists takes seconds."""
        if self._number is not None and self._last_resort is not None:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            self._last_resort(128 + self._number)

    def _restore(self) -> None:
        """Leave the terminal usable, if that can be had without waiting for it."""
        with contextlib.suppress(Exception):
            out = sys.__stderr__.fileno() if sys.__stderr__ else 2
            if self._terminal is not None:
                termios.tcsetattr(out, termios.TCSANOW, self._terminal)
            if os.isatty(out) and select.select([], [out], [], 0)[1]:
                os.write(out, _RESTORED)
