"""The likeness of names between two groups of nodes, as a matrix."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import Struct
from rapidfuzz.distance import JaroWinkler

from s2p_tui.proposals.matcher.assignment import Matrix
from s2p_tui.proposals.matcher.templates import words_of
from s2p_tui.proposals.matcher.tree import Node
from s2p_tui.proposals.matcher.words import FAINT, is_meaning, meanings, name_of, remembered

_NO_NUMBER, _UNEQUAL = 0.3, 0.2
Read = Sequence[tuple[tuple[str, ...], tuple[int, ...]]]


def agreement(targets: Read, sources: Read) -> Matrix:
    """Return the agreement of every target's numbers with those of every source, 0 to 1.

    Args:
        targets: Words and numbers of each.
        sources: The same of the other side.
    """
    first, second = _with_first(targets), _with_first(sources)
    if {len(n) for n in first} != {len(n) for n in second}:
        if (in_turn := _in_turn(targets, sources)) is not None:
            return in_turn
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
    """Return the words up to the first number that differs between paths."""
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


def _entrance(targets: Read, sources: Read) -> Matrix | None:
    """The agreement of two that are called in and out with two that are numbered in turn.

    None for all others.
    """
    if len(targets) != 2 or len(sources) != 2:
        return None
    named, turn = _is_entrance(targets), _in_two(sources)
    if named is None or turn is None:
        named, turn = _in_two(targets), _is_entrance(sources)
    if named is None or turn is None:
        return None
    return np.array(named)[:, None] == np.array(turn)[None, :]


def _is_entrance(side: Read) -> list[bool] | None:
    """Return the one of two that is the entrance, if one of them is and the other is the exit."""
    (first, numbers), (second, others) = side
    apart = Counter(first) - Counter(second), Counter(second) - Counter(first)
    words: list[Words] = [tuple(each.elements()) for each in apart]
    if numbers != others or {*words} != {("in",), ("out",)}:
        return None
    return [each == ("in",) for each in words]


def _in_two(side: Read) -> list[bool] | None:
    """Return the first of two, if they differ in a last number alone, counted from 0 or 1."""
    (first, numbers), (second, others) = side
    if first != second or not numbers or not others or numbers[:-1] != others[:-1]:
        return None
    one, other = numbers[-1], others[-1]
    return [one < other, other < one] if abs(one - other) == 1 and min(one, other) <= 1 else None


@remembered
def _counted(path: tuple[str, ...]) -> tuple[tuple[tuple[str, ...], int], ...]:
    """The numbers of a path, each with the words before it."""
    return tuple(
        (tuple(word.rstrip("0123456789") for word in words_of(path[:level])), number)
        for level, step in enumerate(path, 1)
        for number in name_of(step).numbers
    )


def _in_turn(targets: Read, sources: Read) -> Matrix | None:
    """The agreement of members that one side counts through and the other in lists of lists.

    None unless each side has members of one name only, as many as the other, counted without gaps,
    and the names have a word in common: `conv1_1`, `conv1_2`, `conv2_1` and `convs.0` to `convs.2`.
    """
    numbers: list[list[tuple[int, ...]]] = []
    for side in (targets, sources):
        members = [each for _, each in side]
        is_list = len({words for words, _ in side}) == 1 and len({*map(len, members)}) == 1
        if not is_list or not _without_gaps(members):
            return None
        numbers.append(members)
    are_alike = {*targets[0][0]} & {*sources[0][0]}
    if len(numbers[0]) != len(numbers[1]) or not are_alike:
        return None
    return _near(*map(ranks, numbers))


def _without_gaps(numbers: Sequence[tuple[int, ...]]) -> bool:
    """Return True for members that count from 0 or 1, in lists of lists too."""
    if not numbers[0] or len({*numbers}) < len(numbers):
        return False
    around: dict[tuple[int, ...], set[int]] = defaultdict(set)
    for each in numbers:
        for level, number in enumerate(each):
            around[each[:level]].add(number)
    return all(
        min(members) <= 1 and max(members) - min(members) < len(members)
        for members in around.values()
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
    """Return the nearness of one side's numbers to the other's: 1 the same, 0 the farthest."""
    span = max(int(first.max()), int(second.max()), 1)
    return 1 - np.abs(first[:, None] - second[None, :]) / span


Words = tuple[str, ...]
Learned = Mapping[Words, Mapping[Words, float]]
"""By the steps of a leaf and of an entry, how often the two went together."""

# Likeness beside that of words, which is 1 where all words agree. Numbers weigh less than words, so
# that a list that is numbered otherwise follows its names; order least, so that it only breaks
# ties. Each of these may be 40 % less or 60 % more and no row of the real pairs changes
# (`python -m tests.benchmarks.alignment`); `python -m tests.networks` counts what they decide.
NUMBERS, ORDER = 0.6, 0.12
_RANK, _LEARNED = 0.35, 0.5
# Where all norms of a block say what they are around: `attention_norm` shares two words with
# `post_attention_layernorm`, the second one of its block, and one with `input_layernorm`.
_SLOT = 1.0
_ROLES = frozenset(("weight", "bias", "mean", "var", "count"))
_TELLING = frozenset(("query", "key", "value"))
"""Words that no other layer of a block has."""
_ROLE_ALONE = frozenset(((), *((role,) for role in _ROLES)))
# `skip` and `residual` mean the same; beside the other one each is a name of its own.
_OWN_NAME = 0.3
# `image_proj` has all words of `img_proj`, and of `img_mlp` all but one that says little.
_ALL_WORDS = 0.3
# A weight is no bias and an encoder no decoder, even where all their words agree and more speaks
# for it (1 + NUMBERS + ORDER).
_CONFLICT, _SAME_END = -2.0, 0.15
_OTHER_AXES = (0.4, 2.0)
"""A dense layer and a pointwise convolution have the same numbers of elements; the second where
both sides have as many of each.
"""
# Jaro–Winkler: `normal`, `normalise` (0.93) and `proj`, `project` (0.91) are above it, `dense`,
# `sense` (0.87) and `query`, `key` (0.51) below; `encoder`, `decoder` (0.90) conflict as ends.
_NEARLY = 0.88
# From so many pairs of kinds of names on, comparing them one by one takes longer than as matrices:
# 3 µs each, against 1 ms for matrices of 40 × 40.
_BY_HAND = 1024


@remembered
def words_alike(first: str, second: str) -> float:
    """Return the likeness of two unknown words: 1 the same, 0 none."""
    if first == second:
        return 1.0
    short, long = sorted((first, second), key=len)
    if len(short) >= 3 and long.startswith(short):
        return 0.8
    # Nobody wrote what a letter stands for: `w` is read as `weight`, but not spelt like `height`.
    if len(short) <= 3 or is_meaning(first) or is_meaning(second):
        return 0.0
    likeness = JaroWinkler.similarity(first, second)
    return likeness * 0.8 if likeness > _NEARLY else 0.0


def role_of(words: Sequence[str]) -> str:
    """Return a tensor's role by its last word: weight, bias, mean …; empty if unknown.

    The weight of a table of biases may be called by either.
    """
    if (*words[-2:],) == ("bias", "weight"):
        return ""
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
    """Return the likeness of every target's name to every source's, from their scopes down.

    Words all of them have count for little; numbers count by their rank among the nodes.
    """
    steps = (
        [node.steps_below(scopes[0]) for node in targets],
        [node.steps_below(scopes[1]) for node in sources],
    )
    read = [[meanings(path) for path in side] for side in steps]
    words = [[pair[0] for pair in side] for side in read]
    alike = likeness_of_words(words[0], words[1], are_tensors=targets[0].size == 1)
    kinds = (list(dict.fromkeys(side)) for side in words)
    scores = alike.scores + _ALL_WORDS * _all_words_alike(*kinds)
    matrix = scores[np.ix_(alike.rows, alike.columns)]
    matrix -= otherwise_wide([n.ones for n in targets], [n.ones for n in sources])
    if _is_comparable(*map(series, steps)):
        matrix += NUMBERS * agreement(*read)
    if (entrance := _entrance(*read)) is not None:
        matrix += NUMBERS * entrance
    slots = [
        [slot(*pair) if "norm" in pair[0] else None for pair in side_read] for side_read in read
    ]
    if len(targets) == len(sources) > 1 and all(slot for side in slots for slot in side):
        places = [ranks(side) for side in slots]
        rank = _RANK if any(map(_is_vague, slots)) or _is_shifted(slots, places) else _SLOT
        matrix += rank * (places[0][:, None] == places[1][None, :])
    for i, j in _same_own_name(*steps):
        few, many = sorted((words[0][i], words[1][j]), key=len)
        matrix[i, j] += _OWN_NAME * ({*few} <= {*many})
    if learned:
        columns = _distinct(steps[1])
        for i, path in enumerate(steps[0]):
            for other, bonus in learned.get(path, {}).items():
                for j in columns.get(other, ()):
                    matrix[i, j] += _LEARNED * bonus
    return matrix


def _same_own_name(
    targets: Sequence[tuple[str, ...]], sources: Sequence[tuple[str, ...]]
) -> Iterator[tuple[int, int]]:
    """The pairs whose own names are the same to the letter, and those of no others of a side."""
    named: list[dict[str, list[int]]] = []
    for paths in (targets, sources):
        own: dict[str, list[int]] = defaultdict(list)
        for n, path in enumerate(paths):
            own[_own_name(path)].append(n)
        named.append(own)
    for name, mine in named[0].items():
        theirs = named[1].get(name, [])
        if name and len(mine) == len(theirs) == 1:
            yield mine[0], theirs[0]


@remembered
def _own_name(path: tuple[str, ...]) -> str:
    """The last step that says more than a tensor's role or its number; empty if none does."""
    telling = (
        step
        for step in reversed(path)
        if not step.isdigit() and words_of((step,)) not in _ROLE_ALONE
    )
    return next(telling, "")


def _all_words_alike(targets: Sequence[Words], sources: Sequence[Words]) -> Matrix:
    """Return 1 for names of which one has all words of the other in order, and no other name has.

    `img_proj` and `image_proj`, `A_to_B` and `G_A_to_B`, but neither with `G_B_to_A`.
    """
    matrix = np.zeros((len(targets), len(sources)))
    if len(targets) * len(sources) > _BY_HAND:
        return matrix
    counted = [[Counter(words) for words in side] for side in (targets, sources)]
    shared = np.array([[(mine & its).total() for its in counted[1]] for mine in counted[0]])
    for i, mine in enumerate(targets):
        for j, theirs in enumerate(sources):
            few, many = sorted((mine, theirs), key=len)
            rest = iter(many)
            matrix[i, j] = bool(few) and all(word in rest for word in few)
    alone = (matrix.sum(axis=0) == 1)[None, :] & (matrix.sum(axis=1) == 1)[:, None]
    # Of `critic` and `target_critic` the second has more of `critic_target`.
    most = (shared == shared.max(axis=0)[None, :]) & (shared == shared.max(axis=1)[:, None])
    return matrix * alone * most


class Likeness(Struct, frozen=True):
    """Return the likeness of the words of names, each kind of name once.

    Attributes:
        scores: Kinds of targets by kinds of sources.
        rows: The kind of every target.
        columns: The kind of every source.
    """

    scores: Matrix
    rows: list[int]
    columns: list[int]


def likeness_of_words(
    first: Sequence[Words], second: Sequence[Words], *, are_tensors: bool
) -> Likeness:
    """Return the likeness of the words of every target's name to those of every source's."""
    weight = _weights(first, second)
    kinds = list(dict.fromkeys(first)), list(dict.fromkeys(second))
    number = [{words: n for n, words in enumerate(side)} for side in kinds]
    counted = [[Counter(words) for words in side] for side in kinds]
    if len(kinds[0]) * len(kinds[1]) > _BY_HAND:
        shared = _all_shared(counted[0], counted[1], weight)
    else:
        shared = np.array([[_shared(a, b, weight) for b in counted[1]] for a in counted[0]])
    totals = [
        np.array([sum((weight[word] * n for word, n in words.items()), 0.0) for words in side])
        for side in counted
    ]
    total = totals[0][:, None] + totals[1][None, :]
    scores = np.divide(2 * shared, total, out=np.zeros_like(total), where=total != 0)
    if are_tensors:
        scores += _by_role(kinds[0], kinds[1])
    return Likeness(
        scores, [number[0][words] for words in first], [number[1][words] for words in second]
    )


def _weights(first: Sequence[Words], second: Sequence[Words]) -> dict[str, float]:
    """Return the weight of each word: small if most names of both sides have it."""
    common = [Counter(word for names in side for word in {*names}) for side in (first, second)]
    few = min(len(first), len(second))
    weight: dict[str, float] = {}
    for word in {*common[0], *common[1]}:
        share = min(common[0][word] / len(first), common[1][word] / len(second))
        share *= 1 - 1 / few
        own = 0.3 if word in FAINT else 1.5 if word in _TELLING else 1.0
        weight[word] = own * (1.08 - share)
    return weight


def _by_role(first: Sequence[Words], second: Sequence[Words]) -> Matrix:
    """Return the bonus for tensors' roles in their layers and for the ends of a model."""
    roles = [np.array([role_of(words) for words in side]) for side in (first, second)]
    ends = [np.array([_end(words) for words in side]) for side in (first, second)]
    role, other_role = roles[0][:, None], roles[1][None, :]
    end, other_end = ends[0][:, None], ends[1][None, :]
    both = (end != "") & (other_end != "")
    conflict = (role != other_role) & (role != "") & (other_role != "")
    conflict |= both & (end != other_end)
    return np.where(conflict, _CONFLICT, np.where(both & (end == other_end), _SAME_END, 0.0))


def otherwise_wide(first: Sequence[int], second: Sequence[int]) -> Matrix:
    """Return the penalty for weights with other numbers of 1-sized axes."""
    unlike = np.array(first)[:, None] != np.array(second)[None, :]
    return _OTHER_AXES[sorted(first) == sorted(second)] * unlike


def _is_comparable(first: set[tuple[str, ...]], second: set[tuple[str, ...]]) -> bool:
    """Return True if numbers mean the same on both sides: unlike series count apart."""
    if len(first) < 2 and len(second) < 2:
        return True
    words = [{word for names in side for word in names} for side in (first, second)]
    return any(words_alike(mine, other) for mine in words[0] for other in words[1])


def by_order(targets: Sequence[Node], sources: Sequence[Node]) -> Matrix:
    """A little for every target and source that stand at the same place of their sides."""
    places = (ranks([node.place for node in side]) for side in (targets, sources))
    return ORDER * nearness(*places)


def _distinct(names: Sequence[Words]) -> dict[Words, list[int]]:
    groups: dict[Words, list[int]] = {}
    for place, name in enumerate(names):
        groups.setdefault(name, []).append(place)
    return groups


def _all_shared(
    first: Sequence[Counter[str]], second: Sequence[Counter[str]], weight: Mapping[str, float]
) -> Matrix:
    """The `_shared` of every two, without a step in Python for most of them."""
    kinds = [list(dict.fromkeys(w for words in side for w in words)) for side in (first, second)]
    place, other = ({word: n for n, word in enumerate(side)} for side in kinds)
    rows = [[place[word] for word in words] for words in first]
    columns = [[other[word] for word in words] for words in second]
    shared = np.zeros((len(first), len(second)))
    most = max((count for side in (first, second) for w in side for count in w.values()), default=0)
    for repeat in range(most):
        holds = np.zeros((len(kinds[0]), len(second)))
        for column, words in enumerate(second):
            for word, count in words.items():
                if count > repeat and word in place:
                    holds[place[word], column] = weight[word]
        again = [[place[word] for word, n in words.items() if n > repeat] for words in first]
        shared += _sums(holds, again)
    alike = _all_alike(*kinds)
    if alike.any():
        least = np.minimum.outer(*([weight[word] for word in side] for side in kinds))
        any_alike = (alike > 0).astype(float)
        near = _sums(any_alike.T, columns).T
        pairs = _sums(near, rows)
        # A word that both names have is not compared with others.
        same = _sums(near * _holding(second, place).T, rows)
        same += _sums((_sums(any_alike, rows) * _holding(first, other)).T, columns).T
        one = _sums(_sums((alike * least).T, columns).T, rows)
        shared += np.where((pairs == 1) & (same == 0), one, 0.0)
        for row, column in np.argwhere(pairs > 1).tolist():
            shared[row, column] = _shared(first[row], second[column], weight)
    # Sums in another order differ in their last bits, which must not decide between equals.
    return np.round(shared, 12)


def _sums(matrix: Matrix, members: Sequence[Sequence[int]]) -> Matrix:
    """Sums of some rows of a matrix each."""
    padded = np.vstack((matrix, np.zeros((1, matrix.shape[1]))))
    listed = [each or (len(matrix),) for each in members]
    starts = np.cumsum([0, *map(len, listed[:-1])])
    return np.add.reduceat(padded[[n for each in listed for n in each]], starts, axis=0)


def _holding(names: Sequence[Counter[str]], place: Mapping[str, int]) -> Matrix:
    """Return the words of some that each name has."""
    holds = np.zeros((len(names), len(place)))
    for row, words in enumerate(names):
        holds[row, [place[word] for word in words if word in place]] = 1
    return holds


def _all_alike(first: Sequence[str], second: Sequence[str]) -> Matrix:
    """The `_alike` of every two unlike words."""
    from rapidfuzz.process import cdist

    scores = cdist(
        first, second, scorer=JaroWinkler.similarity, score_cutoff=_NEARLY, dtype=np.float64
    )
    lengths = [[0 if is_meaning(word) else len(word) for word in side] for side in (first, second)]
    short = np.minimum.outer(*lengths)
    alike = np.where((scores > _NEARLY) & (short > 3), scores * 0.8, 0.0)
    places = [{word: n for n, word in enumerate(side)} for side in (first, second)]
    for word, n in places[0].items():
        for m in _starting(word, places[1]):
            alike[n, m] = 0.8
        if (same := places[1].get(word)) is not None:
            alike[n, same] = 0.0
    for word, m in places[1].items():
        for n in _starting(word, places[0]):
            alike[n, m] = 0.8
    return alike


def _starting(word: str, places: Mapping[str, int]) -> Iterator[int]:
    """The places of shorter words that the word begins with."""
    return (places[word[:end]] for end in range(3, len(word)) if word[:end] in places)


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
        best = max(rest_second, key=lambda other: words_alike(word, other), default=None)
        if best is not None and (alike := words_alike(word, best)):
            total += alike * min(weight[word], weight[best])
            rest_second.remove(best)
    return total


_SLOT_WORDS = frozenset(
    (*_ROLES, *FAINT, "norm", "final", "cross", "attn", "self", "in", "out", "pre", "post", "head")
)


BETWEEN = 0.3
"""The place of norms that are only numbered: after attention's, before that of what follows."""


def _is_vague(slots: Sequence[Any]) -> bool:
    """Return True if a norm's name does not say what it is around, or two say the same."""
    return len({*slots}) < len(slots) or any(major == BETWEEN for major, _, _ in slots)


def _is_shifted(slots: Sequence[Sequence[Any]], places: Sequence[np.ndarray]) -> bool:
    """Return True if norms around the same have other places in their blocks."""
    known = dict(zip(slots[0], places[0].tolist(), strict=True))
    both = zip(slots[1], places[1].tolist(), strict=True)
    return any(known.get(slot, place) != place for slot, place in both)


def slot(names: tuple[str, ...], numbers: tuple[int, ...]) -> tuple[float, float, int] | None:
    """Return a normalisation's place in its block by its name: around attention, or last.

    None if there is more in the name than that.
    """
    if not _SLOT_WORDS.issuperset(names):
        return None
    major = BETWEEN
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
