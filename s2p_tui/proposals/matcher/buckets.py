"""Large groups of siblings lined up by name, without a look at every two of them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import nlargest

import numpy as np
from msgspec import Struct

from s2p_tui.proposals.matcher.assignment import assignment
from s2p_tui.proposals.matcher.likeness import (
    NUMBERS,
    ORDER,
    likeness_of_words,
    otherwise_wide,
    ranks,
)
from s2p_tui.proposals.matcher.tree import Node
from s2p_tui.proposals.matcher.words import Steps, meanings, remembered

Found = tuple[int, int, float, str]
"""Numbers of a target and a source, the margin, and what spoke for it."""

# More than any sum of likenesses: what is paired by equal names or numbers stays paired.
SURE = 10.0
SAME_NAME = "the same name"
NAMES_AGREE = "the names agree best"
ORDER_OF_MANY = "too many alike to compare them all: only the order speaks for it"
# Kinds of names are compared with each other, all at once: 128 by 128 take 10 ms.
_MOST_KINDS = 128 * 128
_CONFLICTING = -0.9
# The likeness needed by a tensor whose module has its partner elsewhere, as in `align`.
_LIKE_ENOUGH = 0.6
# Words and parts of words that more names have than that say little, and following each of them
# would take the square of their number.
_MOST_WITH_WORD = 16
_MOST_SIMILAR = 4
_GRAM = 3
_NUMBER = re.compile(r"[0-9]+")
# Names between two looks at the token for cancelling.
_OFTEN = 1024


class Side(Struct, frozen=True):
    """The nodes of one side.

    Attributes:
        nodes: The nodes.
        steps: Their steps below the scope.
        words: What their steps mean.
        numbers: The numbers in their steps.
    """

    nodes: Sequence[Node]
    steps: list[Steps]
    words: list[Steps]
    numbers: list[tuple[int, ...]]

    @classmethod
    def of(cls, nodes: Sequence[Node], scope: Node) -> Side:
        """The nodes as they are called below the scope."""
        steps = [node.steps_below(scope) for node in nodes]
        read = [meanings(path) for path in steps]
        return cls(nodes, steps, [words for words, _ in read], [numbers for _, numbers in read])

    @property
    def kinds(self) -> list[tuple[Steps, int, int]]:
        """Of each node its words, how many numbers it has, and the 1-sized axes in it."""
        columns = zip(self.words, self.numbers, self.nodes, strict=True)
        return [(words, len(numbers), node.ones) for words, numbers, node in columns]


class Buckets:
    """Pairs the nodes of two sides, the surest first; what is taken is not looked at again.

    Args:
        targets: One side.
        sources: The other.
        fits: Whether a source can fill a target.
        check: Called now and then; may raise to stop.

    Attributes:
        found: The pairs so far.
    """

    def __init__(
        self,
        targets: Side,
        sources: Side,
        fits: Callable[[Node, Node], bool],
        check: Callable[[], None],
    ) -> None:
        self.sides = targets, sources
        self.found: list[Found] = []
        self._fits = fits
        self._check = check
        self._left = tuple(dict.fromkeys(range(len(side.nodes))) for side in self.sides)

    @property
    def left(self) -> tuple[list[int], list[int]]:
        """Numbers of the targets and sources that have no partner."""
        return list(self._left[0]), list(self._left[1])

    def pair_by_name(self, *, order: bool, apart: set[Node]) -> None:
        """Pair what names alone tell.

        Args:
            order: Whether the order of both sides says something.
            apart: Nodes that are only paired with one whose name is much like theirs.
        """
        self._take(_same_names(*self.sides))
        if all(self._left):
            if self._kinds_are_few:
                self._take(self._by_kind(order=order, apart=apart))
            else:
                self._take(self._by_meaning())

    def pair_the_rest(self) -> None:
        """Pair what is left by the words that few have, then by order: all of it a guess."""
        if all(self._left):
            self._take(self._similar())
        if all(self._left):
            self._take(self._in_order())

    def take(self, target: int, source: int, margin: float, how: str) -> None:
        """Pair two, if both are left and fit."""
        targets, sources = self._left
        nodes = self.sides[0].nodes, self.sides[1].nodes
        are_left = target in targets and source in sources
        if are_left and self._fits(nodes[0][target], nodes[1][source]):
            self.found.append((target, source, margin, how))
            del targets[target], sources[source]

    def _take(self, pairs: Iterable[Found]) -> None:
        for n, pair in enumerate(pairs):
            if not n % _OFTEN:
                self._check()
            self.take(*pair)

    @property
    def _kinds_are_few(self) -> bool:
        targets, sources = ({*side.kinds} for side in self.sides)
        return len(targets) * len(sources) <= _MOST_KINDS

    def _by_kind(self, *, order: bool, apart: set[Node]) -> Iterator[Found]:
        """Kind of name by kind of name, and within two kinds by number.

        What has a partner by its very name is no partner for others, and a rival all the same.
        """
        targets, sources = self.sides
        kinds = targets.kinds, sources.kinds
        members = [_numbers_of(side) for side in kinds]
        alike = likeness_of_words(
            targets.words, sources.words, are_tensors=targets.nodes[0].size == 1
        )
        ones = [next(iter(numbers)) for side in members for numbers in side.values()]
        rows, columns = ones[: len(members[0])], ones[len(members[0]) :]
        scores = alike.scores[
            np.ix_([alike.rows[i] for i in rows], [alike.columns[j] for j in columns])
        ]
        scores -= otherwise_wide([kind[2] for kind in members[0]], [kind[2] for kind in members[1]])
        hints = np.zeros_like(scores)
        place = [{kind: n for n, kind in enumerate(side)} for side in members]
        for i, j, _, _ in self.found:
            hints[place[0][kinds[0][i]], place[1][kinds[1][j]]] = SURE
        left = [
            [[n for n in numbers if n in rest] for numbers in side.values()]
            for side, rest in zip(members, self._left, strict=True)
        ]
        for row, mine in enumerate(left[0]):
            for column, theirs in enumerate(left[1]):
                if len(mine) == len(theirs) and mine:
                    hints[row, column] += NUMBERS
        pairs: list[tuple[int, int, float]] = []
        for row, column, margin in assignment(scores, None, hints):
            score = float(scores[row, column])
            mine, theirs = left[0][row], left[1][column]
            if score <= _CONFLICTING or not mine or not theirs:
                continue
            numbers = [targets.numbers[i] for i in mine], [sources.numbers[j] for j in theirs]
            for a, b, by_number in _by_number(*numbers):
                i, j = mine[a], theirs[b]
                is_apart = targets.nodes[i] in apart or sources.nodes[j] in apart
                if not is_apart or score >= _LIKE_ENOUGH:
                    pairs.append((i, j, min(margin, by_number)))
        against = _against(pairs, targets.nodes, sources.nodes) if order else [0.0] * len(pairs)
        for (i, j, margin), less in zip(pairs, against, strict=True):
            yield i, j, margin - less, NAMES_AGREE

    def _by_meaning(self) -> Iterator[Found]:
        """Pair nodes with the same words and numbers; sure where that holds for all left."""
        named: list[dict[tuple[object, ...], list[int]]] = []
        for side, left in zip(self.sides, self._left, strict=True):
            names: dict[tuple[object, ...], list[int]] = defaultdict(list)
            for n in left:
                names[side.words[n], side.numbers[n], side.nodes[n].ones].append(n)
            named.append(names)
        alone = all(len(numbers) == 1 for names in named for numbers in names.values())
        margin = 1.0 if alone and named[0].keys() == named[1].keys() else 0.0
        for name, mine in named[0].items():
            for i, j in zip(mine, named[1].get(name, ()), strict=False):
                yield i, j, margin, NAMES_AGREE

    def _similar(self) -> Iterator[Found]:
        """Names that share what few names have: words, parts of words, numbers."""
        holding: list[dict[str, list[int]]] = []
        for side, left in zip(self.sides, self._left, strict=True):
            index: dict[str, list[int]] = defaultdict(list)
            for n in left:
                for feature in _features(side.words[n], side.numbers[n]):
                    index[feature].append(n)
            holding.append(index)
        telling = {
            feature: (1.0 / (len(rows) * len(holding[1][feature])), holding[1][feature])
            for feature, rows in holding[0].items()
            if len(rows) <= _MOST_WITH_WORD
            and 0 < len(holding[1].get(feature, ())) <= _MOST_WITH_WORD
        }
        near: list[tuple[float, int, int]] = []
        for n, i in enumerate(self._left[0]):
            if not n % _OFTEN:
                self._check()
            scores: dict[int, float] = defaultdict(float)
            for feature in _features(self.sides[0].words[i], self.sides[0].numbers[i]):
                weight, columns = telling.get(feature, (0, ()))
                for j in columns:
                    scores[j] += weight
            best = nlargest(_MOST_SIMILAR, scores, key=scores.__getitem__)
            near += [(-scores[j], i, j) for j in best]
        near.sort()
        return ((i, j, 0.0, NAMES_AGREE) for _, i, j in near)

    def _in_order(self) -> Iterator[Found]:
        """Those of one shape in their order, then all others."""
        for by_shape in (True, False):
            queues: list[Mapping[object, list[int]]] = []
            for side, left in zip(self.sides, self._left, strict=True):
                queue: dict[object, list[int]] = defaultdict(list)
                for n in sorted(left, key=lambda n, side=side: side.nodes[n].place):
                    queue[side.nodes[n].shape if by_shape else ()].append(n)
                queues.append(queue)
            for shape, mine in queues[0].items():
                for i, j in zip(mine, queues[1].get(shape, ()), strict=False):
                    yield i, j, 0.0, ORDER_OF_MANY


def _same_names(targets: Side, sources: Side) -> Iterator[Found]:
    """Pair nodes of the same name, where that holds for all whose names differ by numbers alone.

    Lists that do not have the same numbers may be shifted.
    """
    templates = [_by_template(side.steps) for side in (targets, sources)]
    for template, mine in templates[0].items():
        theirs = templates[1].get(template, {})
        if mine.keys() == theirs.keys():
            for steps, i in mine.items():
                yield i, theirs[steps], SURE, SAME_NAME


def _by_template(paths: Sequence[Steps]) -> dict[str, dict[Steps, int]]:
    found: dict[str, dict[Steps, int]] = defaultdict(dict)
    twice: set[str] = set()
    for n, steps in enumerate(paths):
        template = _NUMBER.sub("#", "\0".join(steps))
        if steps in found[template]:
            twice.add(template)
        found[template][steps] = n
    return {template: names for template, names in found.items() if template not in twice}


def _numbers_of(kinds: Sequence[tuple[Steps, int, int]]) -> dict[tuple[Steps, int, int], list[int]]:
    found: dict[tuple[Steps, int, int], list[int]] = defaultdict(list)
    for n, kind in enumerate(kinds):
        found[kind].append(n)
    return found


def _by_number(
    first: Sequence[tuple[int, ...]], second: Sequence[tuple[int, ...]]
) -> Iterator[tuple[int, int, float]]:
    """Those of the same numbers, or as far along on both sides; and how sure that is.

    A number that is another one counts for half at most; of several only one may be another.
    """
    count = len(first[0])
    places = [{numbers: n for n, numbers in enumerate(side)} for side in (first, second)]
    if len(places[0]) < len(first) or len(places[1]) < len(second):
        return
    if not count:
        yield 0, 0, 1.0
        return
    if places[0].keys() != places[1].keys():
        ranked = [_ranked(side) for side in (first, second)]
        if {*ranked[0]} == {*ranked[1]}:
            places = [{numbers: n for n, numbers in enumerate(side)} for side in ranked]
    agree = places[0].keys() == places[1].keys()
    for numbers, a in places[0].items():
        if (b := places[1].get(numbers)) is not None:
            yield a, b, NUMBERS / count if agree else 0.0


def _ranked(numbers: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    columns = [ranks(column).tolist() for column in zip(*numbers, strict=True)]
    return list(zip(*columns, strict=True))


def _against(
    pairs: Sequence[tuple[int, int, float]], targets: Sequence[Node], sources: Sequence[Node]
) -> list[float]:
    """The most that the order of both sides can say against each pair."""
    first, second = (ranks([node.place for node in side]) for side in (targets, sources))
    span = max(int(first.max()), int(second.max()), 1)
    off = [abs(int(first[i]) - int(second[j])) / span for i, j, _ in pairs]
    farthest = max(off, default=0.0)
    return [ORDER * (each + farthest) for each in off]


@remembered
def _grams(word: str) -> tuple[str, ...]:
    return tuple(word[n : n + _GRAM] for n in range(len(word) - _GRAM + 1))


def _features(words: Steps, numbers: tuple[int, ...]) -> Iterator[str]:
    yield f"#{numbers}"
    for word in dict.fromkeys(words):
        yield f"={word}"
        yield from _grams(word)
