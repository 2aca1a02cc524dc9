"""The Equinox BERT, filled by hand, against sentence-transformers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from safetensors.numpy import load_file

from tests.models.bert import (
    Bert,
    make_minilm,
    mean_pooled_embedding,
    minilm_folder,
    minilm_sources,
)
from tests.models.minilm import SENTENCES, reference_embeddings, reference_pooled, tokenize

TOLERANCE = 1e-5
pytestmark = pytest.mark.slow("runs MiniLM in both frameworks")


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    """Load the checkpoint's state dict."""
    return load_file(minilm_folder() / "model.safetensors")


@pytest.fixture(scope="module")
def minilm(tensors: dict[str, np.ndarray]) -> Bert:
    """Build the encoder with every leaf replaced by its checkpoint tensor."""
    template = make_minilm()
    leaves = [jnp.asarray(tensors[source]) for source in _sources(template)]
    return eqx.tree_at(jax.tree.leaves, template, leaves)


def _sources(model: Bert) -> list[str]:
    leaves = jax.tree_util.tree_leaves_with_path(model)
    return [minilm_sources(jax.tree_util.keystr(path)) for path, _ in leaves]


@eqx.filter_jit
@eqx.filter_vmap(in_axes=(None, 0, 0))
def _embed(model: Bert, input_ids: Array, attention_mask: Array) -> Array:
    return mean_pooled_embedding(model, input_ids, attention_mask)


@eqx.filter_jit
@eqx.filter_vmap(in_axes=(None, 0, 0))
def _pool(model: Bert, input_ids: Array, attention_mask: Array) -> Array:
    return model.pool(model(input_ids, attention_mask))


def _relative_error(found: Array, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())


def test_every_tensor_fills_one_leaf_of_its_shape_and_dtype(
    tensors: dict[str, np.ndarray],
) -> None:
    template = make_minilm()
    sources = _sources(template)
    assert sorted(sources) == sorted(tensors.keys() - {"embeddings.position_ids"})
    for leaf, source in zip(jax.tree.leaves(template), sources, strict=True):
        assert (leaf.shape, leaf.dtype) == (
            tensors[source].shape,
            tensors[source].dtype,
        )


def test_a_path_outside_the_model_has_no_source() -> None:
    with pytest.raises(KeyError):
        minilm_sources(".blocks[0].attention.dropout.weight")


def test_embeddings_equal_sentence_transformers(minilm: Bert) -> None:
    input_ids, attention_mask = tokenize(SENTENCES)
    with jax.default_matmul_precision("highest"):
        found = _embed(minilm, jnp.asarray(input_ids), jnp.asarray(attention_mask))
    assert _relative_error(found, reference_embeddings(SENTENCES)) <= TOLERANCE


def test_pooler_equals_torch(minilm: Bert) -> None:
    input_ids, attention_mask = tokenize(SENTENCES)
    with jax.default_matmul_precision("highest"):
        found = _pool(minilm, jnp.asarray(input_ids), jnp.asarray(attention_mask))
    assert _relative_error(found, reference_pooled(SENTENCES)) <= TOLERANCE
