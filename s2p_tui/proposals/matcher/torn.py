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
    around = {n: tuple(map(_member, sides)) for n, sides in pairs.items()}
    members: dict[Steps, dict[int, Steps]] = defaultdict(dict)
    for n, (mine, theirs) in around.items():
        if mine:
            members[mine][n] = theirs
    rest: dict[int, Steps] = {}
    for places in members.values():
        counts = Counter(places.values())
        # With a third module there is none that all else goes with.
        (most, count), *others = counts.most_common()
        if most and count >= _FEW and len(others) <= 1 and all(count > few for _, few in others):
            rest |= dict.fromkeys(places, most)
    kinds: dict[Steps, list[int]] = defaultdict(list)
    for (target, _), places in pairs.by_template.items():
        kinds[target] += places
    found: dict[int, str] = {}
    for places in kinds.values():
        odd = {n: tuple(map(open_numbers, pairs[n][1])) for n in places if n in rest}
        odd = {n: name for n, name in odd.items() if rest[n] != around[n][1]}
        is_inside = any(n in rest and n not in odd for n in places)
        # Where several are outside under one name, that is a habit of the port's.
        names = Counter(odd.values())
        for n, name in odd.items() if is_inside else ():
            if names[name] == 1:
                found[n] = f"the rest of {_text(around[n][0])} goes with {_text(rest[n])}"
    return found


def from_two_members(pairs: Pairs) -> dict[int, str]:
    """Pairs of a list's member that takes from two members of one, where all others take from one.

    `features.22.scale` is not of the layer that takes the rest of `features.2`.

    Args:
        pairs: The steps of a leaf and of what it takes.
    """
    taken: dict[tuple[Steps, Steps], dict[str, list[tuple[int, Steps]]]] = {}
    for n, (target, source) in pairs.items():
        levels = numbered_levels(template(source))
        for mine in numbered_levels(template(target)) if levels else ():
            member, rest = target[: mine + 1], target[mine + 1 :]
            for theirs in levels:
                numbers = taken.setdefault((member, source[:theirs]), {})
                numbers.setdefault(source[theirs], []).append((n, rest + source[theirs + 1 :]))
    lists: dict[tuple[Steps, Steps], list[tuple[Steps, Steps]]] = defaultdict(list)
    for member, of in taken:
        lists[member[:-1], of].append((member, of))
    found: dict[int, str] = {}
    for members in lists.values():
        several = [side for side in members if len(taken[side]) > 1]
        if len(several) != 1 or len(taken[several[0]]) != 2 or len(members) < _FEW:
            continue
        few, many = sorted(taken[several[0]].values(), key=len)
        alone = (
            places for side in members if side not in several for places in taken[side].values()
        )
        others = {rest for places in alone for _, rest in places}
        for n, rest in few if len(few) < len(many) else ():
            if rest in others:
                found[n] = f"the rest of {_text(several[0][0])} goes with another member of a list"
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
