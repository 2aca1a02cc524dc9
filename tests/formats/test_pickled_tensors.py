"""Tensors that `pickle.dump` wrote, and names old files have, against pickle and torch.load."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from s2p_tui.errors import InputError
from s2p_tui.formats.registry import open_checkpoint
from tests.formats.hostile import CANARY, Calls, touch
from tests.formats.net import Net
from tests.helpers.files import SAVE, array_bytes, assert_holds, random_tensor, read, tensor_bytes

PROTOCOLS = (3, 4, 5)
DTYPES = (
    *("float32", "float64", "float16", "bfloat16", "complex64", "complex128"),
    *("int8", "int16", "int32", "int64", "uint8", "bool"),
)


def dumped(value: Any, path: Path, protocol: int = 4) -> Path:
    with path.open("wb") as stream:
        pickle.dump(value, stream, protocol)
    return path


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_state_dict_that_pickle_wrote(tmp_path: Path, protocol: int) -> None:
    large = random_tensor("float32", (60, 70))
    value = {dtype: random_tensor(dtype, (3, 5)) for dtype in DTYPES} | {
        "bias": torch.ones(2),
        "scalar": torch.tensor(3),
        "none": torch.zeros((0, 4)),
        "large": large,
        "turned": large.T,
        "strided": large[3::2, ::3],
        "parameter": torch.nn.Parameter(large[0]),
        "expanded": torch.ones(4).expand(3, 4),
    }
    path = dumped({"epoch": 3, "model": value}, tmp_path / "model.pkl", protocol)
    expected = pickle.loads(path.read_bytes())["model"]
    checkpoint = open_checkpoint(path)
    assert checkpoint.key == "model"
    assert_holds(checkpoint, expected)
    part = read(checkpoint, "turned", ((5, 50), (7, 20)))
    assert array_bytes(part) == tensor_bytes(expected["turned"][5:50, 7:20])
    checkpoint.tensors.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_module_that_pickle_wrote(tmp_path: Path, protocol: int) -> None:
    path = dumped(Net(), tmp_path / "model.pkl", protocol)
    assert_holds(open_checkpoint(path), pickle.loads(path.read_bytes()).state_dict())


def test_protocol_2_spells_numbers_as_text(tmp_path: Path) -> None:
    path = dumped({"w": torch.ones(3)}, tmp_path / "model.pkl", 2)
    with pytest.raises(InputError, match=r"w was saved by pickle.dump with protocol 2; load it"):
        open_checkpoint(path)


@pytest.mark.parametrize("cut", [b"\x03\x00\x00\x00\x00\x00\x00\x00", b"\x88X\n"])
def test_a_storage_that_is_not_what_it_says(tmp_path: Path, cut: bytes) -> None:
    """One that claims more numbers than there are, and one of a big-endian machine."""
    sound = pickle.dumps({"w": torch.ones(3)})
    assert sound.count(cut) == 1
    lie = {b"\x03": b"\x04", b"\x88": b"\x89"}[cut[:1]]
    (tmp_path / "model.pkl").write_bytes(sound.replace(cut, lie + cut[1:]))
    with pytest.raises(InputError, match=r"is cut short|big-endian"):
        open_checkpoint(tmp_path / "model.pkl")


@pytest.mark.parametrize("save", [torch.save, pickle.dump])
def test_nothing_runs_in_a_storage(
    tmp_path: Path, save: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    inner = io.BytesIO()
    legacy = {"_use_new_zipfile_serialization": False} if save is torch.save else {}
    save([Calls(os.system, touch.decode()), "x" * 300], inner, **legacy)
    load: Any = torch.storage._load_from_bytes
    dumped({"w": Calls(load, inner.getvalue())}, tmp_path / "model.pkl")
    with pytest.raises(InputError):
        open_checkpoint(tmp_path / "model.pkl")
    assert not Path(CANARY).exists()


LEGACY: dict[str, Any] = {
    "a tensor type": torch.FloatTensor,
    "another": torch.BFloat16Tensor,
    "of CUDA": torch.cuda.FloatTensor,
    "sparse": torch.sparse.FloatTensor,
    "of CUDA, sparse": torch.cuda.sparse.DoubleTensor,
    "a dtype": torch.quint4x2,
    "bits": torch.bits8,
    "a layout": torch.sparse_csr,
    "a device": torch.device("cuda", 1),
    "a quantiser": torch.per_channel_affine,
    "a size": torch.Size([3, 4]),
    "a storage type": torch.FloatStorage,
    "an empty old tensor": torch.FloatTensor(),
    "an uninitialised parameter": torch.nn.parameter.UninitializedParameter(),
    "an uninitialised buffer": torch.nn.parameter.UninitializedBuffer(),
}


@pytest.mark.parametrize("form", SAVE)
@pytest.mark.parametrize("what", LEGACY)
def test_names_of_torch_beside_the_weights(tmp_path: Path, what: str, form: str) -> None:
    value = {
        "state_dict": {"w": torch.randn(3, 4), "old": torch.DoubleTensor([1, 2])},
        "tensor_type": LEGACY[what],
    }
    path = SAVE[form](value, tmp_path / "model.pt")
    expected = torch.load(path, weights_only=False)["state_dict"]
    assert_holds(open_checkpoint(path), expected)
    assert_holds(open_checkpoint(path, "state_dict"), expected)


@pytest.mark.parametrize("form", SAVE)
def test_buffers_and_parameters_by_their_own_classes(tmp_path: Path, form: str) -> None:
    class Buffered(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kept = torch.nn.Buffer(torch.arange(4.0))
            self.scratch = torch.nn.Buffer(torch.ones(2), persistent=False)
            self.weight = torch.nn.Parameter(torch.ones(2, 3))

    value = {**Buffered().state_dict(keep_vars=True), "bare": torch.nn.Buffer(torch.ones(2))}
    assert set(value) == {"kept", "weight", "bare"}
    path = SAVE[form](value, tmp_path / "model.pt")
    assert_holds(open_checkpoint(path), torch.load(path, weights_only=False))


def test_a_parameter_of_the_state_dict_without_numbers_is_named(tmp_path: Path) -> None:
    lazy = torch.nn.LazyLinear(3).state_dict()
    path = SAVE["zip"]({"fc.weight": torch.ones(2), **lazy}, tmp_path / "model.pt")
    checkpoint = open_checkpoint(path)
    assert_holds(checkpoint, {"fc.weight": torch.ones(2)})
    assert "2 items are not tensors: weight, bias" in checkpoint.notes
