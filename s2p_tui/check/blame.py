"""Exceptions of the user's own code as one line that says whose code it was."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from s2p_tui.core.errors import InputError, S2PError

_LONGEST = 300


@contextlib.contextmanager
def code_of(who: str, hint: str) -> Generator[None]:
    """Run code of the user's.

    Args:
        who: The side and what of it is run: `The torch model's forward`.
        hint: The way out.

    Raises:
        InputError: The code raised an exception.
    """
    try:
        yield
    except S2PError:
        raise
    except Exception as error:
        raise InputError(f"{who} raised {type(error).__name__}: {_line(error)}.", hint) from error


def _line(error: BaseException) -> str:
    words = " ".join(str(error).split()).rstrip(".") or "it does not say why"
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}…"
