"""The regions that planning names, against what the evaluator reads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2p_tui.alignment.transform import (
    Concat,
    Expr,
    Flip,
    Norm,
    Permute,
    Reshape,
    SpectralNorm,
    Split,
    Stack,
    Sum,
    Take,
    WeightNorm,
)
from s2p_tui.conversion.evaluate import Evaluator
from s2p_tui.conversion.needs import Fetched, Need, Needs, gathered
from s2p_tui.formats.base import Region
from s2p_tui.formats.tensors import ArrayTensors
from tests.helpers.exprs import Case, cases, regions, slices
from tests.helpers.sessions import checkpoint_of


class Watched(ArrayTensors):
    """Arrays that note which elements of which are read."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        super().__init__(arrays)
        self.read_of = {key: np.zeros(array.shape, bool) for key, array in arrays.items()}
        self.asked: list[tuple[str, Region]] = []

    def read(self, name: str, region: Region) -> np.ndarray:
        self.read_of[name][(..., *slices(region))] = True
        self.asked.append((name, region))
        return super().read(name, region)


def evaluated(arrays: dict[str, np.ndarray], expr: Expr, region: Region) -> Watched:
    tensors = Watched(arrays)
    Evaluator(checkpoint_of(arrays).state_dict, tensors).region(expr, region)
    return tensors


def needs_of(arrays: dict[str, np.ndarray], expr: Expr, region: Region) -> list[Need]:
    return Needs(lambda key: arrays[key].shape).of(expr, region)


@settings(max_examples=300, deadline=None)
@given(st.data(), cases(steps=5))
@pytest.mark.slow("converts many times, or much")
def test_needs_are_what_the_evaluator_reads(data: st.DataObject, case: Case) -> None:
    region = data.draw(regions(case.result.shape))
    read = evaluated(case.arrays, case.expr, region)
    needed = {key: np.zeros(array.shape, bool) for key, array in case.arrays.items()}
    for need in needs_of(case.arrays, case.expr, region):
        assert not need.for_norm
        needed[need.key][(..., *slices(need.region))] = True
    if any(stop <= start for start, stop in region):
        assert not any(marks.any() for marks in needed.values())
        return
    for key, marks in needed.items():
        assert np.array_equal(marks, read.read_of[key]), key


@settings(max_examples=200, deadline=None)
@given(st.data(), cases(steps=5))
@pytest.mark.slow("evaluates hundreds of expressions part by part")
def test_what_is_fetched_is_all_an_evaluator_asks_for(data: st.DataObject, case: Case) -> None:
    """Whatever smaller parts it asks for, in whatever order."""
    region = data.draw(regions(case.result.shape))
    tensors = Watched(case.arrays)
    fetched = Fetched(tensors, gathered(needs_of(case.arrays, case.expr, region)))
    asked = len(tensors.asked)
    evaluator = Evaluator(checkpoint_of(case.arrays).state_dict, fetched)
    parts = data.draw(st.lists(regions(tuple(stop - start for start, stop in region)), max_size=3))
    for part in [tuple((0, stop - start) for start, stop in region), *parts]:
        bounds = zip(region, part, strict=True)
        place = tuple((start + low, start + high) for (start, _), (low, high) in bounds)
        found = evaluator.region(case.expr, place)
        assert np.array_equal(found, case.result[slices(place)])
    if not any(stop <= start for start, stop in region):
        outside = [one for one in tensors.asked[asked:] if all(high > low for low, high in one[1])]
        assert outside == []


NORMED: list[tuple[Expr, Region]] = [
    (Norm(Take("w"), (1,)), ((1, 3), (0, 1), (0, 5))),
    (WeightNorm((Take("g"), Take("w"))), ((1, 3), (1, 2), (0, 5))),
    (WeightNorm((Take("one"), Take("w"))), ((0, 2), (0, 3), (2, 4))),
    (SpectralNorm((Take("w"), Take("u"), Take("v")), 0), ((2, 4), (0, 3), (0, 5))),
    (Permute(WeightNorm((Take("g"), Take("w"))), (2, 0, 1)), ((1, 3), (0, 2), (1, 2))),
]


def test_norms_need_more_than_the_region() -> None:
    arrays = {
        "w": np.arange(1, 61, dtype=np.float32).reshape(4, 3, 5),
        "g": np.ones((4, 1, 1), np.float32),
        "one": np.ones((), np.float32),
        "u": np.ones(4, np.float32),
        "v": np.ones(15, np.float32),
    }
    for expr, region in NORMED:
        read = evaluated(arrays, expr, region)
        needed = {key: np.zeros(array.shape, bool) for key, array in arrays.items()}
        needs = needs_of(arrays, expr, region)
        for need in needs:
            needed[need.key][(..., *slices(need.region))] = True
        assert any(need.for_norm for need in needs)
        for key, marks in needed.items():
            assert np.array_equal(marks, read.read_of[key]), (key, expr)


def test_many_small_boxes_of_one_entry_become_one() -> None:
    """A reshape that regroups columns takes all of them, rather than a run per row."""
    arrays = {"w": np.arange(64 * 12, dtype=np.float32).reshape(64, 12)}
    expr = Reshape(Take("w"), (128, 6))
    region = ((0, 128), (1, 6))
    needs = needs_of(arrays, expr, region)
    assert gathered(needs) == [Need("w", ((0, 64), (0, 12)))]
    tensors = Watched(arrays)
    fetched = Fetched(tensors, gathered(needs))
    evaluator = Evaluator(checkpoint_of(arrays).state_dict, fetched)
    found = evaluator.region(expr, region)
    assert np.array_equal(found, arrays["w"].reshape(128, 6)[:, 1:])
    assert len(tensors.asked) == 1


def test_columns_of_heads_are_a_box_a_head() -> None:
    arrays = {"w": np.arange(64 * 480, dtype=np.float32).reshape(64, 480)}
    heads = Split(Reshape(Take("w"), (64, 4, 6, 20)), 2, 1, 2)
    needs = needs_of(arrays, Reshape(heads, (64, 80)), ((3, 60), (0, 80)))
    assert [need.region for need in needs] == [
        ((3, 60), (start, start + 20)) for start in range(20, 480, 120)
    ]


def test_neighbours_become_one() -> None:
    parts = tuple(Split(Take("w"), 1, n, n + 2) for n in (4, 0, 2))
    arrays = {"w": np.ones((8, 8), np.float32)}
    needs = needs_of(arrays, Concat(parts, 1), ((1, 5), (0, 6)))
    assert gathered(needs) == [Need("w", ((1, 5), (0, 6)))]


def test_far_boxes_of_one_entry_stay_apart() -> None:
    ends = tuple(Split(Take("w"), 0, n, n + 1) for n in range(0, 1000, 100))
    arrays = {"w": np.arange(1000, dtype=np.float32)}
    needs = needs_of(arrays, Concat(ends, 0), ((0, 10),))
    assert len(gathered(needs)) == 10


def test_an_entry_used_twice_is_read_once() -> None:
    arrays = {"w": np.ones((4, 4), np.float32)}
    expr = Sum((Take("w"), Take("w"), Flip(Take("w"), (0, 1))))
    needs = needs_of(arrays, Stack((expr, expr), 0), ((0, 2), (0, 4), (0, 4)))
    assert gathered(needs) == [Need("w", ((0, 4), (0, 4)))]
