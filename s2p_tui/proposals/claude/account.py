"""The key: where it comes from, and that it goes nowhere but into a request's header."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from s2p_tui.errors import OutputError, ProposerError, UsageError
from s2p_tui.formats.atomic import written_atomically

KEY_NAME = "ANTHROPIC_API_KEY"
_SHOWN = "[key]"


class Secret:
    """A key that shows itself to nobody who prints or formats it.

    Args:
        value: The key.
        source: The place it was found in, in words.
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
        """True if there is no key."""
        return not self._value

    @property
    def can_be_sent(self) -> bool:
        """True if it is valid in a header: printable ASCII without spaces."""
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
        folder: The folder to search for `.env`, followed by the folders above it. Default: the
            working directory. Nothing but the key is read from the file.

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
    """Describe an unusable key without holding it."""
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


ALIASES: Mapping[str, str] = {
    "haiku": "claude-haiku-5-5",
    "sonnet": "claude-sonnet-5-5",
    "opus": "claude-opus-5-5",
    "sonnet3.5": "claude-sonnet-5-5",
}
"""Model ids by short name."""
DEFAULT = "sonnet"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{2,127}")
_FILE = "claude-model"


@dataclass(frozen=True, slots=True)
class Model:
    """A model to ask.

    Attributes:
        id: Its full id.
        warning: A warning about the choice for the user; possibly empty.
    """

    id: str
    warning: str = ""


def model_named(name: str) -> Model:
    """The model of an alias or of a full id.

    Raises:
        UsageError: The name can be neither.
    """
    name = name.strip()
    known = ALIASES.get(name)
    if known is not None:
        retired = name == "sonnet3.5"
        return Model(known, f"Claude 3.5 Sonnet is retired: {known} instead." if retired else "")
    if not _ID.fullmatch(name):
        raise UsageError(
            f"{name!r} is no model.",
            f"Give {', '.join(ALIASES)}, or a full id such as {DEFAULT_ID}.",
        )
    return Model(name)


DEFAULT_ID = ALIASES[DEFAULT]


def retirement(model_id: str) -> str:
    """That a model is or will be retired, by the SDK's own table; empty if it is not in it.

    Imports the SDK.
    """
    from anthropic.resources.messages.messages import DEPRECATED_MODELS

    day = DEPRECATED_MODELS.get(model_id)
    return f"{model_id} is deprecated and retired by {day}." if day else ""


def last_choice() -> str:
    """The name of the model that was asked last, or the default."""
    try:
        name = _file().read_text(encoding="utf-8")[:200].strip()
        model_named(name)
    except (OSError, ValueError, UsageError):
        return DEFAULT
    return name


def remember(name: str) -> None:
    """Keep a choice for the next time; if that cannot be, so be it."""
    file = _file()
    with contextlib.suppress(OSError, OutputError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with written_atomically(file) as stream:
            stream.write(f"{name}\n".encode())


def _file() -> Path:
    from platformdirs import user_state_path

    return user_state_path("s2p-tui", appauthor=False) / _FILE
