"""Trees of flax.nnx, flax.linen and haliax, made by the packages themselves."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx

import s2p_tui
from s2p_tui import AlignmentError, convert_tree

with warnings.catch_warnings():
    # haliax uses names that Equinox and JAX have deprecated.
    warnings.simplefilter("ignore")
    import haliax

KEY = jax.random.key(0)


def torch_network() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = {
        "fc1": torch.nn.Linear(6, 10),
        "norm": torch.nn.LayerNorm(10),
        "fc2": torch.nn.Linear(10, 4),
    }
    network = torch.nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer)
    with torch.no_grad():
        network.get_submodule("norm").weight.uniform_(0.5, 2)
        network.get_submodule("norm").bias.uniform_(-1, 1)
    return network.eval()


class NnxNetwork(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.fc1 = nnx.Linear(6, 10, rngs=rngs)
        self.norm = nnx.LayerNorm(10, epsilon=1e-5, rngs=rngs)
        self.drop = nnx.Dropout(0.5, deterministic=True, rngs=rngs)
        self.fc2 = nnx.Linear(10, 4, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.fc2(self.drop(self.norm(self.fc1(x))))


class LinenNetwork(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        x = linen.Dense(10, name="fc1")(x)
        x = linen.LayerNorm(epsilon=1e-5, name="norm")(x)
        return linen.Dense(4, name="fc2")(x)


class HaliaxNetwork(eqx.Module):
    fc1: haliax.nn.Linear
    norm: haliax.nn.LayerNorm
    fc2: haliax.nn.Linear

    def __init__(self) -> None:
        width, hidden, classes = haliax.make_axes(width=6, hidden=10, classes=4)
        self.fc1 = haliax.nn.Linear.init(width, hidden, key=KEY)
        self.norm = haliax.nn.LayerNorm.init(hidden, eps=1e-5)
        self.fc2 = haliax.nn.Linear.init(hidden, classes, key=KEY)


INPUT = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)


def expected(network: torch.nn.Module) -> Any:
    with torch.no_grad():
        return network(torch.from_numpy(INPUT)).numpy()


@pytest.mark.slow("makes models of other libraries")
def test_a_module_of_nnx_keeps_its_keys_and_counters() -> None:
    network, model = torch_network(), NnxNetwork(nnx.Rngs(7))
    converted = convert_tree(network.state_dict(), model)
    assert np.allclose(converted(INPUT), expected(network), atol=1e-5)
    drawn = converted.drop.rngs
    assert jax.random.key_data(drawn.key[...]).tolist() == _key_data(model)
    assert int(drawn.count[...]) == int(model.drop.rngs.count[...])


def _key_data(model: NnxNetwork) -> Any:
    return jax.random.key_data(model.drop.rngs.key[...]).tolist()


@pytest.mark.slow("makes models of other libraries")
def test_a_state_of_nnx_is_merged_into_the_module() -> None:
    network, model = torch_network(), NnxNetwork(nnx.Rngs(0))
    graph, state = nnx.split(model)
    converted = nnx.merge(graph, convert_tree(network.state_dict(), state))
    assert np.allclose(converted(INPUT), expected(network), atol=1e-5)


@pytest.mark.slow("makes models of other libraries")
def test_variables_of_linen() -> None:
    network, model = torch_network(), LinenNetwork()
    variables = model.init(KEY, jnp.ones((1, 6)))
    converted = convert_tree(network.state_dict(), variables)
    assert np.allclose(model.apply(converted, INPUT), expected(network), atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.slow("makes models of other libraries")
def test_a_module_of_haliax() -> None:
    state = torch_network().state_dict()
    converted = convert_tree(state, HaliaxNetwork())
    for name in ("fc1", "norm", "fc2"):
        layer = getattr(converted, name)
        assert np.array_equal(layer.weight.array, state[f"{name}.weight"])
        assert np.array_equal(layer.bias.array, state[f"{name}.bias"])
    assert [axis.name for axis in converted.fc1.weight.axes] == ["hidden", "width"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("make", [lambda: NnxNetwork(nnx.Rngs(0)), HaliaxNetwork])
@pytest.mark.slow("makes models of other libraries")
def test_nothing_is_lost_there_either(make: Any) -> None:
    state: Mapping[str, Any] = {**torch_network().state_dict(), "fc1.gamma": torch.ones(10)}
    with pytest.raises(AlignmentError, match=r"fc1\.gamma: no leaf takes it"):
        convert_tree(state, make())


class Keyed(eqx.Module):
    weight: jax.Array
    key: jax.Array
    bias: jax.Array


def test_a_file_of_a_tree_with_typed_keys_leaves_them_alone(tmp_path: Path) -> None:
    model = Keyed(jnp.zeros((2, 3)), jax.random.key(5), jnp.zeros(2))
    state = {"weight": torch.ones(2, 3), "bias": torch.full((2,), 2.0)}
    report = s2p_tui.convert(
        from_memory=True, state_dict=state, pytree=model, target_dir=tmp_path, target_name="m.eqx"
    )
    assert report.keys == (".key",)
    assert report.warnings == ("1 leaf of PRNG state stays as in your model: .key",)

    def spec(file: Any, leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        return eqx.default_deserialise_filter_spec(file, leaf)

    loaded = eqx.tree_deserialise_leaves(tmp_path / "m.eqx", model, filter_spec=spec)
    assert loaded.weight.tolist() == [[1.0] * 3] * 2
    assert loaded.bias.tolist() == [2.0, 2.0]
    assert jax.random.key_data(loaded.key).tolist() == jax.random.key_data(model.key).tolist()
    with pytest.raises(Exception, match="leaf"):
        eqx.tree_deserialise_leaves(tmp_path / "m.eqx", model)


def test_a_skeleton_file_remembers_typed_keys(tmp_path: Path) -> None:
    model = Keyed(jnp.zeros((2, 3)), jax.random.key(5), jnp.zeros(2))
    for tree in (model, eqx.filter_eval_shape(lambda: model)):
        made = s2p_tui.save_skeleton(tmp_path / "s.eqx", tree)
        assert made.keys == (".key",)
        from s2p_tui.formats.skeleton_file import open_target

        target = open_target(tmp_path / "s.eqx")
        assert target.skeleton.keys == (".key",)
        assert [leaf.path for leaf in target.skeleton] == [".weight", ".bias"]
        target.values.close()
