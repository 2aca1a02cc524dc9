from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2p_tui.alignment.transform import (
    Concat,
    Constant,
    Expr,
    Flip,
    Permute,
    Reshape,
    Scale,
    Shape,
    Split,
    Stack,
    Sum,
    Take,
    describe,
    from_json,
    keys_of,
    rename,
    shape_of,
    show,
    to_json,
)
from s2p_tui.alignment.untrusted import MalformedError
from s2p_tui.errors import TransformError
from tests.helpers.exprs import Case, cases

A, B = Take("a"), Take("b")


def shapes(**known: Shape) -> Callable[[str], Shape]:
    return known.__getitem__


@settings(max_examples=100, deadline=None)
@given(cases())
def test_the_shape_is_numpys(case: Case) -> None:
    assert shape_of(case.expr, lambda key: case.arrays[key].shape) == case.result.shape


@settings(max_examples=100, deadline=None)
@given(cases(), st.randoms())
def test_json_brings_the_same_expression_back(case: Case, random: Any) -> None:
    sources = [*keys_of(case.expr), "another"]
    random.shuffle(sources)
    node = json.loads(json.dumps(to_json(case.expr, sources)))
    assert from_json(node, sources) == case.expr


@settings(max_examples=50, deadline=None)
@given(cases())
def test_renaming_reaches_every_entry(case: Case) -> None:
    keys = keys_of(case.expr)
    names = {key: f"new {key}" for key in keys}
    renamed = rename(case.expr, names)
    assert keys_of(renamed) == tuple(names.values())
    assert rename(renamed, {new: old for old, new in names.items()}) == case.expr
    assert rename(case.expr, {"no such key": "b"}) == case.expr


def test_keys_come_once_in_order_of_first_use() -> None:
    assert keys_of(Concat((Flip(B, (0,)), A, Sum((B, Constant(0, (1,))))), 0)) == ("b", "a")


IMPOSSIBLE: list[tuple[Expr, str]] = [
    (Permute(A, (0, 0)), "permute(0, 0) does not reorder the axes of 2×3."),
    (Permute(A, (0,)), "permute(0,) does not reorder the axes of 2×3."),
    (Flip(A, (2,)), "flip(2,) names axes that 2×3 does not have."),
    (Flip(A, (1, 1)), "flip(1, 1) names axes that 2×3 does not have."),
    (Flip(A, (-1,)), "flip(-1,) names axes that 2×3 does not have."),
    (Reshape(A, (4,)), "2×3 cannot be reshaped to 4."),
    (Reshape(A, (-2, -3)), "2×3 cannot be reshaped to -2×-3."),
    (Split(A, 1, 2, 4), "split 2:4 on axis 1 lies outside 2×3."),
    (Split(A, 1, 2, 1), "split 2:1 on axis 1 lies outside 2×3."),
    (Split(A, 2, 0, 1), "split 0:1 on axis 2 lies outside 2×3."),
    (Stack((A, B), 0), "stack needs operands of one shape, got 2×3, 2×4."),
    (Stack((), 0), "stack needs operands of one shape, got none."),
    (Stack((A, A), 3), "stack on axis 3 does not apply to 2×3."),
    (Concat((A, B), 0), "concat needs operands of one shape, got 3, 4."),
    (Concat((A, A), 2), "concat on axis 2 does not apply to 2×3, 2×3."),
    (Sum((A, B)), "sum needs operands of one shape, got 2×3, 2×4."),
]


@pytest.mark.parametrize(("expr", "message"), IMPOSSIBLE)
def test_a_step_that_does_not_apply_is_refused(expr: Expr, message: str) -> None:
    with pytest.raises(TransformError) as caught:
        shape_of(expr, shapes(a=(2, 3), b=(2, 4)))
    assert caught.value.message == message


WORDS: list[tuple[Expr, str]] = [
    (A, ""),
    (Constant(0.5, (2,)), "constant 0.5"),
    (Flip(Permute(A, (1, 0)), (0, 1)), "permute axes to (1, 0), flip axes 0, 1"),
    (Reshape(Split(A, 0, 1, 2), (3,)), "take 1:2 of axis 0, reshape to 3"),
    (Scale(A, 2), "multiply by 2"),
    (Stack((A, B), 1), "stack 2 on axis 1"),
    (Sum((A, B)), "add 2"),
    (Concat((Flip(A, (0,)), Flip(B, (0,))), 0), "each: flip axes 0; then concatenate 2 on axis 0"),
]


@pytest.mark.parametrize(("expr", "words"), WORDS)
def test_the_steps_in_words(expr: Expr, words: str) -> None:
    assert describe(expr) == words


def test_shapes_as_people_read_them() -> None:
    assert [show(()), show((4,)), show((64, 3, 7))] == ["()", "4", "64×3×7"]


BAD_JSON = [
    2, -1, True, None, "a", 1.5, [], {}, {"op": "take", "key": "a"},
    {"op": []}, {"op": "flip"}, {"op": "flip", "of": 0}, {"op": "flip", "of": 0, "axes": 1},
    {"op": "flip", "of": 0, "axes": [True]}, {"op": "flip", "of": 0, "axes": [0], "more": 1},
    {"op": "flip", "of": [0], "axes": [0]}, {"op": "sum", "of": 0}, {"op": "sum", "of": [9]},
    {"op": "split", "of": 0, "axis": 0.5, "start": 0, "stop": 1},
    {"op": "scale", "of": 0, "factor": "2"}, {"op": "scale", "of": 0, "factor": 10**400},
    {"op": "constant", "value": [], "shape": []}, {"op": "constant", "value": 0, "shape": [-1]},
]  # fmt: skip


@pytest.mark.parametrize("node", BAD_JSON, ids=lambda node: repr(node)[:40])
def test_json_that_is_no_expression_is_refused(node: Any) -> None:
    with pytest.raises(MalformedError):
        from_json(node, ["a", "b"])
