"""Layers in rarer settings, and PyTorch layers that Equinox knows under another name or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import torch
from torch import nn
from torch.nn.utils import parametrizations

from s2p_tui.alignment.transform import Flip, Permute, Stack, Take, WeightNorm
from tests.models.twin import Twin, tokens, twin
from tests.models.twins_layers import BOTH, WEIGHT
from tests.models.twins_rules import Leaves, conv_transpose, renamed, same, stacked, weight

_TRANSPOSE = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_EQX_TRANSPOSE = (eqx.nn.ConvTranspose1d, eqx.nn.ConvTranspose2d, eqx.nn.ConvTranspose3d)
_SHAPES = ((2, 4, 7), (2, 4, 5, 4), (2, 4, 4, 3, 3))


def _transpose(
    name: str,
    kernel: tuple[int, ...],
    columns: int,
    make: Callable[..., Any] | None = None,
    *,
    bias: bool = True,
    **options: Any,
) -> Twin:
    dims = len(kernel)
    like = make or _EQX_TRANSPOSE[dims - 1]
    groups = options.get("groups", 1)
    expr = conv_transpose("weight", (4, columns // groups, *kernel), groups)
    return twin(
        f"conv_transpose_{name}",
        lambda: _TRANSPOSE[dims - 1](4, columns, kernel, bias=bias, **options),
        lambda key: like(4, columns, kernel, use_bias=bias, key=key, **options),
        _SHAPES[dims - 1],
        {".weight": expr} | (same("", "", "bias") if bias else {}),
    )


def _any_transpose(*args: Any, **options: Any) -> Any:
    return eqx.nn.ConvTranspose(2, *args, **options)


_TRANSPOSES = (
    _transpose("1d_no_bias", (3,), 5, bias=False),
    _transpose("1d_dilation", (3,), 5, dilation=2, stride=3, output_padding=1),
    _transpose("1d_k1_groups", (1,), 6, groups=2),
    _transpose("1d_depthwise_stride", (4,), 4, groups=4, stride=2, padding=1),
    _transpose("2d_oblong", (2, 3), 5, stride=(2, 1), padding=(1, 0)),
    _transpose(
        "2d_all", (3, 2), 6, groups=2, stride=3, padding=1, output_padding=(1, 0), dilation=2
    ),
    _transpose("2d_k1_groups", (1, 1), 4, groups=2),
    _transpose("2d_one_long", (1, 3), 4),
    _transpose("2d_any", (3, 3), 5, _any_transpose, stride=2),
    _transpose("3d_no_bias", (2, 2, 2), 3, bias=False),
    _transpose("3d_stride", (3, 2, 2), 3, stride=2, padding=1, output_padding=1),
    _transpose("3d_dilation", (2, 2, 2), 4, dilation=(2, 1, 2)),
    _transpose("3d_depthwise", (2, 3, 2), 4, groups=4),
    _transpose("3d_k1", (1, 1, 1), 5),
)


class Bilinear(eqx.Module):
    """What Equinox has no layer for."""

    weight: jax.Array
    bias: jax.Array

    def __init__(self, *, key: jax.Array) -> None:
        self.weight = jax.random.normal(key, (5, 3, 4))
        self.bias = jnp.zeros(5)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.einsum("oij,i,j->o", self.weight, x[:3], x[3:]) + self.bias


class Between(eqx.Module):
    """A linear layer, a norm, and another linear layer on pooled channels."""

    first: eqx.nn.Linear
    norm: Any
    pool: eqx.nn.AdaptiveAvgPool1d
    last: eqx.nn.Linear

    def __init__(self, norm: Any, *, key: jax.Array) -> None:
        one, two = jax.random.split(key)
        self.first = eqx.nn.Linear(5, 6, key=one)
        self.norm = norm
        self.pool = eqx.nn.AdaptiveAvgPool1d(3)
        self.last = eqx.nn.Linear(3, 2, key=two)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(self.pool(self.norm(self.first(x))[None])[0])


class TorchBetween(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(5, 6), norm, nn.Linear(3, 2)
        self.pool = nn.AdaptiveAvgPool1d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.pool(self.norm(self.first(x)).unsqueeze(1)).squeeze(1))


def _without_affine(name: str, norm: Callable[[], nn.Module], like: Any) -> Twin:
    return twin(
        name,
        lambda: TorchBetween(norm()),
        lambda key: Between(like, key=key),
        (4, 5),
        renamed({".first": "first", ".last": "last"}),
    )


_NORMS = (
    _without_affine(
        "layer_norm_not_affine",
        lambda: nn.LayerNorm(6, elementwise_affine=False),
        eqx.nn.LayerNorm(6, use_weight=False, use_bias=False),
    ),
    _without_affine(
        "group_norm_not_affine",
        lambda: nn.GroupNorm(2, 6, affine=False),
        eqx.nn.GroupNorm(2, channelwise_affine=False),
    ),
    _without_affine(
        "rms_norm_not_affine",
        lambda: nn.RMSNorm(6, eps=1e-5, elementwise_affine=False),
        eqx.nn.RMSNorm(6, use_weight=False, use_bias=False),
    ),
)


_NAMELESS_IN_EQUINOX = (
    twin(
        "embedding_bag",
        lambda: nn.EmbeddingBag(7, 4, mode="mean"),
        lambda key: eqx.nn.Embedding(7, 4, key=key),
        tokens(7, 3, 5),
        WEIGHT,
        eqx_call=lambda model, ids: jax.vmap(model)(ids).mean(0),
    ),
    twin(
        "bilinear",
        lambda: nn.Bilinear(3, 4, 5),
        lambda key: Bilinear(key=key),
        (6, 7),
        BOTH,
        torch_call=lambda module, x: module(x[:, :3], x[:, 3:]),
    ),
    twin(
        "prelu_flat",
        lambda: nn.PReLU(6),
        lambda _: eqx.nn.PReLU(jnp.full((6,), 0.25)),
        (3, 6),
        {".negative_slope": Take("weight")},
        shake=1.0,
    ),
    twin(
        "conv_any",
        lambda: nn.Conv2d(3, 4, 3, groups=1),
        lambda key: eqx.nn.Conv(2, 3, 4, 3, key=key),
        (2, 3, 5, 5),
        BOTH,
    ),
    twin(
        "conv_3d_depthwise",
        lambda: nn.Conv3d(4, 4, 2, groups=4),
        lambda key: eqx.nn.Conv3d(4, 4, 2, groups=4, key=key),
        (2, 4, 3, 3, 3),
        BOTH,
    ),
)


def _vocoder_layers() -> list[nn.Module]:
    return [
        parametrizations.weight_norm(nn.Conv1d(4, 6, 3)),
        nn.LeakyReLU(0.1),
        parametrizations.weight_norm(nn.ConvTranspose1d(6, 3, 4, stride=2)),
    ]


class Vocoder(eqx.Module):
    """Plain layers from weight-normed ones, as inference ports of vocoders have them."""

    up: eqx.nn.ConvTranspose1d
    first: eqx.nn.Conv1d

    def __init__(self, *, key: jax.Array) -> None:
        one, two = jax.random.split(key)
        self.up = eqx.nn.ConvTranspose1d(6, 3, 4, stride=2, key=one)
        self.first = eqx.nn.Conv1d(4, 6, 3, key=two)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.up(jax.nn.leaky_relu(self.first(x), 0.1))


def _weight_normed(number: int) -> WeightNorm:
    parts = (f"{number}.parametrizations.weight.original{part}" for part in (0, 1))
    return WeightNorm(tuple(map(Take, parts)))


_NORMED: tuple[Twin, ...] = (
    twin(
        "weight_norm_vocoder_folded",
        lambda: nn.Sequential(*_vocoder_layers()),
        lambda key: Vocoder(key=key),
        (2, 4, 9),
        {
            ".first.weight": _weight_normed(0),
            ".up.weight": Flip(Permute(_weight_normed(2), (1, 0, 2)), (2,)),
            **same(".first", "0", "bias"),
            **same(".up", "2", "bias"),
        },
    ),
)


def _mlp_torch(depth: int, activation: Callable[[], nn.Module], *, bias: bool = True) -> nn.Module:
    sizes = [3, *(4 for _ in range(depth)), 2]
    layers: list[nn.Module] = []
    for place in range(depth + 1):
        layers += [nn.Linear(sizes[place], sizes[place + 1], bias=bias), activation()]
    return nn.Sequential(*layers[:-1])


def _mlp_scan(name: str, depth: int, truth: Leaves, torch_activation: Any, **options: Any) -> Twin:
    bias = options.get("use_bias", True)
    return twin(
        name,
        lambda: _mlp_torch(depth, torch_activation, bias=bias),
        lambda key: eqx.nn.MLP(3, 2, 4, depth, scan=True, key=key, **options),
        (6, 3),
        truth,
    )


_MLPS = (
    _mlp_scan(
        "mlp_scan_one_hidden",
        2,
        {
            **same(".layers[0]", "0"),
            ".layers[1].weight": Stack((Take("2.weight"),), 0),
            ".layers[1].bias": Stack((Take("2.bias"),), 0),
            **same(".layers[2]", "4"),
        },
        nn.ReLU,
    ),
    _mlp_scan(
        "mlp_scan_no_bias",
        4,
        {
            **weight(".layers[0]", "0"),
            ".layers[1].weight": stacked("2.weight", "4.weight", "6.weight"),
            **weight(".layers[2]", "8"),
        },
        nn.ReLU,
        use_bias=False,
        use_final_bias=False,
    ),
)


class Spread(eqx.Module):
    """Attention of sizes that only Equinox can have apart, over a projection of each of its own."""

    attention: eqx.nn.MultiheadAttention

    def __init__(self, *, key: jax.Array) -> None:
        self.attention = eqx.nn.MultiheadAttention(
            2, 6, key_size=5, value_size=4, output_size=3, qk_size=2, vo_size=7, key=key,
            use_query_bias=True,
        )  # fmt: skip

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.attention(x, x[:, :5], x[:, :4])


class TorchSpread(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(6, 4)
        self.key = nn.Linear(5, 4, bias=False)
        self.value = nn.Linear(4, 14, bias=False)
        self.out = nn.Linear(14, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layers = ((self.query, 6), (self.key, 5), (self.value, 4))
        heads = [
            layer(x[..., :size]).unflatten(-1, (2, -1)).transpose(1, 2) for layer, size in layers
        ]
        mixed = nn.functional.scaled_dot_product_attention(*heads)
        return self.out(mixed.transpose(1, 2).flatten(2))


_ATTENTION = (
    twin(
        "attention_spread",
        TorchSpread,
        lambda key: Spread(key=key),
        (2, 5, 6),
        {
            **same(".attention.query_proj", "query"),
            **weight(".attention.key_proj", "key"),
            **weight(".attention.value_proj", "value"),
            **weight(".attention.output_proj", "out"),
            ".attention.dropout.p": None,
            ".attention.dropout.inference": None,
        },
    ),
)


VARIANTS = (
    *_TRANSPOSES,
    *_NORMS,
    *_NAMELESS_IN_EQUINOX,
    *_NORMED,
    *_MLPS,
    *_ATTENTION,
)
