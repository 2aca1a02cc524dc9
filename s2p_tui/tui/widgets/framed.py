"""The frame of a screen that shows a list and what is said about it."""

from __future__ import annotations

from collections.abc import Iterable

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widget import Widget

from s2p_tui.tui.widgets.lines import Lines


def framed(listed: Iterable[Widget], about: Iterable[Widget]) -> ComposeResult:
    """The frame from top to bottom, as on the main screen.

    Args:
        listed: What is between the top line and the rule.
        about: What is between the rule and the bottom line.
    """
    yield Lines(id="top")
    with Vertical(id="list", classes="sides"):
        yield from listed
    yield Lines(id="rule")
    with Vertical(id="about", classes="sides"):
        yield from about
    yield Lines(id="bottom")
