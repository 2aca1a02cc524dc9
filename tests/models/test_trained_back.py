"""Real trained models to Equinox, trained further there, and back to PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.torch
import torch

from s2p_tui import export
from s2p_tui.cli import run
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.session.session import Session
from tests.models.bert import make_minilm, mean_pooled_embedding, minilm_folder
from tests.models.minilm import SENTENCES, reference_model, tokenize
from tests.models.silero import TorchVad, Vad, silero_weights

pytestmark = pytest.mark.slow("trains real models and runs them in both frameworks")
STEPS = 5


def converted(checkpoint: Path, make: Callable[[], Any], folder: Path) -> Any:
    """The model with the checkpoint's weights, lined up by names; files in the folder."""
    like = eqx.filter_eval_shape(make)
    save_skeleton(folder / "skeleton.eqx", like)
    session = Session.open(checkpoint, folder / "skeleton.eqx")
    assert list(session.problems()) == []
    session.convert(folder / "model.eqx", mapping=folder / "m.json")
    session.close()
    return eqx.tree_deserialise_leaves(folder / "model.eqx", like)


def back(checkpoint: Path, folder: Path, output: str) -> dict[str, torch.Tensor]:
    sides = ["--skeleton", str(folder / "skeleton.eqx"), "--mapping", str(folder / "m.json")]
    words = [*sides, "--checkpoint", str(checkpoint), "-o", str(folder / output)]
    assert run(["export", str(folder / "model.eqx"), *words]) == 0
    if output.endswith(".safetensors"):
        return safetensors.torch.load_file(folder / output)
    return torch.load(folder / output, weights_only=True)


def trained(model: Any, loss: Callable[[Any], jax.Array]) -> Any:
    optimiser = optax.adam(1e-3)
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)
    state = optimiser.init(arrays)

    @jax.jit
    def step(arrays: Any, state: Any) -> tuple[Any, Any]:
        gradient = jax.grad(lambda arrays: loss(eqx.combine(arrays, rest)))(arrays)
        updates, state = optimiser.update(gradient, state)
        return optax.apply_updates(arrays, updates), state

    for _ in range(STEPS):
        arrays, state = step(arrays, state)
    return eqx.combine(arrays, rest)


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


@pytest.mark.parametrize("output", ["back.safetensors", "back.pt"])
def test_minilm_comes_back_byte_for_byte(tmp_path: Path, output: str) -> None:
    original = minilm_folder() / "model.safetensors"
    weights = safetensors.torch.load_file(original)
    converted(original, make_minilm, tmp_path)
    found = back(original, tmp_path, output)
    assert {key: raw(t) for key, t in found.items()} == {key: raw(t) for key, t in weights.items()}
    del found["embeddings.position_ids"]
    reference_model().load_state_dict(found, strict=True)


def test_minilm_trained_in_jax_is_the_same_in_torch(tmp_path: Path) -> None:
    original = minilm_folder() / "model.safetensors"
    model = converted(original, make_minilm, tmp_path)
    ids, mask = map(jnp.asarray, tokenize(SENTENCES[:3]))
    embed = eqx.filter_vmap(mean_pooled_embedding, in_axes=(None, 0, 0))
    model = trained(model, lambda m: jnp.sum(embed(m, ids, mask)[:, :8]))
    entries = export(model, tmp_path / "m.json", original)
    del entries["embeddings.position_ids"]
    network = reference_model()
    before = network.state_dict()
    try:
        network.load_state_dict(entries, strict=True)
        hidden = network(torch.tensor(np.array(ids)), torch.tensor(np.array(mask)))[0]
    finally:
        network.load_state_dict(before)
    weight = torch.tensor(np.array(mask), dtype=torch.float32)[..., None]
    pooled = (hidden * weight).sum(1) / weight.sum(1)
    output = torch.nn.functional.normalize(pooled, dim=1).detach().numpy()
    with jax.default_matmul_precision("highest"):
        expected = np.asarray(embed(model, ids, mask))
    assert np.abs(output - expected).max() <= 1e-5
    unchanged = safetensors.torch.load_file(original)
    name = "encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(entries[name], unchanged[name])


def make_vad() -> Vad:
    return Vad(key=jax.random.key(0))


def test_silero_comes_back_but_for_the_choice_of_biases(tmp_path: Path) -> None:
    original = silero_weights()
    weights = safetensors.torch.load_file(original)
    model = converted(original, make_vad, tmp_path)
    ours, theirs = "lstm_cell.bias_ih", "lstm_cell.bias_hh"
    for output in ("back.safetensors", "back.pt"):
        found = back(original, tmp_path, output)
        TorchVad().load_state_dict(found, strict=True)
        assert torch.equal(found.pop(ours), weights[ours] + weights[theirs])
        assert not found.pop(theirs).any()
        assert {k: raw(t) for k, t in found.items()} == {k: raw(weights[k]) for k in found}
        assert set(found) == set(weights) - {ours, theirs}
    agree(model, weights)


def test_silero_trained_in_jax_is_the_same_in_torch(tmp_path: Path) -> None:
    original = silero_weights()
    model = converted(original, make_vad, tmp_path)
    sound, state = inputs()
    forward = jax.vmap(lambda m, x, h, c: m(x, (h, c)), in_axes=(None, 0, 0, 0))
    model = trained(model, lambda m: jnp.mean((forward(m, sound, *state) - 0.5) ** 2))
    agree(model, export(model, tmp_path / "m.json"))


def inputs() -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    keys = jax.random.split(jax.random.key(1), 3)
    sound = jax.random.normal(keys[0], (4, 576)) * 0.3
    return sound, (jax.random.normal(keys[1], (4, 128)), jax.random.normal(keys[2], (4, 128)))


def agree(model: Vad, entries: dict[str, torch.Tensor]) -> None:
    sound, state = inputs()
    with jax.default_matmul_precision("highest"):
        expected = jax.vmap(lambda x, h, c: model(x, (h, c)))(sound, *state)
    network = TorchVad()
    network.load_state_dict(entries, strict=True)
    sound, *state = (torch.tensor(np.array(array)) for array in (sound, *state))
    output = network(sound, tuple(state)).detach().numpy()
    assert np.ptp(output) > 1e-3
    np.testing.assert_allclose(output, expected, atol=1e-5)
