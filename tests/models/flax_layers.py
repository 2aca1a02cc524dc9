"""Layers of PyTorch and the same ones of Flax, NNX and Linen, with what makes them comparable.

`tests.models.flax_layers:nnx_NAME` and `linen_NAME` are factories of the models of a layer.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen, nnx
from torch import nn

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """A layer written three times.

    Attributes:
        torch: The module.
        shape: Of its input.
        nnx: The same for NNX, from its `rngs`.
        linen: The same for Linen.
        torch_call: The forward of PyTorch.
        flax_call: The forward of Flax, in PyTorch's order of axes; called with the layer.
        into: What the input is before Flax's layer: PyTorch has channels second.
        whole: Whether it goes in under its own name, not as a layer of a model.
    """

    torch: Callable[[], nn.Module]
    shape: Shape
    nnx: Callable[[nnx.Rngs], nnx.Module] | None
    linen: Callable[[], linen.Module] | None
    torch_call: Callable[[Any, torch.Tensor], torch.Tensor] = lambda layer, x: layer(x)
    flax_call: Callable[[Any, Any], Any] = lambda layer, x: layer(x)
    whole: int = 0

    def input(self, name: str) -> np.ndarray:
        """Normal numbers, or those of tokens for a layer that takes them."""
        generator = np.random.default_rng(zlib.crc32(name.encode()))
        if self.whole:
            return generator.integers(0, self.whole, self.shape, np.int32)
        return generator.normal(size=self.shape).astype(np.float32)


class TorchModel(nn.Module):
    """A model with one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer


class NnxModel(nnx.Module):
    """A model with one layer."""

    def __init__(self, layer: nnx.Module) -> None:
        self.layer = layer


class LinenModel(linen.Module):
    """A model with one layer."""

    make: Callable[[], linen.Module]
    call: Callable[[Any, Any], Any]

    def setup(self) -> None:
        self.layer = self.make()

    def __call__(self, x: Any) -> Any:
        return self.call(self.layer, x)


def _last(call: Callable[[Any, Any], Any] | None = None) -> Callable[[Any, Any], Any]:
    """Run a layer that has its channels last."""

    def run(layer: Any, x: Any) -> Any:
        made = (call or (lambda layer, x: layer(x)))(layer, jnp.moveaxis(x, 1, -1))
        return jnp.moveaxis(made, -1, 1)

    return run


def _linear(bias: bool, size: int, out: int) -> Layer:
    return Layer(
        lambda: nn.Linear(size, out, bias=bias),
        (3, size),
        lambda rngs: nnx.Linear(size, out, use_bias=bias, rngs=rngs),
        lambda: linen.Dense(out, use_bias=bias),
    )


def _conv(
    kernel: Shape,
    size: int,
    out: int,
    *,
    groups: int = 1,
    dilation: int = 1,
    stride: int = 1,
    padding: int = 0,
    bias: bool = True,
) -> Layer:
    rank = len(kernel)
    torch_class = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    settings: dict[str, Any] = {
        "strides": (stride,) * rank,
        "padding": [(padding, padding)] * rank,
        "kernel_dilation": (dilation,) * rank,
        "feature_group_count": groups,
        "use_bias": bias,
    }
    return Layer(
        lambda: torch_class(size, out, kernel, stride, padding, dilation, groups, bias),
        (2, size, *(7 + 2 * n for n in range(rank))),
        lambda rngs: nnx.Conv(size, out, kernel, rngs=rngs, **settings),
        lambda: linen.Conv(out, kernel, **settings),
        flax_call=_last(),
    )


def _conv_transpose(
    kernel: Shape,
    size: int,
    out: int,
    *,
    turned: bool,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    bias: bool = True,
) -> Layer:
    rank = len(kernel)
    torch_class = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[rank - 1]
    around = [dilation * (length - 1) - padding for length in kernel]
    settings: dict[str, Any] = {
        "strides": (stride,) * rank,
        "padding": [(pad, pad) for pad in around],
        "kernel_dilation": (dilation,) * rank,
        "transpose_kernel": turned,
        "use_bias": bias,
    }
    return Layer(
        lambda: torch_class(size, out, kernel, stride, padding, bias=bias, dilation=dilation),
        (2, size, *(4 + n for n in range(rank))),
        lambda rngs: nnx.ConvTranspose(size, out, kernel, rngs=rngs, **settings),
        lambda: linen.ConvTranspose(out, kernel, **settings),
        flax_call=_last(),
    )


def _norm(torch_layer: Callable[[], nn.Module], nnx_layer: Any, linen_layer: Any) -> Layer:
    return Layer(torch_layer, (3, 6, 5, 4), nnx_layer, linen_layer, flax_call=_last())


def _batch_norm(affine: bool) -> Layer:
    settings: dict[str, Any] = {
        "use_running_average": True,
        "epsilon": 1e-5,
        # PyTorch's 0.1.
        "momentum": 0.9,
        "use_bias": affine,
        "use_scale": affine,
    }
    return _norm(
        lambda: nn.BatchNorm2d(6, affine=affine),
        lambda rngs: nnx.BatchNorm(6, rngs=rngs, **settings),
        lambda: linen.BatchNorm(**settings),
    )


def _attention(bias: bool, width: int, heads: int) -> Layer:
    return Layer(
        lambda: nn.MultiheadAttention(width, heads, bias=bias, batch_first=True),
        (2, 5, width),
        lambda rngs: nnx.MultiHeadAttention(heads, width, use_bias=bias, decode=False, rngs=rngs),
        lambda: linen.MultiHeadDotProductAttention(heads, use_bias=bias),
        lambda layer, x: layer(x, x, x)[0],
    )


def _cross_attention() -> Layer:
    return Layer(
        lambda: nn.MultiheadAttention(6, 2, kdim=4, vdim=4, batch_first=True),
        (2, 5, 6),
        lambda rngs: nnx.MultiHeadAttention(2, 6, in_kv_features=4, decode=False, rngs=rngs),
        lambda: linen.MultiHeadDotProductAttention(2),
        lambda layer, x: layer(x, x[..., :4], x[..., :4])[0],
        lambda layer, x: layer(x, x[..., :4], x[..., :4]),
    )


def _recurrent(
    torch_class: Any, nnx_class: Any, linen_class: Any, bias: bool, size: int, hidden: int
) -> Layer:
    return Layer(
        lambda: torch_class(size, hidden, bias=bias, batch_first=True),
        (2, 5, size),
        nnx_class and (lambda rngs: nnx.RNN(nnx_class(size, hidden, rngs=rngs), rngs=rngs)),
        linen_class and (lambda: linen.RNN(linen_class(hidden))),
        lambda layer, x: layer(x)[0],
    )


def _cell(torch_class: Any, nnx_class: Any, linen_class: Any, hidden: int) -> Layer:
    def step(layer: Any, x: Any) -> Any:
        zeros = jnp.zeros((x.shape[0], hidden), x.dtype)
        is_lstm = "LSTM" in type(layer).__name__
        return layer((zeros, zeros) if is_lstm else zeros, x)[1]

    return Layer(
        lambda: torch_class(4, hidden),
        (3, 4),
        nnx_class and (lambda rngs: nnx_class(4, hidden, rngs=rngs)),
        linen_class and (lambda: linen_class(hidden)),
        lambda layer, x: layer(x)[0] if isinstance(layer, nn.LSTMCell) else layer(x),
        step,
    )


LAYERS: Mapping[str, Layer] = {
    "linear": _linear(True, 4, 6),
    "linear_square": _linear(True, 4, 4),
    "linear_square_without_bias": _linear(False, 4, 4),
    "linear_of_a_biasless_layer": Layer(
        lambda: nn.Linear(4, 4, bias=False),
        (3, 4),
        lambda rngs: nnx.Linear(4, 4, rngs=rngs),
        lambda: linen.Dense(4),
    ),
    "linear_of_a_convolution": Layer(
        lambda: nn.Conv1d(4, 4, 1),
        (2, 4, 5),
        lambda rngs: nnx.Linear(4, 4, rngs=rngs),
        lambda: linen.Dense(4),
        flax_call=_last(),
    ),
    "linear_general": Layer(
        lambda: nn.Linear(4, 4),
        (3, 4),
        lambda rngs: nnx.LinearGeneral(4, 4, rngs=rngs),
        lambda: linen.DenseGeneral(4),
    ),
    "conv_1d": _conv((3,), 3, 3),
    "conv_2d": _conv((3, 5), 2, 4),
    "conv_2d_square": _conv((3, 3), 3, 3, padding=1),
    "conv_2d_square_groups": _conv((3, 3), 6, 6, groups=2, stride=2),
    "conv_2d_all_alike": _conv((2, 2), 4, 2, groups=2, bias=False),
    "conv_2d_depthwise": _conv((3, 3), 4, 4, groups=4, padding=2, dilation=2),
    "conv_2d_of_one_element": _conv((1, 1), 4, 4),
    "conv_3d": _conv((3, 3, 3), 3, 3, stride=2, bias=False),
    "conv_transpose_1d": _conv_transpose((3,), 3, 3, turned=False),
    "conv_transpose_2d": _conv_transpose((3, 3), 3, 3, turned=False, stride=2),
    "conv_transpose_2d_padded": _conv_transpose((3, 2), 2, 4, turned=False, stride=2, padding=1),
    "conv_transpose_2d_dilated": _conv_transpose((3, 3), 3, 3, turned=False, dilation=2),
    "conv_transpose_2d_turned": _conv_transpose((3, 3), 3, 3, turned=True, bias=False),
    "conv_transpose_2d_turned_padded": _conv_transpose(
        (3, 2), 2, 4, turned=True, stride=3, padding=1
    ),
    "conv_transpose_2d_of_one_element": _conv_transpose((1, 1), 4, 4, turned=False),
    "conv_transpose_3d": _conv_transpose((2, 3, 2), 3, 3, turned=False, stride=2),
    "embedding_square": Layer(
        lambda: nn.Embedding(6, 6),
        (3,),
        lambda rngs: nnx.Embed(6, 6, rngs=rngs),
        lambda: linen.Embed(6, 6),
        whole=6,
    ),
    "layer_norm": Layer(
        lambda: nn.LayerNorm(6),
        (3, 6),
        lambda rngs: nnx.LayerNorm(6, epsilon=1e-5, rngs=rngs),
        lambda: linen.LayerNorm(epsilon=1e-5),
    ),
    "layer_norm_without_bias": Layer(
        lambda: nn.LayerNorm(6, bias=False),
        (3, 6),
        lambda rngs: nnx.LayerNorm(6, epsilon=1e-5, rngs=rngs),
        lambda: linen.LayerNorm(epsilon=1e-5, use_bias=False),
    ),
    "rms_norm": Layer(
        lambda: nn.RMSNorm(6, eps=1e-6),
        (3, 6),
        lambda rngs: nnx.RMSNorm(6, rngs=rngs),
        lambda: linen.RMSNorm(),
    ),
    "group_norm": _norm(
        lambda: nn.GroupNorm(3, 6),
        lambda rngs: nnx.GroupNorm(6, num_groups=3, epsilon=1e-5, rngs=rngs),
        lambda: linen.GroupNorm(num_groups=3, epsilon=1e-5),
    ),
    "batch_norm": _batch_norm(True),
    "batch_norm_without_scale": _batch_norm(False),
    "attention": _attention(True, 6, 2),
    "attention_of_alike_sizes": _attention(True, 4, 2),
    "attention_without_bias": _attention(False, 9, 3),
    "cross_attention": _cross_attention(),
    "lstm": _recurrent(nn.LSTM, nnx.LSTMCell, linen.LSTMCell, True, 3, 4),
    "lstm_square": _recurrent(nn.LSTM, nnx.LSTMCell, linen.LSTMCell, True, 4, 4),
    "lstm_without_bias": _recurrent(nn.LSTM, nnx.LSTMCell, linen.LSTMCell, False, 4, 4),
    "lstm_of_four": _recurrent(nn.LSTM, nnx.LSTMCell, linen.LSTMCell, True, 1, 1),
    "lstm_optimized": _recurrent(
        nn.LSTM, nnx.OptimizedLSTMCell, linen.OptimizedLSTMCell, True, 4, 4
    ),
    "gru": _recurrent(nn.GRU, None, linen.GRUCell, True, 4, 4),
    "gru_without_bias": _recurrent(nn.GRU, nnx.GRUCell, linen.GRUCell, False, 4, 4),
    "rnn": _recurrent(nn.RNN, nnx.SimpleCell, linen.SimpleCell, True, 4, 4),
    "lstm_cell": _cell(nn.LSTMCell, nnx.LSTMCell, linen.LSTMCell, 4),
    "gru_cell": _cell(nn.GRUCell, None, linen.GRUCell, 4),
}


def torch_model(name: str) -> nn.Module:
    """The model of a layer, with no number that an initial value has."""
    torch.manual_seed(zlib.crc32(name.encode()))
    model = TorchModel(LAYERS[name].torch())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        for key, buffer in model.named_buffers():
            if key.endswith(("running_mean", "running_var")):
                buffer += torch.rand_like(buffer)
    return model.eval()


def linen_model(name: str) -> linen.Module:
    """The model of a layer."""
    layer = LAYERS[name]
    assert layer.linen is not None
    return LinenModel(layer.linen, layer.flax_call)


def __getattr__(name: str) -> Any:
    kind, _, layer = name.partition("_")
    if layer not in LAYERS or kind not in ("nnx", "linen"):
        raise AttributeError(name)
    if kind == "linen":
        return lambda: linen_model(layer).init(
            jax.random.key(1), jnp.asarray(LAYERS[layer].input(layer))
        )
    make: Any = LAYERS[layer].nnx
    return lambda rngs: NnxModel(make(rngs))
