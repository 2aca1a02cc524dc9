"""Counts and sizes in words."""

from __future__ import annotations

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def size_in_words(count: float) -> str:
    """Bytes in decimal units: `44.7 MB`."""
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count /= 1000
        unit += 1
    return f"{count:.0f} {_UNITS[unit]}" if not unit else f"{count:.1f} {_UNITS[unit]}"


def many(count: int, word: str, plural: str = "") -> str:
    """`1 leaf`, `2 leaves`."""
    return f"{count:,} {word if count == 1 else plural or word + 's'}"
