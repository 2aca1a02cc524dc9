"""Spectral and weight norms, torch's old and new ones, kept as layers or folded into plain ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from s2p_tui.alignment.transform import (
    Expr,
    Flip,
    Norm,
    Permute,
    Reshape,
    SpectralNorm,
    Take,
    WeightNorm,
)
from tests.models.twin import Twin, twin
from tests.models.twins_rules import Leaves, gaps, norm_batch

Arrays = Mapping[str, np.ndarray]
Make = Callable[[], nn.Module]


def _old_weight_norm(module: nn.Module, **options: Any) -> nn.Module:
    with warnings.catch_warnings():
        message = "`torch.nn.utils.weight_norm` is deprecated"
        warnings.filterwarnings("ignore", message, FutureWarning)
        return weight_norm(module, **options)


def _linear() -> nn.Module:
    return nn.Linear(5, 4)


def _conv() -> nn.Module:
    return nn.Conv2d(3, 4, 3)


def _transposed() -> nn.Module:
    return nn.ConvTranspose2d(3, 4, 3)


def _eqx_linear(key: jax.Array) -> Any:
    return eqx.nn.Linear(5, 4, key=key)


def _eqx_conv(key: jax.Array) -> Any:
    return eqx.nn.Conv2d(3, 4, 3, key=key)


def _eqx_transposed(key: jax.Array) -> Any:
    return eqx.nn.ConvTranspose2d(3, 4, 3, key=key)


_IMAGE = (2, 3, 5, 4)
_KINDS: tuple[tuple[str, Make, Callable[[jax.Array], Any], tuple[int, ...]], ...] = (
    ("linear", _linear, _eqx_linear, (2, 5)),
    ("conv", _conv, _eqx_conv, _IMAGE),
    ("conv_transpose", _transposed, _eqx_transposed, _IMAGE),
)


def _turned(kind: str, weight: Expr) -> Expr:
    """A weight as Equinox stores it."""
    if kind != "conv_transpose":
        return weight
    return Permute(Flip(weight, (2, 3)), (1, 0, 2, 3))


def _spectral_truth(kind: str, prefix: str, u: str, v: str) -> Leaves:
    right: Expr = Take(v)
    if kind == "conv_transpose":
        right = Reshape(Flip(Reshape(right, (3, 3, 3)), (1, 2)), (27,))
    return {
        **gaps("[0].inference"),
        "[0].layer.weight": _turned(kind, Take(prefix)),
        "[0].layer.bias": Take("bias"),
        "[1].uv_index[0]": Take(u),
        "[1].uv_index[1]": right,
    }


_SPECTRAL = {
    "": (
        parametrizations.spectral_norm,
        "parametrizations.weight.original",
        "parametrizations.weight.0._u",
        "parametrizations.weight.0._v",
    ),
    "_old": (spectral_norm, "weight_orig", "weight_u", "weight_v"),
}


def _spectral() -> list[Twin]:
    return [
        twin(
            f"spectral_norm_{kind}{suffix}",
            lambda api=api, make=make: api(make()),
            lambda key, like=like: eqx.nn.SpectralNorm(like(key), "weight", key=key),
            shape,
            _spectral_truth(kind, *keys),
            steps=2,
            state=True,
        )
        for suffix, (api, *keys) in _SPECTRAL.items()
        for kind, make, like, shape in _KINDS
    ]


def _spectral_folded(kind: str, make: Make, like: Any, shape: Any, *, old: bool = False) -> Twin:
    api, *keys = _SPECTRAL["_old" if old else ""]
    of = tuple(map(Take, keys))
    folded = SpectralNorm(of, 1 if kind == "conv_transpose" else 0)
    return twin(
        f"spectral_norm_{kind}_folded{'_old' if old else ''}",
        lambda: api(make()),
        like,
        shape,
        {".weight": _turned(kind, folded), ".bias": Take("bias")},
        steps=2,
    )


def _weight_truth(kind: str, g: str, v: str) -> Leaves:
    scale: Expr = Take(g)
    if kind == "conv_transpose":
        scale = Permute(scale, (1, 0, 2, 3))
    return {".layer.weight": _turned(kind, Take(v)), ".layer.bias": Take("bias"), ".g": scale}


_NEW_KEYS = ("parametrizations.weight.original0", "parametrizations.weight.original1")
_OLD_KEYS = ("weight_g", "weight_v")


def _weight() -> list[Twin]:
    apis = (
        ("", parametrizations.weight_norm, _NEW_KEYS),
        ("_old", _old_weight_norm, _OLD_KEYS),
    )
    return [
        twin(
            f"weight_norm_{kind}{suffix}",
            lambda api=api, make=make: api(make()),
            lambda key, like=like, kind=kind: eqx.nn.WeightNorm(
                like(key), axis=1 if kind == "conv_transpose" else 0
            ),
            shape,
            _weight_truth(kind, *keys),
        )
        for suffix, api, keys in apis
        for kind, make, like, shape in _KINDS
    ]


def _weight_folded(
    kind: str, make: Make, like: Any, shape: Any, *, old: bool = False, normed: bool = False
) -> Twin:
    api, keys = (_old_weight_norm, _OLD_KEYS) if old else (parametrizations.weight_norm, _NEW_KEYS)
    folded = _turned(kind, WeightNorm(tuple(map(Take, keys))))
    truth: Leaves = {".weight": folded, ".bias": Take("bias")}
    if normed:
        truth = {f".layer{path}": expr for path, expr in truth.items()}
        truth[".g"] = Norm(folded, (1, 2, 3))
    return twin(
        f"weight_norm_{kind}_{'other_axis' if normed else 'folded'}{'_old' if old else ''}",
        lambda: api(make()),
        (lambda key: eqx.nn.WeightNorm(like(key))) if normed else like,
        shape,
        truth,
    )


class ConvNorm(eqx.Module):
    """A convolution, a batch norm, an activation."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm

    def __init__(self, *, key: jax.Array) -> None:
        self.conv = eqx.nn.Conv2d(3, 4, 3, use_bias=False, key=key)
        self.norm = eqx.nn.BatchNorm(4, "batch", mode="batch")

    def __call__(self, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        x, state = self.norm(self.conv(x), state)
        return jax.nn.relu(x), state


def _conv_and_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))


def _fold_norm(arrays: Arrays) -> Arrays:
    scale = arrays["1.weight"] / np.sqrt(arrays["1.running_var"] + 1e-5)
    return {
        ".weight": arrays["0.weight"] * scale[:, None, None, None],
        ".bias": arrays["1.bias"] - arrays["1.running_mean"] * scale,
    }


NORMS = (
    *_spectral(),
    *(_spectral_folded(*kind, old=old) for kind in _KINDS for old in (False, True)),
    *_weight(),
    twin(
        "weight_norm_linear_whole",
        lambda: parametrizations.weight_norm(_linear(), dim=None),
        lambda key: eqx.nn.WeightNorm(_eqx_linear(key), axis=None),
        (2, 5),
        _weight_truth("linear", *_NEW_KEYS),
    ),
    *(_weight_folded(*kind, old=old) for kind in _KINDS for old in (False, True)),
    _weight_folded(*_KINDS[2], normed=True),
    twin(
        "conv_norm_relu",
        lambda: nn.Sequential(*_conv_and_norm(), nn.ReLU()),
        lambda key: ConvNorm(key=key),
        _IMAGE,
        {"[0].conv.weight": Take("0.weight"), **norm_batch(".norm", "1")},
        unused=("1.num_batches_tracked",),
        steps=3,
        state=True,
    ),
    twin(
        "conv_norm_folded",
        _conv_and_norm,
        _eqx_conv,
        _IMAGE,
        None,
        needs="batch_norm fold: w · γ / √(σ² + ε), and β − μ γ / √(σ² + ε)",
        fold=_fold_norm,
        steps=3,
    ),
)
