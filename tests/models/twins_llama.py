"""Llama as Hugging Face writes it, and as an Equinox user would."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import torch
from torch import nn

from s2p_tui.alignment.transform import Concat, Expr, Permute, Reshape, Take
from tests.models.twin import Twin, tokens, twin
from tests.models.twins_rules import Leaves, part, renamed

_VOCABULARY, _LENGTH, _LAYERS = 11, 5, 2
_Q_HEADS, _KV_HEADS, _HEAD, _MLP = 4, 2, 4, 12
_LLAMA_WIDTH = _Q_HEADS * _HEAD


def _angles(length: int) -> torch.Tensor:
    frequencies = 10000.0 ** (-torch.arange(0, _HEAD, 2) / _HEAD)
    return torch.arange(length)[:, None] * frequencies


class TorchLlamaBlock(nn.Module):
    def __init__(self, *, fused: bool, interleaved: bool) -> None:
        super().__init__()
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": nn.Linear(_LLAMA_WIDTH, _Q_HEADS * _HEAD, bias=False),
                "k_proj": nn.Linear(_LLAMA_WIDTH, _KV_HEADS * _HEAD, bias=False),
                "v_proj": nn.Linear(_LLAMA_WIDTH, _KV_HEADS * _HEAD, bias=False),
                "o_proj": nn.Linear(_Q_HEADS * _HEAD, _LLAMA_WIDTH, bias=False),
            }
        )
        self.self_attn.register_buffer("inv_freq", _angles(2)[1])
        names = {"gate_up_proj": 2 * _MLP} if fused else {"gate_proj": _MLP, "up_proj": _MLP}
        self.mlp = nn.ModuleDict(
            {name: nn.Linear(_LLAMA_WIDTH, size, bias=False) for name, size in names.items()}
        )
        self.mlp["down_proj"] = nn.Linear(_MLP, _LLAMA_WIDTH, bias=False)
        self.input_layernorm = nn.RMSNorm(_LLAMA_WIDTH, eps=1e-5)
        self.post_attention_layernorm = nn.RMSNorm(_LLAMA_WIDTH, eps=1e-5)
        self.interleaved = interleaved

    def rotated(self, x: torch.Tensor) -> torch.Tensor:
        cos, sin = (f(_angles(x.shape[-2])) for f in (torch.cos, torch.sin))
        if self.interleaved:
            a, b = x[..., ::2], x[..., 1::2]
            return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.input_layernorm(x)
        query, key, value = (
            self.self_attn[f"{n}_proj"](normed).unflatten(-1, (-1, _HEAD)).transpose(1, 2)
            for n in "qkv"
        )
        key, value = (t.repeat_interleave(_Q_HEADS // _KV_HEADS, 1) for t in (key, value))
        mixed = nn.functional.scaled_dot_product_attention(
            self.rotated(query), self.rotated(key), value, is_causal=True
        )
        x = x + self.self_attn["o_proj"](mixed.transpose(1, 2).flatten(2))
        normed = self.post_attention_layernorm(x)
        if "gate_up_proj" in self.mlp:
            gate, up = self.mlp["gate_up_proj"](normed).chunk(2, -1)
        else:
            gate, up = self.mlp["gate_proj"](normed), self.mlp["up_proj"](normed)
        return x + self.mlp["down_proj"](nn.functional.silu(gate) * up)


class TorchLlama(nn.Module):
    def __init__(self, *, fused: bool, interleaved: bool) -> None:
        super().__init__()
        blocks = [TorchLlamaBlock(fused=fused, interleaved=interleaved) for _ in range(_LAYERS)]
        self.model = nn.ModuleDict(
            {
                "embed_tokens": nn.Embedding(_VOCABULARY, _LLAMA_WIDTH),
                "layers": nn.ModuleList(blocks),
                "norm": nn.RMSNorm(_LLAMA_WIDTH, eps=1e-5),
            }
        )
        self.lm_head = nn.Linear(_LLAMA_WIDTH, _VOCABULARY, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.model["embed_tokens"](ids)
        for block in self.model["layers"]:
            x = block(x)
        return self.lm_head(self.model["norm"](x))


def _plain(rows: int, columns: int, key: jax.Array) -> eqx.nn.Linear:
    return eqx.nn.Linear(rows, columns, use_bias=False, key=key)


def _rms() -> eqx.nn.RMSNorm:
    return eqx.nn.RMSNorm(_LLAMA_WIDTH, use_bias=False)


class LlamaBlock(eqx.Module):
    """Grouped-query attention and a gated perceptron, `gate` and `up` fused or apart."""

    attention_norm: eqx.nn.RMSNorm
    wq: eqx.nn.Linear
    wk: eqx.nn.Linear
    wv: eqx.nn.Linear
    wo: eqx.nn.Linear
    mlp_norm: eqx.nn.RMSNorm
    gate_up: list[eqx.nn.Linear]
    down: eqx.nn.Linear

    def __init__(self, parts: int, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 7)
        self.attention_norm, self.mlp_norm = _rms(), _rms()
        self.wq = _plain(_LLAMA_WIDTH, _Q_HEADS * _HEAD, keys[0])
        self.wk, self.wv = (_plain(_LLAMA_WIDTH, _KV_HEADS * _HEAD, k) for k in keys[1:3])
        self.wo = _plain(_Q_HEADS * _HEAD, _LLAMA_WIDTH, keys[3])
        self.gate_up = [_plain(_LLAMA_WIDTH, 2 * _MLP // parts, k) for k in keys[4 : 4 + parts]]
        self.down = _plain(_MLP, _LLAMA_WIDTH, keys[6])

    def __call__(self, x: jax.Array) -> jax.Array:
        normed = jax.vmap(self.attention_norm)(x)
        query, key, value = (
            (normed @ layer.weight.T).reshape(len(x), -1, _HEAD)
            for layer in (self.wq, self.wk, self.wv)
        )
        mixed = jax.nn.dot_product_attention(_rope(query), _rope(key), value, is_causal=True)
        x = x + jax.vmap(self.wo)(mixed.reshape(x.shape))
        normed = jax.vmap(self.mlp_norm)(x)
        both = jnp.concatenate([jax.vmap(layer)(normed) for layer in self.gate_up], -1)
        gate, up = jnp.split(both, 2, -1)
        return x + jax.vmap(self.down)(jax.nn.silu(gate) * up)


def _rope(x: jax.Array) -> jax.Array:
    return jax.vmap(_rotary, 1, 1)(x)


def _rotary(x: jax.Array) -> jax.Array:
    angles = jnp.asarray(_angles(len(x)).numpy())
    first, second = jnp.split(x, 2, -1)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], -1)


class Llama(eqx.Module):
    """A decoder without biases."""

    embedding: eqx.nn.Embedding
    layers: list[LlamaBlock]
    output: eqx.nn.Linear
    norm: eqx.nn.RMSNorm

    def __init__(self, parts: int, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 2 + _LAYERS)
        self.embedding = eqx.nn.Embedding(_VOCABULARY, _LLAMA_WIDTH, key=keys[0])
        self.layers = [LlamaBlock(parts, key=k) for k in keys[2:]]
        self.output = _plain(_LLAMA_WIDTH, _VOCABULARY, keys[1])
        self.norm = _rms()

    def __call__(self, ids: jax.Array) -> jax.Array:
        x = jax.vmap(self.embedding)(ids)
        for layer in self.layers:
            x = layer(x)
        return jax.vmap(self.norm)(x) @ self.output.weight.T


def _halves(key: str, heads: int) -> Expr:
    """A projection whose heads rotate neighbours, for one that rotates halves."""
    apart = Reshape(Take(key), (heads, _HEAD // 2, 2, _LLAMA_WIDTH))
    return Reshape(Permute(apart, (0, 2, 1, 3)), (heads * _HEAD, _LLAMA_WIDTH))


def _llama(
    name: str,
    *,
    parts: int = 2,
    fused: bool = False,
    interleaved: bool = False,
    **more: Any,
) -> Twin:
    truth: Leaves = {}
    pairs = {".embedding": "model.embed_tokens", ".norm": "model.norm", ".output": "lm_head"}
    for n in range(_LAYERS):
        leaf, key = f".layers[{n}]", f"model.layers.{n}"
        pairs |= {f"{leaf}.w{i}": f"{key}.self_attn.{i}_proj" for i in "qkvo"}
        pairs[f"{leaf}.attention_norm"] = f"{key}.input_layernorm"
        pairs[f"{leaf}.mlp_norm"] = f"{key}.post_attention_layernorm"
        pairs[f"{leaf}.down"] = f"{key}.mlp.down_proj"
        halves = tuple(Take(f"{key}.mlp.{i}_proj.weight") for i in ("gate", "up"))
        whole = Take(f"{key}.mlp.gate_up_proj.weight")
        for i in range(parts):
            ours = f"{leaf}.gate_up[{i}].weight"
            if fused:
                truth[ours] = part(whole, i, _MLP) if parts == 2 else whole
            else:
                truth[ours] = halves[i] if parts == 2 else Concat(halves, 0)
    truth = renamed(pairs, "weight") | truth
    for n in range(_LAYERS if interleaved else 0):
        for i, heads in (("q", _Q_HEADS), ("k", _KV_HEADS)):
            key = f"model.layers.{n}.self_attn.{i}_proj.weight"
            truth[f".layers[{n}].w{i}.weight"] = _halves(key, heads)
    return twin(
        name,
        lambda: TorchLlama(fused=fused, interleaved=interleaved),
        lambda key: Llama(parts, key=key),
        tokens(_VOCABULARY, 2, _LENGTH),
        truth,
        unused=tuple(f"model.layers.{n}.self_attn.inv_freq" for n in range(_LAYERS)),
        **more,
    )


LLAMAS = (
    _llama("llama"),
    _llama("llama_fused_in_torch", fused=True),
    _llama("llama_fused_in_equinox", parts=1),
    _llama("llama_fused", parts=1, fused=True),
    _llama(
        "llama_interleaved",
        interleaved=True,
        blind="Meta's checkpoints rotate neighbours, Hugging Face's halves: equal names and shapes",
    ),
)
