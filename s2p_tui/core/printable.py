"""Names from files as inert text: they may hold anything a terminal would obey."""

from __future__ import annotations

import unicodedata

_OBEYED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: str) -> str:
    r"""The text with control, format and unassigned characters spelled out (`\\x1b`, `\\u202e`)."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _OBEYED
        else character
        for character in text
    )


def one_line(text: str, longest: int) -> str:
    """The text made printable; of one that is too long, beginning and end."""
    if len(text) > longest:
        half = longest // 2
        text = f"{text[:half]} … {text[-half:]}"
    return printable(text)
