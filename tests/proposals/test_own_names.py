"""A flat dict that keeps the entries under their own names keeps PyTorch's layout."""

from __future__ import annotations

import pytest

from s2p_tui.alignment.evidence import Suggestion
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Permute, Shape, Take
from s2p_tui.proposals.matcher import match

_KEYS = ("layers.0.weight", "layers.1.weight", "head.weight")


def found(entries: dict[str, Shape], leaves: dict[str, Shape]) -> list[Suggestion]:
    state_dict = StateDict(tuple(Entry(key, shape, "float32") for key, shape in entries.items()))
    skeleton = Skeleton(tuple(Leaf(path, shape, "float32") for path, shape in leaves.items()))
    return list(match(state_dict, skeleton).suggestions)


@pytest.mark.parametrize("keys", [_KEYS, ("it's.weight", 'a"b.weight', "c.weight")])
def test_square_weights_under_their_own_names_are_certain(keys: tuple[str, ...]) -> None:
    suggestions = found(dict.fromkeys(keys, (4, 4)), {f"[{key!r}]": (4, 4) for key in keys})
    assert [one.certain for one in suggestions] == [True] * len(keys)
    assert [one.source for one in suggestions] == [Take(key) for key in keys]


def test_other_ways_to_keep_them_say_nothing_of_their_layout() -> None:
    entries = dict.fromkeys(_KEYS, (4, 4))
    attributes = found(entries, {f".{key}": (4, 4) for key in _KEYS})
    nested = found(entries, {"".join(f"[{s!r}]" for s in key.split(".")): (4, 4) for key in _KEYS})
    renamed = found(entries, {f"['my.{key}']": (4, 4) for key in _KEYS})
    for suggestions in (attributes, nested, renamed):
        assert not any(one.certain for one in suggestions)


def test_weights_beside_them_that_are_transposed_say_more() -> None:
    entries: dict[str, Shape] = {"a.weight": (4, 4), "b.weight": (4, 8), "c.weight": (4, 4)}
    leaves = {f"[{key!r}]": shape[::-1] for key, shape in entries.items()}
    first, turned, last = found(entries, leaves)
    assert turned.source == Permute(Take("b.weight"), (1, 0))
    for one, key in ((first, "a.weight"), (last, "c.weight")):
        assert one.source == Permute(Take(key), (1, 0)) or not one.certain
