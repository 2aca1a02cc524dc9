"""An Equinox model with all that a pytree may hold: functions, lists, state, scalars, empties.

Its width comes from the environment, so that a factory without arguments makes a large one too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from s2p_tui.alignment.transform import Expr, Flip, Permute, Scale, Split, Stack, Sum, Take

WIDTH = int(os.environ.get("S2P_TEST_WIDTH", "64"))
LAYERS = 4


class Mixed(eqx.Module):
    embed: jax.Array
    head: jax.Array
    layers: list[Any]
    stacked: jax.Array
    query: jax.Array
    norm: eqx.nn.BatchNorm
    drop: eqx.nn.Dropout
    extra: dict[str, Any]
    scale: jax.Array
    flags: jax.Array
    table: np.ndarray
    act: Callable[[jax.Array], jax.Array]
    identity: eqx.nn.Identity
    depth: int
    ratio: float
    nothing: None

    def __init__(self, *, key: jax.Array) -> None:
        n = WIDTH
        self.embed = jnp.zeros((8 * n, n))
        self.head = jnp.zeros((n, 8 * n), jnp.bfloat16)
        self.layers = [
            eqx.nn.Linear(n, n, key=key), jax.nn.relu, eqx.nn.Linear(n, 3, key=key), [], (), {},
        ]  # fmt: skip
        self.stacked = jnp.zeros((LAYERS, n, 2 * n))
        self.query = jnp.zeros((n, n), jnp.float16)
        self.norm = eqx.nn.BatchNorm(n, "batch", mode="batch")
        self.drop = eqx.nn.Dropout(0.25)
        self.extra = {"a.b": jnp.zeros(5), "deep": {"x": jnp.ones(3)}, "empty": {}}
        self.scale = jnp.zeros(())
        self.flags = jnp.zeros(6, bool)
        self.table = np.arange(4, dtype=np.float32)
        self.act = jax.nn.gelu
        self.identity = eqx.nn.Identity()
        self.depth, self.ratio, self.nothing = 3, 1.5, None


def make() -> tuple[Mixed, eqx.nn.State]:
    return eqx.nn.make_with_state(Mixed)(key=jax.random.PRNGKey(0))


def make_linear(key: jax.Array) -> Any:
    """One without anything but arrays."""
    return eqx.nn.MLP(8, 8, 16, 2, key=key)


def entries() -> dict[str, np.ndarray]:
    """A state dict for it."""
    n, rng = WIDTH, np.random.default_rng(0)

    def some(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    found = {
        "embed.weight": some(8 * n, n),
        "head.weight": some(8 * n, n),
        "first.weight": some(n, n), "first.bias": some(n),
        "last.weight": some(3, n), "last.bias": some(3), "last.more": some(3),
        "qkv.weight": some(3 * n, n),
        "norm.weight": some(n), "norm.bias": some(n),
        "norm.mean": some(n), "norm.var": np.abs(some(n)),
        "norm.batches": np.array(7, np.int32),
        "a.b": some(5), "scale": some(1).reshape(()), "flags": rng.integers(0, 2, 6) > 0,
        "table": some(4),
    }  # fmt: skip
    return found | {f"blocks.{i}.weight": some(2 * n, n) for i in range(LAYERS)}


def sources() -> dict[str, Expr]:
    """The rows of a mapping between the two, by the leaves' paths."""
    blocks = tuple(Permute(Take(f"blocks.{i}.weight"), (1, 0)) for i in range(LAYERS))
    return {
        "[0].embed": Take("embed.weight"),
        "[0].head": Permute(Take("head.weight"), (1, 0)),
        "[0].layers[0].weight": Take("first.weight"),
        "[0].layers[0].bias": Scale(Take("first.bias"), 0.5),
        "[0].layers[2].weight": Flip(Take("last.weight"), (0,)),
        "[0].layers[2].bias": Sum((Take("last.bias"), Take("last.more"))),
        "[0].stacked": Stack(blocks, 0),
        "[0].query": Split(Take("qkv.weight"), 0, 0, WIDTH),
        "[0].norm.weight": Take("norm.weight"),
        "[0].norm.bias": Take("norm.bias"),
        "[0].extra['a.b']": Take("a.b"),
        "[0].scale": Take("scale"),
        "[0].flags": Take("flags"),
        "[0].table": Take("table"),
        "[1].norm.batch_counter": Take("norm.batches"),
        "[1].norm.batch_state_index[0]": Take("norm.mean"),
        "[1].norm.batch_state_index[1]": Take("norm.var"),
    }
