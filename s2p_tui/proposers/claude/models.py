"""Which model is asked: aliases, full ids, the user's last choice, and what is retired."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from s2p_tui.core.errors import UsageError

ALIASES: Mapping[str, str] = {
    "haiku": "claude-haiku-5-5",
    "sonnet": "claude-sonnet-5-5",
    "opus": "claude-opus-5-5",
    "sonnet3.5": "claude-sonnet-5-5",
}
"""What the short names stand for."""
DEFAULT = "sonnet"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{2,127}")
_FILE = "claude-model"


@dataclass(frozen=True, slots=True)
class Model:
    """A model to ask.

    Attributes:
        id: Its full id.
        warning: What the user should know of the choice; maybe empty.
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
    with contextlib.suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=file.parent, prefix=f".{_FILE}", delete=False
        ) as new:
            new.write(f"{name}\n")
        os.replace(new.name, file)


def _file() -> Path:
    from platformdirs import user_state_path

    return user_state_path("s2p-tui", appauthor=False) / _FILE
