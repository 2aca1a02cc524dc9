"""Regions, tiles and runs against NumPy's own answers on whole arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2p_tui.alignment.dtypes import BY_NAME, numpy_dtype
from s2p_tui.alignment.transform import (
    Concat,
    Constant,
    Expr,
    Flip,
    Permute,
    Reshape,
    Split,
    Stack,
    Sum,
    Take,
)
from s2p_tui.conversion.contents import runs_of
from s2p_tui.conversion.evaluate import Evaluator, boxes, fast_axes, flat_runs, tiles
from tests.helpers.exprs import Case, cases, regions, slices
from tests.helpers.sessions import checkpoint_of

small_shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)


def evaluator(arrays: dict[str, np.ndarray]) -> Evaluator:
    checkpoint = checkpoint_of(arrays)
    return Evaluator(checkpoint.state_dict, checkpoint.tensors)


@settings(max_examples=200, deadline=None)
@given(st.data(), cases())
@pytest.mark.slow("tries thousands of regions")
def test_any_region_is_that_of_the_whole(data: st.DataObject, case: Case) -> None:
    region = data.draw(regions(case.result.shape))
    found = evaluator(case.arrays).region(case.expr, region)
    expected = case.result[slices(region)]
    assert found.shape == expected.shape
    assert np.array_equal(found, expected)


@settings(max_examples=100, deadline=None)
@given(cases(), st.integers(1, 40))
def test_tiles_put_together_are_the_whole(case: Case, limit: int) -> None:
    evaluate = evaluator(case.arrays)
    fast = fast_axes(case.expr, lambda key: case.arrays[key].shape)
    shape = case.result.shape
    together = np.full(shape, np.nan)
    for region in tiles(shape, fast, limit):
        assert np.isnan(together[slices(region)]).all()
        part = evaluate.region(case.expr, region)
        assert 1 <= part.size <= limit
        together[slices(region)] = part
    assert np.array_equal(together, case.result)


@settings(max_examples=100, deadline=None)
@given(st.data(), small_shapes, st.integers(1, 200))
def test_tiles_cover_every_element_once(data: st.DataObject, shape: tuple, limit: int) -> None:
    fast = frozenset(data.draw(st.sets(st.integers(0, len(shape) - 1)))) if shape else frozenset()
    covered = np.zeros(shape, int)
    for region in tiles(shape, fast, limit):
        covered[slices(region)] += 1
        assert covered[slices(region)].size <= limit
    assert (covered == 1).all()


@pytest.mark.parametrize(
    ("shape", "fast", "limit", "sizes"),
    [
        ((1000, 1000), {1}, 5000, (5, 1000)),
        ((1000, 1000), {0, 1}, 4096, (64, 64)),
        ((8, 1000, 4), {2}, 100, (1, 25, 4)),
        ((), set(), 1, ()),
    ],
)
def test_tiles_are_long_where_memory_is(
    shape: tuple, fast: set[int], limit: int, sizes: tuple
) -> None:
    first = next(tiles(shape, frozenset(fast), limit))
    assert tuple(stop - start for start, stop in first) == sizes


@settings(max_examples=200, deadline=None)
@given(st.data(), small_shapes)
def test_flat_runs_are_the_element_numbers_of_a_region(data: st.DataObject, shape: tuple) -> None:
    region = data.draw(regions(shape))
    numbers = np.arange(np.prod(shape, dtype=int)).reshape(shape)[slices(region)].reshape(-1)
    runs = flat_runs(shape, region)
    assert [n for start, stop in runs for n in range(start, stop)] == numbers.tolist()


@pytest.mark.parametrize(
    ("shape", "region", "runs"),
    [
        ((3, 4), ((0, 3), (0, 4)), [(0, 12)]),
        ((3, 4), ((1, 3), (0, 4)), [(4, 12)]),
        ((2, 3, 4), ((0, 2), (1, 3), (0, 4)), [(4, 12), (16, 24)]),
        ((3, 4), ((0, 3), (2, 2)), []),
        ((), (), [(0, 1)]),
    ],
)
def test_runs_are_as_long_as_they_can_be(shape: tuple, region: tuple, runs: list) -> None:
    assert flat_runs(shape, region) == runs


@settings(max_examples=200, deadline=None)
@given(st.data(), small_shapes)
def test_boxes_are_a_row_major_range(data: st.DataObject, shape: tuple) -> None:
    count = int(np.prod(shape, dtype=int))
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, count)] * 2)))
    numbers = np.arange(count).reshape(shape)
    found = boxes(shape, start, stop)
    elements = [numbers[slices(box)].reshape(-1) for box in found]
    assert np.concatenate([np.empty(0, int), *elements]).tolist() == list(range(start, stop))
    assert len(found) <= max(1, 2 * len(shape) - 1)


@settings(max_examples=200, deadline=None)
@given(cases(steps=3))
def test_runs_laid_end_to_end_are_the_result(case: Case) -> None:
    runs = runs_of(case.expr, lambda key: case.arrays[key].shape)
    if runs is not None:
        parts = [case.arrays[key].reshape(-1)[start:stop] for key, start, stop in runs]
        together = np.concatenate([np.empty(0), *parts])
        assert np.array_equal(together, case.result.reshape(-1))


RUNS: list[tuple[Expr, list[tuple[str, int, int]] | None]] = [
    (Take("a"), [("a", 0, 12)]),
    (Reshape(Take("a"), (12,)), [("a", 0, 12)]),
    (Split(Take("a"), 0, 1, 3), [("a", 4, 12)]),
    (Split(Take("a"), 1, 0, 2), None),
    (Split(Concat((Take("a"), Take("b")), 0), 0, 2, 4), [("a", 8, 12), ("b", 0, 4)]),
    (Stack((Take("a"), Take("b")), 0), [("a", 0, 12), ("b", 0, 12)]),
    (Stack((Take("a"), Take("b")), 1), None),
    (Permute(Reshape(Take("a"), (3, 1, 4)), (1, 0, 2)), [("a", 0, 12)]),
    (Permute(Take("a"), (1, 0)), None),
    (Flip(Take("a"), (0,)), None),
    (Sum((Take("a"),)), None),
    (Stack((Take("a"), Constant(0, (3, 4))), 0), None),
]


@pytest.mark.parametrize(("expr", "expected"), RUNS)
def test_what_the_kernel_may_copy(expr: Expr, expected: list | None) -> None:
    assert runs_of(expr, {"a": (3, 4), "b": (3, 4)}.__getitem__) == expected


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e5m2"])
def test_sums_of_narrow_floats_are_made_in_float32(dtype: str) -> None:
    ones = np.ones((1,), numpy_dtype(dtype))
    small = np.full((1,), 2**-12, numpy_dtype(dtype))
    total = evaluator({"a": ones, "b": small}).region(Sum((Take("a"), Take("b"))), ((0, 1),))
    assert total.dtype == np.float32
    assert total[0] == np.float32(1) + small.astype(np.float32)[0]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "bool"])
def test_sums_of_whole_numbers_do_not_wrap_around(dtype: str) -> None:
    largest = 1 if dtype == "bool" else np.iinfo(dtype).max
    arrays = {"a": np.full((1,), largest, dtype)}
    total = evaluator(arrays).region(Sum((Take("a"), Take("a"))), ((0, 1),))
    assert int(total[0]) == 2 * int(largest)


CONVERTIBLE = [name for name, dtype in BY_NAME.items() if dtype.kind != "packed"]


@pytest.mark.parametrize("first", CONVERTIBLE)
def test_any_two_dtypes_can_be_joined(first: str) -> None:
    for second in CONVERTIBLE:
        arrays = {"a": np.ones((2,), numpy_dtype(first)), "b": np.ones((2,), numpy_dtype(second))}
        for expr in (Concat((Take("a"), Take("b")), 0), Stack((Take("a"), Take("b")), 0)):
            shape = evaluator(arrays).shape(expr)
            found = evaluator(arrays).region(expr, tuple((0, size) for size in shape))
            assert (found.astype(np.complex128) == 1).all(), (first, second)
