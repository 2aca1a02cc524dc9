"""How alike the names of two groups of nodes are, as a matrix."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from rapidfuzz.distance import JaroWinkler

from s2p_tui.proposals.matcher.assignment import Matrix
from s2p_tui.proposals.matcher.tree import Node
from s2p_tui.proposals.matcher.words import FAINT, meanings, name_of

_NO_NUMBER, _UNEQUAL = 0.3, 0.2
Read = Sequence[tuple[tuple[str, ...], tuple[int, ...]]]


def agreement(targets: Read, sources: Read) -> Matrix:
    """How well the numbers of every target agree with those of every source, 0 to 1.

    Args:
        targets: Words and numbers of each.
        sources: The same of the other side.
    """
    first, second = _with_first(targets), _with_first(sources)
    if {len(n) for n in first} != {len(n) for n in second}:
        first, second = _varying(first), _varying(second)
    rows, columns = _by_length(first), _by_length(second)
    if {*rows, *columns} == {0}:
        return np.zeros((len(first), len(second)))
    matrix = np.full((len(first), len(second)), _NO_NUMBER)
    for length, mine in rows.items():
        for other, theirs in columns.items():
            if length and other:
                numbers = [first[i] for i in mine], [second[j] for j in theirs]
                if length == other:
                    near = _by_place(*numbers)
                else:
                    near = _UNEQUAL * nearness(*map(ranks, numbers))
                matrix[np.ix_(mine, theirs)] = near
    return matrix


def series(paths: Sequence[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """What is numbered: the words up to the first number that is not the same in all paths."""
    columns: list[dict[tuple[str, ...], set[int]]] = []
    for path in paths:
        for column, (words, number) in enumerate(_counted(path)):
            if column == len(columns):
                columns.append(defaultdict(set))
            columns[column][words].add(number)
    varying = (
        column for column in columns if len({n for found in column.values() for n in found}) > 1
    )
    return {*next(varying, ())}


@lru_cache(maxsize=65536)
def _counted(path: tuple[str, ...]) -> tuple[tuple[tuple[str, ...], int], ...]:
    """The numbers of a path, each with the words before it."""
    return tuple(
        (tuple(word.rstrip("0123456789") for word in meanings(path[:level])[0]), number)
        for level, step in enumerate(path, 1)
        for number in name_of(step).numbers
    )


def _with_first(read: Read) -> Sequence[tuple[int, ...]]:
    """The numbers of a side; of `fc`, `fc2` the one without is the first."""
    counted = {words for words, numbers in read if len(numbers) == 1}
    return [numbers or ((0,) if words in counted else ()) for words, numbers in read]


def _by_length(numbers: Sequence[tuple[int, ...]]) -> dict[int, list[int]]:
    places: dict[int, list[int]] = {}
    for place, each in enumerate(numbers):
        places.setdefault(len(each), []).append(place)
    return places


def _by_place(first: Sequence[tuple[int, ...]], second: Sequence[tuple[int, ...]]) -> Matrix:
    """Number by number, by rank where there are as many different ones on both sides."""
    total = np.zeros((len(first), len(second)))
    for column in range(len(first[0])):
        values = [n[column] for n in first], [n[column] for n in second]
        if len(set(values[0])) == len(set(values[1])):
            total += _near(ranks(values[0]), ranks(values[1]))
        else:
            total += _UNEQUAL * nearness(np.array(values[0]), np.array(values[1]))
    return total / len(first[0])


def _near(first: np.ndarray, second: np.ndarray) -> Matrix:
    near = nearness(first, second)
    return np.where(near == 1, 1.0, 0.5 * near)


def _varying(numbers: Sequence[tuple[int, ...]]) -> Sequence[tuple[int, ...]]:
    """The numbers without those that are the same for all."""
    if len(numbers) < 2 or len({len(each) for each in numbers}) > 1:
        return numbers
    columns = [column for column in zip(*numbers, strict=True) if len({*column}) > 1]
    return list(zip(*columns, strict=True)) if columns else [()] * len(numbers)


def ranks(values: Sequence[Any]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The place of every value among the different ones, from 0."""
    ordered = {value: rank for rank, value in enumerate(sorted(set(values)))}
    return np.array([ordered[value] for value in values])


def nearness(first: np.ndarray, second: np.ndarray) -> Matrix:
    """How near the numbers of one side are to those of the other: 1 the same, 0 the farthest."""
    span = max(int(first.max()), int(second.max()), 1)
    return 1 - np.abs(first[:, None] - second[None, :]) / span


Learned = Mapping[tuple[tuple[str, ...], tuple[str, ...]], float]

_NUMBERS, _ORDER, _RANK, _LEARNED = 0.6, 0.12, 0.35, 0.5
_ROLES = frozenset(("weight", "bias", "mean", "var", "count"))
_CONFLICT, _SAME_END = -2.0, 0.15
_OTHER_AXES = (0.4, 2.0)
"""A dense layer and a pointwise convolution have the same numbers of elements; the second where
both sides have as many of each.
"""
_ENDS = {"embed", "head"}


@lru_cache(maxsize=65536)
def _alike(first: str, second: str) -> float:
    """How alike two unknown words are: 1 the same, 0 not at all."""
    if first == second:
        return 1.0
    short, long = sorted((first, second), key=len)
    if len(short) >= 3 and long.startswith(short):
        return 0.8
    likeness = JaroWinkler.similarity(first, second)
    return likeness * 0.8 if likeness > 0.88 and len(short) > 3 else 0.0


def role_of(words: Sequence[str]) -> str:
    """What a tensor is in its layer, by its last word: weight, bias, mean …; empty if unknown."""
    return words[-1] if words and words[-1] in _ROLES else ""


def _end(words: Sequence[str]) -> str:
    """At which end of a model a tensor stands, if its name says that."""
    if "embed" in words:
        return "" if {"head", "out", "proj"} & {*words} else "embed"
    return "head" if "head" in words else ""


def likeness(
    targets: Sequence[Node],
    sources: Sequence[Node],
    scopes: tuple[Node, Node],
    learned: Learned,
) -> Matrix:
    """How alike every target's name is to every source's, from their scopes down.

    Words all of them have count for little; numbers count by their rank among the nodes.
    """
    steps = (
        [node.steps_below(scopes[0]) for node in targets],
        [node.steps_below(scopes[1]) for node in sources],
    )
    read = [[meanings(path) for path in side] for side in steps]
    words = [[pair[0] for pair in side] for side in read]
    common = [Counter(word for names in side for word in set(names)) for side in words]
    weight: dict[str, float] = {}
    for word in {*common[0], *common[1]}:
        share = min(common[0][word] / len(targets), common[1][word] / len(sources))
        share *= 1 - 1 / min(len(targets), len(sources))
        weight[word] = (0.3 if word in FAINT else 1.0) * (1.08 - share)
    vectors = [[Counter(names) for names in side] for side in words]
    totals = [
        [sum(weight[word] * count for word, count in names.items()) for names in side]
        for side in vectors
    ]
    matrix = np.zeros((len(targets), len(sources)))
    rows = _distinct(words[0])
    columns = _distinct(words[1])
    for names, row_numbers in rows.items():
        i = row_numbers[0]
        for others, column_numbers in columns.items():
            j = column_numbers[0]
            shared = _shared(vectors[0][i], vectors[1][j], weight)
            total = totals[0][i] + totals[1][j]
            score = 2 * shared / total if total else 0.0
            roles = role_of(names), role_of(others)
            ends = _end(names), _end(others)
            if targets[0].size == 1:
                if (roles[0] != roles[1] and all(roles)) or {*ends} == _ENDS:
                    score += _CONFLICT
                elif ends[0] and ends[0] == ends[1]:
                    score += _SAME_END
            matrix[np.ix_(row_numbers, column_numbers)] = score
    ones = [[node.ones for node in side] for side in (targets, sources)]
    unlike = np.array(ones[0])[:, None] != np.array(ones[1])[None, :]
    matrix -= _OTHER_AXES[sorted(ones[0]) == sorted(ones[1])] * unlike
    if _is_comparable(*map(series, steps)):
        matrix += _NUMBERS * agreement(*read)
    slots = [
        [_slot(*pair) if "norm" in pair[0] else None for pair in side_read] for side_read in read
    ]
    if len(targets) == len(sources) > 1 and all(slot for side in slots for slot in side):
        places = [ranks(side) for side in slots]
        matrix += _RANK * (places[0][:, None] == places[1][None, :])
    if learned:
        for i, path in enumerate(steps[0]):
            for j, other in enumerate(steps[1]):
                if bonus := learned.get((path, other)):
                    matrix[i, j] += _LEARNED * bonus
    return matrix


def _is_comparable(first: set[tuple[str, ...]], second: set[tuple[str, ...]]) -> bool:
    """Whether numbers mean the same on both sides: unlike series have each their own count."""
    if len(first) < 2 and len(second) < 2:
        return True
    words = [{word for names in side for word in names} for side in (first, second)]
    return any(_alike(mine, other) for mine in words[0] for other in words[1])


def by_order(targets: Sequence[Node], sources: Sequence[Node]) -> Matrix:
    """A little for every target and source that stand at the same place of their sides."""
    places = (ranks([node.place for node in side]) for side in (targets, sources))
    return _ORDER * nearness(*places)


def _distinct(names: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], list[int]]:
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, name in enumerate(names):
        groups.setdefault(name, []).append(place)
    return groups


def _shared(first: Counter[str], second: Counter[str], weight: Mapping[str, float]) -> float:
    total = 0.0
    rest_first: list[str] = []
    rest_second = [word for word in second if word not in first]
    for word, count in first.items():
        if word in second:
            total += weight[word] * min(count, second[word])
        else:
            rest_first.append(word)
    for word in rest_first:
        best = max(rest_second, key=lambda other: _alike(word, other), default=None)
        if best is not None and (alike := _alike(word, best)):
            total += alike * min(weight[word], weight[best])
            rest_second.remove(best)
    return total


_SLOT_WORDS = frozenset(
    (*_ROLES, *FAINT, "norm", "final", "cross", "attn", "self", "in", "out", "pre", "post", "head")
)


def _slot(names: tuple[str, ...], numbers: tuple[int, ...]) -> tuple[float, float, int] | None:
    """Where in its block a normalisation stands, by its name: before or after attention, last.

    None if there is more in the name than that.
    """
    if not _SLOT_WORDS.issuperset(names):
        return None
    major = 0.3
    if "final" in names:
        major = 3
    elif "mlp" in names:
        major = 2
    elif "cross" in names:
        major = 1
    elif "attn" in names or "in" in names:
        major = 0
    minor = 0.0 if "pre" in names or "in" in names else 1.0 if "post" in names else 0.5
    if "attn" not in names and "mlp" not in names and "pre" in names:
        major = 0
    if "attn" not in names and "mlp" not in names and "post" in names:
        major = 2.5
    return (major, minor, numbers[-1] if numbers else 0)
