"""Layers torn apart, and leaves that come from elsewhere than the rest of their block.

A weight and its bias belong to one layer on both sides, and so do the layers of a block.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from s2p_tui.proposals.matcher.templates import (
    Pairs,
    numbered_levels,
    open_numbers,
    template,
    words_of,
)
from s2p_tui.proposals.matcher.words import Steps

_LAYER = frozenset(("weight", "bias", "mean", "var"))
_OF_WEIGHTS = ("weight_", "bias_")
"""Beginnings of names for parts of a layer's weight, as `weight_g` and `weight_v` are."""
_PLAIN_LAYER = words_of(("lin",))
_FEW = 2
"""Leaves of a block that show what it goes with."""


def torn_apart(pairs: Pairs) -> dict[int, str]:
    """Weights and biases of one layer that come from different layers, or go to different ones.

    Args:
        pairs: The steps of a leaf and of what it takes.
    """
    found: dict[int, str] = {}
    of_layers: list[tuple[int, tuple[Steps, Steps], str]] = []
    for n, (target, source) in pairs.items():
        role = words_of(target[-1:])
        if len(role) == 1 and role[0] in _LAYER and role == words_of(source[-1:]):
            of_layers.append((n, (target[:-1], source[:-1]), role[0]))
        elif target[-1] == source[-1] and target[-1].startswith(_OF_WEIGHTS):
            of_layers.append((n, (target[:-1], source[:-1]), target[-1]))
    for mine, theirs in ((0, 1), (1, 0)):
        # Most layers go with one, which takes a look at each to know.
        first: dict[Steps, Steps] = {}
        torn = {
            s[mine] for _, s, _ in of_layers if first.setdefault(s[mine], s[theirs]) != s[theirs]
        }
        layers: dict[Steps, list[tuple[int, Steps, str]]] = defaultdict(list)
        for n, sides, role in of_layers if torn else ():
            if sides[mine] in torn:
                layers[sides[mine]].append((n, sides[theirs], role))
        for layer, parts in layers.items():
            if len({role for *_, role in parts}) < len(parts):
                continue
            if mine == 0 and _is_nested({role: other for _, other, role in parts}):
                continue
            (best, most), (_, next_most) = Counter(other for _, other, _ in parts).most_common(2)
            for n, other, _ in parts:
                if other != best or most == next_most:
                    found[n] = f"{_text(layer)} goes with more than one layer"
    return found


def _is_nested(parts: Mapping[str, Steps]) -> bool:
    """Return True for a weight in a plain layer in the module of the bias, as of `conv1.lin`."""
    if {*parts} != {"weight", "bias"}:
        return False
    weight, bias = parts["weight"], parts["bias"]
    return weight[:-1] == bias and words_of(weight[-1:]) == _PLAIN_LAYER


def outside(pairs: Pairs) -> dict[int, str]:
    """Pairs of a list's members whose rest goes with another one, as it does in other members.

    Args:
        pairs: The steps of a leaf and of what it takes.
    """
    kinds: dict[Steps, dict[Steps, list[int]]] = defaultdict(lambda: defaultdict(list))
    for (target, source), places in pairs.by_template.items():
        kinds[target][tuple(map(open_numbers, source))] += places
    # Leaves of one name of which one alone takes an entry of another name: hardly ever any.
    odd = [
        names for names in kinds.values() if len(names) > 1 and min(map(len, names.values())) == 1
    ]
    if not odd:
        return {}
    around = {n: tuple(map(_member, sides)) for n, sides in pairs.items()}
    members: dict[Steps, dict[int, Steps]] = defaultdict(dict)
    for n, (mine, theirs) in around.items():
        if mine:
            members[mine][n] = theirs
    rest: dict[int, Steps] = {}
    for places in members.values():
        counts = Counter(places.values())
        # With a third module there is more than one beside each.
        for n, theirs in places.items() if len(counts) <= 2 else ():
            others = counts - Counter((theirs,))
            if len(others) == 1 and others.total() >= _FEW and min(others):
                rest[n] = min(others)
    found: dict[int, str] = {}
    for names in odd:
        places = [n for alike in names.values() for n in alike]
        is_inside = any(around[n][1] and around[n][1] == rest.get(n) for n in places)
        for n, *others in names.values() if is_inside else ():
            if not others and n in rest and rest[n] != around[n][1]:
                mine, theirs = _text(around[n][0]), _text(rest[n])
                found[n] = f"the rest of {mine} goes with {theirs}"
    return found


def _member(steps: Steps) -> Steps:
    """Return the innermost member of a list that a tensor is in; empty if it is in none."""
    level = (-1, *numbered_levels(template(steps[:-1])))[-1]
    if level < 0:
        level = max(
            (n for n, step in enumerate(steps[:-1]) if open_numbers(step) != step), default=-1
        )
    return steps[: level + 1]


def _text(steps: Steps) -> str:
    return ".".join(steps)
