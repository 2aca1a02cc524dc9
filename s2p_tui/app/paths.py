"""Paths that are typed: completed from what lies in the folder, `~` taken for the home folder."""

from __future__ import annotations

import os
from pathlib import Path

from textual.suggester import Suggester


def typed_path(text: str) -> Path:
    """Return the path that was typed."""
    return Path(text.strip()).expanduser()


def completed(text: str) -> str | None:
    """Return what was typed, completed as far as names in its folder agree; None if they do not.

    A folder that is meant is completed with the separator behind it.
    """
    folder, start = os.path.split(text)
    try:
        with os.scandir(Path(folder or ".").expanduser()) as found:
            names = sorted(
                f"{entry.name}{os.sep if entry.is_dir() else ''}"
                for entry in found
                if entry.name.startswith(start) and (start or not entry.name.startswith("."))
            )
    except (OSError, RuntimeError):
        return None
    names = [name for name in names if name.isprintable()]
    if not names or not start:
        return None
    # Of characters, not of whole names: what is typed grows by what all names agree on.
    longest = os.path.commonprefix(names)  # noqa: RUF071
    longer = longest if len(longest) > len(start) else names[0]
    return None if longer == start else f"{text[: len(text) - len(start)]}{longer}"


class PathSuggester(Suggester):
    """Shows the rest of a path behind the cursor; the right arrow takes it."""

    def __init__(self) -> None:
        super().__init__(use_cache=False, case_sensitive=True)

    async def get_suggestion(self, value: str) -> str | None:
        """Return the completed path."""
        return completed(value)
