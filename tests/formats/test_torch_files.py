"""Zip and legacy `torch.save` files against what torch itself loads from them."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2p_tui.alignment.dtypes import dtype_named
from s2p_tui.errors import InputError
from s2p_tui.formats.registry import open_checkpoint
from tests.helpers.exprs import regions, slices
from tests.helpers.files import (
    SAVE,
    TORCH_DTYPES,
    array_bytes,
    assert_holds,
    folder,
    random_tensor,
    read,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:TypedStorage is deprecated:UserWarning", "ignore:Sparse:UserWarning",
    "ignore:ComplexHalf support:UserWarning",
)  # fmt: skip
both = pytest.mark.parametrize("form", SAVE)


@both
@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_every_dtype(tmp_path: Path, form: str, dtype: str) -> None:
    state = {
        "matrix": random_tensor(dtype, (3, 5)),
        "zero axes": random_tensor(dtype, (), 1),
        "nothing": random_tensor(dtype, (2, 0, 3)),
    }
    path = SAVE[form](state, tmp_path / "model.pt")
    if form == "zip" or dtype_named(dtype).torch_storage:  # else torch cannot load it itself
        state = torch.load(path, weights_only=True)
    assert_holds(open_checkpoint(path), state)


def _odd_views() -> dict[str, torch.Tensor]:
    base = torch.arange(120, dtype=torch.float32).reshape(4, 5, 6)
    linear = torch.nn.Linear(3, 2)
    return {
        "whole": base,
        "permuted": base.permute(2, 0, 1),
        "sliced": base[1:3, ::2, 1:],
        "row": base[2],
        "expanded": base[0, 0].expand(7, 6),
        "expanded middle": base[:, :1].expand(4, 3, 6),
        "one element": base[3, 4, 5],
        "diagonal": base[0].diagonal(),
        "overlapping": base.reshape(-1).as_strided((5, 4), (2, 1), 3),
        "empty slice": base[2:2],
        "parameter": linear.weight,
        "tied": base,
        "transposed parameter": torch.nn.Parameter(linear.weight.detach().T),
    }


@both
def test_views_tied_strided_and_expanded(tmp_path: Path, form: str) -> None:
    views = _odd_views()
    path = SAVE[form](views, tmp_path / "model.pt")
    checkpoint = open_checkpoint(path)
    assert_holds(checkpoint, torch.load(path, weights_only=True))
    entries = checkpoint.state_dict
    assert entries["tied"].storage == entries["whole"].storage
    assert entries["row"].storage != entries["whole"].storage
    assert entries["permuted"].storage != entries["whole"].storage
    assert checkpoint.files == (path,)
    assert checkpoint.size == path.stat().st_size


@both
def test_any_region_is_that_of_the_tensor(tmp_path: Path, form: str) -> None:
    views = _odd_views()
    checkpoint = open_checkpoint(SAVE[form](views, tmp_path / "model.pt"))

    @settings(max_examples=100, deadline=None)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(views)))
        region = data.draw(regions(tuple(views[key].shape)))
        found = read(checkpoint, key, region)
        expected = views[key].detach().numpy()[slices(region)]
        assert found.shape == expected.shape
        assert array_bytes(found) == array_bytes(expected)

    check()
    checkpoint.tensors.close()


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(sorted(SAVE)), st.integers(0, 2**32 - 1))
def test_random_strided_views(data: st.DataObject, form: str, seed: int) -> None:
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    view = random_tensor("int16", tuple(sizes), seed)
    for axis, size in enumerate(sizes):
        start = data.draw(st.integers(0, size - 1))
        view = view.narrow(axis, start, data.draw(st.integers(0, size - start)))
        step = data.draw(st.integers(1, 9))
        view = view[(slice(None),) * axis + (slice(None, None, step),)]
    view = view.permute(data.draw(st.permutations(range(view.ndim))))
    with folder() as where:
        checkpoint = open_checkpoint(SAVE[form]({"view": view}, where / "model.pt"))
        assert_holds(checkpoint, {"view": view})


@both
def test_a_real_modules_state_dict(tmp_path: Path, form: str) -> None:
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 2)),
    )
    state = module.state_dict()
    assert isinstance(state, OrderedDict)
    assert state._metadata  # type: ignore[attr-defined]
    assert_holds(open_checkpoint(SAVE[form](state, tmp_path / "model.pt")), state)


@both
def test_suffixes_are_not_trusted(tmp_path: Path, form: str) -> None:
    state = {"a": torch.ones(2)}
    assert_holds(open_checkpoint(SAVE[form](state, tmp_path / "a.safetensors")), state)
    assert_holds(open_checkpoint(str(SAVE[form](state, tmp_path / "no suffix"))), state)


def _unusable() -> dict[str, tuple[Any, str]]:
    quantised = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    return {
        "quantised": (quantised, "dequantize"),
        "meta": (torch.empty(3, device="meta"), "meta device"),
        "sparse": (torch.eye(3).to_sparse(), "to_dense"),
        "csr": (torch.eye(3).to_sparse_csr(), "to_dense"),
        "conj": (torch.ones(3, dtype=torch.complex64).conj(), "resolve_conj"),
        "neg": (torch.ones(3, dtype=torch.complex64).conj().imag, "resolve_neg"),
    }


@both
@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:DeprecationWarning")
@pytest.mark.parametrize("kind", ["quantised", "meta", "sparse", "csr", "conj", "neg"])
def test_tensors_without_plain_numbers_are_refused_by_name(
    tmp_path: Path, form: str, kind: str
) -> None:
    value, way_out = _unusable()[kind]
    path = SAVE[form]({"fine": torch.ones(2), "layer.odd": value}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=f"layer.odd .*{way_out}") as caught:
        open_checkpoint(path)
    assert "fine" not in caught.value.message


def test_packed_dtypes_are_listed_but_not_read(tmp_path: Path) -> None:
    half = torch.zeros(3, dtype=torch.complex32)
    checkpoint = open_checkpoint(SAVE["zip"]({"half": half}, tmp_path / "model.pt"))
    assert checkpoint.state_dict["half"].dtype == "complex32"
    assert checkpoint.state_dict["half"].nbytes == 12
    with pytest.raises(InputError, match="complex32 tensors cannot be converted"):
        read(checkpoint, "half")


def test_opening_reads_no_tensor_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = SAVE["zip"]({"big": torch.zeros(1 << 20)}, tmp_path / "model.pt")
    monkeypatch.setattr("os.preadv", lambda *_: pytest.fail("tensor data was read"))
    checkpoint = open_checkpoint(path)
    with pytest.raises(pytest.fail.Exception):
        read(checkpoint, "big")
    checkpoint.tensors.close()


def test_a_transposed_tensor_takes_one_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = torch.arange(60.0).reshape(3, 4, 5).permute(2, 0, 1)
    checkpoint = open_checkpoint(SAVE["zip"]({"view": view}, tmp_path / "model.pt"))
    reads: list[int] = []
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *a: reads.append(a[2]) or real(*a))
    assert array_bytes(read(checkpoint, "view")) == array_bytes(view.numpy())
    assert len(reads) == 1
    checkpoint.tensors.close()


def test_more_axes_than_numpy_has_are_refused(tmp_path: Path) -> None:
    path = SAVE["zip"]({"deep": torch.ones(1).reshape((1,) * 65)}, tmp_path / "model.pt")
    with pytest.raises(InputError, match="65 axes"):
        open_checkpoint(path)


def test_reading_a_truncated_or_changed_file_is_an_error(tmp_path: Path) -> None:
    path = SAVE["zip"]({"big": torch.zeros(100_000)}, tmp_path / "model.pt")
    checkpoint = open_checkpoint(path)
    checkpoint.tensors.check_unchanged()
    with path.open("r+b") as stream:
        stream.truncate(50_000)
    with pytest.raises(InputError, match="cut short"):
        read(checkpoint, "big")
    with pytest.raises(InputError, match="changed while it was open"):
        checkpoint.tensors.check_unchanged()
    checkpoint.tensors.close()
    path.unlink()
    with pytest.raises(InputError, match="can no longer be read"):
        checkpoint.tensors.check_unchanged()
    with pytest.raises(InputError, match="can no longer be read"):
        read(checkpoint, "big")


def test_numpy_arrays_are_not_mistaken_for_tensors(tmp_path: Path) -> None:
    path = SAVE["zip"]({"a": torch.ones(1), "mean": np.float64(3)}, tmp_path / "model.pt")
    checkpoint = open_checkpoint(path)
    assert [entry.key for entry in checkpoint.state_dict] == ["a"]
    assert checkpoint.notes == ("1 items are not tensors: mean",)
