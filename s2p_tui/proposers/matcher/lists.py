"""Numbered siblings as lists, whose members keep their places even where one is not complete."""

from __future__ import annotations

from collections.abc import Sequence

from s2p_tui.proposers.matcher.tree import Node, overlap
from s2p_tui.proposers.matcher.words import Name, name_of

_ALIKE = 0.6
"""How much the other members at one place must have in common, or the lists are shifted."""


def same_places(
    targets: Sequence[Node], sources: Sequence[Node]
) -> list[tuple[Node, Node, int, int]] | None:
    """Members of two lists of one length, by their places; None if they are not.

    The rest of a list counts too: a member that is not complete keeps its place all the same, and
    one unlike the other at its place shows that places are not what they have in common.
    """
    lists = _list_of(targets), _list_of(sources)
    if len(lists[0]) != len(lists[1]) or len(lists[0]) < 2:
        return None
    taken = {*targets}, {*sources}
    for target, source in zip(*lists, strict=True):
        both = target in taken[0] and source in taken[1]
        if not both and overlap(target, source) < _ALIKE:
            return None
    return [
        (target, source, place, len(lists[0]))
        for place, (target, source) in enumerate(zip(*lists, strict=True), 1)
        if target in taken[0] and source in taken[1]
    ]


def _list_of(nodes: Sequence[Node]) -> list[Node]:
    """The list that all nodes are members of, or they alone if the others are much smaller."""
    parent = nodes[0].parent
    name = name_of(nodes[0].step)
    if parent is None or not name.numbers:
        return []
    members = [node for node in parent.children.values() if _alike(name, name_of(node.step))]
    numbers = zip(*(name_of(node.step).numbers for node in members), strict=True)
    if not {*nodes} <= {*members} or sum(len({*column}) > 1 for column in numbers) > 1:
        return []
    complete = all(2 * node.size > nodes[0].size for node in members)
    return sorted(members if complete else nodes, key=lambda node: name_of(node.step).numbers)


def _alike(first: Name, second: Name) -> bool:
    return first.words == second.words and len(first.numbers) == len(second.numbers)
