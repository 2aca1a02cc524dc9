"""Stacks of several entries in one leaf: the order of their members, and which list they are of."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise

from s2p_tui.alignment.transform import keys_of
from s2p_tui.proposals.matcher.pieces import Piece
from s2p_tui.proposals.matcher.templates import open_numbers
from s2p_tui.proposals.matcher.words import Steps, name_of, remembered, steps_of_key

_FEW = 3
"""Members from which on numbers may be unevenly apart."""
_DIGITS = re.compile(r"\d+")
_Numbers = tuple[int, ...]


def stacked_by_name(pieces: Mapping[int, tuple[Steps, Piece]]) -> dict[int, str]:
    """Pieces of several members of which nothing shows the order, or which list they are of.

    The numbers need not be indices, and of lists in lists with as many members either may be the
    one that is stacked, unless the leaf is in a list of the other one's name.

    Args:
        pieces: Steps of leaves and what they take, by place.
    """
    found: dict[int, str] = {}
    stacked: dict[Steps, dict[int, list[_Numbers]]] = defaultdict(dict)
    for n, (_, piece) in pieces.items():
        if len(piece.members) < 2:
            continue
        paths = [steps_of_key(next(iter(keys_of(member)), "")) for member in piece.members]
        if len({tuple(map(open_numbers, path)) for path in paths}) > 1:
            continue
        stacked[tuple(map(open_numbers, paths[0]))][n] = [_numbers_in(path) for path in paths]
        for column in zip(*paths, strict=True):
            numbers = [int(step) for step in column if step.isdigit()]
            apart = {after - before for before, after in pairwise(numbers)}
            if len(paths) >= _FEW and len({*numbers}) == len(paths) and len(apart) > 1:
                found[n] = f"{', '.join(map(str, numbers))} need not be indices"
    for name, members in stacked.items():
        counts = [
            len({numbers[column] for each in members.values() for numbers in each})
            for column in range(len(next(iter(members.values()))[0]))
        ]
        lists = [name_of(step).words for step in _list_names(name)]
        for n, each in members.items():
            varying = [c for c, values in enumerate(zip(*each, strict=True)) if len({*values}) > 1]
            # Parts of one entry have its numbers.
            if not varying:
                continue
            names = {
                name_of(step).words for step in _list_names(tuple(map(open_numbers, pieces[n][0])))
            }
            others = [
                c for c, count in enumerate(counts) if count == len(each) and c not in varying
            ]
            if others and not all(
                lists[c] in names and lists[c] != lists[varying[0]] for c in others
            ):
                found[n] = (
                    f"nothing shows which of the lists in {'.'.join(name)} is the one stacked"
                )
    return found


@remembered
def _numbers_in(path: Steps) -> _Numbers:
    return tuple(int(number) for step in path for number in _DIGITS.findall(step))


@remembered
def _list_names(name: Steps) -> Steps:
    """Return the list that each number counts: the step it is in, or of an index the one before."""
    return tuple(
        name[level - 1] if step == "#" and level else step.replace("#", "")
        for level, step in enumerate(name)
        for _ in range(step.count("#"))
    )
