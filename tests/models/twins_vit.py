"""Vision transformers: projections fused in torch, apart or fused in Equinox."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import torch
from torch import nn

from s2p_tui.alignment.transform import Take
from tests.models.twin import Twin, twin
from tests.models.twins_rules import Leaves, part, renamed, same

_CLASSES = 6
_WIDTH, _HEADS, _PATCHES = 8, 2, 4


class TorchViTBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(_WIDTH)
        self.attn = nn.ModuleDict(
            {"qkv": nn.Linear(_WIDTH, 3 * _WIDTH), "proj": nn.Linear(_WIDTH, _WIDTH)}
        )
        self.norm2 = nn.LayerNorm(_WIDTH)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(_WIDTH, 12), "fc2": nn.Linear(12, _WIDTH)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.attn["qkv"](self.norm1(x)).unflatten(-1, (3, _HEADS, -1))
        mixed = nn.functional.scaled_dot_product_attention(*heads.permute(2, 0, 3, 1, 4))
        x = x + self.attn["proj"](mixed.transpose(1, 2).flatten(2))
        return x + self.mlp["fc2"](nn.functional.gelu(self.mlp["fc1"](self.norm2(x))))


class TorchViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, _WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, _PATCHES + 1, _WIDTH))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, _WIDTH, 4, 4)})
        self.blocks = nn.ModuleList([TorchViTBlock(), TorchViTBlock()])
        self.norm = nn.LayerNorm(_WIDTH)
        self.head = nn.Linear(_WIDTH, _CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class ViTBlock(eqx.Module):
    """Pre-norm; projections apart (`qkv` of three layers) or fused (of one)."""

    norms: list[eqx.nn.LayerNorm]
    qkv: list[eqx.nn.Linear]
    out: eqx.nn.Linear
    mlp: eqx.nn.MLP

    def __init__(self, parts: int, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 2 + parts)
        self.norms = [eqx.nn.LayerNorm(_WIDTH) for _ in range(2)]
        size = 3 * _WIDTH // parts
        self.qkv = [eqx.nn.Linear(_WIDTH, size, key=k) for k in keys[2:]]
        self.out = eqx.nn.Linear(_WIDTH, _WIDTH, key=keys[0])
        gelu = lambda x: jax.nn.gelu(x, approximate=False)  # noqa: E731
        self.mlp = eqx.nn.MLP(_WIDTH, _WIDTH, 12, 1, gelu, key=keys[1])

    def __call__(self, x: jax.Array) -> jax.Array:
        normed = jax.vmap(self.norms[0])(x)
        projected = jnp.concatenate([jax.vmap(layer)(normed) for layer in self.qkv], -1)
        query, key, value = jnp.moveaxis(projected.reshape(len(x), 3, _HEADS, -1), 1, 0)
        mixed = jax.nn.dot_product_attention(query, key, value).reshape(x.shape)
        x = x + jax.vmap(self.out)(mixed)
        return x + jax.vmap(self.mlp)(jax.vmap(self.norms[1])(x))


class ViT(eqx.Module):
    """A vision transformer."""

    patches: eqx.nn.Conv2d
    positions: jax.Array
    cls: jax.Array
    blocks: list[ViTBlock]
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, parts: int, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 5)
        self.patches = eqx.nn.Conv2d(3, _WIDTH, 4, 4, key=keys[0])
        self.positions = jax.random.normal(keys[1], (_PATCHES + 1, _WIDTH))
        self.cls = jnp.zeros(_WIDTH)
        self.blocks = [ViTBlock(parts, key=k) for k in keys[2:4]]
        self.norm = eqx.nn.LayerNorm(_WIDTH)
        self.head = eqx.nn.Linear(_WIDTH, _CLASSES, key=keys[4])

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.patches(x).reshape(_WIDTH, -1).T
        x = jnp.concatenate([self.cls[None], x]) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[0]))


def _vit(name: str, parts: int) -> Twin:
    truth: Leaves = {".positions": Take("pos_embed"), ".cls": Take("cls_token")}
    truth |= renamed({".patches": "patch_embed.proj", ".norm": "norm", ".head": "head"})
    for n in range(2):
        leaf, key = f".blocks[{n}]", f"blocks.{n}"
        truth |= renamed({f"{leaf}.norms[{i}]": f"{key}.norm{i + 1}" for i in range(2)})
        truth |= renamed({f"{leaf}.mlp.layers[{i}]": f"{key}.mlp.fc{i + 1}" for i in range(2)})
        truth |= same(f"{leaf}.out", f"{key}.attn.proj")
        for i in range(parts):
            for name_ in ("weight", "bias"):
                fused = f"{key}.attn.qkv.{name_}"
                one = Take(fused) if parts == 1 else part(fused, i, _WIDTH)
                truth[f"{leaf}.qkv[{i}].{name_}"] = one
    return twin(name, TorchViT, lambda key: ViT(parts, key=key), (2, 3, 8, 8), truth)


VIT = (_vit("vit", 3), _vit("vit_fused", 1))
