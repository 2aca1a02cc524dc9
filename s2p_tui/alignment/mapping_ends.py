"""The entries and leaves a mapping was made for, compared with those it is replayed on.

A mapping identifies its ends by the names and shapes of what it uses. Another dtype, and unused
entries more or less, do not matter; each is told. An end that differs in nothing has the same
digest and is not compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from msgspec import Struct

from s2p_tui.alignment.dtypes import BY_NAME, dtype_named
from s2p_tui.alignment.skeleton import Skeleton, class_name
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import Shape, show
from s2p_tui.alignment.untrusted import (
    MalformedError,
    list_of,
    object_of,
    sizes_of,
    string_of,
)
from s2p_tui.errors import some

_SHOWN = 3
# Of a floating-point dtype that holds a weight as it is; narrower ones need a scale.
_FEWEST_BITS = 16


class Kind(NamedTuple):
    """All that identifies an entry or a leaf beside its name.

    Attributes:
        dtype: Its dtype's name.
        shape: Its shape.
        owner: Of a leaf the class of its layer, as far as the skeleton names it.
    """

    dtype: str
    shape: Shape
    owner: str = ""


Kinds = Mapping[str, Kind]
"""By key, or by key path."""


class Comparison(Struct, frozen=True):
    """Differences between what a mapping was made for and what it is replayed on.

    Attributes:
        problems: What forbids it: one `(name, difference)` each.
        told: What does not, in words.
        changed: Entries and leaves whose numbers are of another kind or shape than they were: what
            was accepted about them has to be accepted again.
    """

    problems: tuple[tuple[str, str], ...] = ()
    told: tuple[str, ...] = ()
    changed: frozenset[str] = frozenset()


def kinds_of(state_dict: StateDict) -> dict[str, Kind]:
    """Return the kinds of a checkpoint's entries."""
    return {entry.key: Kind(entry.dtype, entry.shape) for entry in state_dict}


def kinds_of_leaves(skeleton: Skeleton) -> dict[str, Kind]:
    """Return the kinds of a skeleton's leaves."""
    return {
        leaf.path: Kind(leaf.dtype, leaf.shape, class_name(leaf.owner) if leaf.owner else "")
        for leaf in skeleton
    }


def kinds_to_json(kinds: Kinds) -> dict[str, Any]:
    """Kinds as JSON values."""
    return {
        name: [kind.dtype, kind.shape, *([kind.owner] if kind.owner else [])]
        for name, kind in kinds.items()
    }


def kinds_from_json(node: Any) -> dict[str, Kind]:
    """Inverse of `kinds_to_json`.

    Raises:
        MalformedError: The JSON is not kinds.
    """
    found: dict[str, Kind] = {}
    for name, value in object_of(node).items():
        parts = list_of(value)
        if len(parts) not in (2, 3) or string_of(parts[0]) not in BY_NAME:
            raise MalformedError(f"{parts!r:.60} is no dtype and shape")
        found[name] = Kind(parts[0], sizes_of(parts[1]), *map(string_of, parts[2:]))
    return found


def compare_entries(made_for: Kinds, found: Kinds, used: Iterable[str]) -> Comparison:
    """Compare a checkpoint's entries with those a mapping was made for.

    Args:
        made_for: The entries it was made for.
        found: The entries there are. A used one that is missing is not named here.
        used: Keys of those that a row uses.
    """
    used = set(used)
    told = list(_other_dtypes(made_for, found, used, "entry", "entries"))
    gone = [key for key in made_for if key not in found and key not in used]
    new = [key for key in found if key not in made_for]
    reshaped = [
        key
        for key in made_for
        if key in found and key not in used and made_for[key].shape != found[key].shape
    ]
    for keys, one, several in (
        (
            gone,
            "unused entry of the mapping is not here",
            "unused entries of the mapping are not here",
        ),
        (new, "entry is not in the mapping", "entries are not in the mapping"),
        (reshaped, "unused entry has another shape", "unused entries have other shapes"),
    ):
        if keys:
            told.append(f"{_count(keys, one, several)}: {some(keys, most=_SHOWN)}")
    problems = _other_shapes(made_for, found, used)
    changed = frozenset((*_changed(made_for, found), *reshaped))
    return Comparison(tuple(problems), tuple(told), changed)


def compare_leaves(made_for: Kinds, found: Kinds) -> Comparison:
    """Compare a skeleton's leaves with those a mapping was made for; see `compare_entries`."""
    told = _other_dtypes(made_for, found, set(made_for), "leaf", "leaves")
    problems = _other_shapes(made_for, found, set(made_for))
    return Comparison(tuple(problems), tuple(told), frozenset(_changed(made_for, found)))


def _other_shapes(made_for: Kinds, found: Kinds, used: set[str]) -> Iterator[tuple[str, str]]:
    for name, kind in made_for.items():
        if name in used and name in found and found[name].shape != kind.shape:
            yield name, f"made for {show(kind.shape)}, this one is {show(found[name].shape)}"


def _other_dtypes(
    made_for: Kinds, found: Kinds, used: set[str], one: str, several: str
) -> Iterator[str]:
    groups: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for name, kind in made_for.items():
        if name in used and name in found and found[name].dtype != kind.dtype:
            groups[kind.dtype, found[name].dtype].append(name)
    for (before, after), names in groups.items():
        are = f"{_count(names, f'{one} is', f'{several} are')} {after}, {before} in the mapping"
        yield f"{are}: {some(names, most=_SHOWN)}"


def _changed(made_for: Kinds, found: Kinds) -> Iterator[str]:
    for name, kind in made_for.items():
        other = found.get(name)
        if other is not None and other.dtype != kind.dtype:
            before, after = dtype_named(kind.dtype), dtype_named(other.dtype)
            narrow = min(before.bits, after.bits) < _FEWEST_BITS
            if before.kind != after.kind or not after.is_floating or narrow:
                yield name


def _count(names: list[str], one: str, several: str) -> str:
    return f"{len(names):,} {one if len(names) == 1 else several}"
