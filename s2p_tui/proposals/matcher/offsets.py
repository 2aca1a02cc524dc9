"""Offsets between the numbers of two lists: which ones are shown, and which may be a lost member.

PyTorch counts from 0. Where a list of the checkpoint begins later, its first members have no
parameters, or the whole checkpoint counts from 1, or members are lost; the number of members does
not tell, as others may have been added at the end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from s2p_tui.proposals.matcher.templates import Pairs, numbered_levels, template
from s2p_tui.proposals.matcher.words import Steps, name_of

Shape = tuple[int, ...]
Lists = tuple[Steps, Steps]
"""The steps that lead to a list of leaves and to one of entries."""
_LAYER = 2
"""Steps from a list to a parameter of a layer in it: its number and the parameter's name."""
_FIRST_NUMBERS = (0, 1)
_UPWARD = ("dec", "up")
"""Beginnings of words for levels that are counted in either way, also of `decoder` and `upconv`."""


class Shifted:
    """Tells lists that count from 0 on one side and from 1 on the other, whole ones of one length.

    Under the very names one leaf of such a list would have no entry, and one entry no leaf.

    Args:
        pairs: Steps of leaves and of the entries they take, by place.
        leaves: Steps of all leaves that entries could fill.
        entries: Steps of all entries that leaves could take.
    """

    def __init__(
        self,
        pairs: Pairs,
        leaves: Iterable[Steps],
        entries: Iterable[Steps],
    ) -> None:
        self._members = members(leaves), members(entries)
        self._together: dict[Lists, set[tuple[int, int]]] = defaultdict(set)
        for sides in pairs.values():
            for both, numbers in _numbered_alike(*sides):
                self._together[both].add(numbers)

    def explains(self, target: Steps, source: Steps) -> bool:
        """Return True if a leaf and an entry differ in numbers only because lists are shifted."""
        levels = _numbered_alike(target, source)
        shifted = [both for both, (mine, its) in levels if mine != its]
        return bool(shifted) and all(map(self._is_shifted, shifted))

    def _is_shifted(self, lists: Lists) -> bool:
        both = sorted(self._together[lists])
        held = [self._members[side][name] for side, name in enumerate(lists)]
        first, second = zip(*both, strict=True)
        return (
            {first[0], second[0]} == {*_FIRST_NUMBERS}
            and len(held[0]) == len(held[1]) == len(both)
            and all(map(_is_even, (first, second)))
        )


def unexplained_offsets(
    pairs: Pairs, shapes: Mapping[int, Shape], entries: Iterable[Steps]
) -> dict[int, str]:
    """Pairs of lists of which the checkpoint's begins later than it has to, and why that is odd.

    It has to where no member would fit in before the first one, or those before it are there, used
    by something else. Where members differ in size, only one of them fits each place. And where
    more lists of the checkpoint than one count from 1, and none counts from 0, that is its way.

    Args:
        pairs: Steps of leaves and of the entries they take, by place.
        shapes: The shapes of the leaves.
        entries: Steps of all entries that leaves could take.
    """
    if not any(
        int(pairs[n][0][mine]) != int(pairs[n][1][its])
        for templates, places in pairs.by_template.items()
        for mine, its in _levels_alike(*templates)
        for n in places
    ):
        return {}
    numbers: dict[Lists, set[tuple[int, int]]] = defaultdict(set)
    concerned: dict[Lists, list[int]] = defaultdict(list)
    forms: dict[Steps, dict[int, set[tuple[Steps, Shape]]]] = {}
    of_blocks: set[Steps] = set()
    for templates, places in pairs.by_template.items():
        for mine, its in _levels_alike(*templates):
            is_of_blocks = len(templates[1]) - its > _LAYER
            for n in places:
                target, source = pairs[n]
                both, number = (target[:mine], source[:its]), int(target[mine])
                numbers[both].add((number, int(source[its])))
                concerned[both].append(n)
                if is_of_blocks:
                    of_blocks.add(both[1])
                rest = target[mine + 1 :], shapes[n]
                forms.setdefault(both[0], defaultdict(set))[number].add(rest)
    held = members(entries)
    found: dict[int, str] = {}
    for both, pair in numbers.items():
        if (
            all(mine == its for mine, its in pair)
            or len({*map(frozenset, forms[both[0]].values())}) > 1
        ):
            continue
        its = sorted({its for _, its in pair})
        apart = [after - one for one, after in pairwise(its)]
        # Between layers of a `Sequential` are others without parameters; blocks have no gaps.
        before = its[0] - (min if both[1] in of_blocks else max)(apart, default=1)
        if before < 0 or str(before) in held[both[1]] or _counts_from_one(held):
            continue
        name = ".".join(both[1]) or "the checkpoint's outermost list"
        taken = f"{its[0]} and on" if its[1:] else f"{its[0]} alone"
        why = (
            f"members of {name} are numbered {taken}; nothing shows that none with the number "
            f"{before} is missing before them"
        )
        found.update(dict.fromkeys(concerned[both], why))
    return found


def falling(pairs: Pairs, shapes: Mapping[int, Shape], entries: Iterable[Steps]) -> dict[int, str]:
    """Pairs of a list and of names whose numbers fall in the checkpoint's own order, and why.

    Such numbers are levels or resolutions, as in `up4` to `up1`, and the list may be in either
    order, unless sizes tell its members apart. A checkpoint in another order than PyTorch's, which
    has weights before biases, or by name, as in `.safetensors`, does not show it: there levels of
    decoders may be in either.

    Args:
        pairs: Steps of leaves and of the entries they take, by place.
        shapes: The shapes of the leaves.
        entries: Steps of all entries that leaves could take, in the checkpoint's order.
    """
    order = {steps: place for place, steps in enumerate(entries)}
    pairs_of_roles = [
        order[*steps[:-1], "bias"] - place
        for steps, place in order.items()
        if steps[-1] == "weight" and (*steps[:-1], "bias") in order
    ]
    is_known = all(apart > 0 for apart in pairs_of_roles) and [*order] != sorted(order)
    lists: dict[tuple[Steps, Steps], dict[int, tuple[int, dict[int, Steps]]]] = defaultdict(dict)
    in_words: set[tuple[Steps, Steps]] = set()
    for n, (target, source) in pairs.items():
        level = next((at for at, step in enumerate(source) if name_of(step).numbers), None)
        if level is None or source not in order or not numbered_levels(template(target)):
            continue
        if target == source:
            # The very names say which is which.
            continue
        name = name_of(source[level])
        listed = source[:level], name.words
        if name.words:
            in_words.add(listed)
        number, *more = name.numbers
        place, members_of = lists[listed].get(number, (order[source], {}))
        members_of[n] = (*map(str, more), *source[level + 1 :])
        lists[listed][number] = min(place, order[source]), members_of
    found: dict[int, str] = {}
    for listed, found_in in lists.items():
        words = listed[1]
        numbers = sorted(found_in, key=lambda number: found_in[number][0])
        # A member that lacks a bias is no other than the rest for that.
        first, *others = ({*each.values()} for _, each in found_in.values())
        common = first.intersection(*others)
        forms = {
            frozenset((rest, shapes[n]) for n, rest in each.items() if not common or rest in common)
            for _, each in found_in.values()
        }
        if len(numbers) < 2 or min(numbers) == max(numbers) or len(forms) == len(numbers):
            continue
        # Nothing shows the order of a checkpoint without biases: it may be a list's, turned round.
        is_level = numbers[-1] or (listed in in_words and pairs_of_roles)
        if is_known and is_level and numbers == sorted(numbers, reverse=True):
            why = f"numbers fall in the checkpoint, from {numbers[0]} to {numbers[-1]}"
        elif not is_known and any(word.startswith(_UPWARD) for word in words):
            why = "levels that lead up may be counted from either end, and their order is lost"
        else:
            continue
        found.update((n, why) for _, members_of in found_in.values() for n in members_of)
    return found


def _counts_from_one(held: Mapping[Steps, set[str]]) -> bool:
    """Return True if a list counts from 1 without a gap, and none from 0.

    An `nn.ModuleList` that loses its first member is numbered anew.
    """
    lists = [sorted(map(int, numbers)) for numbers in held.values()]
    return all(one[0] for one in lists) and any(
        len(one) > 1 and one == [*range(1, len(one) + 1)] for one in lists
    )


def members(paths: Iterable[Steps]) -> Mapping[Steps, set[str]]:
    """The members of lists, by the steps that lead to each list."""
    found: dict[Steps, set[str]] = defaultdict(set)
    for path in paths:
        for level in numbered_levels(template(path)):
            found[path[:level]].add(path[level])
    return found


def _is_even(numbers: Sequence[int]) -> bool:
    """Return True for numbers that are equally far apart, in rising order."""
    apart = {after - before for before, after in pairwise(numbers)}
    return len(apart) <= 1 and min(apart, default=1) > 0


def _numbered_alike(target: Steps, source: Steps) -> Iterator[tuple[Lists, tuple[int, int]]]:
    """The lists that both names lead through, outermost first, and the members they lead to."""
    for mine, its in _levels_alike(template(target), template(source)):
        yield (target[:mine], source[:its]), (int(target[mine]), int(source[its]))


def _levels_alike(target: Steps, source: Steps) -> Iterable[tuple[int, int]]:
    """Return the levels of the numbers of two templates; none if one has more of them."""
    columns = numbered_levels(target), numbered_levels(source)
    return zip(*columns, strict=True) if len(columns[0]) == len(columns[1]) else ()
