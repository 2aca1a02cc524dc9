"""Lists that are one list on the other side, one after the other or in turns.

A block may run through `convs1` and then `convs2`, or take a layer of each in turn, as the residual
blocks of HiFi-GAN do. In a list in the order of use the two differ, and no name says which it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from s2p_tui.proposals.matcher.words import Steps

Shape = tuple[int, ...]
_Member = tuple[Steps, str]
"""The list that a layer is in, and its number there."""
_FEWEST = 3
"""Layers of which more than one order keeps each list's own: of two, one of each, there is none."""


def alternating(
    pairs: Mapping[int, tuple[Steps, Steps]], shapes: Mapping[int, Shape]
) -> dict[int, str]:
    """Pairs of one list and several, whose layers could be exchanged, and why that is open.

    Lists in a list, as the blocks of stages, run one after the other.

    Args:
        pairs: Steps of leaves and of the entries they take, by place.
        shapes: The shapes of the leaves.
    """
    found: dict[int, str] = {}
    for one, several in ((0, 1), (1, 0)):
        lists: dict[Steps, dict[_Member, list[int]]] = defaultdict(lambda: defaultdict(list))
        for n, sides in pairs.items():
            levels = _last_number(sides[0]), _last_number(sides[1])
            if min(levels) > 0:
                list_of, other = sides[one][: levels[one]], sides[several]
                member = other[: levels[several]], other[levels[several]]
                lists[list_of][member].append(n)
        for name, members in lists.items():
            if len({_template(others) for others, _ in members}) > 1:
                found.update(_exchangeable(name, members, one, pairs, shapes))
    return found


def _exchangeable(
    name: Steps,
    members: Mapping[_Member, list[int]],
    one: int,
    pairs: Mapping[int, tuple[Steps, Steps]],
    shapes: Mapping[int, Shape],
) -> Iterator[tuple[int, str]]:
    """The pairs of layers that are alike in lists of several names, and why they are in doubt."""
    alike: dict[frozenset[tuple[Steps, Shape]], list[_Member]] = defaultdict(list)
    for member, places in members.items():
        form = frozenset((pairs[n][one][len(name) + 1 :], shapes[n]) for n in places)
        alike[form].append(member)
    for each in alike.values():
        names = sorted({".".join(_template(others)) for others, _ in each})
        if len(names) < 2 or len(each) < _FEWEST:
            continue
        why = (
            f"nothing shows whether {names[0]} and {names[1]} follow each other in "
            f"{'.'.join(name)} or are there in turns"
        )
        yield from ((n, why) for member in each for n in members[member])


def _last_number(steps: Steps) -> int:
    return max((level for level, step in enumerate(steps) if step.isdigit()), default=-1)


def _template(steps: Steps) -> Steps:
    return tuple("#" if step.isdigit() else step for step in steps)
