"""Undoing transforms: what a result says of the entries it was made from, compared with NumPy."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from s2p_tui.alignment.parts import Part, joined, undone
from s2p_tui.alignment.transform import (
    Broadcast,
    Concat,
    Constant,
    Expr,
    Flip,
    Norm,
    Permute,
    Reshape,
    Scale,
    SpectralNorm,
    Split,
    Stack,
    Sum,
    Take,
    WeightNorm,
    nodes_of,
)
from s2p_tui.errors import TransformError
from tests.helpers.exprs import Case, by_numpy, cases

Arrays = dict[str, np.ndarray]
LEAF, OLD = "leaf", "old."


def undo(expr: Expr, arrays: Arrays, *, rest: bool = True) -> dict[str, np.ndarray | None]:
    """The entries made again of an expression's result; what it leaves out as it was."""
    result = by_numpy(expr, arrays)
    parts: dict[str, list[Part]] = {key: [] for key in arrays}
    for key, part in undone(expr, Part.whole(result.shape, Take(LEAF)), lambda k: arrays[k].shape):
        parts[key].append(part)
    there = {LEAF: result} | {OLD + key: array for key, array in arrays.items()}
    made: dict[str, np.ndarray | None] = {}
    for key, array in arrays.items():
        found = joined(array.shape, parts[key], Take(OLD + key) if rest else None)
        made[key] = None if found.value is None else by_numpy(found.value, there)
    return made


def assert_undone(expr: Expr, arrays: Arrays) -> None:
    for key, made in undo(expr, arrays).items():
        assert made is not None
        assert made.shape == arrays[key].shape
        np.testing.assert_array_equal(made, arrays[key])


def numbers(*shape: int, start: int = 1) -> np.ndarray:
    return np.arange(start, start + prod(shape), dtype=np.float32).reshape(shape)


A, B = Take("a"), Take("b")


@pytest.mark.parametrize(
    "expr",
    [
        A,
        Permute(A, (2, 0, 1)),
        Flip(A, (0, 2)),
        Reshape(A, (3, 8)),
        Scale(A, 0.5),
        Stack((A, B), 1),
        Concat((A, B), 2),
        Concat((A, Constant(0.0, (2, 1, 4)), B), 1),
        Permute(Reshape(Flip(Permute(A, (1, 0, 2)), (1,)), (12, 2)), (1, 0)),
        Reshape(Permute(Reshape(A, (2, 2, 6)), (2, 0, 1)), (24,)),
    ],
    ids=str,
)
def test_a_result_says_all_of_its_entries(expr: Expr) -> None:
    arrays = {"a": numbers(2, 3, 4), "b": numbers(2, 3, 4, start=50)}
    made = undo(
        expr, {key: arrays[key] for key in ("a", "b") if Take(key) in nodes_of(expr)}, rest=False
    )
    for key, array in made.items():
        assert array is not None
        np.testing.assert_array_equal(array, arrays[key])


@given(cases())
def test_what_no_sum_mixes_comes_back(case: Case) -> None:
    assume(not any(isinstance(node, Sum) for node in nodes_of(case.expr)))
    try:
        assert_undone(case.expr, case.arrays)
    except TransformError:
        # Refused: cut where no few boxes are, such as thirds of what was quartered.
        assert any(isinstance(node, Reshape) for node in nodes_of(case.expr))
        assert any(
            isinstance(node, Split | Stack | Concat | Broadcast) for node in nodes_of(case.expr)
        )


FLOATS = st.floats(-4, 4, width=32).map(lambda number: number or 1.0)


def array(*shape: int) -> st.SearchStrategy[np.ndarray]:
    count = prod(shape)
    return st.lists(FLOATS, min_size=count, max_size=count).map(
        lambda found: np.array(found, np.float64).reshape(shape)
    )


def again(expr: Expr, leaf: np.ndarray, arrays: Arrays) -> np.ndarray:
    """What an expression makes of the entries that a leaf, which it did not make, gives."""
    made = {**arrays}
    parts: dict[str, list[Part]] = {key: [] for key in arrays}
    for key, part in undone(expr, Part.whole(leaf.shape, Take(LEAF)), lambda k: arrays[k].shape):
        parts[key].append(part)
    for key, before in arrays.items():
        found = joined(before.shape, parts[key], Take(OLD + key))
        assert found.value is not None
        made[key] = by_numpy(found.value, {LEAF: leaf, OLD + key: before})
    return by_numpy(expr, made)


@given(array(2, 3), array(2, 3), array(1, 3))
def test_a_sum_gives_any_leaf(leaf: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    filled = Concat((B, Constant(1.0, (1, 3))), 0)
    turned = Permute(A, (1, 0))
    for expr, other in (
        (Sum((A, B)), a),
        (Sum((Constant(0.5, (2, 3)), A)), b),
        (Sum((filled, A)), b),
        (Permute(Sum((turned, Constant(2.0, (3, 2)))), (1, 0)), b),
    ):
        np.testing.assert_allclose(again(expr, leaf, {"a": a, "b": other}), leaf, atol=1e-12)


@given(array(2, 3, 2), array(2, 3, 2), array(2, 1, 1), st.booleans())
def test_a_weight_norm_gives_any_leaf(
    leaf: np.ndarray, v: np.ndarray, g: np.ndarray, whole: bool
) -> None:
    arrays = {"g": g[0].reshape(()) if whole else g, "v": v}
    expr = WeightNorm((Take("g"), Take("v")))
    np.testing.assert_allclose(again(expr, leaf, arrays), leaf, rtol=1e-6)
    np.testing.assert_allclose(again(Permute(expr, (1, 0, 2)), leaf.transpose(1, 0, 2), arrays),
                               leaf.transpose(1, 0, 2), rtol=1e-6)  # fmt: skip


def test_norms_say_nothing_of_what_they_measure() -> None:
    shapes = {"w": (4, 3), "u": (4,), "v": (3,)}
    leaf = Part.whole((4, 3), Take(LEAF))
    spectral = SpectralNorm((Take("w"), Take("u"), Take("v")), 0)
    assert [key for key, _ in undone(spectral, leaf, shapes.__getitem__)] == ["w"]
    lengths = Part.whole((4, 1), Take(LEAF))
    assert list(undone(Norm(Take("w"), (1,)), lengths, shapes.__getitem__)) == []
