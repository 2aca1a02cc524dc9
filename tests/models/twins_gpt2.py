"""GPT-2 as Hugging Face writes it, and as an Equinox user would."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import torch
from torch import nn

from s2p_tui.alignment.transform import Expr, Take
from tests.models.twin import Twin, tokens, twin
from tests.models.twins_rules import Leaves, part, renamed, same, transposed, weight

_WIDTH, _HEADS, _VOCABULARY, _LENGTH, _LAYERS = 8, 2, 11, 5, 2


class Conv1D(nn.Module):
    """OpenAI's linear layer: the weight is (in, out)."""

    def __init__(self, columns: int, rows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(rows, columns))
        self.bias = nn.Parameter(torch.zeros(columns))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


class TorchGPT2Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(_WIDTH)
        self.attn = nn.Module()
        self.attn.register_buffer("bias", torch.ones(1, 1, 6, 6, dtype=torch.bool).tril())
        self.attn.register_buffer("masked_bias", torch.tensor(-1e4))
        self.attn.c_attn = Conv1D(3 * _WIDTH, _WIDTH)
        self.attn.c_proj = Conv1D(_WIDTH, _WIDTH)
        self.ln_2 = nn.LayerNorm(_WIDTH)
        self.mlp = nn.ModuleDict(
            {"c_fc": Conv1D(4 * _WIDTH, _WIDTH), "c_proj": Conv1D(_WIDTH, 4 * _WIDTH)}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.attn.c_attn(self.ln_1(x)).unflatten(-1, (3, _HEADS, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attn.c_proj(mixed.transpose(1, 2).flatten(2))
        hidden = nn.functional.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh")
        return x + self.mlp["c_proj"](hidden)


class TorchGPT2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(_VOCABULARY, _WIDTH),
                "wpe": nn.Embedding(6, _WIDTH),
                "h": nn.ModuleList([TorchGPT2Block() for _ in range(_LAYERS)]),
                "ln_f": nn.LayerNorm(_WIDTH),
            }
        )
        self.lm_head = nn.Linear(_WIDTH, _VOCABULARY, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        parts = self.transformer
        x = parts["wte"](ids) + parts["wpe"].weight[: ids.shape[1]]
        for block in parts["h"]:
            x = block(x)
        return self.lm_head(parts["ln_f"](x))


class GPT2Block(eqx.Module):
    """Pre-norm; projections apart (`qkv` of three layers) or fused (of one)."""

    norm: eqx.nn.LayerNorm
    qkv: list[eqx.nn.Linear]
    out: eqx.nn.Linear
    mlp_norm: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, parts: int, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 3 + parts)
        self.norm, self.mlp_norm = eqx.nn.LayerNorm(_WIDTH), eqx.nn.LayerNorm(_WIDTH)
        self.qkv = [eqx.nn.Linear(_WIDTH, 3 * _WIDTH // parts, key=k) for k in keys[3:]]
        self.out = eqx.nn.Linear(_WIDTH, _WIDTH, key=keys[0])
        self.up = eqx.nn.Linear(_WIDTH, 4 * _WIDTH, key=keys[1])
        self.down = eqx.nn.Linear(4 * _WIDTH, _WIDTH, key=keys[2])

    def __call__(self, x: jax.Array) -> jax.Array:
        normed = jax.vmap(self.norm)(x)
        projected = jnp.concatenate([jax.vmap(layer)(normed) for layer in self.qkv], -1)
        query, key, value = jnp.moveaxis(projected.reshape(len(x), 3, _HEADS, -1), 1, 0)
        mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        x = x + jax.vmap(self.out)(mixed.reshape(x.shape))
        hidden = jax.nn.gelu(jax.vmap(self.up)(jax.vmap(self.mlp_norm)(x)))
        return x + jax.vmap(self.down)(hidden)


class GPT2(eqx.Module):
    """The embedding is the head too, unless `untied`."""

    tokens: eqx.nn.Embedding
    positions: jax.Array
    blocks: tuple[GPT2Block, ...]
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear | None

    def __init__(self, parts: int, *, untied: bool, key: jax.Array) -> None:
        keys = jax.random.split(key, 3 + _LAYERS)
        self.tokens = eqx.nn.Embedding(_VOCABULARY, _WIDTH, key=keys[0])
        self.positions = jax.random.normal(keys[1], (6, _WIDTH))
        self.blocks = tuple(GPT2Block(parts, key=k) for k in keys[3:])
        self.norm = eqx.nn.LayerNorm(_WIDTH)
        self.head = None
        if untied:
            self.head = eqx.nn.Linear(_WIDTH, _VOCABULARY, use_bias=False, key=keys[2])

    def __call__(self, ids: jax.Array) -> jax.Array:
        x = jax.vmap(self.tokens)(ids) + self.positions[: len(ids)]
        for block in self.blocks:
            x = block(x)
        head = self.tokens if self.head is None else self.head
        return jax.vmap(self.norm)(x) @ head.weight.T


def _gpt2(name: str, parts: int, *, untied: bool) -> Twin:
    truth: Leaves = weight(".tokens", "transformer.wte")
    truth[".positions"] = Take("transformer.wpe.weight")
    truth |= same(".norm", "transformer.ln_f")
    truth |= weight(".head", "lm_head") if untied else {}
    unused = [] if untied else ["lm_head.weight"]
    for n in range(_LAYERS):
        leaf, key = f".blocks[{n}]", f"transformer.h.{n}"
        truth |= renamed({f"{leaf}.norm": f"{key}.ln_1", f"{leaf}.mlp_norm": f"{key}.ln_2"})
        pairs = {"out": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"}
        for ours, theirs in pairs.items():
            truth[f"{leaf}.{ours}.weight"] = transposed(f"{key}.{theirs}.weight")
            truth[f"{leaf}.{ours}.bias"] = Take(f"{key}.{theirs}.bias")
        for i in range(parts):
            size = 3 * _WIDTH // parts
            fused: Expr = transposed(f"{key}.attn.c_attn.weight")
            bias: Expr = Take(f"{key}.attn.c_attn.bias")
            truth[f"{leaf}.qkv[{i}].weight"] = fused if parts == 1 else part(fused, i, size)
            truth[f"{leaf}.qkv[{i}].bias"] = bias if parts == 1 else part(bias, i, size)
        unused += [f"{key}.attn.bias", f"{key}.attn.masked_bias"]
    return twin(
        name,
        TorchGPT2,
        lambda key: GPT2(parts, untied=untied, key=key),
        tokens(_VOCABULARY, 2, _LENGTH),
        truth,
        unused=tuple(unused),
    )


GPT2S = (
    _gpt2("gpt2", 1, untied=False),
    _gpt2("gpt2_apart", 3, untied=False),
    _gpt2("gpt2_untied", 1, untied=True),
)
