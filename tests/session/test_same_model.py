"""Telling a skeleton of another model from one that only needs work."""

from __future__ import annotations

import pytest

from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.session.opening import could_line_up

Shapes = list[tuple[int, ...]]


@pytest.mark.parametrize(
    ("entries", "leaves", "expected"),
    [
        ([(3, 4), (5,)], [(4, 3), (7,)], True),
        ([(3, 4), (3, 4)], [(2, 3, 4)], True),
        ([(9, 4)], [(3, 4), (3, 4), (3, 4)], True),
        ([(3, 4)], [(2, 3, 4)], False),
        ([(9, 4)], [(3, 4), (3, 4)], False),
        ([(10, 10), (10,)], [(4, 2), (4,), (3, 4), (3,)], False),
        ([(0,)], [(5,)], False),
        ([], [(5,)], True),
        ([(5,)], [], True),
    ],
)
def test_sizes_tell(entries: Shapes, leaves: Shapes, expected: bool) -> None:
    state_dict = StateDict(tuple(Entry(str(n), s, "float32") for n, s in enumerate(entries)))
    skeleton = Skeleton(tuple(Leaf(f".{n}", s, "float32") for n, s in enumerate(leaves)))
    assert could_line_up(state_dict, skeleton) is expected
