"""Small networks of PyTorch and the same ones of Flax: factories for the command line.

`tests.models.flax_networks:NnxImages` and the like; `linen_images` returns Linen's variables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen, nnx
from torch import nn

_NORM: dict[str, Any] = {"use_running_average": True, "epsilon": 1e-5, "momentum": 0.9}


class Images(nn.Module):
    """Convolutions with batch normalisation, one of them grouped, and a residual one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.first = nn.BatchNorm2d(8)
        self.convs = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1, groups=g) for g in (1, 2)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(8) for _ in range(2)])
        self.hidden = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.first(self.stem(x)))
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = x + torch.relu(norm(conv(x)))
        return self.head(torch.relu(self.hidden(x.mean((2, 3)))))


class NnxImages(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(3, 8, (3, 3), use_bias=False, rngs=rngs)
        self.first = nnx.BatchNorm(8, rngs=rngs, **_NORM)
        self.convs = nnx.List(
            [nnx.Conv(8, 8, (3, 3), feature_group_count=g, rngs=rngs) for g in (1, 2)]
        )
        self.norms = nnx.List([nnx.BatchNorm(8, rngs=rngs, **_NORM) for _ in range(2)])
        self.drop = nnx.Dropout(0.5, deterministic=True, rngs=rngs)
        self.hidden = nnx.Linear(8, 8, rngs=rngs)
        self.head = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = nnx.relu(self.first(self.stem(jnp.moveaxis(x, 1, -1))))
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = x + nnx.relu(norm(conv(x)))
        return self.head(self.drop(nnx.relu(self.hidden(x.mean((1, 2))))))


class LinenImages(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        x = linen.Conv(8, (3, 3), use_bias=False, name="stem")(jnp.moveaxis(x, 1, -1))
        x = linen.relu(linen.BatchNorm(name="first", **_NORM)(x))
        for n, groups in enumerate((1, 2)):
            y = linen.Conv(8, (3, 3), feature_group_count=groups, name=f"convs_{n}")(x)
            x = x + linen.relu(linen.BatchNorm(name=f"norms_{n}", **_NORM)(y))
        x = linen.relu(linen.Dense(8, name="hidden")(x.mean((1, 2))))
        return linen.Dense(5, name="head")(x)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, 2, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Any) -> Any:
        y = self.norm1(x)
        x = x + self.attn(y, y, y)[0]
        return x + self.fc2(torch.relu(self.fc1(self.norm2(x))))


class Tokens(nn.Module):
    """A transformer all of whose matrices are square."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(width, width), nn.Embedding(6, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(2)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, width, bias=False)

    def forward(self, x: Any) -> Any:
        y = self.embed(x) + self.positions(torch.arange(x.shape[1]))
        for block in self.blocks:
            y = block(y)
        return self.head(self.norm(y))


class NnxBlock(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.norm1 = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)
        self.attn = nnx.MultiHeadAttention(2, width, decode=False, rngs=rngs)
        self.fc1 = nnx.Linear(width, width, rngs=rngs)
        self.fc2 = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(nnx.relu(self.fc1(self.norm2(x))))


class NnxTokens(nnx.Module):
    def __init__(self, width: int = 8, *, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(width, width, rngs=rngs)
        self.positions = nnx.Embed(6, width, rngs=rngs)
        self.blocks = nnx.List([NnxBlock(width, rngs) for _ in range(2)])
        self.norm = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)
        self.head = nnx.Linear(width, width, use_bias=False, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        y = self.embed(x) + self.positions(jnp.arange(x.shape[1]))
        for block in self.blocks:
            y = block(y)
        return self.head(self.norm(y))


class LinenBlock(linen.Module):
    width: int

    def setup(self) -> None:
        self.norm1, self.norm2 = linen.LayerNorm(1e-5), linen.LayerNorm(1e-5)
        self.attn = linen.MultiHeadDotProductAttention(2)
        self.fc1, self.fc2 = linen.Dense(self.width), linen.Dense(self.width)

    def __call__(self, x: Any) -> Any:
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(linen.relu(self.fc1(self.norm2(x))))


class LinenTokens(linen.Module):
    width: int = 8

    def setup(self) -> None:
        self.embed = linen.Embed(self.width, self.width)
        self.positions = linen.Embed(6, self.width)
        self.blocks = [LinenBlock(self.width) for _ in range(2)]
        self.norm, self.head = linen.LayerNorm(1e-5), linen.Dense(self.width, use_bias=False)

    def __call__(self, x: Any) -> Any:
        y = self.embed(x) + self.positions(jnp.arange(x.shape[1]))
        for block in self.blocks:
            y = block(y)
        return self.head(self.norm(y))


class Series(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(4, 4)
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.head = nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        return self.head(self.lstm(self.proj(x))[0])


class NnxSeries(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.proj = nnx.Linear(4, 4, rngs=rngs)
        self.lstm = nnx.RNN(nnx.OptimizedLSTMCell(4, 4, rngs=rngs), rngs=rngs)
        self.head = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.head(self.lstm(self.proj(x)))


class LinenSeries(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        x = linen.Dense(4, name="proj")(x)
        x = linen.RNN(linen.LSTMCell(4, name="lstm"))(x)
        return linen.Dense(4, name="head")(x)


class Network(NamedTuple):
    torch: Callable[[], nn.Module]
    nnx: Callable[..., nnx.Module]
    linen: linen.Module
    input: np.ndarray


_RANDOM = np.random.default_rng(0)
NETWORKS: Mapping[str, Network] = {
    "Images": Network(
        Images, NnxImages, LinenImages(), _RANDOM.normal(size=(2, 3, 6, 5)).astype(np.float32)
    ),
    "Tokens": Network(Tokens, NnxTokens, LinenTokens(), _RANDOM.integers(0, 8, (2, 6), np.int32)),
    "Series": Network(
        Series, NnxSeries, LinenSeries(), _RANDOM.normal(size=(2, 5, 4)).astype(np.float32)
    ),
}


def torch_network(name: str) -> nn.Module:
    """The network of PyTorch, with running statistics of its own."""
    torch.manual_seed(5)
    network = NETWORKS[name].torch()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        for key, buffer in network.named_buffers():
            if key.endswith(("running_mean", "running_var")):
                buffer += torch.rand_like(buffer)
    return network.eval()


def variables(name: str) -> Any:
    """The variables of a network of Linen."""
    network = NETWORKS[name]
    return network.linen.init(jax.random.key(1), jnp.asarray(network.input))


def linen_images() -> Any:
    return variables("Images")


def linen_tokens() -> Any:
    return variables("Tokens")


def linen_series() -> Any:
    return variables("Series")
