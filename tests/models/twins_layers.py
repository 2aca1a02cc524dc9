"""Linear, Embedding, the norms without state, PReLU and the convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from torch import nn

from s2p_tui.alignment.transform import Constant, Expr, Permute, Sum, Take
from tests.models.twin import Twin, tokens, twin
from tests.models.twins_rules import Leaves, conv_transpose, same, weight

BOTH = same("", "")
WEIGHT = weight("", "")

_Dims = tuple[int, ...]
_CONV = (eqx.nn.Conv1d, eqx.nn.Conv2d, eqx.nn.Conv3d)
_TORCH_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSE = (eqx.nn.ConvTranspose1d, eqx.nn.ConvTranspose2d, eqx.nn.ConvTranspose3d)
_TORCH_TRANSPOSE = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _linear(name: str, rows: int, columns: int, *, bias: bool = True) -> Twin:
    return twin(
        name,
        lambda: nn.Linear(columns, rows, bias=bias),
        lambda key: eqx.nn.Linear(columns, rows, use_bias=bias, key=key),
        (3, columns),
        BOTH if bias else WEIGHT,
    )


class Dense(eqx.Module):
    """A linear layer as Flax writes it: the kernel is (in, out)."""

    kernel: jax.Array
    bias: jax.Array

    def __init__(self, rows: int, columns: int, *, key: jax.Array) -> None:
        self.kernel = jax.random.normal(key, (rows, columns))
        self.bias = jnp.zeros(columns)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel + self.bias


class ConvHWIO(eqx.Module):
    """A convolution as Flax writes it: images (H, W, C), kernel (H, W, in, out)."""

    kernel: jax.Array
    bias: jax.Array

    def __init__(self, rows: int, columns: int, size: int, *, key: jax.Array) -> None:
        self.kernel = jax.random.normal(key, (size, size, rows, columns))
        self.bias = jnp.zeros(columns)

    def __call__(self, x: jax.Array) -> jax.Array:
        dims = ("NHWC", "HWIO", "NHWC")
        image = jnp.moveaxis(x, 0, -1)[None]
        out = jax.lax.conv_general_dilated(
            image, self.kernel, (1, 1), "VALID", dimension_numbers=dims
        )
        return jnp.moveaxis(out[0] + self.bias, -1, 0)


class UnitRMSNorm(eqx.Module):
    """Gemma's torch norm keeps its scale less one; Equinox keeps the scale."""

    norm: eqx.nn.RMSNorm

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(x)


class TorchUnitRMSNorm(nn.RMSNorm):
    def forward(self, x: Any) -> Any:
        return nn.functional.rms_norm(x, self.normalized_shape, 1 + self.weight, self.eps)


def _dense(name: str, rows: int, columns: int, blind: str = "") -> Twin:
    return twin(
        name,
        lambda: nn.Linear(rows, columns),
        lambda key: Dense(rows, columns, key=key),
        (3, rows),
        {".kernel": Permute(Take("weight"), (1, 0)), ".bias": Take("bias")},
        blind=blind,
    )


def _conv_hwio(name: str, rows: int, columns: int, size: int) -> Twin:
    return twin(
        name,
        lambda: nn.Conv2d(rows, columns, size),
        lambda key: ConvHWIO(rows, columns, size, key=key),
        (2, rows, 6, 6),
        {".kernel": Permute(Take("weight"), (2, 3, 1, 0)), ".bias": Take("bias")},
    )


_PLAIN = (
    _linear("linear", 5, 4),
    _linear("linear_square", 4, 4),
    _linear("linear_no_bias", 3, 4, bias=False),
    twin(
        "linear_scalar",
        lambda: nn.Linear(1, 4),
        lambda key: eqx.nn.Linear("scalar", 4, key=key),
        (3, 1),
        BOTH,
        eqx_call=lambda model, x: model(x[0]),
    ),
    _dense("dense", 3, 5),
    _dense("dense_square", 4, 4, blind="a square matrix; only the leaf's name 'kernel' tells"),
    _conv_hwio("conv_hwio", 3, 5, 2),
    _conv_hwio("conv_hwio_square", 3, 3, 3),
    twin(
        "embedding",
        lambda: nn.Embedding(7, 4, padding_idx=0),
        lambda key: eqx.nn.Embedding(7, 4, key=key),
        tokens(7, 5),
        WEIGHT,
    ),
    twin("layer_norm", lambda: nn.LayerNorm(6), lambda _: eqx.nn.LayerNorm(6), (3, 6), BOTH),
    twin(
        "layer_norm_no_bias",
        lambda: nn.LayerNorm(6, bias=False),
        lambda _: eqx.nn.LayerNorm(6, use_bias=False),
        (3, 6),
        WEIGHT,
    ),
    twin(
        "layer_norm_bias_of_zeros",
        lambda: nn.LayerNorm(6, bias=False),
        lambda _: eqx.nn.LayerNorm(6),
        (3, 6),
        {".weight": Take("weight"), ".bias": None},
    ),
    twin(
        "layer_norm_2d",
        lambda: nn.LayerNorm((3, 4)),
        lambda _: eqx.nn.LayerNorm((3, 4)),
        (3, 3, 4),
        BOTH,
    ),
    twin(
        "group_norm", lambda: nn.GroupNorm(2, 6), lambda _: eqx.nn.GroupNorm(2, 6), (3, 6, 5), BOTH
    ),
    twin(
        "instance_norm",
        lambda: nn.InstanceNorm2d(4, affine=True),
        lambda _: eqx.nn.GroupNorm(4, 4),
        (3, 4, 5, 5),
        BOTH,
    ),
    twin(
        "rms_norm",
        lambda: nn.RMSNorm(6, eps=1e-5),
        lambda _: eqx.nn.RMSNorm(6),
        (3, 6),
        {".weight": Take("weight"), ".bias": None},
    ),
    twin(
        "rms_norm_no_bias",
        lambda: nn.RMSNorm(6, eps=1e-6),
        lambda _: eqx.nn.RMSNorm(6, eps=1e-6, use_bias=False),
        (3, 6),
        WEIGHT,
    ),
    twin(
        "rms_norm_less_one",
        lambda: TorchUnitRMSNorm(6, eps=1e-5),
        lambda _: UnitRMSNorm(eqx.nn.RMSNorm(6, use_bias=False)),
        (3, 6),
        {".norm.weight": Sum((Take("weight"), Constant(1.0, (6,))))},
        blind="nothing shows that the torch scale is kept less one",
    ),
    twin(
        "prelu",
        nn.PReLU,
        lambda _: eqx.nn.PReLU(),
        (3, 6),
        {".negative_slope": Take("weight")},
        shake=1.0,
    ),
    twin(
        "prelu_per_channel",
        lambda: nn.PReLU(3),
        lambda _: eqx.nn.PReLU(jnp.full((3, 1, 1), 0.25)),
        (2, 3, 4, 4),
        {".negative_slope": Take("weight")},
        shake=1.0,
    ),
)


def _conv(
    name: str,
    dims: int,
    rows: int,
    columns: int,
    kernel: int | _Dims,
    *,
    bias: bool = True,
    **options: Any,
) -> Twin:
    return twin(
        name,
        lambda: _TORCH_CONV[dims - 1](rows, columns, kernel, bias=bias, **options),
        lambda key: _CONV[dims - 1](rows, columns, kernel, use_bias=bias, key=key, **options),
        (2, rows, 7, 6, 5)[: 2 + dims],
        BOTH if bias else WEIGHT,
    )


_CONVS = (
    _conv("conv_1d", 1, 3, 4, 3, padding=1),
    _conv("conv_1d_no_bias", 1, 3, 4, 2, bias=False),
    _conv("conv_1d_dilation", 1, 2, 4, 3, dilation=2, stride=2),
    _conv("conv_1d_depthwise", 1, 4, 4, 3, groups=4),
    _conv("conv_2d", 2, 3, 4, 3),
    _conv("conv_2d_no_bias", 2, 3, 4, 3, bias=False),
    _conv("conv_2d_oblong", 2, 3, 4, (2, 3), stride=(2, 1), padding=(1, 0)),
    _conv("conv_2d_groups", 2, 4, 6, 3, groups=2),
    _conv("conv_2d_depthwise", 2, 4, 8, 3, groups=4, padding=1),
    _conv("conv_2d_k1_square", 2, 4, 4, 1),
    _conv("conv_2d_k3_square", 2, 3, 3, 3, dilation=2),
    _conv("conv_2d_same", 2, 3, 4, 3, padding="same"),
    _conv("conv_2d_one_output", 2, 3, 1, 3),
    _conv("conv_3d", 3, 2, 3, 2),
    _conv("conv_3d_groups", 3, 4, 4, (2, 1, 2), groups=2, bias=False),
)


def _transpose(
    name: str,
    dims: int,
    rows: int,
    columns: int,
    kernel: int,
    *,
    groups: int = 1,
    bias: bool = True,
    blind: str = "",
    **options: Any,
) -> Twin:
    shape = (rows, columns // groups, *(kernel for _ in range(dims)))
    expr: Expr = conv_transpose("weight", shape, groups)
    truth: Leaves = {".weight": expr} | ({".bias": Take("bias")} if bias else {})
    options["groups"] = groups
    make: Callable[..., Any] = _TRANSPOSE[dims - 1]
    return twin(
        name,
        lambda: _TORCH_TRANSPOSE[dims - 1](rows, columns, kernel, bias=bias, **options),
        lambda key: make(rows, columns, kernel, use_bias=bias, key=key, **options),
        (2, rows, 5, 4, 3)[: 2 + dims],
        truth,
        blind=blind,
    )


_TRANSPOSES = (
    _transpose("conv_transpose_1d", 1, 3, 4, 3),
    _transpose("conv_transpose_1d_stride", 1, 3, 4, 4, stride=2, padding=1, output_padding=1),
    _transpose("conv_transpose_1d_groups", 1, 4, 6, 3, groups=2),
    _transpose("conv_transpose_1d_k1", 1, 3, 4, 1),
    _transpose("conv_transpose_1d_square", 1, 4, 4, 3),
    _transpose("conv_transpose_1d_depthwise", 1, 4, 4, 3, groups=4),
    _transpose("conv_transpose_2d", 2, 3, 4, 3),
    _transpose("conv_transpose_2d_no_bias", 2, 3, 4, 2, stride=2, bias=False),
    _transpose("conv_transpose_2d_stride", 2, 3, 2, 3, stride=2, padding=1, output_padding=1),
    _transpose("conv_transpose_2d_dilation", 2, 3, 2, 3, dilation=2, padding=2),
    _transpose("conv_transpose_2d_groups", 2, 4, 6, 3, groups=2),
    _transpose("conv_transpose_2d_groups_square", 2, 4, 4, 3, groups=2, stride=2),
    _transpose("conv_transpose_2d_depthwise", 2, 4, 4, 3, groups=4),
    _transpose("conv_transpose_2d_depthwise_multiplied", 2, 2, 4, 3, groups=2),
    _transpose("conv_transpose_2d_square", 2, 3, 3, 3),
    _transpose("conv_transpose_2d_k1", 2, 3, 5, 1),
    _transpose("conv_transpose_2d_k1_square", 2, 3, 3, 1),
    _transpose("conv_transpose_3d", 3, 2, 3, 2, stride=2),
    _transpose("conv_transpose_3d_groups", 3, 4, 4, 2, groups=2),
)


class WindowBias(eqx.Module):
    """Swin's relative position bias, its index a buffer that a user's port starts at zeros."""

    table: jax.Array
    relative_position_index: jax.Array

    def __init__(self, *, key: jax.Array) -> None:
        self.table = jax.random.normal(key, (9, 2))
        self.relative_position_index = jnp.zeros((4, 4), jnp.int32)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + jnp.moveaxis(self.table[self.relative_position_index], -1, 0)


class TorchWindowBias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        import torch

        self.relative_position_bias_table = nn.Parameter(torch.randn(9, 2))
        grid = torch.stack(torch.meshgrid(*[torch.arange(2)] * 2, indexing="ij")).flatten(1)
        apart = (grid[:, :, None] - grid[:, None, :]) + 1
        self.register_buffer("relative_position_index", apart[0] * 3 + apart[1])

    def forward(self, x: Any) -> Any:
        bias = self.relative_position_bias_table[self.relative_position_index]
        return x + bias.permute(2, 0, 1)


_BUFFERS = (
    twin(
        "window_bias",
        TorchWindowBias,
        lambda key: WindowBias(key=key),
        (np.zeros((2, 2, 4, 4), np.float32),),
        {
            ".table": Take("relative_position_bias_table"),
            ".relative_position_index": Take("relative_position_index"),
        },
    ),
)

LAYERS = (*_PLAIN, *_CONVS, *_TRANSPOSES, *_BUFFERS)
