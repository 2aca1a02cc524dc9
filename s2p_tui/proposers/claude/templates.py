"""Many names as few: items that differ by their numbers only are one group, `layers.{0..60}.bias`.

A group's members are all combinations of its axes' numbers, so that a number per axis names one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
Index = tuple[int, ...]
_NUMBER = re.compile(r"(?<![0-9])(0|[1-9][0-9]{0,8})(?![0-9])")
_REPEATED = 6
"""A number within a word counts as a block's from so many different ones on (`h_11`, not `fc2`)."""


@dataclass(frozen=True, slots=True)
class Group(Generic[K]):
    """Items of one kind whose names differ by numbers only.

    Attributes:
        words: What stands around the numbers: one more than there are axes.
        axes: The numbers along each axis, ascending.
        kind: What else they have in common.
        items: The items, by number, the last axis running fastest.
    """

    words: tuple[str, ...]
    axes: tuple[tuple[int, ...], ...]
    kind: K
    items: tuple[int, ...]

    @property
    def wide(self) -> tuple[tuple[int, ...], ...]:
        """The axes along which there is a choice."""
        return tuple(axis for axis in self.axes if len(axis) > 1)

    @property
    def name(self) -> str:
        """The name with `{0..60}` where members differ."""
        text = self.words[0]
        for axis, word in zip(self.axes, self.words[1:], strict=True):
            numbers = in_short(axis)
            text += (f"{{{numbers}}}" if len(axis) > 1 else numbers) + word
        return text


def grouped(items: Iterable[tuple[int, str, K]]) -> list[Group[K]]:
    """Items `(number, name, kind)` in groups, in the order of their first members."""
    items = list(items)
    split = [_NUMBER.split(name) for _, name, _ in items]
    counted = _repeated(split)
    families: dict[tuple[tuple[str, ...], K], dict[Index, int]] = {}
    for (item, _, kind), parts in zip(items, split, strict=True):
        words, index = _template(parts, counted)
        families.setdefault((words, kind), {})[index] = item
    groups = [
        Group(words, axes, kind, tuple(family[index] for index in product(*axes)))
        for (words, kind), family in families.items()
        for axes in _boxes(list(family))
    ]
    return sorted(groups, key=lambda group: min(group.items))


def _repeated(split: Iterable[Sequence[str]]) -> frozenset[tuple[str, ...]]:
    """Beginnings of names, numbers left out, after which many different numbers come."""
    seen: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for parts in split:
        words = tuple(parts[::2])
        for place, number in enumerate(parts[1::2]):
            if not _is_step(parts, place):
                seen[words[: place + 1]].add(number)
    return frozenset(words for words, numbers in seen.items() if len(numbers) >= _REPEATED)


def _is_step(parts: Sequence[str], place: int) -> bool:
    """Whether a number is a whole step of the name: `.3.`, `[3]`."""
    before, after = parts[2 * place], parts[2 * place + 2]
    return before[-1:] in ("", ".", "[", "/") and after[:1] in ("", ".", "]", "/")


def _template(
    parts: Sequence[str], counted: frozenset[tuple[str, ...]]
) -> tuple[tuple[str, ...], Index]:
    words, index = [parts[0]], list[int]()
    bare = tuple(parts[::2])
    for place, number in enumerate(parts[1::2]):
        if _is_step(parts, place) or bare[: place + 1] in counted:
            index.append(int(number))
            words.append(parts[2 * place + 2])
        else:
            words[-1] += number + parts[2 * place + 2]
    return tuple(words), tuple(index)


def _boxes(indices: Sequence[Index]) -> list[tuple[tuple[int, ...], ...]]:
    """Sets of numbers per axis whose combinations are exactly these indices, each once."""
    if not indices[0]:
        return [()]
    rest: dict[int, list[Index]] = defaultdict(list)
    for first, *others in indices:
        rest[first].append(tuple(others))
    alike: dict[frozenset[Index], list[int]] = defaultdict(list)
    for first in sorted(rest):
        alike[frozenset(rest[first])].append(first)
    return [
        (tuple(firsts), *box) for others, firsts in alike.items() for box in _boxes(sorted(others))
    ]


def in_short(numbers: Sequence[int]) -> str:
    """Ascending numbers: `0..11`, `0,2,5..9`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
