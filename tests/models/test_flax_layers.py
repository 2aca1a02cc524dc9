"""Layers of Flax filled from PyTorch's, by the command line, and run beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.flax import load_file

from s2p_tui.cli import run
from tests.models import flax_layers
from tests.models.flax_layers import LAYERS, linen_model, torch_model

CASES = [
    (kind, name)
    for name, layer in LAYERS.items()
    for kind, made in (("nnx", layer.nnx), ("linen", layer.linen))
    if made is not None
]


def converted(kind: str, name: str, folder: Path) -> Path:
    """The layer's weights, converted with nobody's trust."""
    torch.save(torch_model(name).state_dict(), folder / "model.pt")
    factory = f"tests.models.flax_layers:{kind}_{name}"
    skeleton, out = str(folder / "s.eqx"), folder / "out.safetensors"
    assert run(["skeleton", factory, "-o", skeleton]) == 0
    assert run(["convert", str(folder / "model.pt"), skeleton, "-o", str(out)]) == 0
    return out


def nnx_forward(file: Path, make: Callable[[nnx.Rngs], Any], call: Any, x: Any) -> Any:
    """The forward of a module that a user fills as README shows it."""
    model = make(nnx.Rngs(3))
    arrays = load_file(file)
    state = nnx.state(model, nnx.Not(nnx.RngState))

    def name(path: tuple[str | int, ...]) -> str:
        return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)

    nnx.update(model, nnx.map_state(lambda path, v: v.replace(arrays.pop(name(path))), state))
    assert not arrays
    return call(model.layer, x)


def linen_forward(file: Path, variables: Any, model: Any, x: Any) -> Any:
    arrays = load_file(file)

    def filled(path: Any, leaf: Any) -> Any:
        array = arrays.pop(jax.tree_util.keystr(path))
        assert array.shape == leaf.shape
        return array

    variables = jax.tree_util.tree_map_with_path(filled, variables)
    assert not arrays
    return model.apply(variables, x)


@pytest.mark.parametrize(("kind", "name"), CASES)
@pytest.mark.slow("compiles and runs every layer in both frameworks")
def test_a_layer_computes_what_pytorchs_does(kind: str, name: str, tmp_path: Path) -> None:
    file = converted(kind, name, tmp_path)
    layer, x = LAYERS[name], LAYERS[name].input(name)
    make = getattr(flax_layers, f"{kind}_{name}")
    if kind == "nnx":
        found = nnx_forward(file, make, layer.flax_call, jnp.asarray(x))
    else:
        found = linen_forward(file, jax.eval_shape(make), linen_model(name), jnp.asarray(x))
    with torch.no_grad():
        expected = layer.torch_call(torch_model(name).layer, torch.from_numpy(x)).numpy()
    assert found.shape == expected.shape
    assert np.allclose(found, expected, atol=1e-5), float(np.abs(found - expected).max())
