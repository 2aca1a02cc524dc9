"""Errors in the app: words of their ways out; faults of the program, logged with a traceback."""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from pathlib import Path
from typing import TypeVar

from platformdirs import user_state_path

from s2p_tui.errors import Code, S2PError

Failure = TypeVar("Failure", bound=S2PError)
_LINE_UP = "n goes to the next one: move its entry there, or trust it with y."
WAYS_OUT = {
    Code.SAVED_MAPPING: "Give a file that ctrl+s saved.",
    Code.SAVED_RECIPE: "Give a recipe that was saved here, or the name of one.",
    Code.OTHER_FILES: (
        "Open the files it names, or align these. For another depth or width, save a recipe there."
    ),
    Code.LINE_UP_ROWS: _LINE_UP,
    Code.LINE_UP_MISMATCHED_ROWS: "n goes to the next one: move its entry there.",
    Code.LINE_UP_NAMELESS_ROWS: _LINE_UP,
    Code.ACCEPT_UNUSED: "n goes to the next unused entry: y accepts it.",
    Code.ALLOW_OVERFLOW: "Choose bfloat16 or float32 in the dialog, or allow it there.",
    Code.LOADABLE_DTYPE: "Choose bfloat16 in the dialog, or a name that ends in .safetensors.",
    Code.ANOTHER_PROGRAM: "Quit that one and start again, or save with ctrl+s.",
}
"""The app's wording of ways out; errors that end the app are worded by the caller."""


def in_words_of_the_app(error: Failure) -> Failure:
    """Put the hint of an error into the app's words; returns the error."""
    return error.put_into(WAYS_OUT)


# The newest faults are what somebody asks for; a loop of them must not fill a home directory.
_LONGEST_LOG = 256 << 10
_LONGEST_ENTRY = 32 << 10
# A status line has 80 cells or so, and the way out is to be seen on it.
_LONGEST_MESSAGE = 60


class UnexpectedError(S2PError):
    """A fault of the program, not of the user's.

    Attributes:
        log: Where the traceback is, in words.
    """

    log = ""


def unexpected(error: BaseException, doing: str, *, is_private: bool = False) -> UnexpectedError:
    """Log a fault and put it in one line.

    Args:
        error: The fault; what its frames hold is let go of.
        doing: What failed, as the beginning of a sentence.
        is_private: Whether its message, which may hold what nobody else is to see, is left out.
    """
    path = log_file()
    log = f"Log: {_abbreviated(path)}."
    try:
        _append(path, _entry(error, doing, is_private=is_private))
    except (OSError, MemoryError):
        log = f"{_abbreviated(path)} cannot be written."
    # A traceback keeps alive what its functions had in hand: after a MemoryError nearly all of it.
    traceback.clear_frames(error.__traceback__)
    message = "" if is_private else f": {error}".rstrip(": ")[:_LONGEST_MESSAGE]
    if isinstance(error, MemoryError):
        message = ", not enough memory"
    failure = UnexpectedError(
        f"{doing} failed: Unexpected {type(error).__name__}{message}.", f"Try again. {log}"
    )
    failure.log = log
    return failure


def log_file() -> Path:
    """The file that faults are written to."""
    return user_state_path("s2p-tui", appauthor=False) / "errors.log"


def _abbreviated(path: Path) -> str:
    home = str(Path.home())
    return str(path).replace(home, "~", 1) if str(path).startswith(f"{home}/") else str(path)


def _entry(error: BaseException, doing: str, *, is_private: bool) -> bytes:
    if is_private:
        frames = traceback.format_tb(error.__traceback__)
        lines = [*frames, f"{type(error).__name__}\n"]
    else:
        lines = traceback.format_exception(error)
    head = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {doing} failed\n"
    text = "".join(lines).encode(errors="backslashreplace")
    if len(text) > _LONGEST_ENTRY:
        half = _LONGEST_ENTRY // 2
        text = text[:half] + b"\n...\n" + text[-half:]
    return head.encode() + text + b"\n"


def _append(path: Path, entry: bytes) -> None:
    # The first frame has not waited for what this imports.
    from s2p_tui.session.journal import open_private

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = open_private(path, new=False)
    with contextlib.closing(os.fdopen(file, "r+b")) as stream:
        before = stream.read()
        if len(before) + len(entry) > _LONGEST_LOG:
            before = before[-(_LONGEST_LOG // 2) :]
            stream.seek(0)
            stream.truncate()
            stream.write(before)
        stream.write(entry)
