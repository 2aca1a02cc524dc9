"""Networks of Flax from the command line: converted, restored as a user does, and run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as v0
import orbax.checkpoint.experimental.v1 as v1
import pytest
import torch
from flax import nnx
from safetensors.flax import load_file
from safetensors.torch import load_file as load_for_torch

from s2p_tui.cli import run
from tests.models.flax_networks import NETWORKS, torch_network, variables

MAKERS = {
    "nnx": {name: f"Nnx{name}" for name in NETWORKS},
    "linen": {name: f"linen_{name.lower()}" for name in NETWORKS},
}
CASES = [(kind, name) for kind in MAKERS for name in NETWORKS]


def prepared(kind: str, name: str, *options: str) -> None:
    torch.save(torch_network(name).state_dict(), "model.pt")
    factory = f"tests.models.flax_networks:{MAKERS[kind][name]}"
    assert run(["skeleton", factory, "-o", "s.eqx", *options]) == 0


def restored(kind: str, name: str, file: str) -> Any:
    """The forward of the network that a user fills from a file."""
    network = NETWORKS[name]
    x = jnp.asarray(network.input)
    if kind == "linen":
        like = jax.eval_shape(lambda: variables(name))
        return network.linen.apply(_loaded(file, like), x)
    model = network.nnx(rngs=nnx.Rngs(7))
    state = nnx.state(model, nnx.Not(nnx.RngState))
    if file.endswith(".eqx"):
        nnx.update(model, eqx.tree_deserialise_leaves(file, state))
        return model(x)
    if file.endswith(".orbax"):
        abstract = nnx.eval_shape(lambda: network.nnx(rngs=nnx.Rngs(0)))
        like = nnx.to_pure_dict(nnx.state(abstract, nnx.Not(nnx.RngState)))
        nnx.replace_by_pure_dict(state, _loaded(file, like))
        nnx.update(model, state)
        return model(x)
    arrays = load_file(file)
    assert {_name(path) for path, _ in nnx.to_flat_state(state)} == set(arrays)
    nnx.update(model, nnx.map_state(lambda path, v: v.replace(arrays[_name(path)]), state))
    return model(x)


def _name(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)


def _loaded(file: str, like: Any) -> Any:
    if file.endswith(".eqx"):
        return eqx.tree_deserialise_leaves(file, like)
    if file.endswith(".safetensors"):
        arrays = load_file(file)
        filled = jax.tree_util.tree_map_with_path(
            lambda path, _: arrays[jax.tree_util.keystr(path)], like
        )
        assert len(jax.tree.leaves(like)) == len(arrays)
        return filled
    first = v0.StandardCheckpointer().restore(Path(file).absolute(), like)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), like)
    second = v1.load(Path(file).absolute(), wanted)
    assert jax.tree.all(jax.tree.map(np.array_equal, first, second))
    return first


@pytest.mark.parametrize(("kind", "name"), CASES)
@pytest.mark.slow("runs networks in both frameworks")
def test_a_network_is_restored_and_computes_what_pytorchs_does(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepared(kind, name, "--no-values")
    network = torch_network(name)
    with torch.no_grad():
        expected = network(torch.from_numpy(NETWORKS[name].input)).numpy()
    for file in ("out.eqx", "out.safetensors", "out.orbax"):
        assert run(["convert", "model.pt", "s.eqx", "-o", file]) == 0
        assert np.allclose(restored(kind, name, file), expected, atol=1e-5), file


@pytest.mark.parametrize(("kind", "name"), CASES)
@pytest.mark.slow("converts there and back")
def test_a_network_goes_back_to_pytorch(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepared(kind, name)
    convert = ["convert", "model.pt", "s.eqx", "-o", "out.eqx", "--save-mapping", "m.json"]
    assert run(convert) == 0
    back = ["export", "out.eqx", "--skeleton", "s.eqx", "--mapping", "m.json"]
    assert run([*back, "--checkpoint", "model.pt", "-o", "back.safetensors"]) == 0
    expected, found = torch_network(name), torch_network(name)
    found.load_state_dict(load_for_torch("back.safetensors"), strict=True)
    x = torch.from_numpy(NETWORKS[name].input)
    assert torch.allclose(found(x), expected(x), atol=1e-6)
