"""The lines of a request: what may be said of entries and leaves, and nothing else."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Generic, TypeVar

from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import Shape

K = TypeVar("K", bound=Hashable)
Index = tuple[int, ...]
_NUMBER = re.compile(r"(?<![0-9])(0|[1-9][0-9]{0,8})(?![0-9])")
_REPEATED = 6
"""A number within a word counts as a block's from so many different ones on (`h_11`, not `fc2`)."""


@dataclass(frozen=True, slots=True)
class Group(Generic[K]):
    """Items of one kind whose names differ by numbers only.

    Attributes:
        words: The text around the numbers: one more than there are axes.
        axes: The numbers along each axis, ascending.
        kind: Their other common properties.
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
        for index, number in enumerate(parts[1::2]):
            if not _is_step(parts, index):
                seen[words[: index + 1]].add(number)
    return frozenset(words for words, numbers in seen.items() if len(numbers) >= _REPEATED)


def _is_step(parts: Sequence[str], index: int) -> bool:
    """Return True if a number is a whole step of the name: `.3.`, `[3]`."""
    before, after = parts[2 * index], parts[2 * index + 2]
    return before[-1:] in ("", ".", "[", "/") and after[:1] in ("", ".", "]", "/")


def _template(
    parts: Sequence[str], counted: frozenset[tuple[str, ...]]
) -> tuple[tuple[str, ...], Index]:
    words, index = [parts[0]], list[int]()
    bare = tuple(parts[::2])
    for step, number in enumerate(parts[1::2]):
        if _is_step(parts, step) or bare[: step + 1] in counted:
            index.append(int(number))
            words.append(parts[2 * step + 2])
        else:
            words[-1] += number + parts[2 * step + 2]
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


_PLAIN = re.compile(r"[\w.*\-/\[\]'{},]+", re.ASCII)
_LONGEST = 160


@dataclass(frozen=True, slots=True)
class Kind:
    """The common part of the members of a group.

    Attributes:
        shape: The shape.
        dtype: The dtype's name.
        layer: The class that holds the leaf.
    """

    shape: Shape
    dtype: str
    layer: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A group under an id.

    Attributes:
        id: `E3` or `L7`.
        group: Its items are indices into the state dict, or in the skeleton.
        text: The line as it is sent.
        size: Number of elements of a member.
    """

    id: str
    group: Group[Kind]
    text: str
    size: int

    @property
    def letter(self) -> str:
        """E for entries, L for leaves."""
        return self.id[0]

    def reference(self, number: int) -> str:
        """Return the reference of one member, counted from 0."""
        chosen: list[int] = []
        for axis in reversed(self.group.axes):
            number, index = divmod(number, len(axis))
            if len(axis) > 1:
                chosen.append(axis[index])
        return f"{self.id}[{','.join(map(str, reversed(chosen)))}]" if chosen else self.id


def entry_lines(state_dict: StateDict, keys: Sequence[str]) -> list[Line]:
    """Lines for some entries, in state-dict order."""
    entries = [state_dict[key] for key in keys]
    items = ((state_dict.index(e.key), e.key, Kind(e.shape, e.dtype)) for e in entries)
    return _lines("E", items, common_dtype(entry.dtype for entry in state_dict))


def leaf_lines(skeleton: Skeleton, indices: Iterable[int]) -> list[Line]:
    """Lines for some leaves, in flatten order."""
    leaves = ((index, skeleton[index]) for index in indices)
    items = (
        (index, leaf.path, Kind(leaf.shape, leaf.dtype, layer_of(leaf))) for index, leaf in leaves
    )
    return _lines("L", items, common_dtype(leaf.dtype for leaf in skeleton if leaf.shape))


def layer_of(leaf: Leaf) -> str:
    """The class that holds a leaf, without the module it is defined in."""
    return (leaf.owner or "").rpartition(".")[2]


def common_dtype(dtypes: Iterable[str]) -> str:
    """The most frequent one."""
    counted = Counter(dtypes).most_common(1)
    return counted[0][0] if counted else "float32"


def as_sent(name: str) -> str:
    """A name as it is sent: quoted if it holds anything unusual, cut if it is very long."""
    if len(name) > _LONGEST:
        half = _LONGEST // 2
        name = f"{name[:half]}…{name[-half:]}"
    return name if _PLAIN.fullmatch(name) else json.dumps(name)


def _lines(letter: str, items: Iterable[tuple[int, str, Kind]], common: str) -> list[Line]:
    return [
        _line(f"{letter}{number}", group, common) for number, group in enumerate(grouped(items), 1)
    ]


def _line(name: str, group: Group[Kind], common: str) -> Line:
    kind = group.kind
    words = [name, as_sent(group.name), "x".join(map(str, kind.shape)) or "scalar"]
    words += [kind.dtype] if kind.dtype != common else []
    words += [f"({as_sent(kind.layer)})"] if kind.layer else []
    return Line(name, group, " ".join(words), prod(kind.shape))


def settled_lines(pairs: Sequence[tuple[str, str]], most: int) -> list[tuple[str, int]]:
    """Lines of settled rows that look alike, as examples, and how many; the most frequent first.

    Args:
        pairs: The first key and the leaf's path of each.
        most: Lines at most.
    """
    numbers = re.compile(r"[0-9]+")
    counted = Counter((numbers.sub("#", key), numbers.sub("#", path)) for key, path in pairs)
    return [
        (f"{as_sent(key.replace('#', '*'))} -> {as_sent(path.replace('#', '*'))}", rows)
        for (key, path), rows in counted.most_common(most)
    ]
