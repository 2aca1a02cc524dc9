"""ProteinMPNN's own checkpoints: there and back, and a recipe of one of them on its siblings."""

from __future__ import annotations

import json
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
from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import SetRows
from s2p_tui.alignment.transform import Take
from s2p_tui.cli import run
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.session.session import Session
from tests.models.protein import (
    DISTANCES,
    LETTERS,
    PLACES,
    Protein,
    TorchProtein,
    entry_of,
    make_protein,
    protein_weights,
)

pytestmark = pytest.mark.slow("converts eleven trained models, and downloads them the first time")
Weights = dict[str, list[Path]]
CA, KEY = 151, jax.random.key(0)
"""Distances that the three others know of."""


@pytest.fixture(scope="session")
def weights() -> Weights:
    return protein_weights()


@pytest.fixture(scope="module")
def learned(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a skeleton, the mapping of one checkpoint by its truth, and its recipe."""
    folder = tmp_path_factory.mktemp("learned")
    save_skeleton(folder / "skeleton.eqx", eqx.filter_eval_shape(make_protein))
    session = Session.open(weights["vanilla"][2], folder / "skeleton.eqx")
    rows = (Row(Take(entry_of(leaf.path)), by="user") for leaf in session.target.skeleton)
    session.edit(SetRows(tuple(enumerate(rows))))
    assert list(session.problems()) == []
    session.convert(folder / "model.eqx", mapping=folder / "m.json")
    session.close()
    assert run(["recipe", str(folder / "m.json"), "-o", str(folder / "r.json")]) == 0
    return folder


def state_dict(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=False)["model_state_dict"]


def test_there_are_eight_of_one_layout_and_three_of_another(weights: Weights) -> None:
    assert {kind: len(files) for kind, files in weights.items()} == {
        "ca": 3, "soluble": 4, "vanilla": 4,
    }  # fmt: skip
    layouts = {
        (tuple((key, tensor.shape) for key, tensor in state_dict(file).items()), kind == "ca")
        for kind, files in weights.items()
        for file in files
    }
    assert len(layouts) == 2


def test_a_recipe_of_one_converts_its_siblings_and_stops_at_the_others(
    weights: Weights, learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pattern_count = len(json.loads((learned / "r.json").read_text())["rows"])
    assert pattern_count <= 36
    recipe = ["--recipe", str(learned / "r.json"), "--json"]
    like = eqx.filter_eval_shape(make_protein)
    for file in (*weights["vanilla"], *weights["soluble"]):
        output = tmp_path / "model.eqx"
        ends = [str(file), str(learned / "skeleton.eqx"), "-o", str(output)]
        assert run(["convert", *ends, *recipe]) == 0, capsys.readouterr().out
        assert json.loads(capsys.readouterr().out)["rows"]["doubtful"] == 0
        found = jax.tree_util.tree_leaves_with_path(eqx.tree_deserialise_leaves(output, like))
        wanted = state_dict(file)
        for path, leaf in found:
            expected = wanted[entry_of(jax.tree_util.keystr(path))].numpy()
            assert np.asarray(leaf).tobytes() == expected.tobytes()
        output.unlink()
    # The three others: at the skeleton of the eight nothing of the recipe is settled, as one shape
    # does not fit; at one of their own size what no leaf takes is left over.
    save_skeleton(tmp_path / "ca.eqx", eqx.filter_eval_shape(lambda: Protein(CA, key=KEY)))
    more = {
        "W_v.weight", "W_v.bias", "features.node_embedding.weight", "features.norm_nodes.weight",
        "features.norm_nodes.bias",
    }  # fmt: skip
    for file in weights["ca"]:
        for skeleton in (learned / "skeleton.eqx", tmp_path / "ca.eqx"):
            ends = [str(file), str(skeleton), "-o", str(tmp_path / "model.eqx")]
            assert run(["convert", *ends, *recipe]) == 3
            told = json.loads(capsys.readouterr().out)
            assert {one["key"] for one in told["unused"]} == more
            mismatched = [one["path"] for one in told["mismatched"]]
            is_theirs = skeleton.name == "ca.eqx"
            assert mismatched == ([] if is_theirs else [".edge.weight"])
            assert (len(told["doubtful"]) > 40) != is_theirs
            assert not (tmp_path / "model.eqx").exists()


@pytest.mark.parametrize("output", ["back.safetensors", "back.pt"])
def test_they_come_back_byte_for_byte(
    weights: Weights, learned: Path, tmp_path: Path, output: str
) -> None:
    original = weights["vanilla"][2]
    sides = ["--skeleton", str(learned / "skeleton.eqx"), "--mapping", str(learned / "m.json")]
    words = [*sides, "--checkpoint", str(original), "-o", str(tmp_path / output)]
    assert run(["export", str(learned / "model.eqx"), *words]) == 0
    if output.endswith("pt"):
        found = torch.load(tmp_path / output, weights_only=True)
    else:
        found = safetensors.torch.load_file(tmp_path / output)
    wanted = state_dict(original)
    assert set(found) == set(wanted)
    if output.endswith("pt"):
        assert list(found) == list(wanted)
    for key, tensor in wanted.items():
        assert found[key].numpy().tobytes() == tensor.numpy().tobytes()
    TorchProtein().load_state_dict(found, strict=True)


def inputs() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    count, neighbours = 12, 5
    places = np.eye(PLACES, dtype=np.float32)[rng.integers(0, PLACES, (count, neighbours))]
    distances = rng.random((count, neighbours, DISTANCES), np.float32)
    near = rng.integers(0, count, (count, neighbours))
    return places, distances, near, rng.integers(0, LETTERS, count)


def agree(model: Protein, entries: dict[str, torch.Tensor]) -> np.ndarray:
    network = TorchProtein()
    network.load_state_dict(entries, strict=True)
    with torch.no_grad():
        output = network(*map(torch.from_numpy, inputs())).numpy()
    with jax.default_matmul_precision("highest"):
        expected = model(*map(jnp.asarray, inputs()))
    np.testing.assert_allclose(output, np.asarray(expected), atol=1e-4)
    return output


def test_trained_in_jax_it_is_the_same_in_torch(weights: Weights, learned: Path) -> None:
    original = weights["vanilla"][2]
    like = eqx.filter_eval_shape(make_protein)
    model = eqx.tree_deserialise_leaves(learned / "model.eqx", like)
    before = agree(model, export(model, learned / "m.json", original))
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)
    optimiser = optax.adam(1e-3)
    state = optimiser.init(arrays)

    @jax.jit
    def step(arrays: Any, state: Any) -> tuple[Any, Any]:
        def loss(arrays: Any) -> jax.Array:
            output = eqx.combine(arrays, rest)(*map(jnp.asarray, inputs()))
            return -output[:, 3].mean()

        updates, state = optimiser.update(jax.grad(loss)(arrays), state)
        return optax.apply_updates(arrays, updates), state

    for _ in range(5):
        arrays, state = step(arrays, state)
    model = eqx.combine(arrays, rest)
    after = agree(model, export(model, learned / "m.json", original))
    assert after[:, 3].mean() > before[:, 3].mean() + 0.1
