"""Several keys in the space of one."""

from __future__ import annotations

from collections.abc import Sequence

from s2p_tui.core.transform import Expr, Split, Take, nodes_of

_MOST_NAMED = 4


def in_braces(keys: Sequence[str], ellipsis: str = "…") -> str:
    """`layers.{0…11}.weight` or `attn.{q,k,v}.bias`; empty if that would not name every key."""
    names = [key.split(".") for key in keys]
    if len(names) < 2 or any(len(name) != len(names[0]) for name in names):
        return ""
    differing = [n for n, column in enumerate(zip(*names, strict=True)) if len(set(column)) > 1]
    if len(differing) != 1:
        return ""
    (place,) = differing
    middle = [name[place] for name in names]
    if _counts_up(middle):
        inner = f"{middle[0]}{ellipsis}{middle[-1]}" if len(middle) > 2 else ",".join(middle)
    elif len(names[0]) > 1 and len(middle) <= _MOST_NAMED:
        inner = ",".join(middle)
    else:
        return ""
    return ".".join([*names[0][:place], "{" + inner + "}", *names[0][place + 1 :]])


def _counts_up(words: Sequence[str]) -> bool:
    if not all(
        word.isascii() and word.isdecimal() and len(word) < 19 and str(int(word)) == word
        for word in words
    ):
        return False
    numbers = [int(word) for word in words]
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def together(keys: Sequence[str], ellipsis: str = "…") -> str:
    """In braces where that names them all, else the first and how many more."""
    if len(keys) == 1:
        return keys[0]
    return in_braces(keys, ellipsis) or f"{keys[0]} +{len(keys) - 1}"


def part_taken(source: Expr) -> str:
    """` [0:10]` or ` [:,0:10]` for a source that takes one part of an entry; else empty."""
    splits = [node for node in nodes_of(source) if isinstance(node, Split)]
    if len(splits) != 1 or not isinstance(splits[0].of, Take):
        return ""
    part = splits[0]
    return f" [{':,' * part.axis}{part.start}:{part.stop}]"
