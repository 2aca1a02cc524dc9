"""Writing checkpoints as people do, and comparing tensors bit by bit."""

from __future__ import annotations

import contextlib
import gc
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from s2p_tui.alignment.dtypes import numpy_dtype
from s2p_tui.errors import S2PError
from s2p_tui.formats.base import Checkpoint, Region

TORCH_DTYPES = (
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
    "float16", "bfloat16", "float32", "float64", "complex64", "complex128",
    "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu",
)  # fmt: skip
"""Every dtype of ours that torch has too and that can be converted."""


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A new empty folder, for tests that Hypothesis runs many times."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def open_below(path: Path) -> list[str]:
    """Files in a folder that this process holds open, after a garbage collection."""
    gc.collect()
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found.append(os.readlink(descriptor))
    return [target for target in found if Path(target).is_relative_to(path)]


def save_zip(value: Any, path: Path) -> Path:
    torch.save(value, path)
    return path


def save_legacy(value: Any, path: Path) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=False)
    return path


def save_safetensors(value: Mapping[str, torch.Tensor], path: Path) -> Path:
    save_file(dict(value), path)
    return path


SAVE: dict[str, Callable[[Any, Path], Path]] = {"zip": save_zip, "legacy": save_legacy}


def random_tensor(dtype: str, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """A contiguous tensor of random bits; every bit pattern the dtype has may appear."""
    found = torch.empty(shape, dtype=getattr(torch, dtype))
    if found.numel():
        count = found.numel() * found.element_size()
        raw = np.random.default_rng(seed).integers(0, 256, count, np.uint8)
        raw &= 1 if dtype == "bool" else 255
        found.reshape(-1).view(torch.uint8).copy_(torch.from_numpy(raw))
    return found


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """The elements in row-major order, as torch itself would hand them over."""
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype)
    flat.view(tensor.shape).copy_(tensor.detach())
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def array_bytes(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def read(checkpoint: Checkpoint, key: str, region: Region | None = None) -> np.ndarray:
    """A region of an entry, by default all of it."""
    shape = checkpoint.state_dict[key].shape
    return checkpoint.tensors.read(key, region or tuple((0, size) for size in shape))


def assert_holds(checkpoint: Checkpoint, expected: Mapping[str, torch.Tensor]) -> None:
    """The checkpoint holds exactly these tensors in this order."""
    found = [(entry.key, entry.shape, entry.dtype) for entry in checkpoint.state_dict]
    assert found == [
        (key, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for key, tensor in expected.items()
    ]
    for key, tensor in expected.items():
        array = read(checkpoint, key)
        assert array.shape == tuple(tensor.shape)
        assert array.dtype == numpy_dtype(checkpoint.state_dict[key].dtype)
        assert array_bytes(array) == tensor_bytes(tensor), key
    checkpoint.tensors.close()


def outcome(action: Callable[[], Any]) -> S2PError | None:
    """The package's own error, or None where the action succeeded; any other error escapes."""
    found = None
    try:
        action()
    except S2PError as error:
        found = error
    assert found is None or (found.message and "\n" not in found.message)
    return found
