"""Collecting garbage between the keys instead of under them."""

from __future__ import annotations

import asyncio
import gc

_OFTEN = 20
_SELDOM = (10_000, 10, 10)


class Tidying:
    """Has the garbage collector wait for a pause: at 100,000 rows it takes a third of a key's time.

    An edit makes new tuples of all rows, and the youngest collection goes through them; left
    alone it comes once a key.

    Args:
        pause: Seconds without a key after which the young objects are collected.
        long_pause: Seconds more after which all are, once in many pauses.
    """

    def __init__(self, *, pause: float = 0.1, long_pause: float = 2.0) -> None:
        self._pause, self._long_pause = pause, long_pause
        self._thresholds: tuple[int, int, int] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pauses = 0

    def begin(self) -> None:
        """Raise the thresholds of this process."""
        self._thresholds = gc.get_threshold()
        gc.set_threshold(*_SELDOM)

    def end(self) -> None:
        """Put the thresholds back."""
        self.wait()
        if self._thresholds is not None:
            gc.set_threshold(*self._thresholds)
            self._thresholds = None

    def wait(self) -> None:
        """A key is on its way: no pause is coming."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def soon(self) -> None:
        """The last key is done: collect if no other follows."""
        self.wait()
        self._timer = asyncio.get_running_loop().call_later(self._pause, self._collect_young)

    def _collect_young(self) -> None:
        gc.collect(1)
        self._pauses += 1
        self._timer = None
        if self._pauses >= _OFTEN:
            self._timer = asyncio.get_running_loop().call_later(self._long_pause, self._collect_all)

    def _collect_all(self) -> None:
        gc.collect()
        self._pauses = 0
        self._timer = None
