"""Patterns of names: `*` for anything, `?` for one character, `[0-9]` for one of some.

Key paths hold brackets themselves: `.blocks[*].w` means them. A pattern that can be read both ways
names what either way does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import translate


def is_glob(text: str) -> bool:
    """Return True if a text can mean other names than itself, brackets aside."""
    return "*" in text or "?" in text


def glob_test(pattern: str, *, ignore_case: bool = False) -> Callable[[str], bool]:
    """Return a test for the names that a pattern, or a whole name, means.

    Args:
        pattern: The pattern.
        ignore_case: Whether upper and lower case are alike.
    """
    flags = re.IGNORECASE if ignore_case else 0
    # A bracket that nothing closes is one; `translate` looks for its end anew from each of them.
    end = pattern.rfind("]") + 1
    closed = pattern[:end] + pattern[end:].replace("[", "[[]")
    as_set = re.compile(translate(closed), flags)
    as_brackets = re.compile(translate(pattern.replace("[", "[[]")), flags)

    def means(name: str) -> bool:
        return (
            name == pattern or as_set.match(name) is not None or as_brackets.match(name) is not None
        )

    return means


def matching(globs: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return the names that one of the patterns, or of whole names, means."""
    tests = [glob_test(pattern) for pattern in globs]
    return [name for name in names if any(means(name) for means in tests)]
