"""Undoing transforms: what a result says of the entries it was made from, compared with NumPy."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import assume, given

from s2p_tui.alignment.parts import Part, joined, undone
from s2p_tui.alignment.transform import (
    Broadcast,
    Concat,
    Constant,
    Expr,
    Flip,
    Permute,
    Reshape,
    Scale,
    Split,
    Stack,
    Sum,
    Take,
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
