"""A real trained model, from file to file: MiniLM's weights into a plain Equinox BERT."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
import safetensors.torch
import torch

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import SetRows
from s2p_tui.alignment.transform import Take
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.session.session import Session
from tests.models.bert import make_minilm, mean_pooled_embedding, minilm_folder, minilm_sources
from tests.models.minilm import SENTENCES, reference_embeddings, tokenize

pytestmark = pytest.mark.slow("converts MiniLM and runs it in both frameworks")
Weights = dict[str, torch.Tensor]


def _original(_folder: Path, _weights: Weights) -> Path:
    return minilm_folder() / "model.safetensors"


def _torch_zip(folder: Path, weights: Weights) -> Path:
    torch.save(weights, folder / "model.pt")
    return folder / "model.pt"


def _torch_legacy(folder: Path, weights: Weights) -> Path:
    checkpoint = {"model": weights, "epoch": 3}
    torch.save(checkpoint, folder / "old.pth", _use_new_zipfile_serialization=False)
    return folder / "old.pth"


def _two_shards(folder: Path, weights: Weights) -> Path:
    keys = list(weights)
    weight_map = {}
    for number, part in enumerate((keys[:50], keys[50:]), 1):
        name = f"model-{number:05}-of-00002.safetensors"
        safetensors.torch.save_file({key: weights[key] for key in part}, folder / name)
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def reference() -> np.ndarray:
    return reference_embeddings(SENTENCES)


@pytest.mark.parametrize("save", [_original, _torch_zip, _torch_legacy, _two_shards])
def test_embeddings_equal_sentence_transformers(
    save: Callable[[Path, Weights], Path], tmp_path: Path, reference: np.ndarray
) -> None:
    weights = safetensors.torch.load_file(minilm_folder() / "model.safetensors")
    skeleton = tmp_path / "skeleton.eqx"
    save_skeleton(skeleton, eqx.filter_eval_shape(make_minilm))

    session = Session.open(save(tmp_path, weights), skeleton)
    sources = [minilm_sources(leaf.path) for leaf in session.target.skeleton]
    session.edit(SetRows(tuple((n, Row(Take(key), by="user")) for n, key in enumerate(sources))))
    assert session.alignment.bench == ("embeddings.position_ids",)
    session.convert(tmp_path / "minilm.eqx")

    model = eqx.tree_deserialise_leaves(tmp_path / "minilm.eqx", eqx.filter_eval_shape(make_minilm))
    embed = eqx.filter_jit(eqx.filter_vmap(mean_pooled_embedding, in_axes=(None, 0, 0)))
    with jax.default_matmul_precision("highest"):
        found = np.asarray(embed(model, *tokenize(SENTENCES)))
    assert np.max(np.abs(found - reference)) / np.max(np.abs(reference)) <= 1e-5


def test_the_matcher_lines_it_up_alone(tmp_path: Path) -> None:
    save_skeleton(tmp_path / "skeleton.eqx", eqx.filter_eval_shape(make_minilm))
    session = Session.open(minilm_folder() / "model.safetensors", tmp_path / "skeleton.eqx")
    assert list(session.problems()) == []
    for leaf, row in zip(session.target.skeleton, session.alignment.rows, strict=True):
        assert row.source == Take(minilm_sources(leaf.path))
    session.close()
