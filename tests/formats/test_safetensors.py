from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from s2p_tui.alignment.dtypes import BY_SAFETENSORS
from s2p_tui.errors import InputError, UsageError
from s2p_tui.formats.registry import open_checkpoint
from s2p_tui.formats.safetensors import header_for
from tests.helpers.files import TORCH_DTYPES, assert_holds, random_tensor, read, save_safetensors

IN_SAFETENSORS = [d for d in TORCH_DTYPES if d in {kind.name for kind in BY_SAFETENSORS.values()}]


def write(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.mark.parametrize("dtype", IN_SAFETENSORS)
def test_every_dtype(tmp_path: Path, dtype: str) -> None:
    state = {
        "b": random_tensor(dtype, (3, 5)),
        "a.scalar": random_tensor(dtype, (), 1),
        "nothing": random_tensor(dtype, (0, 2)),
        "naïve/../键": random_tensor(dtype, (2,), 2),
    }
    path = save_safetensors(state, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(path)
    with safe_open(path, "pt") as reference:
        order = [entry.key for entry in checkpoint.state_dict]
        assert set(order) == set(reference.keys())
        assert_holds(checkpoint, {key: reference.get_tensor(key) for key in order})


def test_types_narrower_than_a_byte_are_listed_but_not_read(tmp_path: Path) -> None:
    header = {"f": {"dtype": "F4", "shape": [3, 2], "data_offsets": [0, 3]}}
    checkpoint = open_checkpoint(write(tmp_path / "a", header, b"123"))
    assert (checkpoint.state_dict["f"].dtype, checkpoint.state_dict["f"].nbytes) == ("float4", 3)
    with pytest.raises(InputError, match="float4 tensors cannot be converted"):
        read(checkpoint, "f")


def tensor(begin: int, end: int, **other: Any) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]} | other


UNSOUND: dict[str, tuple[object, str]] = {
    "not JSON": (b"{" + b"x" * 20, "not JSON"),
    "deep": (b'{"a":' + b"[" * 100_000, "mostly brackets"),
    "not an object": (b"[]" + b" " * 20, "neither a checkpoint"),
    "twice": (b'{"a":{},"b":{},"a":{}}', "names a twice"),
    "twice inside": (b'{"a":{"dtype":"U8","dtype":"F32"}}', "names dtype twice"),
    "hole": ({"a": tensor(0, 1), "b": tensor(2, 4)}, "b starts at 2"),
    "overlap": ({"a": tensor(0, 3), "b": tensor(2, 4)}, "b starts at 2"),
    "late start": ({"a": tensor(1, 4)}, "a starts at 1"),
    "too short": ({"a": tensor(0, 3)}, "end at 3 of 4"),
    "too long": ({"a": tensor(0, 5)}, "a: bytes 0 to 5"),
    "wrong size": ({"a": tensor(0, 4, shape=[2, 3])}, "a: bytes 0 to 4"),
    "backwards": ({"a": tensor(0, 4, data_offsets=[4, 0])}, "not whole numbers"),
    "negative": ({"a": tensor(0, 4, shape=[-2, -2])}, "not whole numbers"),
    "huge": ({"a": tensor(0, 4, shape=[2**63])}, "not whole numbers"),
    "float": ({"a": tensor(0, 4, shape=[4.0])}, r"a: shape\[0\]: expected `int`, got `float`"),
    "true": ({"a": tensor(0, 1, shape=[True]), "b": tensor(1, 4)}, "expected `int`, got `bool`"),
    "dtype": ({"a": tensor(0, 4, dtype="X8")}, "a: dtype: it cannot be 'X8'"),
    "no dtype": ({"a": {"shape": [4]}}, "a: 'dtype' is missing"),
    "odd dtype": ({"a": tensor(0, 4, dtype=["U8"])}, "a: dtype: expected `str`, got `array`"),
    "three offsets": ({"a": tensor(0, 4, data_offsets=[0, 1, 4])}, "of length 2, got 3"),
    "a number": ({"a": 3}, "a: expected `object`, got `int`"),
    "many axes": ({"a": tensor(0, 4, shape=[1] * 64 + [4])}, "65 axes"),
}


@pytest.mark.parametrize("case", UNSOUND)
def test_an_unsound_header_is_refused(tmp_path: Path, case: str) -> None:
    header, message = UNSOUND[case]
    with pytest.raises(InputError, match=message):
        open_checkpoint(write(tmp_path / "model.safetensors", header, b"1234"))


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**39])
def test_a_header_length_that_lies(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b'{"a": 1}')
    with pytest.raises(InputError, match="header claims"):
        open_checkpoint(path)


def test_a_key_is_what_names_begin_with(tmp_path: Path) -> None:
    state = {"model.a": torch.ones(2), "model.b.c": torch.zeros(3), "modelb": torch.ones(1)}
    path = save_safetensors(state, tmp_path / "a.safetensors")
    checkpoint = open_checkpoint(path, "model")
    assert checkpoint.key == "model"
    assert {entry.key for entry in checkpoint.state_dict} == {"a", "b.c"}
    assert read(checkpoint, "a").tolist() == [1, 1]
    checkpoint.tensors.close()
    with pytest.raises(InputError, match="no state dict at 'mod'"):
        open_checkpoint(path, "mod")


def test_the_header_we_write_is_the_librarys(tmp_path: Path) -> None:
    tensors = [("b", (2, 3), "bfloat16"), ("é", (), "float32"), ("a", (0,), "bool")]
    path = tmp_path / "a.safetensors"
    path.write_bytes(header_for(tensors) + bytes(16))
    assert len(header_for(tensors)) % 8 == 0
    with safe_open(path, "pt") as found:
        assert set(found.keys()) == {"b", "é", "a"}
        assert tuple(found.get_tensor("b").shape) == (2, 3)
        assert found.get_tensor("b").dtype == torch.bfloat16


def test_all_dtypes_the_format_lacks_are_named() -> None:
    with pytest.raises(UsageError, match="z is complex128; y is complex128: "):
        header_for([("z", (), "complex128"), ("x", (), "int8"), ("y", (), "complex128")])
