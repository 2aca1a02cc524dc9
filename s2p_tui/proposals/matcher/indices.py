"""Numbers in names: indices of a list's members, or names that are written in digits.

Strides, resolutions and years are keys of an `nn.ModuleDict`, whose order their size need not be.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise, repeat
from operator import le

from msgspec import Struct, field

from s2p_tui.alignment.transform import Shape
from s2p_tui.proposals.matcher.templates import Pairs, open_numbers, template, words_of
from s2p_tui.proposals.matcher.words import Steps, name_of, remembered, snake

_WORD_OR_NUMBER = re.compile(r"[a-z]+|\d+")
_WAYS = {"from": "to", "to": "from"}
"""Words for an end that a layer leads from or to, and for the other end."""
_DIGITS = re.compile(r"\d+")
_WORD_NUMBERS = (0, 1)
"""First numbers of words that count the members of a list."""
# Places in an `nn.Sequential` that parameters may be missing at: activation, dropout, pooling and
# flattening stand before the first layer (AlexNet's classifier: 1, 4, 6) and between two (VGG: 3).
_LAST_START = 3
_WIDEST_GAP = 4
_LETTERS = tuple("abcdefgh")
_COUNTED = frozenset(((0, False), (1, False), (1, True)))
"""By how much the number of a name is above the place of its letter, and whether it is a word."""
_ROLES = frozenset((role,) for role in ("weight", "bias", "mean", "var", "count"))


def may_be_indices(numbers: Iterable[int]) -> bool:
    """Return True for numbers of layers of an `nn.Sequential`, some of which hold no parameter."""
    ordered = sorted({*numbers})
    apart = (after - before for before, after in pairwise(ordered))
    return ordered[0] <= _LAST_START and max(apart, default=0) <= _WIDEST_GAP


class _List(Struct):
    """The numbers of a list's members, and whether they rise in the order of the entries.

    Sorted as words `10` comes before `2`, and the order says nothing.
    """

    is_sorted: bool
    numbers: set[int] = field(default_factory=set)
    rises: bool = True

    @property
    def counts(self) -> bool:
        """True if the numbers show that they are indices, or the order is the same without them."""
        is_whole = min(self.numbers) == 0 and max(self.numbers) == len(self.numbers) - 1
        if is_whole or (self.rises and not self.is_sorted):
            return True
        return may_be_indices(self.numbers) and (0 in self.numbers or self.is_sorted)


_Name = tuple[Steps, int]
"""The steps to a number, those around it left open; and which number of its step it is."""
_Column = tuple[_Name, int, int | None]
"""The list that a number counts members of, the step it is in, and what it is if that is a word."""
_Lists = Mapping[_Name, _List]


def misnumbered(
    pairs: Pairs,
    shapes: Mapping[int, Shape],
    leaves: Iterable[Steps],
    entries: Sequence[Steps],
) -> dict[int, str]:
    """Pairs whose numbers are no indices, such as `p5`, `block_64` or the strides 32, 16, 8.

    They are indices where they count from 0 or 1, or are the same on both sides, and not needed
    where all members differ in size. Members of a list that has `fc` beside `fc1` have no order
    either.

    Args:
        pairs: Steps of leaves and of the entries they take, by place.
        shapes: The shapes of the leaves.
        leaves: Steps of all leaves.
        entries: Steps of all entries, in the checkpoint's order.
    """
    lists = _lists(leaves), _lists(entries)
    numbers: dict[tuple[_Name, _Name], set[tuple[int, int]]] = defaultdict(set)
    members: dict[tuple[_Name, _Name], list[int]] = defaultdict(list)
    in_words: dict[tuple[_Name, _Name], tuple[bool, bool]] = {}
    partners: dict[tuple[int, _Name], set[_Name]] = defaultdict(set)
    for templates, places in pairs.by_template.items():
        sides = [[pairs[n][side] for n in places] for side in (0, 1)]
        for mine, theirs in _aligned(templates, lists):
            names = mine[0], theirs[0]
            numbers[names].update(zip(_each(mine, sides[0]), _each(theirs, sides[1]), strict=True))
            members[names] += places
            in_words[names] = mine[2] is not None, theirs[2] is not None
            partners[0, names[0]].add(names[1])
            partners[1, names[1]].add(names[0])
    found: dict[int, str] = {}
    for names, both in numbers.items():
        written = in_words[names]
        sides = [[pair[side] for pair in both] for side in (0, 1)]
        if len(both) == 1 and all(written) and sides[0] != sides[1]:
            why = f"{_text(pairs[members[names][0]][1])} has another number than the leaf"
            found.update(dict.fromkeys(members[names], why))
        is_one_to_one = len(both) > 1 and all(len({*side}) == len(both) for side in sides)
        if not is_one_to_one or sides[0] == sides[1]:
            continue
        if any(written) and _is_mixed(names, partners):
            continue
        if _differ_in_size([(pairs[n][0], shapes[n]) for n in members[names]]):
            continue
        if any(written):
            if not all(
                map(_counts, (side for side, word in zip(sides, written, strict=True) if word))
            ):
                place = members[names][0]
                name = _text(pairs[place][int(written[1])])
                why = f"the number in {name} need not be an index"
                found.update(dict.fromkeys(members[names], why))
            continue
        for side, name in enumerate(names):
            if not (one := lists[side][name]).counts:
                listed = ", ".join(map(str, sorted(one.numbers)[:4]))
                why = f"the numbers {listed} need not be indices"
                found.update(dict.fromkeys(members[names], why))
    return found | _without_number(pairs) | _by_letters(pairs) | _directed(pairs)


def _by_letters(pairs: Pairs) -> dict[int, str]:
    """Pairs of modules told by letters alone and by numbers, and why they are in doubt.

    `b` is the second or has the number 1, and so on, whatever other letters mean.

    Args:
        pairs: Steps of leaves and of the entries they take, by place.
    """
    groups: dict[tuple[int, Steps, Steps], dict[int, tuple[int, bool]]] = defaultdict(dict)
    lettered = (
        (n, one)
        for templates, places in pairs.by_template.items()
        for one in (0, 1)
        if all(modules := [_module(side) for side in templates])
        and modules[one][-1].lower() in _LETTERS
        for n in places
    )
    for n, one in lettered:
        (*around, letter), (*there, other) = (_module(pairs[n][side]) for side in (one, 1 - one))
        numbers = name_of(other).numbers
        if len(numbers) == 1 and other[0] != letter:
            is_word = _DIGITS.search(other) is None
            number = numbers[0] - _LETTERS.index(letter.lower())
            groups[one, tuple(around), tuple(there)][n] = number, is_word
    found: dict[int, str] = {}
    for (one, *_), members in groups.items():
        apart = {*members.values()}
        letters = {_module(pairs[n][one])[-1] for n in members}
        is_told = len(apart) == 1 and apart <= _COUNTED
        if not is_told and (len(letters) > 1 or any(is_word for _, is_word in apart)):
            why = "the letters of these modules count otherwise than the names that they go with"
            found.update(dict.fromkeys(members, why))
    return found


def _directed(pairs: Pairs) -> dict[int, str]:
    """Pairs of two numbers of which one side says from where to where they lead, and why in doubt.

    `from_1_to_0` is the layer that PyTorch's lists of HRNet have at `0.1`: the list outside is of
    the branches that are led to. In other models the list outside is of those led from.

    Args:
        pairs: Steps of leaves and of the entries they take, by place.
    """
    found: dict[int, str] = {}
    for templates, places in pairs.by_template.items():
        called = [[step for step in steps if _ways(step)] for steps in templates]
        ways = [[_ways(step) for step in steps] for steps in called]
        counts = [sum(len(_DIGITS.findall(step)) for step in steps) for steps in templates]
        if ways[0] == ways[1] or counts[0] != counts[1]:
            continue
        of = called[0] or called[1]
        for n in places:
            numbers = [*map(int, _DIGITS.findall(of[-1]))]
            if len({*numbers}) > 1:
                found[n] = f"nothing shows which number of {_text(pairs[n][1])} is that of {of[-1]}"
    return found


@remembered
def _ways(step: str) -> tuple[str, ...]:
    """The ends that the numbers of a step are of, in order, if it says so of two; else none."""
    parts = _WORD_OR_NUMBER.findall(snake(step))
    before = [word for word, part in zip(("", *parts), parts, strict=False) if part.isdigit()]
    words = [word if word in _WAYS else "" for word in before]
    if len(words) != 2:
        return ()
    first, second = words[0] or _WAYS.get(words[1], ""), words[1] or _WAYS.get(words[0], "")
    return (first, second) if {first, second} == {*_WAYS} else ()


def _lists(paths: Iterable[Steps]) -> _Lists:
    """The lists of a side, all that differ by the numbers around them as one."""
    ordered = [*paths]
    is_sorted = all(map(le, ordered, ordered[1:]))
    found: dict[_Name, _List] = defaultdict(lambda: _List(is_sorted))
    last: dict[tuple[Steps, _Name], int] = {}
    before: Steps = ()
    for path in ordered:
        for name, level, number in _columns(template(path)):
            # Tensors of one module follow each other mostly.
            if path[: level + 1] == before[: level + 1]:
                continue
            number = int(path[level]) if number is None else number
            one = found[name]
            one.numbers.add(number)
            one.rises &= last.get((path[:level], name), number) <= number
            last[path[:level], name] = number
        before = path
    return found


def _each(column: _Column, paths: Sequence[Steps]) -> Iterable[int]:
    """The numbers of paths of one template in a column."""
    _, level, number = column
    return (int(path[level]) for path in paths) if number is None else repeat(number, len(paths))


def _aligned(
    templates: tuple[Steps, Steps], lists: tuple[_Lists, _Lists]
) -> list[tuple[_Column, _Column]]:
    """The numbers of two names that go together; none where one has more of them that differ."""
    columns = [_columns(pattern) for pattern in templates]
    if len(columns[0]) != len(columns[1]):
        columns = [
            tuple(one for one in column if len(lists[side][one[0]].numbers) > 1)
            for side, column in enumerate(columns)
        ]
    if len(columns[0]) != len(columns[1]):
        return []
    return list(zip(*columns, strict=True))


def _is_mixed(names: tuple[_Name, _Name], partners: Mapping[tuple[int, _Name], set[_Name]]) -> bool:
    """Return True if a list holds what the other side keeps under several names."""
    return any(len(partners[side, name]) > 1 for side, name in enumerate(names))


def _differ_in_size(leaves: Sequence[tuple[Steps, Shape]]) -> bool:
    """Return True if some role has another shape in each member of a list."""
    roles: dict[Steps, list[Shape]] = defaultdict(list)
    for steps, shape in leaves:
        roles[tuple(map(open_numbers, steps))].append(shape)
    return any(len({*found}) == len(found) for found in roles.values())


def _counts(numbers: Sequence[int]) -> bool:
    """Return True if numbers are those of members counted from 0 or 1."""
    first = min(numbers)
    return first in _WORD_NUMBERS and max(numbers) == first + len(numbers) - 1


@remembered
def _columns(pattern: Steps) -> tuple[_Column, ...]:
    """The numbers in a template, outermost first."""
    found: list[_Column] = []
    opened = tuple("#" if step.isdigit() else open_numbers(step) for step in pattern)
    for level, step in enumerate(pattern):
        around = opened[: level + 1]
        if step.isdigit():
            found.append(((around, 0), level, None))
        elif opened[level] != step:
            numbers = name_of(step).numbers
            found += [((around, n), level, number) for n, number in enumerate(numbers)]
    return tuple(found)


def _without_number(pairs: Pairs) -> dict[int, str]:
    """Members of lists that take what is numbered, and what is called so without a number."""
    lists: dict[tuple[Steps, Steps, Steps], dict[bool, list[int]]] = defaultdict(dict)
    for templates, places in pairs.by_template.items():
        target, source = map(_module, templates)
        if len(target) > 1 and target[-1].isdigit() and source and not source[-1].isdigit():
            name, ends = name_of(source[-1]), (len(target) - 1, len(source) - 1)
            for n in places:
                key = pairs[n][0][: ends[0]], pairs[n][1][: ends[1]], name.words
                lists[key].setdefault(bool(name.numbers), []).append(n)
    return {
        n: f"nothing shows whether {_text(_module(pairs[members[False][0]][1]))} is the first"
        for members in lists.values()
        if len(members) > 1
        for numbers in members.values()
        for n in numbers
    }


def _module(steps: Steps) -> Steps:
    return steps[:-1] if words_of(steps[-1:]) in _ROLES else steps


def _text(steps: Steps) -> str:
    return ".".join(steps)
