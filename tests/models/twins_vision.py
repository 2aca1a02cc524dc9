"""Residual networks in three orders and spellings, a U-Net, vision transformers."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import torch
from torch import nn

from s2p_tui.core.transform import Take
from tests.models.twin import Twin, twin
from tests.models.twins_rules import (
    Leaves,
    conv_transpose,
    counters,
    norm_batch,
    norm_ema,
    part,
    renamed,
    same,
)

_WIDTHS = (2, 3, 4, 5)
_CLASSES = 6


def _norm(width: int, mode: str = "batch") -> eqx.nn.BatchNorm:
    return eqx.nn.BatchNorm(width, "batch", momentum=0.9, mode=mode)


def _conv3(rows: int, columns: int, stride: int, key: jax.Array) -> eqx.nn.Conv2d:
    return eqx.nn.Conv2d(rows, columns, 3, stride, 1, use_bias=False, key=key)


def _conv1(rows: int, columns: int, stride: int, key: jax.Array) -> eqx.nn.Conv2d:
    return eqx.nn.Conv2d(rows, columns, 1, stride, use_bias=False, key=key)


class TorchBlock(nn.Module):
    def __init__(self, rows: int, columns: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(rows, columns, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(columns)
        self.conv2 = nn.Conv2d(columns, columns, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(columns)
        self.downsample = None
        if stride != 1 or rows != columns:
            shortcut = nn.Conv2d(rows, columns, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(columns))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + (x if self.downsample is None else self.downsample(x)))


class TorchResNet(nn.Module):
    def __init__(self, depths: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, _WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        rows = _WIDTHS[0]
        for stage, depth in enumerate(depths):
            blocks = []
            for number in range(depth):
                blocks.append(TorchBlock(rows, _WIDTHS[stage], 2 if stage and not number else 1))
                rows = _WIDTHS[stage]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.stages = len(depths)
        self.fc = nn.Linear(rows, _CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.fc(x.mean((2, 3)))


class _Residual(eqx.Module):
    """What residual blocks do, whatever order their fields are declared in."""

    def __call__(self, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        out, state = self.bn1(self.conv1(x), state)
        out, state = self.bn2(self.conv2(jax.nn.relu(out)), state)
        if self.shortcut_conv is not None:
            x, state = self.shortcut_bn(self.shortcut_conv(x), state)
        return jax.nn.relu(out + x), state

    def _fill(self, rows: int, columns: int, stride: int, mode: str, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        plain = stride == 1 and rows == columns
        self.conv1 = _conv3(rows, columns, stride, keys[0])
        self.conv2 = _conv3(columns, columns, 1, keys[1])
        self.bn1, self.bn2 = _norm(columns, mode), _norm(columns, mode)
        self.shortcut_conv = None if plain else _conv1(rows, columns, stride, keys[2])
        self.shortcut_bn = None if plain else _norm(columns, mode)


class Block(_Residual):
    """Fields in torch's order."""

    conv1: eqx.nn.Conv2d
    bn1: eqx.nn.BatchNorm
    conv2: eqx.nn.Conv2d
    bn2: eqx.nn.BatchNorm
    shortcut_conv: eqx.nn.Conv2d | None
    shortcut_bn: eqx.nn.BatchNorm | None

    def __init__(self, *args: Any) -> None:
        self._fill(*args)


class OtherBlock(_Residual):
    """Fields in an order of one's own."""

    shortcut_bn: eqx.nn.BatchNorm | None
    bn2: eqx.nn.BatchNorm
    bn1: eqx.nn.BatchNorm
    shortcut_conv: eqx.nn.Conv2d | None
    conv2: eqx.nn.Conv2d
    conv1: eqx.nn.Conv2d

    def __init__(self, *args: Any) -> None:
        self._fill(*args)


class _Resnet(eqx.Module):
    def __call__(self, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        x, state = self.stem_norm(self.stem(x), state)
        x = jax.nn.relu(x)
        for block in self.blocks:
            x, state = block(x, state)
        return self.head(x.mean((1, 2))), state

    def _fill(self, block: Any, depths: tuple[int, ...], mode: str, key: jax.Array) -> None:
        keys = iter(jax.random.split(key, 2 + sum(depths)))
        self.stem, self.stem_norm = _conv3(3, _WIDTHS[0], 1, next(keys)), _norm(_WIDTHS[0], mode)
        self.blocks = []
        rows = _WIDTHS[0]
        for stage, depth in enumerate(depths):
            for number in range(depth):
                stride = 2 if stage and not number else 1
                self.blocks.append(block(rows, _WIDTHS[stage], stride, mode, next(keys)))
                rows = _WIDTHS[stage]
        self.head = eqx.nn.Linear(rows, _CLASSES, key=next(keys))


class ResNet(_Resnet):
    """Fields in torch's order."""

    stem: eqx.nn.Conv2d
    stem_norm: eqx.nn.BatchNorm
    blocks: list[Any]
    head: eqx.nn.Linear

    def __init__(self, *args: Any) -> None:
        self._fill(*args)


class OtherResNet(_Resnet):
    """The head first."""

    head: eqx.nn.Linear
    blocks: list[Any]
    stem_norm: eqx.nn.BatchNorm
    stem: eqx.nn.Conv2d

    def __init__(self, *args: Any) -> None:
        self._fill(*args)


def _resnet(name: str, model: Any, block: Any, depths: tuple[int, ...], mode: str) -> Twin:
    norm = norm_ema if mode == "ema" else norm_batch
    truth: Leaves = {
        "[0].stem.weight": Take("conv1.weight"),
        **norm(".stem_norm", "bn1"),
        **same("[0].head", "fc"),
    }
    norms = ["bn1"]
    keys = [f"layer{s + 1}.{n}" for s, depth in enumerate(depths) for n in range(depth)]
    for number, key in enumerate(keys):
        leaf = f".blocks[{number}]"
        pairs = {"bn1": "bn1", "bn2": "bn2"}
        convs = {"conv1": "conv1", "conv2": "conv2"}
        if key.endswith(".0") and number:
            pairs["shortcut_bn"], convs["shortcut_conv"] = "downsample.1", "downsample.0"
        for ours, theirs in convs.items():
            truth[f"[0]{leaf}.{ours}.weight"] = Take(f"{key}.{theirs}.weight")
        for ours, theirs in pairs.items():
            truth |= norm(f"{leaf}.{ours}", f"{key}.{theirs}")
            norms.append(f"{key}.{theirs}")
    return twin(
        name,
        lambda: TorchResNet(depths),
        lambda key: model(block, depths, mode, key),
        (3, 3, 8, 8),
        truth,
        unused=counters(*norms),
        steps=3,
        state=True,
    )


class TorchUNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.ModuleList([nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1)])
        self.mid = nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.dec = nn.Conv2d(8, 4, 3, padding=1)
        self.refine = nn.ConvTranspose2d(4, 4, 3, padding=1, groups=2)
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = torch.relu(self.enc[0](x))
        x = torch.relu(self.mid(torch.relu(self.enc[1](skip))))
        x = torch.relu(self.dec(torch.cat([skip, self.up(x)], 1)))
        return self.out(self.refine(x))


class UNet(eqx.Module):
    """Down, up, and across."""

    down: tuple[eqx.nn.Conv2d, ...]
    up: tuple[eqx.nn.Conv2d | eqx.nn.ConvTranspose2d, ...]
    bottom: eqx.nn.Conv2d

    def __init__(self, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 7)
        conv, back = eqx.nn.Conv2d, eqx.nn.ConvTranspose2d
        self.down = (
            conv(2, 4, 3, padding=1, key=keys[0]),
            conv(4, 8, 3, 2, 1, key=keys[1]),
        )
        self.up = (
            back(8, 4, 2, 2, key=keys[2]),
            conv(8, 4, 3, padding=1, key=keys[3]),
            back(4, 4, 3, padding=1, groups=2, key=keys[4]),
            conv(4, 2, 1, key=keys[5]),
        )
        self.bottom = conv(8, 8, 3, padding=1, key=keys[6])

    def __call__(self, x: jax.Array) -> jax.Array:
        skip = jax.nn.relu(self.down[0](x))
        x = jax.nn.relu(self.bottom(jax.nn.relu(self.down[1](skip))))
        x = jax.nn.relu(self.up[1](jnp.concatenate([skip, self.up[0](x)])))
        return self.up[3](self.up[2](x))


_UNET: Leaves = {
    **renamed({".down[0]": "enc.0", ".down[1]": "enc.1", ".bottom": "mid"}),
    **renamed({".up[0]": "up", ".up[1]": "dec", ".up[2]": "refine", ".up[3]": "out"}),
    ".up[0].weight": conv_transpose("up.weight", (8, 4, 2, 2)),
    ".up[2].weight": conv_transpose("refine.weight", (4, 2, 3, 3), 2),
}

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


VISION = (
    _resnet("resnet", ResNet, Block, (2, 2, 2, 2), "batch"),
    _resnet("resnet_ema", ResNet, Block, (1, 2), "ema"),
    _resnet("resnet_other_order", OtherResNet, OtherBlock, (2, 2), "batch"),
    twin("u_net", TorchUNet, lambda key: UNet(key=key), (2, 2, 6, 6), _UNET),
    _vit("vit", 3),
    _vit("vit_fused", 1),
)
