"""A tensor's statistics against NumPy's own, for every kind of dtype, file and layout."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from s2p_tui.alignment.task import Task
from s2p_tui.conversion import statistics as module
from s2p_tui.conversion.statistics import BINS, Statistics, statistics
from s2p_tui.errors import CancelledError, InputError
from s2p_tui.formats.registry import open_checkpoint
from s2p_tui.formats.tensors import ArrayTensors


def of(array: np.ndarray) -> Statistics:
    tensors = ArrayTensors({"x": array})
    return statistics(tensors, "x", array.shape, str(array.dtype), Task())


def check(found: Statistics, array: np.ndarray) -> None:
    flat = array.reshape(-1)
    if flat.dtype.kind == "c":
        flat = np.abs(flat.astype(np.complex128))
    if flat.dtype.kind not in "biu":
        flat = flat.astype(np.float64)
    finite = flat[np.isfinite(flat)]
    assert found.count == flat.size
    assert found.nan == np.isnan(flat).sum()
    assert found.inf == np.isinf(flat).sum()
    assert found.zeros == (flat == 0).sum()
    if not finite.size:
        assert (found.low, found.high, found.mean, found.std, found.bins) == (*[None] * 4, ())
        return
    assert found.low == finite.min()
    assert found.high == finite.max()
    assert sum(found.bins) == finite.size
    wide = finite.astype(np.float64)
    scale = max(1e-300, float(np.abs(wide).max()))
    np.testing.assert_allclose(found.mean, wide.mean(), rtol=1e-9, atol=1e-12 * scale)
    np.testing.assert_allclose(found.std, wide.std(), rtol=1e-6, atol=1e-9 * scale)
    if found.low != found.high:
        assert len(found.bins) == BINS
        assert found.bins[0] >= 1
        assert found.bins[-1] >= 1


DTYPES = [
    "bool",
    "int8",
    "uint8",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
    "complex64",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e8m0fnu",
    "int4",
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype: str) -> None:
    rng = np.random.default_rng(3)
    kind = np.dtype(getattr(ml_dtypes, dtype)) if hasattr(ml_dtypes, dtype) else np.dtype(dtype)
    values = rng.normal(0, 3, (7, 5, 3))
    if kind.kind == "c":
        values = values + 1j * rng.normal(0, 3, values.shape)
    if dtype in ("uint8", "uint64", "float8_e8m0fnu"):
        values = np.abs(values)
    array = values.astype(kind)
    found = of(array)
    if dtype == "int4":
        assert (found.low, found.high) == (int(array.min()), int(array.max()))
        assert found.zeros == (array.astype(np.int8) == 0).sum()
    else:
        check(found, array)


@given(
    hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
        elements=st.one_of(
            st.floats(-1e150, 1e150), st.sampled_from([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0])
        ),
    ),
    st.integers(1, 7),
)
def test_whatever_the_numbers_and_the_chunks(array: np.ndarray, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        check(of(array), array)


def test_numbers_as_large_as_can_be() -> None:
    top = np.finfo(np.float64).max
    found = of(np.array([-top, 0, top]))
    assert (found.low, found.high) == (-top, top)
    assert (found.bins[0], found.bins[BINS // 2], found.bins[-1]) == (1, 1, 1)


def test_whole_numbers_stay_exact() -> None:
    found = of(np.array([2**63 - 1, 5, -(2**63)]))
    assert (found.low, found.high) == (-(2**63), 2**63 - 1)


def test_equal_numbers_are_one_bin() -> None:
    found = of(np.full((3, 4), 0.1, np.float32))
    assert found.bins == (12,)
    assert found.std == 0


def test_what_lies_in_a_file_strided_or_shared(tmp_path: Path) -> None:
    whole = torch.arange(24, dtype=torch.bfloat16).reshape(4, 6)
    torch.save({"turned": whole.T, "part": whole[1:3, ::2]}, tmp_path / "m.pt")
    checkpoint = open_checkpoint(tmp_path / "m.pt")
    for key, tensor in (("turned", whole.T), ("part", whole[1:3, ::2])):
        entry = checkpoint.state_dict[key]
        progress = Task()
        found = statistics(checkpoint.tensors, key, entry.shape, entry.dtype, progress)
        check(found, tensor.float().numpy())
        assert progress.done == progress.total == 2 * tensor.numel()
    checkpoint.tensors.close()


def test_cancelling_stops_within_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 10)
    array = np.zeros(1000, np.float32)
    progress = Task()
    progress.cancel()
    with pytest.raises(CancelledError):
        statistics(ArrayTensors({"x": array}), "x", array.shape, "float32", progress)
    assert progress.done <= 10


def test_packed_numbers_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="float6_e2m3"):
        statistics(ArrayTensors({}), "x", (4,), "float6_e2m3", Task())
