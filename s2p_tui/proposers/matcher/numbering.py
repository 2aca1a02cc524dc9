"""How well the numbers in names agree, by their ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from s2p_tui.proposers.matcher.assignment import Matrix
from s2p_tui.proposers.matcher.words import meanings, name_of

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
