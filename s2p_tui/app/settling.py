"""Judging many rows beside the keys: a little at a time, whenever the terminal is idle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.timer import Timer

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.widget import Widget

    from s2p_tui.session.session import Session

AT_ONCE = 500
"""Rows that are judged before the screen is drawn at all."""
_SOON = 4000
_A_LITTLE = 1000
_PAUSE = 0.005
_AFTER_A_KEY = 0.05


class Settling:
    """Has a session's rows judged.

    Args:
        widget: Whose timers are used.
        session: Whose rows.
        done: Called when all are judged.
    """

    def __init__(self, widget: Widget, session: Session, done: Callable[[], None]) -> None:
        self._widget = widget
        self._session = session
        self._verdicts = session.verdicts
        self._done = done
        self._timer: Timer | None = None

    def begin(self) -> None:
        """Judge what is not judged yet: a few thousand rows at once, more by and by."""
        # What is judged before the evidence is there would all be judged again.
        if self._verdicts.is_settled or self._session.awaits_evidence:
            return
        if self._verdicts.unsettled <= _SOON:
            self._verdicts.settle()
            self._done()
        else:
            # What was just changed is painted first, and sent by a thread of its own.
            if self._timer is not None:
                self._timer.stop()
            self._timer = self._widget.set_timer(_AFTER_A_KEY, self._go_on)

    def _go_on(self) -> None:
        self._timer = None
        if self._verdicts.settle(_A_LITTLE):
            self._done()
        else:
            self._timer = self._widget.set_timer(_PAUSE, self._go_on)
