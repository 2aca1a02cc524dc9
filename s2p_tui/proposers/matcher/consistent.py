"""Pairs that do not do as the others of their kind do: where an entry is missing, another may be
taken for it although the rest of the model says what belongs together.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from functools import lru_cache

from s2p_tui.proposers.matcher.words import meanings

Steps = tuple[str, ...]
_NUMBER = re.compile(r"\d+")
_MAJORITY = 0.5
_TOGETHER = 0.75
_FEW = 3
_OPPOSITE = tuple(
    frozenset(words)
    for words in (
        ("enc", "dec"),
        ("query", "key", "value"),
        ("forward", "backward"),
        ("vision", "text"),
        ("cross", "self"),
        ("pos", "token"),
    )
)
_DENSE = frozenset(("mlp", "conv", "proj", "query", "key", "value", "qkv"))
_OF_A_VARIANCE = frozenset(("log", "std", "sqrt", "rsqrt", "inv"))
_LAYER = frozenset(("weight", "bias", "mean", "var"))


def inconsistent(pairs: Mapping[int, tuple[Steps, Steps]]) -> dict[int, str]:
    """The pairs that others speak against, by their number, and what they say.

    Args:
        pairs: The steps of a leaf and of what it takes.
    """
    found = _other_kind(pairs) | _other_number(pairs)
    return found | _other_module(pairs) | _other_layer(pairs) | _opposites(pairs)


def _opposites(pairs: Mapping[int, tuple[Steps, Steps]]) -> dict[int, str]:
    """Pairs whose names say that they are different things."""
    known: dict[tuple[Steps, Steps], str] = {}
    found: dict[int, str] = {}
    for n, sides in pairs.items():
        names = _without_numbers(sides[0]), _without_numbers(sides[1])
        why = known.get(names)
        if why is None:
            why = known[names] = _opposite(names)
        if why:
            found[n] = why
    return found


def _opposite(sides: tuple[Steps, Steps]) -> str:
    words = [{*meanings(steps)[0]} for steps in sides]
    layers = [{*meanings(steps[-2:-1])[0]} for steps in sides]
    for several in _OPPOSITE:
        mine, theirs = (several & found for found in words)
        if mine and theirs and not mine & theirs:
            return f"one is of the {min(theirs)}, the other of the {min(mine)}"
    for one, other in (words, words[::-1]):
        if "var" in one and not one & _OF_A_VARIANCE and other & _OF_A_VARIANCE:
            return f"one is a variance, the other its {min(other & _OF_A_VARIANCE)}"
    for one, other in (layers, layers[::-1]):
        if "norm" in one and "norm" not in other and other & _DENSE:
            return "one is of a normalisation, the other is not"
    return ""


def _without_numbers(steps: Steps) -> Steps:
    return tuple("#" if step.isdigit() else step for step in steps)


def _kind(steps: Steps) -> Steps:
    """The steps with all numbers but those of the tensor and its own module left open."""
    return (*(_open(step) for step in steps[:-2]), *steps[-2:])


@lru_cache(maxsize=4096)
def _open(step: str) -> str:
    return _NUMBER.sub("#", step)


def _other_kind(pairs: Mapping[int, tuple[Steps, Steps]]) -> dict[int, str]:
    """Pairs of which the same tensors of other blocks are paired otherwise."""
    kinds = {n: (_kind(target), _kind(source)) for n, (target, source) in pairs.items()}
    found: dict[int, str] = {}
    for mine, theirs in ((0, 1), (1, 0)):
        votes: dict[Steps, Counter[Steps]] = defaultdict(Counter)
        for kind in kinds.values():
            votes[kind[mine]][kind[theirs]] += 1
        for n, kind in kinds.items():
            counts = votes[kind[mine]]
            total = counts.total()
            if len(counts) > 1 and total >= _FEW:
                best, most = counts.most_common(1)[0]
                if best != kind[theirs] and most > _MAJORITY * total:
                    found[n] = f"elsewhere {_text(kind[mine])} goes with {_text(best)}"
    return found


def _other_number(pairs: Mapping[int, tuple[Steps, Steps]]) -> dict[int, str]:
    """Pairs whose numbers are not as far apart as those of most pairs of the same names."""
    why = "the numbers of others like it are otherwise apart"
    return {n: why for agreeing, others in _by_difference(pairs) if agreeing for n in others}


def numbered(pairs: Mapping[int, tuple[Steps, Steps]]) -> set[int]:
    """The pairs whose numbers are as far apart as those of most pairs of the same names.

    Args:
        pairs: The steps of a leaf and of what it takes.
    """
    return {n for agreeing, _ in _by_difference(pairs) for n in agreeing}


def _by_difference(
    pairs: Mapping[int, tuple[Steps, Steps]],
) -> Iterator[tuple[list[int], list[int]]]:
    """Per names the pairs whose numbers are as far apart as most are, and the others."""
    apart: dict[tuple[Steps, Steps], dict[int, tuple[int, ...]]] = defaultdict(dict)
    for n, sides in pairs.items():
        numbers = [[number for step in steps[:-2] for number in _numbers(step)] for steps in sides]
        if numbers[0] and len(numbers[0]) == len(numbers[1]):
            names = _kind(sides[0])[:-2], _kind(sides[1])[:-2]
            difference = (theirs - mine for mine, theirs in zip(*numbers, strict=True))
            apart[names][n] = tuple(difference)
    for differences in apart.values():
        best, most = Counter(differences.values()).most_common(1)[0]
        agreed = most > 1 and most > _MAJORITY * len(differences)
        agreeing = [n for n, each in differences.items() if agreed and each == best]
        yield agreeing, [n for n, each in differences.items() if each != best]


@lru_cache(maxsize=4096)
def _numbers(step: str) -> tuple[int, ...]:
    return tuple(map(int, _NUMBER.findall(step)))


def _other_module(pairs: Mapping[int, tuple[Steps, Steps]]) -> dict[int, str]:
    """Pairs of two modules that each have all else in common with another one."""
    layers: dict[tuple[Steps, Steps], list[int]] = defaultdict(list)
    for n, (target, source) in pairs.items():
        layers[target[:-1], source[:-1]].append(n)
    together: Counter[tuple[Steps, Steps]] = Counter()
    sizes: tuple[Counter[Steps], Counter[Steps]] = (Counter(), Counter())
    around = {layer: (_around(layer[0]), _around(layer[1])) for layer in layers}
    for layer, (targets, sources) in around.items():
        count = len(layers[layer])
        for module in targets:
            sizes[0][module] += count
        for module in sources:
            sizes[1][module] += count
        for target in targets:
            for source in sources:
                together[target, source] += count
    partners = _partners(together, sizes)
    found: dict[int, str] = {}
    for layer, sides in around.items() if partners[0] else ():
        leaves = [
            [
                (module, other)
                for module in reversed(sides[mine])
                if (other := partners[mine].get(module)) is not None
                and other not in sides[1 - mine]
            ]
            for mine in (0, 1)
        ]
        if all(leaves):
            ((module, other), *_), _ = leaves
            why = f"the rest of {_text(module)} goes with {_text(other)}"
            found.update(dict.fromkeys(layers[layer], why))
    return found


def _partners(
    together: Counter[tuple[Steps, Steps]], sizes: tuple[Counter[Steps], Counter[Steps]]
) -> tuple[dict[Steps, Steps], dict[Steps, Steps]]:
    """Modules that have more in common with each other than with any other, and nearly all."""
    best: tuple[dict[Steps, tuple[float, Steps]], ...] = ({}, {})
    for pair, count in together.items():
        common = 2 * count / (sizes[0][pair[0]] + sizes[1][pair[1]])
        for mine, theirs in ((0, 1), (1, 0)):
            if common > best[mine].get(pair[mine], (0.0, ()))[0]:
                best[mine][pair[mine]] = common, pair[theirs]
    partners: tuple[dict[Steps, Steps], dict[Steps, Steps]] = ({}, {})
    for target, (common, source) in best[0].items():
        few = min(sizes[0][target], sizes[1][source])
        if _TOGETHER <= common < 1 and few >= _FEW and best[1][source][1] == target:
            partners[0][target] = source
            partners[1][source] = target
    return partners


def _around(steps: Steps) -> list[Steps]:
    return [steps[:level] for level in range(1, len(steps) + 1)]


def _other_layer(pairs: Mapping[int, tuple[Steps, Steps]]) -> dict[int, str]:
    """Weights and biases of one layer that come from different layers, or go to different ones."""
    found: dict[int, str] = {}
    for mine in (0, 1):
        layers: dict[Steps, dict[int, Steps]] = defaultdict(dict)
        roles: dict[Steps, list[str]] = defaultdict(list)
        for n, sides in pairs.items():
            both = [meanings(steps[-1:])[0] for steps in sides]
            if both[0] == both[1] and len(both[0]) == 1 and both[0][0] in _LAYER:
                layers[sides[mine][:-1]][n] = sides[1 - mine][:-1]
                roles[sides[mine][:-1]].append(both[0][0])
        for layer, parts in layers.items():
            counts = Counter(parts.values())
            if len({*roles[layer]}) < len(roles[layer]):
                continue
            if len(counts) < 2:
                continue
            (best, most), (_, next_most) = counts.most_common(2)
            for n, other in parts.items():
                if other != best or most == next_most:
                    found[n] = f"{_text(layer)} goes with more than one layer"
    return found


def _text(steps: Steps) -> str:
    return ".".join(steps)
