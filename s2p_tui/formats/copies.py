"""Copies of a model in one checkpoint: moving averages, target networks, teachers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_AVERAGES = frozenset(("ema", "swa", "avg", "averaged", "average", "shadow", "polyak"))
_SLOW = frozenset(("target", "teacher", "momentum", "k", "key"))
_TRAINED = frozenset(("online", "student", "q", "query", "base", "main"))
_WHOLE = frozenset(("model", "module", "net", "network", "backbone", "encoder", "state", "dict"))
_ROLES: tuple[tuple[frozenset[str], str], ...] = (
    (_AVERAGES, "a moving average of the weights"),
    (frozenset(("target",)), "the target network, a slow copy"),
    (frozenset(("teacher",)), "the teacher"),
    (frozenset(("k", "key", "momentum")), "the key or momentum encoder, a slow copy"),
    (frozenset(("online",)), "the online network, which is trained"),
    (frozenset(("student",)), "the student, which is trained"),
    (frozenset(("q", "query")), "the query encoder, which is trained"),
)
_ALIKE = 0.8
"""Of a copy's tensors that the original has too; averages often hold a counter or two besides."""
_OVERLAP = 0.5
_LEAST_OF_KEYS = 3
"""Tensors: `k_proj` beside `q_proj` is a layer of weight and bias, and no copy."""

Shapes = Mapping[str, tuple[int, ...]]


def shape_of(tensor: Any) -> tuple[int, ...]:
    """The shape of a tensor; empty for a lazy one of torch, which has none yet."""
    try:
        return tuple(tensor.shape)
    except RuntimeError:
        return ()


def words_of(name: str) -> list[str]:
    """The words of a name, in lower case: `optG_state` is opt, g, state."""
    return [word.lower() for word in _WORDS.findall(name)]


def role_of(place: str) -> str:
    """Describe a part of a checkpoint by its name, such as a moving average; empty if unknown."""
    words = set(words_of(place.rpartition(".")[2]))
    return next((role for marks, role in _ROLES if words & marks), "")


def is_marked(place: str) -> bool:
    """Return True if a name says that it is a slow copy or an average of something."""
    words = words_of(place.rpartition(".")[2])
    return bool(_AVERAGES.intersection(words) or _SLOW.intersection(words))


def are_copies(first: Shapes, second: Shapes) -> bool:
    """Return True if half of the smaller one's tensors are in the other, in the same shapes."""
    one, other = sorted((_bare(first), _bare(second)), key=len)
    alike = sum(other.get(name) == shape for name, shape in one.items())
    return bool(one) and alike >= _OVERLAP * len(one)


def _bare(shapes: Shapes) -> Shapes:
    """The shapes without what all names begin with, such as `module.`."""
    names = list(shapes)
    while names and all("." in name for name in names):
        first = names[0].partition(".")[0]
        if not all(name.startswith(f"{first}.") for name in names):
            break
        names = [name[len(first) + 1 :] for name in names]
    return dict(zip(names, shapes.values(), strict=True))


def copies_within(tensors: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Prefixes of names in one state dict that hold a model and a slow copy or average of it.

    Returns:
        Original and copy of each; none is within another.
    """
    marked: set[str] = set()
    seen: set[str] = set()
    for name in tensors:
        for part in name.split(".")[:-1]:
            if part not in seen:
                seen.add(part)
                if is_marked(part):
                    marked.add(part)
    if not marked:
        return []
    copies = dict.fromkeys(
        name[:end] for name in tensors for end in _ends(name) if _last(name[:end]) in marked
    )
    parents = {copy.rpartition(".")[0] for copy in copies}
    below: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, tensor in tensors.items():
        for end in _ends(name):
            if name[:end].rpartition(".")[0] in parents:
                below.setdefault(name[:end], {})[name[end + 1 :]] = shape_of(tensor)
    pairs: list[tuple[str, str]] = []
    for copy in copies:
        if any(copy.startswith(f"{found}.") for pair in pairs for found in pair):
            continue
        parent = copy.rpartition(".")[0]
        original = next(
            (
                other
                for other in below
                if other.rpartition(".")[0] == parent
                and _is_pair(_last(other), _last(copy), below[other], below[copy])
            ),
            None,
        )
        if original is not None:
            pairs.append((original, copy))
    return pairs


def _is_pair(original: str, copy: str, of_original: Shapes, of_copy: Shapes) -> bool:
    words, others = words_of(copy), words_of(original)
    marks = [word for word in words if word in _AVERAGES or word in _SLOW]
    base = [word for word in words if word not in marks]
    bare = [word for word in others if word not in _TRAINED]
    if original == copy or is_marked(original):
        return False
    if {"k", "key"}.issuperset(marks):
        if len(of_copy) < _LEAST_OF_KEYS or not {"q", "query"}.intersection(others):
            return False
        is_named = base == bare
    else:
        is_named = base == bare or not {*base, *bare} - _WHOLE
        # An average beside one model alone is one of it, however that is called.
        is_named |= not base and _AVERAGES.issuperset(marks)
    return is_named and _covers(of_original, of_copy)


def _covers(original: Shapes, copy: Shapes) -> bool:
    # Some averages keep the names with their dots taken out.
    flat = {name.replace(".", ""): shape for name, shape in original.items()}
    alike = sum(flat.get(name.replace(".", "")) == shape for name, shape in copy.items())
    return bool(alike) and alike >= _ALIKE * len(copy)


def _ends(name: str) -> list[int]:
    """Return the ends of the proper prefixes of a dotted name."""
    return [place for place, letter in enumerate(name) if letter == "."]


def _last(prefix: str) -> str:
    return prefix.rpartition(".")[2]
