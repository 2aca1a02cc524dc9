"""Levels whose numbers fall in the checkpoint: a list may hold them in either order."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.proposals.test_positive_answers import doubted

Shapes = dict[str, tuple[int, ...]]


def layers(form: str, levels: Iterable[int], parts: int = 1, *, bias: bool = True) -> Shapes:
    roles: Shapes = {"weight": (8, 8), "bias": (8,)} if bias else {"weight": (8, 8)}
    return {
        f"{form.format(level, part)}.{role}": shape
        for level in levels
        for part in range(parts)
        for role, shape in roles.items()
    }


@pytest.mark.parametrize(
    ("theirs", "ours", "parts"),
    [
        ("upconv_{}_{}.conv", ".up[{}][{}]", 2),
        ("dispconv_{}.conv", ".disp[{}]", 1),
        ("dec{}_conv{}", ".decoder[{}][{}]", 2),
        ("refine{}_{}.conv", ".refine[{}].convs[{}]", 2),
    ],
)
def test_levels_that_fall_to_0_may_be_in_either_order(theirs: str, ours: str, parts: int) -> None:
    others = {"head.weight": (3, 8)}
    leaves = layers(ours, range(3), parts) | {".head.weight": (3, 8)}
    assert doubted(layers(theirs, (2, 1, 0), parts) | others, leaves)
    assert not doubted(layers(theirs, (0, 1, 2), parts) | others, leaves)


def test_a_list_that_was_turned_round_is_still_a_list() -> None:
    leaves = layers(".blocks[{}]", range(3), bias=False)
    assert not doubted(layers("block{}", (2, 1, 0), bias=False), leaves)
