"""Keys that differ by their numbers: their order, and whose block is another one."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBER = re.compile(r"([0-9]+)")


def by_number(keys: Sequence[str]) -> tuple[str, ...]:
    """`layers.2`, `layers.10` where names are sorted the other way round.

    The keys as they are if they differ in more than their numbers: nothing tells their order then.
    """
    parts = {key: _NUMBER.split(key) for key in keys}
    if len({tuple(words[::2]) for words in parts.values()}) != 1:
        return tuple(keys)
    return tuple(sorted(keys, key=lambda key: [_rank(number) for number in parts[key][1::2]]))


def other_number(key: str, other: str) -> bool:
    """Return True if two keys are alike up to a number that differs, and this is that of a block.

    The numbers of the tensor and of its own module, as in `norm1.weight`, are no block's.
    """
    for mine, theirs in zip(_block(key), _block(other), strict=False):
        if mine != theirs:
            return mine.isdigit() and theirs.isdigit()
    return False


def _block(key: str) -> list[str]:
    modules, *own = key.rsplit(".", 2)
    return _NUMBER.split(modules) if len(own) > 1 else []


def _rank(digits: str) -> tuple[int, str]:
    """Sorts as the number would; Python reads none of thousands of digits."""
    significant = digits.lstrip("0")
    return len(significant), significant
