"""What is offered for a leaf: everything that fills it, nothing that cannot."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2p_tui.alignment.choices import MOST, choices, why_none
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.judge import landing
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import (
    Concat,
    Expr,
    Flip,
    Permute,
    Reshape,
    Shape,
    Split,
    Stack,
    Sum,
    Take,
)
from tests.helpers.exprs import by_numpy

UP = "equinox.nn.ConvTranspose2d"


def entries(*shapes: Shape, dtype: str = "float32") -> StateDict:
    names = "abcdefghijklmnop"
    return StateDict(tuple(Entry(n, s, dtype) for n, s in zip(names, shapes, strict=False)))


def arrays(state_dict: StateDict) -> dict[str, np.ndarray]:
    return {
        entry.key: np.arange(prod(entry.shape)).reshape(entry.shape) + 1000 * number
        for number, entry in enumerate(state_dict)
    }


def offered(leaf: Leaf, state_dict: StateDict) -> list[np.ndarray]:
    """What each choice makes of the entries, in order; all of the leaf's shape."""
    keys = [entry.key for entry in state_dict]
    made = [
        by_numpy(landing(choice.expr, leaf, state_dict), arrays(state_dict))
        for choice in choices(leaf, keys, state_dict)
    ]
    assert all(result.shape == leaf.shape for result in made)
    return made


def has(found: list[np.ndarray], wanted: np.ndarray) -> bool:
    return any(np.array_equal(one, wanted) for one in found)


FIRST: list[tuple[tuple[Shape, ...], Shape, Expr, str, Fit]] = [
    (((4, 4),), (4, 4), Take("a"), "as it is", Fit.EXACT),
    (((6,),), (6, 1), Take("a"), "reshape to 6×1", Fit.TRANSFORMED),
    (((5, 3),), (3, 5), Permute(Take("a"), (1, 0)), "permute axes to (1, 0)", Fit.TRANSFORMED),
    (((4, 3),), (6, 2), Take("a"), "reshape to 6×2", Fit.DOUBTFUL),
    (((6, 4),), (2, 3, 4), Take("a"), "reshape to 2×3×4", Fit.DOUBTFUL),
    (
        ((9, 2),), (3, 2), Split(Take("a"), 0, 0, 3),
        "part 1 of 3: take 0:3 of axis 0", Fit.TRANSFORMED,
    ),
    (((3,), (3,)), (2, 3), Stack((Take("a"), Take("b")), 0), "stack 2 on axis 0", Fit.TRANSFORMED),
    (
        ((3, 5), (1, 5)), (4, 5), Concat((Take("a"), Take("b")), 0),
        "concatenate 2 on axis 0", Fit.TRANSFORMED,
    ),
    (((3,), (3,)), (3,), Sum((Take("a"), Take("b"))), "add 2", Fit.TRANSFORMED),
]  # fmt: skip


@pytest.mark.parametrize(("shapes", "target", "expr", "words", "fit"), FIRST)
def test_the_best_comes_first(
    shapes: tuple[Shape, ...], target: Shape, expr: Expr, words: str, fit: Fit
) -> None:
    state_dict = entries(*shapes)
    keys = [entry.key for entry in state_dict]
    first = choices(Leaf(".x", target, "float32"), keys, state_dict)[0]
    assert (first.expr, first.words, first.verdict.fit) == (expr, words, fit)
    assert first.doubtful is (fit is Fit.DOUBTFUL)


SHAPES = st.lists(st.sampled_from((1, 2, 3, 4)), max_size=4).map(tuple)


@given(SHAPES, st.data())
def test_every_permutation_of_an_entry_is_offered(shape: Shape, data: st.DataObject) -> None:
    axes = tuple(data.draw(st.permutations(range(len(shape)))))
    state_dict = entries(shape)
    wanted = arrays(state_dict)["a"].transpose(axes)
    assert has(offered(Leaf(".x", wanted.shape, "float32"), state_dict), wanted)


@given(SHAPES.filter(bool), st.integers(2, 4), st.data())
def test_every_equal_part_is_offered(shape: Shape, count: int, data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    whole = (*shape[:axis], shape[axis] * count, *shape[axis + 1 :])
    state_dict = entries(whole)
    parts = np.split(arrays(state_dict)["a"], count, axis)
    found = offered(Leaf(".x", shape, "float32"), state_dict)
    assert len(found) == MOST or all(has(found, part) for part in parts)
    if len(shape) == 2:
        turned = offered(Leaf(".x", shape[::-1], "float32"), state_dict)
        assert all(has(turned, part.T) for part in parts)


@given(SHAPES, st.integers(2, 4), st.data())
def test_stacked_joined_and_added_as_they_are_and_turned(
    shape: Shape, count: int, data: st.DataObject
) -> None:
    state_dict = entries(*[shape] * count)
    given_arrays = list(arrays(state_dict).values())
    axis = data.draw(st.integers(0, len(shape)))
    axes = data.draw(st.permutations(range(len(shape))))
    turned = [array.transpose(axes) for array in given_arrays]
    for wanted in (
        np.stack(given_arrays, axis),
        np.stack(turned, axis),
        *([np.concatenate(turned, min(axis, len(shape) - 1))] if shape else []),
        np.sum(turned, axis=0),
    ):
        assert has(offered(Leaf(".x", wanted.shape, "float32"), state_dict), wanted)


def test_parts_of_different_lengths_are_joined() -> None:
    state_dict = entries((4, 6), (2, 6), (2, 6))
    wanted = np.concatenate([array.T for array in arrays(state_dict).values()], 1)
    assert has(offered(Leaf(".x", (6, 8), "float32"), state_dict), wanted)


def test_kernels_can_be_flipped() -> None:
    state_dict = entries((4, 2, 3, 3))
    found = offered(Leaf(".x", (3, 3, 2, 4), "float32"), state_dict)
    whole = arrays(state_dict)["a"]
    assert np.array_equal(found[0], whole.transpose(2, 3, 1, 0))
    assert has(found, whole[:, :, ::-1, ::-1].transpose(2, 3, 1, 0))


def up(shape: Shape, **config: object) -> Leaf:
    return Leaf(".up.weight", shape, "float32", owner=UP, config={"num_spatial_dims": 2, **config})


def test_what_the_layer_needs_comes_first_and_all_else_is_doubtful() -> None:
    state_dict = entries((4, 4, 3, 3))
    first, *others = choices(up((4, 4, 3, 3)), ["a"], state_dict)
    assert first.expr == Take("a")
    assert first.words.startswith("as its layer needs it: flip axes 2, 3, permute")
    assert first.verdict.fit is Fit.TRANSFORMED
    assert others[0].expr == Reshape(Take("a"), (4, 4, 3, 3))
    assert others[0].words == "as it is, whatever its layer needs"
    assert {choice.verdict.fit for choice in others} == {Fit.DOUBTFUL}
    assert all("the other way round" in choice.verdict.why for choice in others)
    ruled = Permute(Flip(Take("a"), (2, 3)), (1, 0, 2, 3))
    assert ruled not in [choice.expr for choice in others]


def test_stacked_transposed_convolutions_are_turned_one_by_one() -> None:
    state_dict = entries((4, 4, 3, 3), (4, 4, 3, 3))
    leaf = up((2, 4, 4, 3, 3))
    first, plain, *_ = choices(leaf, ["a", "b"], state_dict)
    kernels = torch.arange(2.0 * 4 * 4 * 9).reshape(2, 4, 4, 3, 3)
    made = by_numpy(first.expr, {"a": kernels[0].numpy(), "b": kernels[1].numpy()})
    assert np.array_equal(made, kernels.transpose(1, 2).flip(3, 4).numpy())
    assert (first.verdict.fit, plain.verdict.fit) == (Fit.TRANSFORMED, Fit.DOUBTFUL)


def test_part_of_stacked_transposed_convolutions_is_turned() -> None:
    state_dict = entries((8, 2, 3, 3))
    first = choices(up((2, 4, 3, 3)), ["a"], state_dict)[0]
    assert first.words.startswith("part 1 of 2: take 0:4 of axis 0, flip axes 2, 3, permute")
    assert first.verdict.fit is Fit.TRANSFORMED


@pytest.mark.parametrize(
    ("shapes", "target", "dtype", "why"),
    [
        ((), (3,), "float32", "No entry feeds this leaf."),
        (((10, 3),), (5, 7), "float32", "No layout change turns 10×3 into 5×7."),
        (((3,), (4,)), (3,), "float32", "2 entries (3, 4: 7 elements) neither stack nor join"),
        (((3,),), (3,), "complex64", "Cast complex64 to float32 is not possible."),
    ],
)
def test_none_says_why(shapes: tuple[Shape, ...], target: Shape, dtype: str, why: str) -> None:
    state_dict = entries(*shapes, dtype=dtype)
    keys = [entry.key for entry in state_dict]
    leaf = Leaf(".x", target, "float32")
    assert choices(leaf, keys, state_dict) == ()
    assert why_none(leaf, keys, state_dict).startswith(why)


def test_whole_numbers_are_not_offered_for_adding() -> None:
    state_dict = entries((3,), (3,), dtype="int64")
    assert choices(Leaf(".x", (3,), "int32"), ["a", "b"], state_dict) == ()


@pytest.mark.parametrize(
    ("shapes", "target"),
    [
        (((30000, 8),), (8,)),
        (((64, 64, 64),), (2,) * 8),
        pytest.param(
            ((2, 2, 2, 2, 2, 2, 2, 2),), (2,) * 8, marks=pytest.mark.slow("orders eight axes")
        ),
        (((0, 3),), (3, 0)),
        (((0,), (0,)), (2, 0)),
        (((),), ()),
        (((), ()), (2,)),
    ],
)
def test_sizes_at_the_edge(shapes: tuple[Shape, ...], target: Shape) -> None:
    state_dict = entries(*shapes)
    found = offered(Leaf(".x", target, "float32"), state_dict)
    assert len(found) <= MOST


def test_a_table_with_rows_left_out_or_made_up_is_offered_and_doubtful() -> None:
    state_dict = entries((9, 4))
    key = next(iter(state_dict)).key
    longer = choices(Leaf(".x", (11, 4), "float32"), [key], state_dict)
    (made,) = (one for one in longer if "rows of zeros behind" in one.words)
    assert made.doubtful
    assert made.verdict.why.startswith("its last rows are made up")
    shorter = choices(Leaf(".x", (7, 4), "float32"), [key], state_dict)
    assert [one.words for one in shorter] == ["the last 2 rows left out: take 0:7 of axis 0"]


def test_scales_stored_less_one_and_rotary_pairs_are_offered() -> None:
    state_dict = entries((8,), (16, 6))
    vector, matrix = (entry.key for entry in state_dict)

    def words(path: str, shape: tuple[int, ...], key: str) -> list[str]:
        return [one.words for one in choices(Leaf(path, shape, "float32"), [key], state_dict)]

    assert {"add 1", "subtract 1"} <= {*words(".final_norm.weight", (8,), vector)}
    of_heads = " ".join(words(".attn.q.weight", (16, 6), matrix))
    assert "halves of each of 2 heads to pairs on axis 0" in of_heads
    assert "2 heads from outside to inside on axis 1" in of_heads
    # No name speaks of such a thing.
    assert "add 1" not in words(".x", (8,), vector)
    assert "2 heads from" not in " ".join(words(".x", (16, 6), matrix))
