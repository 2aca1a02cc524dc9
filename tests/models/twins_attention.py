"""MultiheadAttention with and without biases and sizes of its own, and encoders built of it."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import torch
from torch import nn

from s2p_tui.alignment.transform import Constant, Take
from tests.models.twin import Twin, normal, twin
from tests.models.twins_rules import Leaves, attention, gaps, part, renamed, same, weight

_WIDTH, _HEADS, _LENGTH, _LAYERS = 8, 2, 5, 2
_PROJECTIONS = ("query_proj", "key_proj", "value_proj")
_BIASES = {f"use_{name}_bias": True for name in ("query", "key", "value", "output")}


def _attend(module: Any, *inputs: torch.Tensor) -> torch.Tensor:
    return module(*inputs, need_weights=False)[0]


def _mha(
    name: str,
    truth: Leaves,
    unused: tuple[str, ...] = (),
    *,
    torch_bias: bool = True,
    eqx_bias: bool = True,
    sizes: tuple[int, int] = (_WIDTH, _WIDTH),
    shake: float = 0.2,
) -> Twin:
    own = {} if sizes == (_WIDTH, _WIDTH) else {"kdim": sizes[0], "vdim": sizes[1]}
    biases = _BIASES if eqx_bias else {}
    return twin(
        name,
        lambda: nn.MultiheadAttention(_WIDTH, _HEADS, bias=torch_bias, batch_first=True, **own),
        lambda key: eqx.nn.MultiheadAttention(
            _HEADS, _WIDTH, key_size=sizes[0], value_size=sizes[1], key=key, **biases
        ),
        (
            normal(1, 2, _LENGTH, _WIDTH),
            normal(2, 2, _LENGTH + 1, sizes[0]),
            normal(3, 2, _LENGTH + 1, sizes[1]),
        ),
        truth,
        unused=unused,
        shake=shake,
        torch_call=_attend,
    )


def _no_dropout(leaf: str) -> Leaves:
    return gaps(f"{leaf}.dropout.p", f"{leaf}.dropout.inference")


def _own_sizes(*, biases: bool) -> Leaves:
    names = ("weight", "bias") if biases else ("weight",)
    found = {**_no_dropout(""), **same(".output_proj", "out_proj", *names)}
    for number, name in enumerate(_PROJECTIONS):
        found[f".{name}.weight"] = Take(f"{name[0]}_proj_weight")
        if biases:
            found[f".{name}.bias"] = part("in_proj_bias", number, _WIDTH)
    return found


def _zero_biases() -> Leaves:
    names = (*_PROJECTIONS, "output_proj")
    return {f".{name}.bias": Constant(0.0, (_WIDTH,)) for name in names}


_MHA = (
    _mha("attention", attention("", "", _WIDTH)),
    _mha(
        "attention_no_bias", attention("", "", _WIDTH, biases=False),
        torch_bias=False, eqx_bias=False,
    ),
    _mha(
        "attention_biases_lost", attention("", "", _WIDTH, biases=False),
        ("in_proj_bias", "out_proj.bias"), eqx_bias=False, shake=0.0,
    ),
    _mha(
        "attention_biases_of_zeros",
        {**attention("", "", _WIDTH, biases=False), **_zero_biases()}, torch_bias=False,
    ),
    _mha("attention_own_sizes", _own_sizes(biases=True), sizes=(6, 4)),
    _mha(
        "attention_own_sizes_no_bias", _own_sizes(biases=False),
        sizes=(6, 4), torch_bias=False, eqx_bias=False,
    ),
)  # fmt: skip


class TorchSeparate(nn.Module):
    """Attention with a linear layer for each projection, as Hugging Face writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.dense = (nn.Linear(_WIDTH, _WIDTH) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = [
            layer(x).unflatten(-1, (_HEADS, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        ]
        mixed = nn.functional.scaled_dot_product_attention(*heads)
        return self.dense(mixed.transpose(1, 2).flatten(2))


class Block(eqx.Module):
    """A post-norm encoder block."""

    attention: eqx.nn.MultiheadAttention
    first_norm: eqx.nn.LayerNorm
    second_norm: eqx.nn.LayerNorm
    mlp: eqx.nn.MLP

    def __init__(self, *, key: jax.Array) -> None:
        first, second = jax.random.split(key)
        self.attention = eqx.nn.MultiheadAttention(
            _HEADS, _WIDTH, dropout_p=0.1, key=first, **_BIASES
        )
        self.first_norm = eqx.nn.LayerNorm(_WIDTH)
        self.second_norm = eqx.nn.LayerNorm(_WIDTH)
        self.mlp = eqx.nn.MLP(_WIDTH, _WIDTH, 12, 1, key=second)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.vmap(self.first_norm)(x + self.attention(x, x, x))
        return jax.vmap(self.second_norm)(x + jax.vmap(self.mlp)(x))


class Encoder(eqx.Module):
    """Blocks and a last norm."""

    norm: eqx.nn.LayerNorm
    blocks: list[Block]

    def __init__(self, *, key: jax.Array) -> None:
        self.norm = eqx.nn.LayerNorm(_WIDTH)
        self.blocks = [Block(key=k) for k in jax.random.split(key, _LAYERS)]

    def __call__(self, x: jax.Array) -> jax.Array:
        for block in self.blocks:
            x = block(x)
        return jax.vmap(self.norm)(x)


class Decoder(eqx.Module):
    """One block that attends to a memory too."""

    self_attention: eqx.nn.MultiheadAttention
    cross_attention: eqx.nn.MultiheadAttention
    norms: tuple[eqx.nn.LayerNorm, ...]
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 4)
        self.self_attention, self.cross_attention = (
            eqx.nn.MultiheadAttention(_HEADS, _WIDTH, key=k, **_BIASES) for k in keys[:2]
        )
        self.norms = tuple(eqx.nn.LayerNorm(_WIDTH) for _ in range(3))
        self.up = eqx.nn.Linear(_WIDTH, 12, key=keys[2])
        self.down = eqx.nn.Linear(12, _WIDTH, key=keys[3])

    def __call__(self, x: jax.Array, memory: jax.Array) -> jax.Array:
        first, second, third = map(jax.vmap, self.norms)
        x = first(x + self.self_attention(x, x, x))
        x = second(x + self.cross_attention(x, memory, memory))
        return third(x + jax.vmap(self.down)(jax.nn.relu(jax.vmap(self.up)(x))))


def _torch_encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(_WIDTH, _HEADS, 12, batch_first=True)
    norm = nn.LayerNorm(_WIDTH)
    return nn.TransformerEncoder(layer, _LAYERS, norm, enable_nested_tensor=False)


def _encoder_truth() -> Leaves:
    found = same(".norm", "norm")
    for number in range(_LAYERS):
        leaf, key = f".blocks[{number}]", f"layers.{number}"
        found |= attention(f"{leaf}.attention", f"{key}.self_attn", _WIDTH)
        found |= renamed(
            {
                f"{leaf}.first_norm": f"{key}.norm1",
                f"{leaf}.second_norm": f"{key}.norm2",
                f"{leaf}.mlp.layers[0]": f"{key}.linear1",
                f"{leaf}.mlp.layers[1]": f"{key}.linear2",
            }
        )
    return found


_ENCODERS = (
    twin(
        "attention_separate",
        TorchSeparate,
        lambda key: eqx.nn.MultiheadAttention(_HEADS, _WIDTH, key=key, **_BIASES),
        (2, _LENGTH, _WIDTH),
        {
            **renamed({f".{name}": name.removesuffix("_proj") for name in _PROJECTIONS}),
            **same(".output_proj", "dense"),
            **_no_dropout(""),
        },
        eqx_call=lambda model, x: model(x, x, x),
    ),
    twin(
        "encoder",
        _torch_encoder,
        lambda key: Encoder(key=key),
        (2, _LENGTH, _WIDTH),
        _encoder_truth(),
    ),
    twin(
        "decoder_layer",
        lambda: nn.TransformerDecoderLayer(_WIDTH, _HEADS, 12, batch_first=True),
        lambda key: Decoder(key=key),
        (normal(4, 2, _LENGTH, _WIDTH), normal(5, 2, _LENGTH + 1, _WIDTH)),
        {
            **attention(".self_attention", "self_attn", _WIDTH),
            **attention(".cross_attention", "multihead_attn", _WIDTH),
            **renamed({f".norms[{n}]": f"norm{n + 1}" for n in range(3)}),
            **same(".up", "linear1"),
            **same(".down", "linear2"),
        },
    ),
    twin(
        "sequential_with_dropout",
        lambda: nn.Sequential(nn.Linear(_WIDTH, _WIDTH, bias=False), nn.RMSNorm(_WIDTH, eps=1e-5)),
        lambda key: eqx.nn.Sequential(
            [
                eqx.nn.Linear(_WIDTH, _WIDTH, use_bias=False, key=key),
                eqx.nn.Dropout(0.3),
                eqx.nn.RMSNorm(_WIDTH),
            ]
        ),
        (2, _WIDTH),
        {
            **weight(".layers[0]", "0"),
            **gaps(".layers[1].p", ".layers[1].inference", ".layers[2].bias"),
            **weight(".layers[2]", "1"),
        },
    ),
)

ATTENTION = (*_MHA, *_ENCODERS)
