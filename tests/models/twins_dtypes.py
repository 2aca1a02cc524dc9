"""Sources and targets in half and in double precision."""

from __future__ import annotations

import copy
import zlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

from tests.models.twin import Twin, normal, twin
from tests.models.twins_rules import Leaves, conv_transpose, lstm, same

_IN, _OUT = 6, 3
_LOOSE = {"bfloat16": 2e-2, "float16": 2e-3}


class Net(eqx.Module):
    """A perceptron, normalised."""

    layers: list[eqx.nn.Linear]
    norm: eqx.nn.LayerNorm

    def __init__(self, dtype: Any, *, key: jax.Array) -> None:
        keys = jax.random.split(key)
        self.layers = [
            eqx.nn.Linear(_IN, 5, dtype=dtype, key=keys[0]),
            eqx.nn.Linear(5, _OUT, dtype=dtype, key=keys[1]),
        ]
        self.norm = eqx.nn.LayerNorm(5, dtype=dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = _widened(self)
        return wide.layers[1](wide.norm(jax.nn.relu(wide.layers[0](x))))


def _widened(model: Any) -> Any:
    """Computes in float32 at least, so that only what the weights lost is compared."""
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if leaf.dtype.itemsize < 4 else leaf, model
    )


def _widened_torch(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    wide = nn.Sequential(*_layers()).to(_wider(module)).eval()
    wide.load_state_dict(module.state_dict())
    return wide(x.to(_wider(module)))


def _wider(module: nn.Module) -> torch.dtype:
    return torch.promote_types(next(module.parameters()).dtype, torch.float32)


def _layers() -> list[nn.Module]:
    return [nn.Linear(_IN, 5), nn.ReLU(), nn.LayerNorm(5), nn.Linear(5, _OUT)]


_TRUTH: Leaves = {
    **same(".layers[0]", "0"),
    **same(".layers[1]", "3"),
    **same(".norm", "2"),
}


def _cast(source: str, target: str, truth: Leaves = _TRUTH) -> Twin:
    name = f"{source}_to_{target}"
    double = target == "float64"
    dtype = np.float64 if double else np.float32
    data = np.random.default_rng(zlib.crc32(name.encode())).normal(size=(4, _IN)).astype(dtype)
    narrower = jnp.finfo(target).bits < jnp.finfo(source).bits or (source, target) == (
        "float16",
        "bfloat16",
    )
    return twin(
        name,
        lambda: nn.Sequential(*_layers()).to(getattr(torch, source)),
        lambda key: Net(jnp.dtype(target), key=key),
        (data,),
        truth,
        torch_call=_widened_torch,
        tolerance=_LOOSE.get(target, 1e-4) if narrower else 1e-9 if source == target == "float64"
        else 1e-4,
        x64=double,
    )  # fmt: skip


def _float32(module: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
    return copy.deepcopy(module).float()(*inputs)


def _hidden(module: nn.Module, x: torch.Tensor, *state: torch.Tensor) -> torch.Tensor:
    return copy.deepcopy(module).float()(x, state)[0]


_PAIRS = (
    ("bfloat16", "float32"),
    ("float16", "float32"),
    ("float64", "float32"),
    ("float32", "bfloat16"),
    ("float32", "float16"),
    ("bfloat16", "bfloat16"),
    ("float16", "float16"),
    ("bfloat16", "float16"),
    ("float16", "bfloat16"),
    ("float32", "float64"),
    ("float64", "float64"),
    ("bfloat16", "float64"),
)

DTYPES = (
    *(_cast(source, target) for source, target in _PAIRS),
    twin(
        "bfloat16_lstm",
        lambda: nn.LSTMCell(3, 4).bfloat16(),
        lambda key: eqx.nn.LSTMCell(3, 4, key=key),
        (normal(1, 2, 3), normal(2, 2, 4), normal(3, 2, 4)),
        lstm("", ""),
        torch_call=_hidden,
        eqx_call=lambda cell, x, h, c: cell(x, (h, c))[0],
    ),
    twin(
        "float16_conv_transpose",
        lambda: nn.ConvTranspose2d(4, 4, 3, groups=2).half(),
        lambda key: eqx.nn.ConvTranspose2d(4, 4, 3, groups=2, key=key),
        (2, 4, 4, 3),
        {**same("", "", "bias"), ".weight": conv_transpose("weight", (4, 2, 3, 3), 2)},
        torch_call=_float32,
    ),
)
