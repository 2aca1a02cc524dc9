"""The lines of a request: what may be said of entries and leaves, and nothing else."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from s2p_tui.core.pytree import Leaf, Skeleton
from s2p_tui.core.state_dict import StateDict
from s2p_tui.core.transform import Shape
from s2p_tui.proposers.claude.templates import Group, grouped

_PLAIN = re.compile(r"[\w.*\-/\[\]'{},]+", re.ASCII)
_LONGEST = 160


@dataclass(frozen=True, slots=True)
class Kind:
    """What the members of a group have in common.

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
        group: Its items are places in the state dict, or in the skeleton.
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
        """How an answer refers to one member, counted from 0."""
        chosen: list[int] = []
        for axis in reversed(self.group.axes):
            number, place = divmod(number, len(axis))
            if len(axis) > 1:
                chosen.append(axis[place])
        return f"{self.id}[{','.join(map(str, reversed(chosen)))}]" if chosen else self.id


def entry_lines(state_dict: StateDict, keys: Sequence[str]) -> list[Line]:
    """Lines for some entries, in state-dict order."""
    entries = [state_dict[key] for key in keys]
    items = ((state_dict.position(e.key), e.key, Kind(e.shape, e.dtype)) for e in entries)
    return _lines("E", items, common_dtype(entry.dtype for entry in state_dict))


def leaf_lines(skeleton: Skeleton, places: Iterable[int]) -> list[Line]:
    """Lines for some leaves, in flatten order."""
    leaves = ((place, skeleton[place]) for place in places)
    items = (
        (place, leaf.path, Kind(leaf.shape, leaf.dtype, layer_of(leaf))) for place, leaf in leaves
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


@dataclass(frozen=True, slots=True)
class Pairing:
    """Rows that are settled and look alike.

    Attributes:
        text: The line as it is sent.
        rows: How many.
    """

    text: str
    rows: int


def settled_lines(pairs: Sequence[tuple[str, str]], most: int) -> list[Pairing]:
    """Settled rows as examples of how the two sides' names correspond, the most frequent first.

    Args:
        pairs: The first key and the leaf's path of each.
        most: Lines at most.
    """
    numbers = re.compile(r"[0-9]+")
    counted = Counter((numbers.sub("#", key), numbers.sub("#", path)) for key, path in pairs)
    return [
        Pairing(f"{as_sent(key.replace('#', '*'))} -> {as_sent(path.replace('#', '*'))}", rows)
        for (key, path), rows in counted.most_common(most)
    ]
