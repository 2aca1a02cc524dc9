"""Folded weight and spectral norms against PyTorch's own, in regions and in bounded memory."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from s2p_tui.alignment.transform import Expr, Norm, SpectralNorm, Take, WeightNorm, shape_of
from s2p_tui.conversion.evaluate import Evaluator, fast_axes, tiles
from s2p_tui.formats.base import Extent, Region
from tests.helpers.exprs import by_numpy, regions, slices
from tests.helpers.sessions import checkpoint_of

ARRAYS = {
    "v": np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32),
    "rows": np.random.default_rng(1).normal(size=(4, 1, 1)).astype(np.float32),
    "columns": np.random.default_rng(2).normal(size=(1, 3, 1)).astype(np.float32),
    "whole": np.float32(1.5),
    "u0": np.random.default_rng(3).normal(size=4).astype(np.float32),
    "v0": np.random.default_rng(4).normal(size=15).astype(np.float32),
    "u1": np.random.default_rng(5).normal(size=3).astype(np.float32),
    "v1": np.random.default_rng(6).normal(size=20).astype(np.float32),
}
EXPRS: list[Expr] = [
    Norm(Take("v"), (1, 2)),
    Norm(Take("v"), ()),
    Norm(Take("v"), (0,)),
    WeightNorm((Take("rows"), Take("v"))),
    WeightNorm((Take("columns"), Take("v"))),
    WeightNorm((Take("whole"), Take("v"))),
    SpectralNorm((Take("v"), Take("u0"), Take("v0")), 0),
    SpectralNorm((Take("v"), Take("u1"), Take("v1")), 1),
    Norm(WeightNorm((Take("columns"), Take("v"))), (1, 2)),
]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), limit=st.integers(1, 70))
@pytest.mark.parametrize("expr", EXPRS, ids=str)
def test_any_region_is_that_of_the_whole(data: st.DataObject, expr: Expr, limit: int) -> None:
    checkpoint = checkpoint_of(ARRAYS)
    evaluator = Evaluator(checkpoint.state_dict, checkpoint.tensors, limit)
    whole = by_numpy(expr, {key: array.astype(np.float64) for key, array in ARRAYS.items()})
    assert shape_of(expr, lambda key: ARRAYS[key].shape) == whole.shape
    region = data.draw(regions(whole.shape))
    found = evaluator.region(expr, region)
    assert found.shape == whole[slices(region)].shape
    np.testing.assert_allclose(found, whole[slices(region)], rtol=2e-6)


class Watched:
    """Tensors that remember the largest region asked for."""

    def __init__(self, tensors: Any) -> None:
        self._tensors = tensors
        self.largest = 0

    def read(self, key: str, region: Region) -> Any:
        array = self._tensors.read(key, region)
        self.largest = max(self.largest, array.size)
        return array

    def extent(self, key: str) -> Extent | None:
        return self._tensors.extent(key)


@pytest.mark.parametrize("expr", EXPRS, ids=str)
def test_no_more_is_read_at_once_than_allowed(expr: Expr) -> None:
    checkpoint = checkpoint_of(ARRAYS)
    watched = Watched(checkpoint.tensors)
    limit = 6
    evaluator = Evaluator(checkpoint.state_dict, watched, limit)
    shape = evaluator.shape(expr)
    for region in tiles(shape, fast_axes(expr, checkpoint.state_dict.shape), limit):
        evaluator.region(expr, region)
    assert watched.largest <= limit


def _normed(api: Any, layer: nn.Module, **options: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return api(layer, **options).eval()


@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_weight_norm_is_torchs(dim: int | None, dtype: torch.dtype) -> None:
    layer = nn.Conv2d(3, 4, 2).to(dtype)
    layer = _normed(parametrizations.weight_norm, layer, dim=dim)
    state = layer.state_dict()
    prefix = "parametrizations.weight.original"
    arrays = {end: _array(state[prefix + end]) for end in "01"}
    checkpoint = checkpoint_of(arrays)
    evaluator = Evaluator(checkpoint.state_dict, checkpoint.tensors)
    found = evaluator.region(WeightNorm((Take("0"), Take("1"))), ((0, 4), (0, 3), (0, 2), (0, 2)))
    weight: Any = layer.weight
    expected = weight.detach().to(torch.float64).numpy()
    np.testing.assert_allclose(found.astype(np.float64), expected, rtol=4 * torch.finfo(dtype).eps)


def _array(tensor: torch.Tensor) -> np.ndarray:
    import ml_dtypes

    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
