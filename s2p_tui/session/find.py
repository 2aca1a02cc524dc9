"""Finding rows by name, shape or status."""

from __future__ import annotations

import re
from collections.abc import Callable

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import Shape

_SHAPE = re.compile(r"\d+(?:[x×*]\d+)+")
_FITS = {fit.value for fit in Fit}

Predicate = Callable[[Leaf | None, Row | None, str, Fit | None], bool]


def parse_query(text: str, state_dict: StateDict) -> Predicate:
    """A test for rows that match every word of a query.

    A word is a shape (`10x10`), a status (`doubtful`), or part of a name on either side, upper and
    lower case alike.

    Args:
        text: The words.
        state_dict: Gives the entries' shapes.

    Returns:
        A function of leaf, row, benched key and fit; a benched entry has no leaf, row or fit.
    """
    words = text.lower().split()

    def matches(leaf: Leaf | None, row: Row | None, key: str, fit: Fit | None) -> bool:
        keys = row.keys if row is not None else (key,)
        shapes = [state_dict.shape(name) for name in keys]
        names = [name.lower() for name in keys]
        if leaf is not None:
            shapes.append(leaf.shape)
            names.append(leaf.path.lower())
        return all(_word_matches(word, names, shapes, fit) for word in words)

    return matches


def _word_matches(word: str, names: list[str], shapes: list[Shape], fit: Fit | None) -> bool:
    if _SHAPE.fullmatch(word):
        return tuple(map(int, re.split("[x×*]", word))) in shapes
    if word in _FITS and fit is not None and fit.value == word:
        return True
    return any(word in name for name in names)
