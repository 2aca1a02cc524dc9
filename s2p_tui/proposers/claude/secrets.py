"""The key: where it comes from, and that it goes nowhere but into a request's header."""

from __future__ import annotations

import os
from pathlib import Path

from s2p_tui.core.errors import ProposerError

KEY_NAME = "ANTHROPIC_API_KEY"
_SHOWN = "[key]"


class Secret:
    """A key that shows itself to nobody who prints or formats it.

    Args:
        value: The key.
        source: Where it was found, in words.
    """

    __slots__ = ("_value", "source")

    def __init__(self, value: str, source: str) -> None:
        self._value = value
        self.source = source

    def __repr__(self) -> str:
        return _SHOWN

    def __reduce__(self) -> str:
        raise TypeError("a key is not to be stored")

    @property
    def is_empty(self) -> bool:
        """Whether there is none."""
        return not self._value

    @property
    def can_be_sent(self) -> bool:
        """Whether it can stand in a header: printable ASCII without spaces."""
        return self._value.isascii() and self._value.isprintable() and " " not in self._value

    def reveal(self) -> str:
        """The key itself, for the one who sends it."""
        return self._value

    def scrub(self, text: str) -> str:
        """A text without the key, should someone have put it there."""
        return text.replace(self._value, _SHOWN)


def find_key(folder: Path | None = None) -> Secret:
    """The key from the environment, or from the nearest `.env` file.

    Args:
        folder: Where to look for `.env`, and then in the folders above; the working directory
            unless given. Of the file nothing but the key is read.

    Raises:
        ProposerError: There is none, or it cannot be one.
    """
    secret = _found(folder)
    if secret.is_empty:
        raise ProposerError(
            f"There is no key to ask Claude with: {KEY_NAME} is not set.",
            "Set it in the environment, or in a .env file here.",
        )
    if not secret.can_be_sent:
        raise ProposerError(
            f"{secret.source[:1].upper()}{secret.source[1:]} is no key: it holds white space or "
            "other characters that no key has.",
            "Copy it again, in one line.",
        )
    return secret


def _found(folder: Path | None) -> Secret:
    """What there is in place of a key; whoever raises an error about it does not hold it."""
    value, source = os.environ.get(KEY_NAME, "").strip(), f"the environment's {KEY_NAME}"
    if not value:
        file = _nearest(folder or Path.cwd())
        if file is not None:
            value, source = _read(file), f"{KEY_NAME} in {file}"
    return Secret(value, source)


def _nearest(folder: Path) -> Path | None:
    for place in (folder, *folder.parents):
        file = place / ".env"
        try:
            if file.is_file():
                return file
        except OSError:
            return None
    return None


def _read(file: Path) -> str:
    from dotenv import dotenv_values

    try:
        return (dotenv_values(file, interpolate=False).get(KEY_NAME) or "").strip()
    except (OSError, ValueError):
        return ""
