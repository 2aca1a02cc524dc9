"""Tied weights, and checkpoints as training scripts leave them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import torch
from torch import nn

from s2p_tui.alignment.transform import Take, rename
from tests.models.twin import Twin, tokens, twin
from tests.models.twins_rules import Leaves, renamed, same, weight

_WIDTH, _VOCABULARY = 4, 7


class TorchTied(nn.Module):
    """A model whose head is its embedding, under two keys or one."""

    def __init__(self, *, keys: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(_VOCABULARY, _WIDTH)
        self.proj = nn.Linear(_WIDTH, _WIDTH)
        self.lm_head = None
        if keys == 2:
            self.lm_head = nn.Linear(_WIDTH, _VOCABULARY, bias=False)
            self.lm_head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.proj(self.embed(ids))) @ self.embed.weight.T


class Tied(eqx.Module):
    """Embedding and head share one leaf."""

    proj: eqx.nn.Linear
    shared: eqx.nn.Shared

    def __init__(self, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        self.proj = eqx.nn.Linear(_WIDTH, _WIDTH, key=keys[0])
        embedding = eqx.nn.Embedding(_VOCABULARY, _WIDTH, key=keys[1])
        head = eqx.nn.Linear(_WIDTH, _VOCABULARY, use_bias=False, key=keys[2])
        self.shared = eqx.nn.Shared(
            (embedding, head), lambda pair: pair[1].weight, lambda pair: pair[0].weight
        )

    def __call__(self, ids: jax.Array) -> jax.Array:
        embedding, head = self.shared()
        return jax.vmap(lambda i: head(jax.numpy.tanh(self.proj(embedding(i)))))(ids)


class Untied(eqx.Module):
    """Embedding and head are two leaves."""

    head: eqx.nn.Linear
    proj: eqx.nn.Linear
    embedding: eqx.nn.Embedding

    def __init__(self, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        self.head = eqx.nn.Linear(_WIDTH, _VOCABULARY, use_bias=False, key=keys[0])
        self.proj = eqx.nn.Linear(_WIDTH, _WIDTH, key=keys[1])
        self.embedding = eqx.nn.Embedding(_VOCABULARY, _WIDTH, key=keys[2])

    def __call__(self, ids: jax.Array) -> jax.Array:
        return jax.vmap(lambda i: self.head(jax.numpy.tanh(self.proj(self.embedding(i)))))(ids)


def _tied(name: str, keys: int, model: Any, truth: Leaves, unused: tuple[str, ...] = ()) -> Twin:
    return twin(
        name,
        lambda: TorchTied(keys=keys),
        lambda key: model(key=key),
        tokens(_VOCABULARY, 2, 5),
        truth | same(".proj", "proj"),
        unused=unused,
    )


_ONE = {".shared.pytree[0].weight": Take("embed.weight")}
_TWO = {".embedding.weight": Take("embed.weight"), ".head.weight": Take("embed.weight")}

_TIED = (
    _tied("tied", 2, Tied, _ONE, ("lm_head.weight",)),
    _tied("tied_one_key", 1, Tied, _ONE),
    _tied("untied", 2, Untied, _TWO | weight(".head", "lm_head")),
    _tied("untied_one_key", 1, Untied, _TWO),
)


class Net(eqx.Module):
    """Two layers, declared the other way round."""

    last: eqx.nn.Linear
    first: eqx.nn.Linear

    def __init__(self, *, key: jax.Array) -> None:
        one, two = jax.random.split(key)
        self.last = eqx.nn.Linear(5, 2, key=one)
        self.first = eqx.nn.Linear(3, 5, key=two)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(jax.nn.relu(self.first(x)))


def _net(name: str, checkpoint: Callable[[nn.Module], Any], prefix: str = "") -> Twin:
    truth = renamed({".first": "0", ".last": "2"})
    keys = [f"{number}.{end}" for number in (0, 2) for end in ("weight", "bias")]
    names = {key: prefix + key for key in keys}
    return twin(
        name,
        lambda: nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)),
        lambda key: Net(key=key),
        (4, 3),
        {leaf: expr and rename(expr, names) for leaf, expr in truth.items()},
        checkpoint=checkpoint,
    )


def _prefixed(prefix: str) -> Callable[[nn.Module], Any]:
    return lambda module: {prefix + key: value for key, value in module.state_dict().items()}


def _nested(module: nn.Module) -> Any:
    return {"epoch": 3, "state_dict": _prefixed("module.")(module), "best": 0.5}


def _views(module: nn.Module) -> Any:
    """Tensors that are transposed and strided views of others."""
    views: dict[str, torch.Tensor] = {}
    for key, value in module.state_dict().items():
        wide = torch.stack([value, -value], -1)
        views[key] = wide[..., 0]
    return views


CHECKPOINTS = (
    *_TIED,
    _net("data_parallel", _prefixed("module."), "module."),
    _net("compiled", _prefixed("_orig_mod."), "_orig_mod."),
    _net("nested", _nested, "module."),
    _net("strided_views", _views),
)
