"""Lists that the other side has beside each other, member by member, or stacked in one leaf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from s2p_tui import convert_tree
from tests.models.test_unshown_orders import KEY, Tensors, linear, module, refusal

COUNT = 3


def layer(name: str) -> Any:
    return eqx.nn.LayerNorm(8) if "n" in name[:1] or "norm" in name else linear()


def entries(form: str, names: Sequence[str], count: int = COUNT) -> Tensors:
    """The layers of each name in blocks, as `form` has a name and a number."""
    return {
        f"{form.format(name=name, number=number)}.{role}": torch.randn((8, 8)[:axes])
        for name in names
        for number in range(count)
        for role, axes in ((("weight", 1), ("bias", 1)) if "norm" in name else (("weight", 2),))
    }


SIDES = [
    (("layers", "norms"), ("linear", "norm")),
    (("attns", "mlps", "norms"), ("attn", "mlp", "layer_norm")),
    (("convs", "norms"), ("conv", "ln_norm")),
]


@pytest.mark.parametrize(("lists", "fields"), SIDES)
def test_lists_beside_each_other_are_modules_of_one_list(
    lists: Sequence[str], fields: Sequence[str]
) -> None:
    tensors = entries("{name}.{number}", lists)
    blocks = [module("Block", **{name: layer(name) for name in fields}) for _ in range(COUNT)]
    made = convert_tree(tensors, module("Net", blocks=blocks))
    for name, field in zip(lists, fields, strict=True):
        for number, block in enumerate(made.blocks):
            assert np.array_equal(getattr(block, field).weight, tensors[f"{name}.{number}.weight"])


@pytest.mark.parametrize(("fields", "lists"), SIDES)
def test_modules_of_one_list_are_lists_beside_each_other(
    fields: Sequence[str], lists: Sequence[str]
) -> None:
    tensors = entries("blocks.{number}.{name}", lists)
    made = convert_tree(
        tensors, module("Net", **{name: [layer(name) for _ in range(COUNT)] for name in fields})
    )
    for name, field in zip(lists, fields, strict=True):
        for number, one in enumerate(getattr(made, field)):
            assert np.array_equal(one.weight, tensors[f"blocks.{number}.{name}.weight"])


def test_one_more_in_a_list_shows_no_modules() -> None:
    tensors = entries("{name}.{number}", ("layers", "norms"))
    tensors |= {f"norms.{COUNT}.{role}": torch.randn(8) for role in ("weight", "bias")}
    blocks = [module("Block", linear=linear(), norm=layer("norm")) for _ in range(COUNT)]
    assert "do not line up" in refusal(tensors, module("Net", blocks=blocks))


@pytest.mark.parametrize("inner", ["experts", "heads", "branches"])
@pytest.mark.parametrize("count", [2, 3])
def test_of_two_lists_of_a_length_the_one_without_a_leaf_is_stacked(inner: str, count: int) -> None:
    tensors = {
        f"layers.{i}.{inner}.{j}.{name}.weight": torch.randn(shape)
        for i in range(count)
        for j in range(count)
        for name, shape in (("up", (12, 8)), ("down", (8, 12)))
    }
    zeros = {"up": jnp.zeros((count, 12, 8)), "down": jnp.zeros((count, 8, 12))}
    layers = [module("Layer", **zeros) for _ in range(count)]
    made = convert_tree(tensors, module("Net", layers=layers))
    for i, one in enumerate(made.layers):
        for j in range(count):
            assert np.array_equal(one.up[j], tensors[f"layers.{i}.{inner}.{j}.up.weight"])


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.slow("makes models in both frameworks")
def test_cells_stacked_over_layers_have_each_layers_biases(kind: str) -> None:
    theirs = getattr(torch.nn, kind)(6, 6, num_layers=COUNT)
    cell = getattr(eqx.nn, f"{kind}Cell")
    keys = jax.random.split(KEY, COUNT)
    like = module("Net", rnn=eqx.filter_vmap(lambda key: cell(6, 6, key=key))(keys))
    made = convert_tree({f"rnn.{key}": v for key, v in theirs.state_dict().items()}, like)
    x = torch.randn(5, 6)
    outputs, wanted = x.detach().numpy(), theirs(x)[0].detach()
    for number in range(COUNT):
        one = jax.tree_util.tree_map(lambda leaf, n=number: leaf[n], made.rnn)
        state = jnp.zeros(6) if kind == "GRU" else (jnp.zeros(6), jnp.zeros(6))
        found = []
        for step in outputs:
            state = one(jnp.asarray(step), state)
            found.append(state if kind == "GRU" else state[0])
        outputs = np.stack(found)
    assert np.allclose(outputs, wanted, atol=1e-5)


@pytest.mark.slow("makes models in both frameworks")
def test_lists_without_a_name_are_stacked_too() -> None:
    tensors = {
        f"{n}.{role}": torch.randn((8, 8)[:axes])
        for n in range(4)
        for role, axes in (("weight", 2), ("bias", 1))
    }
    stack = eqx.filter_vmap(lambda key: eqx.nn.Linear(8, 8, key=key))(jax.random.split(KEY, 4))
    made = convert_tree(tensors, module("Net", layers=stack))
    for number in range(4):
        assert np.array_equal(made.layers.weight[number], tensors[f"{number}.weight"])
