"""A LoRA adapter of PEFT's own on MiniLM: merged while it converts, as PEFT merges it in memory."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch

from s2p_tui.cli import run
from s2p_tui.formats.adapter import with_adapter
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.formats.registry import open_checkpoint
from tests.models.bert import make_minilm, mean_pooled_embedding, minilm_folder
from tests.models.minilm import SENTENCES, reference_model, tokenize

pytestmark = [
    pytest.mark.slow("trains adapters of a real model and runs it in both frameworks"),
    # PEFT asks transformers by an old name, and wonders at biases of its own.
    pytest.mark.filterwarnings("ignore:.*LoRA tensor.s. have invalid shape"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
]
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["query", "value"], "r": 8, "lora_alpha": 16},
    "patterns": {
        "target_modules": ["query", "dense", "word_embeddings"],
        "r": 4,
        "lora_alpha": 10,
        "use_rslora": True,
        "rank_pattern": {"output.dense": 6, r"layer.1.attention.self.query": 2},
        "alpha_pattern": {"query": 3},
    },
    "in full": {
        "target_modules": ["key"],
        "r": 8,
        "bias": "lora_only",
        "lora_bias": True,
        "modules_to_save": ["pooler"],
    },
}


def trained(config: dict[str, Any], folder: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Save an adapter with numbers of its own; return what PEFT merges it to."""
    import peft  # Takes seconds, which every run of other tests would wait for.

    network = copy.deepcopy(reference_model()).to(dtype)
    wrapped = peft.get_peft_model(network, peft.LoraConfig(**config))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in wrapped.named_parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    base = copy.deepcopy(reference_model()).to(dtype)
    loaded = peft.PeftModel.from_pretrained(base, str(folder))
    return loaded.merge_and_unload().state_dict()


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merged_is_what_peft_merges(tmp_path: Path, name: str, dtype: str) -> None:
    wanted = trained(CONFIGS[name], tmp_path / "lora", getattr(torch, dtype))
    weights = safetensors.torch.load_file(minilm_folder() / "model.safetensors")
    ids = weights.pop("embeddings.position_ids")
    weights = {key: tensor.to(getattr(torch, dtype)) for key, tensor in weights.items()}
    weights["embeddings.position_ids"] = ids
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file(weights, file)
    found = with_adapter(open_checkpoint(file), tmp_path / "lora")
    changed = 0
    for entry in found.state_dict:
        if entry.key == "embeddings.position_ids":
            continue
        array = found.tensors.read(entry.key, tuple((0, size) for size in entry.shape))
        expected = wanted[entry.key].float().numpy()
        # Sums of ranks come in another order: some are rounded to the number beside.
        # The embedding's product is rounded before it is added: a unit of its own last place.
        limit, least = (2.0**-7, 2e-3) if dtype == "bfloat16" else (2.0**-21, 2e-7)
        found_here = array.astype(np.float32)
        np.testing.assert_allclose(found_here, expected, rtol=limit, atol=least)
        assert np.mean(found_here != expected) < (0.01 if dtype == "bfloat16" else 0.75), entry.key
        original = weights[entry.key].float().numpy()
        changed += not np.array_equal(found_here, original)
    assert changed == {"plain": 12, "patterns": 26, "in full": 14}[name]


def test_the_converted_model_computes_what_the_merged_one_does(tmp_path: Path) -> None:
    wanted = trained(CONFIGS["plain"], tmp_path / "lora", torch.float32)
    like = eqx.filter_eval_shape(make_minilm)
    save_skeleton(tmp_path / "skeleton.eqx", like)
    ends = [str(minilm_folder() / "model.safetensors"), str(tmp_path / "skeleton.eqx")]
    output = tmp_path / "model.eqx"
    assert run(["convert", *ends, "-o", str(output), "--adapter", str(tmp_path / "lora")]) == 0
    model = eqx.tree_deserialise_leaves(output, like)
    ids, mask = map(jnp.asarray, tokenize(SENTENCES[:3]))
    embed = eqx.filter_vmap(mean_pooled_embedding, in_axes=(None, 0, 0))
    network = copy.deepcopy(reference_model())
    before = pooled(network, ids, mask)
    network.load_state_dict(wanted, strict=False)
    expected = pooled(network, ids, mask)
    assert np.abs(expected - before).max() > 1e-2
    np.testing.assert_allclose(np.asarray(embed(model, ids, mask)), expected, atol=1e-5)


def pooled(network: torch.nn.Module, ids: Any, mask: Any) -> np.ndarray:
    mask = torch.tensor(np.array(mask))
    with torch.no_grad():
        hidden = network(torch.tensor(np.array(ids)), mask)[0]
    weight = mask.float()[..., None]
    mean = (hidden * weight).sum(1) / weight.sum(1)
    return torch.nn.functional.normalize(mean, dim=1).numpy()
