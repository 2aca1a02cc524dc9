"""Layout changes between two shapes: all of them, each once, each what it says."""

from __future__ import annotations

from itertools import permutations
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2p_tui.alignment.layouts import ways
from s2p_tui.alignment.transform import Expr, Permute, Reshape, Take, shape_of

SIZES = st.lists(st.sampled_from((1, 1, 2, 3, 4, 6)), max_size=4).map(tuple)


def run(expr: Expr, numbers: np.ndarray) -> np.ndarray:
    match expr:
        case Permute(of, axes):
            return run(of, numbers).transpose(axes)
        case Reshape(of, shape):
            return run(of, numbers).reshape(shape)
        case _:
            return numbers


def effects(source: tuple[int, ...], target: tuple[int, ...]) -> list[bytes]:
    numbers = np.arange(prod(source)).reshape(source)
    results = [run(way.of(Take("x"), source), numbers) for way in ways(source, target)]
    assert all(result.shape == target for result in results)
    return [result.tobytes() for result in results]


@given(SIZES, st.data())
def test_a_permutation_is_found_and_nothing_twice(source: tuple[int, ...], data: st.DataObject):
    axes = data.draw(st.permutations(range(len(source))))
    target = tuple(source[axis] for axis in axes)
    found = effects(source, target)
    assert len(set(found)) == len(found)
    numbers = np.arange(prod(source)).reshape(source)
    assert numbers.transpose(axes).tobytes() in found


@given(SIZES, st.data())
def test_heads_split_out_and_merged_again_are_found(source: tuple[int, ...], data: st.DataObject):
    halves = [(2, size // 2) if size in (4, 6) else (size,) for size in source]
    parts = tuple(size for half in halves for size in half)
    owners = [axis for axis, half in enumerate(halves) for _ in half]
    factors = {
        axis: iter([n for n, owner in enumerate(owners) if owner == axis]) for axis in owners
    }
    axes = [next(factors[owner]) for owner in data.draw(st.permutations(owners))]
    numbers = np.arange(prod(source)).reshape(source)
    split = numbers.reshape(parts).transpose(axes)
    assert split.tobytes() in effects(source, split.shape)
    back = np.argsort(axes)
    moved = np.arange(prod(source)).reshape(split.shape)
    assert moved.transpose(back).reshape(source).tobytes() in effects(split.shape, source)


@pytest.mark.parametrize(
    ("source", "target", "first"),
    [
        ((10, 10), (10, 10), Take("x")),
        ((96,), (96, 1, 1), Reshape(Take("x"), (96, 1, 1))),
        ((5, 3), (3, 5), Permute(Take("x"), (1, 0))),
        ((32, 8, 3, 3), (3, 3, 8, 32), Permute(Take("x"), (2, 3, 1, 0))),
        ((32, 1, 3, 3), (3, 3, 1, 32), Permute(Take("x"), (2, 3, 1, 0))),
        ((6, 4), (4, 2, 3), Reshape(Permute(Take("x"), (1, 0)), (4, 2, 3))),
    ],
)
def test_the_simplest_comes_first(
    source: tuple[int, ...], target: tuple[int, ...], first: Expr
) -> None:
    made = ways(source, target)[0].of(Take("x"), source)
    assert shape_of(made, lambda _: source) == target
    numbers = np.arange(prod(source)).reshape(source)
    assert np.array_equal(run(made, numbers), run(first, numbers))


def test_out_last_tells_the_two_layouts_of_a_square_weight_apart() -> None:
    as_it_is, turned = ways((8, 8), (8, 8))
    assert (as_it_is.out_last, turned.out_last) == (False, True)
    assert [way.out_last for way in ways((8, 8), (8, 2, 4))] == [False, True]
    assert [way.out_last for way in ways((8, 8, 1, 1), (1, 1, 8, 8))] == [False, True]


def test_a_cube_can_be_turned_in_every_order() -> None:
    assert len(set(effects((3, 3, 3), (3, 3, 3)))) == len(list(permutations(range(3))))


@pytest.mark.parametrize(("source", "target"), [((4, 3), (6, 2)), ((5,), (6,)), ((2,) * 9, (512,))])
def test_there_may_be_none(source: tuple[int, ...], target: tuple[int, ...]) -> None:
    assert ways(source, target) == ()


@pytest.mark.parametrize("shapes", [((), (1, 1)), ((0, 3), (3, 0)), ((1,), ())])
def test_empty_tensors_and_scalars_have_one(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    (way,) = ways(*shapes)
    assert shape_of(way.of(Take("x"), shapes[0]), lambda _: shapes[0]) == shapes[1]
