"""Lists that are one list on the other side, one after the other or in turns.

A block may run through `convs1` and then `convs2`, or take a layer of each in turn, as the residual
blocks of HiFi-GAN do. In a list in the order of use the two differ, and no name says which it is.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from s2p_tui.proposals.matcher.templates import (
    Pairs,
    named,
    numbered_levels,
    open_numbers,
    template,
)
from s2p_tui.proposals.matcher.words import Steps, name_of

Shape = tuple[int, ...]
_Member = tuple[Steps, str]
"""The list that a layer is in, and its number there."""
_MemberOf = Callable[[Steps], _Member]
_Groups = dict[Steps, list[tuple[_MemberOf, Sequence[int]]]]
"""Pairs by the template of the list on the other side, and what tells their members."""
_FLAT = re.compile(r"(.+\d)_(\d+)")
"""Two numbers in a name: of a list, and of a layer in it."""
_FLAT_LIST = "_…"
_FEWEST = 3
"""Layers of which more than one order keeps each list's own: of two, one of each, there is none."""


def alternating(pairs: Pairs, shapes: Mapping[int, Shape]) -> dict[int, str]:
    """Pairs of one list and several, whose layers could be exchanged, and why that is open.

    Lists in a list, as the blocks of stages, run one after the other.

    Args:
        pairs: Steps of leaves and of the entries they take, by place.
        shapes: The shapes of the leaves.
    """
    found: dict[int, str] = {}
    for one, several in ((0, 1), (1, 0)):
        dealt: dict[Steps, _Groups] = defaultdict(lambda: defaultdict(list))
        for templates, places in pairs.by_template.items():
            level = _last_number(templates[one])
            member_of = _members(templates[several], len(templates[one]) - level)
            if level > 0 and member_of is not None:
                others = template(member_of(templates[several])[0])
                dealt[templates[one][:level]][others].append((member_of, places))
        lists: dict[Steps, dict[_Member, list[int]]] = defaultdict(lambda: defaultdict(list))
        for pattern, member_of, n in _of_several(dealt):
            sides = pairs[n]
            lists[sides[one][: len(pattern)]][member_of(sides[several])].append(n)
        for name, members in lists.items():
            fed: dict[Steps, set[str]] = defaultdict(set)
            for (others, _), places in members.items():
                fed[others].update(pairs[n][one][len(name)] for n in places)
            # A list of layers may be one member, as those of an encoder's levels are.
            is_dealt = any(len(numbers) > 1 for numbers in fed.values())
            if is_dealt and len({*map(template, fed)}) > 1:
                found.update(_exchangeable(name, members, one, pairs, shapes))
    return found


def crossing(pairs: Pairs, shapes: Mapping[int, Shape]) -> dict[int, str]:
    """Pairs of lists, and of lists in the members of another one that has as many of them.

    `convs1` and `convs2` of two layers may be the lists of two blocks, or each have a layer in
    every block. Lists that are called as the outer one are its members.

    Args:
        pairs: Steps of leaves and of the entries they take, by place.
        shapes: The shapes of the leaves.
    """
    found: dict[int, str] = {}
    for one, several in ((0, 1), (1, 0)):
        dealt: dict[Steps, _Groups] = defaultdict(lambda: defaultdict(list))
        for templates, places in pairs.by_template.items():
            outer, inner = (-1, -1, *numbered_levels(templates[one]))[-2:]
            member_of = _last_list(templates[several])
            if 0 <= outer < inner - 1 and member_of is not None:
                others = member_of(templates[several])[0]
                dealt[templates[one][:inner]][others].append((member_of, places))
        nested: dict[tuple[Steps, Steps], list[tuple[int, _MemberOf]]] = defaultdict(list)
        for pattern, member_of, n in _of_several(dealt):
            path, outer = pairs[n][one], _last_number(pattern)
            nested[path[:outer], path[outer + 1 : len(pattern)]].append((n, member_of))
        for (outer, inner), found_in in nested.items():
            lists: dict[Steps, dict[str, set[tuple[Steps, Shape]]]] = defaultdict(dict)
            for n, member_of in found_in:
                other, number = member_of(pairs[n][several])
                form = (pairs[n][one][len(outer) + len(inner) + 2 :], shapes[n])
                lists[other].setdefault(number, set()).add(form)
            names = {named(template(name)) for name in lists}
            words = {*name_of(outer[-1] if outer else "").words}
            is_outer = any(words.intersection(name_of(name[-1]).words) for name in lists)
            forms = {frozenset(form) for members in lists.values() for form in members.values()}
            counts = {len(members) for members in lists.values()}
            # Lists of one name in the members of another list are in its members there too.
            is_outer |= len({name[-1] for name in lists}) == len({*map(_open, lists)}) == 1
            if len(names) < 2 or is_outer or len(forms) > 1 or counts != {len(names)}:
                continue
            first, second, *_ = sorted(names)
            why = f"nothing shows whether {first} and {second} are in one of {'.'.join(outer)} each"
            found.update((n, why) for n, _ in found_in)
    return found


def _open(name: Steps) -> Steps:
    return tuple(map(open_numbers, name))


def _exchangeable(
    name: Steps,
    members: Mapping[_Member, list[int]],
    one: int,
    pairs: Pairs,
    shapes: Mapping[int, Shape],
) -> Iterator[tuple[int, str]]:
    """The pairs of layers that are alike in lists of several names, and why they are in doubt."""
    alike: dict[frozenset[tuple[Steps, Shape]], list[_Member]] = defaultdict(list)
    for member, places in members.items():
        form = frozenset((pairs[n][one][len(name) + 1 :], shapes[n]) for n in places)
        alike[form].append(member)
    for each in alike.values():
        names = sorted({named(template(others)) for others, _ in each})
        if len(names) < 2 or len(each) < _FEWEST:
            continue
        why = (
            f"nothing shows whether {names[0]} and {names[1]} follow each other in "
            f"{'.'.join(name)} or are there in turns"
        )
        yield from ((n, why) for member in each for n in members[member])


def _of_several(dealt: Mapping[Steps, _Groups]) -> Iterator[tuple[Steps, _MemberOf, int]]:
    """The pairs of lists that go with lists of more than one name: most go with one."""
    for pattern, groups in dealt.items():
        for each in groups.values() if len(groups) > 1 else ():
            for member_of, places in each:
                yield from ((pattern, member_of, n) for n in places)


def _members(pattern: Steps, rest: int) -> _MemberOf | None:
    """Return what tells the list and the number of a layer, by its template; None if it has none.

    Args:
        pattern: The template.
        rest: How many steps follow a list of the other side.
    """
    level = len(pattern) - rest
    if level >= 0 and (flat := _FLAT.fullmatch(pattern[level])) is not None:
        name, number = f"{flat[1]}{_FLAT_LIST}", flat[2]
        return lambda steps: ((*steps[:level], name), number)
    return _last_list(pattern)


def _last_list(pattern: Steps) -> _MemberOf | None:
    """Return what tells the innermost list of a template and the number in it."""
    level = _last_number(pattern)
    return (lambda steps: (steps[:level], steps[level])) if level > 0 else None


def _last_number(pattern: Steps) -> int:
    """The level of the last number of a template; -1 if it has none."""
    return (-1, *numbered_levels(pattern))[-1]
