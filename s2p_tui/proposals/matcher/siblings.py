"""Blocks of one list that take entries of the same names but for one, which is called otherwise.

Where an entry of a block is lost, another one of its size may be at its place: `shortcut` in one
block where `conv2` is in the next, all else alike.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from s2p_tui.proposals.matcher.templates import Pairs, open_numbers
from s2p_tui.proposals.matcher.words import Steps, remembered

_DIGITS = re.compile(r"\d+")
# The fewest tensors that two blocks have in common before a difference of one says something, and
# the share of them that has to agree. With three tensors a layer and its norm are a block.
_FEWEST = 3
_MAJORITY = 0.5
Shape = tuple[int, ...]
_Block = tuple[Steps, str]
"""The steps to a list, and the name of its members with the number left open."""


def unlike_siblings(
    pairs: Pairs, shapes: Mapping[int, Shape], held: Mapping[Shape, int]
) -> dict[int, str]:
    """Pairs of blocks side by side that take entries of different names, and why that is odd.

    Steps that are numbers alone say nothing: layers without parameters count in a `Sequential`.
    Nor is it odd where the one name is that of another layer in the other block, and sizes tell:
    EfficientNet's first block has a last layer called `conv_pw`, as the first ones of others are.

    Args:
        pairs: Steps of leaves and of the entries they take, by place.
        shapes: The shapes of the entries, by place.
        held: How many entries there are of each shape.
    """
    blocks: dict[_Block, dict[str, dict[Steps, int]]] = {
        block: defaultdict(dict) for block in _of_several_names(pairs)
    }
    for n, (target, _) in pairs.items() if blocks else ():
        for block, member, rest in _blocks_around(target):
            if block in blocks:
                blocks[block][member][rest] = n
    found: dict[int, str] = {}
    for members in blocks.values():
        found |= _other_roles(members, pairs)
        ordered = sorted(members, key=_numbers)
        for one, other in pairwise(ordered):
            first, second = members[one], members[other]
            both = [(first[rest], second[rest]) for rest in first if rest in second]
            names_of = [{_opened(pairs[n][1]) for n in each.values()} for each in (first, second)]
            for places in _unlike(both, pairs):
                is_there = any(
                    _opened(pairs[n][1]) in names
                    for n, names in zip(places, reversed(names_of), strict=True)
                )
                if is_there and all(held[shapes[n]] == 1 for n in places):
                    continue
                names = [".".join(pairs[n][1]) for n in places]
                why = f"all else in two blocks is called alike, but not {names[0]} and {names[1]}"
                found.update(dict.fromkeys(places, why))
    return found


def _other_roles(members: Mapping[str, Mapping[Steps, int]], pairs: Pairs) -> dict[int, str]:
    """The leaves of a list of layers that take another tensor of their layer than most do."""
    roles: dict[tuple[Steps, Steps], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for held in members.values():
        for rest, n in held.items():
            source = pairs[n][1]
            roles[rest, _opened(source[:-1])][source[-1]].append(n)
    found: dict[int, str] = {}
    for names in roles.values() if len(members) >= _FEWEST else ():
        usual = max(names, key=lambda name: len(names[name]))
        if len(names[usual]) > _MAJORITY * sum(map(len, names.values())):
            for name, places in names.items():
                why = f"{name} is {usual} in most layers beside this one"
                found.update(dict.fromkeys(places if name != usual else (), why))
    return found


def _of_several_names(pairs: Pairs) -> set[_Block]:
    """The lists of which some leaf takes entries of more than one name."""
    names: dict[Steps, set[Steps]] = defaultdict(set)
    examples: dict[Steps, list[int]] = defaultdict(list)
    for (target, source), places in pairs.by_template.items():
        opened = tuple(map(open_numbers, target))
        names[opened].add(_words(source))
        examples[opened] += places
    return {
        block
        for opened, sources in names.items()
        if len(sources) > 1
        for n in examples[opened]
        for block, *_ in _blocks_around(pairs[n][0])
    }


def _blocks_around(target: Steps) -> Iterator[tuple[_Block, str, Steps]]:
    """The numbered blocks that a leaf is in, each with its list and with what follows it."""
    for level, step in enumerate(target[:-1]):
        if (opened := open_numbers(step)) != step:
            yield (target[:level], opened), step, target[level + 1 :]


def _unlike(both: Sequence[tuple[int, int]], pairs: Pairs) -> Iterator[tuple[int, int]]:
    """The leaves of two blocks that take entries of different names, if most others do not."""
    words = {places: [_words(pairs[n][1]) for n in places] for places in both}
    alike = [places for places in both if len({_opened(pairs[n][1]) for n in places}) == 1]
    if len(both) < _FEWEST or len(alike) <= _MAJORITY * len(both):
        return
    yield from {*both}.difference(alike)
    # `conv1` of two blocks has the same number, `enc1` and `enc2` have their blocks' own.
    apart = {
        places: tuple(after - before for before, after in zip(*numbers, strict=True))
        for places in alike
        if any(numbers := [_numbers(".".join(steps)) for steps in words[places]])
    }
    for count in {*map(len, apart.values())}:
        held = {places: numbers for places, numbers in apart.items() if len(numbers) == count}
        usual, often = Counter(held.values()).most_common(1)[0]
        if len(held) >= _FEWEST and often > _MAJORITY * len(held):
            yield from (places for places, numbers in held.items() if numbers != usual)


@remembered
def _words(steps: Steps) -> Steps:
    """The steps of a name that are no numbers."""
    return tuple(step for step in steps if not step.isdigit())


@remembered
def _opened(steps: Steps) -> Steps:
    return tuple(map(open_numbers, _words(steps)))


def _numbers(text: str) -> list[int]:
    return [*map(int, _DIGITS.findall(text))]
