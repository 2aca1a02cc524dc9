"""Residual networks in three orders and spellings, and a U-Net."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import torch
from torch import nn

from s2p_tui.alignment.transform import Take
from tests.models.twin import Twin, twin
from tests.models.twins_rules import (
    Leaves,
    conv_transpose,
    counters,
    norm_batch,
    norm_ema,
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


class SameBlock(eqx.Module):
    """Torch's names too."""

    conv1: eqx.nn.Conv2d
    bn1: eqx.nn.BatchNorm
    conv2: eqx.nn.Conv2d
    bn2: eqx.nn.BatchNorm
    downsample: list[Any] | None

    def __init__(self, rows: int, columns: int, stride: int, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        self.conv1, self.bn1 = _conv3(rows, columns, stride, keys[0]), _norm(columns)
        self.conv2, self.bn2 = _conv3(columns, columns, 1, keys[1]), _norm(columns)
        self.downsample = None
        if rows != columns:
            self.downsample = [_conv1(rows, columns, stride, keys[2]), _norm(columns)]

    def __call__(self, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        out, state = self.bn1(self.conv1(x), state)
        out, state = self.bn2(self.conv2(jax.nn.relu(out)), state)
        if self.downsample is not None:
            x, state = self.downsample[1](self.downsample[0](x), state)
        return jax.nn.relu(out + x), state


class SameResNet(eqx.Module):
    """Torch's names and order throughout."""

    conv1: eqx.nn.Conv2d
    bn1: eqx.nn.BatchNorm
    layer1: list[SameBlock]
    layer2: list[SameBlock]
    fc: eqx.nn.Linear

    def __init__(self, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 4)
        first, second = _WIDTHS[:2]
        self.conv1, self.bn1 = _conv3(3, first, 1, keys[0]), _norm(first)
        self.layer1 = [SameBlock(first, first, 1, keys[1])]
        self.layer2 = [SameBlock(first, second, 2, keys[2])]
        self.fc = eqx.nn.Linear(second, _CLASSES, key=keys[3])

    def __call__(self, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        x, state = self.bn1(self.conv1(x), state)
        x = jax.nn.relu(x)
        for block in (*self.layer1, *self.layer2):
            x, state = block(x, state)
        return self.fc(x.mean((1, 2))), state


_SAME_CONVS = {
    ".conv1": "conv1",
    **{f".layer{s}[0].conv{n}": f"layer{s}.0.conv{n}" for s in (1, 2) for n in (1, 2)},
    ".layer2[0].downsample[0]": "layer2.0.downsample.0",
}
_SAME_NORMS = {
    ".bn1": "bn1",
    **{f".layer{s}[0].bn{n}": f"layer{s}.0.bn{n}" for s in (1, 2) for n in (1, 2)},
    ".layer2[0].downsample[1]": "layer2.0.downsample.1",
}


def _same_names() -> Twin:
    truth = same("[0].fc", "fc")
    truth |= {f"[0]{leaf}.weight": Take(f"{key}.weight") for leaf, key in _SAME_CONVS.items()}
    for leaf, key in _SAME_NORMS.items():
        truth |= norm_batch(leaf, key)
    return twin(
        "resnet_same_names",
        lambda: TorchResNet((1, 1)),
        lambda key: SameResNet(key=key),
        (3, 3, 8, 8),
        truth,
        unused=counters(*_SAME_NORMS.values()),
        steps=3,
        state=True,
    )


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

VISION = (
    _resnet("resnet", ResNet, Block, (2, 2, 2, 2), "batch"),
    _same_names(),
    _resnet("resnet_ema", ResNet, Block, (1, 2), "ema"),
    _resnet("resnet_other_order", OtherResNet, OtherBlock, (2, 2), "batch"),
    twin("u_net", TorchUNet, lambda key: UNet(key=key), (2, 2, 6, 6), _UNET),
)
