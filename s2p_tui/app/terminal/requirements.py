"""Requirements of the app: a terminal, and the main thread without an event loop."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import TextIO

from s2p_tui.errors import UsageError


def require_terminal(way_out: str) -> None:
    """Make sure that there is a terminal the app can draw on.

    Args:
        way_out: What needs no terminal, as the object of "use".

    Raises:
        UsageError: There is none, or it cannot move its cursor.
    """
    for stream, name in ((sys.stdin, "input"), (sys.stdout, "output")):
        if not _is_terminal(stream):
            raise UsageError(
                f"The app needs a terminal, and standard {name} is not one.", f"Use {way_out}."
            )
    if os.environ.get("TERM", "") in ("", "dumb", "unknown"):
        raise UsageError(
            f"The app needs a terminal that can move its cursor, TERM is "
            f"{os.environ.get('TERM', '')!r}.",
            f"Set TERM (try TERM=xterm-256color), or use {way_out}.",
        )
    if not _is_terminal(sys.stderr):
        # Textual draws on standard error; where that goes to a file, the screen is still there.
        sys.__stderr__ = sys.__stdout__


def require_foreground(way_out: str) -> None:
    """Make sure that the app can take over the calling program until it ends.

    Args:
        way_out: What can be called anywhere.

    Raises:
        UsageError: An event loop runs already, as in a notebook, or this is not the main thread.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise UsageError(
            "The app cannot start inside a running event loop, as a notebook's.",
            f"Use {way_out}, or start it from a script in a terminal.",
        )
    if threading.current_thread() is not threading.main_thread():
        raise UsageError("The app runs in the main thread only.", f"Use {way_out}.")


def _is_terminal(stream: TextIO) -> bool:
    # A notebook's streams are objects of its own; a closed one raises.
    try:
        return os.isatty(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return False
