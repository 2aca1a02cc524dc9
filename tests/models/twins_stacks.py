"""Layers in sequence against layers stacked, experts, perceptrons."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import torch
from torch import nn

from s2p_tui.alignment.transform import Concat, Expr, Permute, Stack, Take
from tests.models.twin import Twin, twin
from tests.models.twins_rules import Leaves, element, renamed, same, stacked, weight

_WIDTH, _HIDDEN, _LAYERS, _EXPERTS = 4, 6, 3, 3


def _mlp(
    name: str,
    depth: int,
    truth: Leaves,
    torch_activation: Callable[[], nn.Module] = nn.ReLU,
    *,
    shake: float = 0.2,
    **options: Any,
) -> Twin:
    bias = options.get("use_bias", True)
    sizes = [3, *(_WIDTH for _ in range(depth)), 2]

    def make() -> nn.Module:
        layers: list[nn.Module] = []
        for rows, columns in pairwise(sizes):
            layers += [nn.Linear(rows, columns, bias=bias), torch_activation()]
        return nn.Sequential(*layers[:-1])

    return twin(
        name,
        make,
        lambda key: eqx.nn.MLP(3, 2, _WIDTH, depth, key=key, **options),
        (6, 3),
        truth,
        shake=shake,
    )


def _layers(count: int, *names: str) -> Leaves:
    return renamed({f".layers[{n}]": f"{2 * n}" for n in range(count)}, *names)


def _slopes(width: int) -> Leaves:
    """Slopes per layer and neuron; torch has one per layer, or as many as neurons."""
    each: list[Expr] = [Take(f"{key}.weight") for key in (1, 3)]
    if width == 1:
        each = [Concat((slope,) * _WIDTH, 0) for slope in each]
    return {".activation.negative_slope": Stack(tuple(each), 0)}


def _mlp_prelu(name: str, width: int) -> Twin:
    truth = {**_layers(3), **_slopes(width)}
    activation = eqx.nn.PReLU()
    slopes = lambda: nn.PReLU(width)  # noqa: E731
    return _mlp(name, 2, truth, slopes, shake=0.5, activation=activation)


_MLPS = (
    _mlp("mlp", 2, _layers(3)),
    _mlp("mlp_depth_0", 0, _layers(1)),
    _mlp("mlp_no_bias", 2, _layers(3, "weight"), use_bias=False, use_final_bias=False),
    _mlp(
        "mlp_scan",
        4,
        {
            **same(".layers[0]", "0"),
            ".layers[1].weight": stacked("2.weight", "4.weight", "6.weight"),
            ".layers[1].bias": stacked("2.bias", "4.bias", "6.bias"),
            **same(".layers[2]", "8"),
        },
        nn.Tanh,
        activation=jnp.tanh,
        scan=True,
    ),
    _mlp_prelu("mlp_prelu", 1),
    _mlp_prelu("mlp_prelu_per_neuron", _WIDTH),
)


class TorchBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(_WIDTH)
        self.fc1 = nn.Linear(_WIDTH, _HIDDEN)
        self.fc2 = nn.Linear(_HIDDEN, _WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.fc2(torch.relu(self.fc1(self.norm(x))))


class TorchBlocks(nn.Module):
    def __init__(self, first: int = 0) -> None:
        super().__init__()
        names = (str(n + first) for n in range(_LAYERS))
        self.layers = nn.ModuleDict({name: TorchBlock() for name in names})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers.values():
            x = layer(x)
        return x


class TorchStacked(nn.Module):
    """The same with all layers in one parameter each."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Parameter(torch.ones(_LAYERS, _WIDTH))
        self.w1 = nn.Parameter(torch.randn(_LAYERS, _HIDDEN, _WIDTH))
        self.w2 = nn.Parameter(torch.randn(_LAYERS, _WIDTH, _HIDDEN))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for norm, w1, w2 in zip(self.norm, self.w1, self.w2, strict=True):
            normed = nn.functional.layer_norm(x, (_WIDTH,), norm)
            x = x + torch.relu(normed @ w1.T) @ w2.T
        return x


class Block(eqx.Module):
    """A residual perceptron."""

    norm: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, *, bias: bool = True, key: jax.Array) -> None:
        first, second = jax.random.split(key)
        self.norm = eqx.nn.LayerNorm(_WIDTH, use_bias=bias)
        self.up = eqx.nn.Linear(_WIDTH, _HIDDEN, use_bias=bias, key=first)
        self.down = eqx.nn.Linear(_HIDDEN, _WIDTH, use_bias=bias, key=second)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.down(jax.nn.relu(self.up(self.norm(x))))


class Blocks(eqx.Module):
    """Blocks in a list."""

    blocks: list[Block]

    def __init__(self, *, bias: bool = True, key: jax.Array) -> None:
        self.blocks = [Block(bias=bias, key=k) for k in jax.random.split(key, _LAYERS)]

    def __call__(self, x: jax.Array) -> jax.Array:
        for block in self.blocks:
            x = block(x)
        return x


class Scanned(eqx.Module):
    """Blocks stacked, and scanned over."""

    block: Block

    def __init__(self, *, key: jax.Array) -> None:
        self.block = eqx.filter_vmap(lambda k: Block(key=k))(jax.random.split(key, _LAYERS))

    def __call__(self, x: jax.Array) -> jax.Array:
        arrays, rest = eqx.partition(self.block, eqx.is_array)
        return jax.lax.scan(lambda x, part: (eqx.combine(part, rest)(x), None), x, arrays)[0]


_PAIRS = {"norm": "norm", "up": "fc1", "down": "fc2"}


def _blocks(first: int = 0) -> Leaves:
    return renamed(
        {
            f".blocks[{n}].{ours}": f"layers.{n + first}.{theirs}"
            for n in range(_LAYERS)
            for ours, theirs in _PAIRS.items()
        }
    )


_SCANS = (
    twin("blocks", TorchBlocks, lambda key: Blocks(key=key), (3, _WIDTH), _blocks()),
    twin(
        "blocks_from_1",
        lambda: TorchBlocks(1),
        lambda key: Blocks(key=key),
        (3, _WIDTH),
        _blocks(1),
    ),
    twin(
        "scan",
        TorchBlocks,
        lambda key: Scanned(key=key),
        (3, _WIDTH),
        {
            f".block.{ours}.{name}": stacked(
                *(f"layers.{n}.{theirs}.{name}" for n in range(_LAYERS))
            )
            for ours, theirs in _PAIRS.items()
            for name in ("weight", "bias")
        },
    ),
    twin(
        "scan_back",
        TorchStacked,
        lambda key: Blocks(bias=False, key=key),
        (3, _WIDTH),
        {
            f".blocks[{n}].{ours}.weight": element(theirs, n, shape)
            for n in range(_LAYERS)
            for ours, theirs, shape in (
                ("norm", "norm", (_WIDTH,)),
                ("up", "w1", (_HIDDEN, _WIDTH)),
                ("down", "w2", (_WIDTH, _HIDDEN)),
            )
        },
    ),
)


class TorchExperts(nn.Module):
    """Each expert a module."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(_WIDTH, _EXPERTS, bias=False)
        self.experts = nn.ModuleList(
            nn.ModuleDict(
                {
                    "w1": nn.Linear(_WIDTH, _HIDDEN, bias=False),
                    "w2": nn.Linear(_HIDDEN, _WIDTH, bias=False),
                }
            )
            for _ in range(_EXPERTS)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = [expert["w2"](torch.relu(expert["w1"](x))) for expert in self.experts]
        return (torch.stack(outputs, -1) * self.gate(x).softmax(-1)[:, None]).sum(-1)


class TorchStackedExperts(nn.Module):
    """All experts in one parameter, (E, in, out)."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(_WIDTH, _EXPERTS, bias=False)
        self.w1 = nn.Parameter(torch.randn(_EXPERTS, _WIDTH, _HIDDEN))
        self.w2 = nn.Parameter(torch.randn(_EXPERTS, _HIDDEN, _WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = torch.relu(x @ self.w1) @ self.w2
        return (outputs * self.router(x).softmax(-1).T[..., None]).sum(0)


class Experts(eqx.Module):
    """Each expert a module."""

    experts: list[eqx.nn.MLP]
    router: eqx.nn.Linear

    def __init__(self, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 1 + _EXPERTS)
        self.router = eqx.nn.Linear(_WIDTH, _EXPERTS, use_bias=False, key=keys[0])
        bias = {"use_bias": False, "use_final_bias": False}
        self.experts = [eqx.nn.MLP(_WIDTH, _WIDTH, _HIDDEN, 1, key=k, **bias) for k in keys[1:]]

    def __call__(self, x: jax.Array) -> jax.Array:
        outputs = jnp.stack([expert(x) for expert in self.experts])
        return jax.nn.softmax(self.router(x)) @ outputs


class StackedExperts(eqx.Module):
    """All experts in one array, (E, in, out)."""

    up: jax.Array
    down: jax.Array
    router: eqx.nn.Linear

    def __init__(self, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        self.up = jax.random.normal(keys[0], (_EXPERTS, _WIDTH, _HIDDEN))
        self.down = jax.random.normal(keys[1], (_EXPERTS, _HIDDEN, _WIDTH))
        self.router = eqx.nn.Linear(_WIDTH, _EXPERTS, use_bias=False, key=keys[2])

    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = jax.nn.relu(jnp.einsum("i,eih->eh", x, self.up))
        outputs = jnp.einsum("eh,ehi->ei", hidden, self.down)
        return jax.nn.softmax(self.router(x)) @ outputs


def _stacked_experts(name: str) -> Expr:
    stack = stacked(*(f"experts.{n}.{name}.weight" for n in range(_EXPERTS)))
    return Permute(stack, (0, 2, 1))


_MIXTURES = (
    twin(
        "experts_stacked",
        TorchExperts,
        lambda key: StackedExperts(key=key),
        (3, _WIDTH),
        {
            ".up": _stacked_experts("w1"),
            ".down": _stacked_experts("w2"),
            **weight(".router", "gate"),
        },
    ),
    twin(
        "experts_apart",
        TorchStackedExperts,
        lambda key: Experts(key=key),
        (3, _WIDTH),
        {
            **weight(".router", "router"),
            **{
                f".experts[{n}].layers[{i}].weight": Permute(element(f"w{i + 1}", n, shape), (1, 0))
                for n in range(_EXPERTS)
                for i, shape in enumerate(((_WIDTH, _HIDDEN), (_HIDDEN, _WIDTH)))
            },
        },
    ),
)

STACKS = (*_MLPS, *_SCANS, *_MIXTURES)
