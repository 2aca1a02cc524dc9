"""Rows of queries and keys that rotary embeddings turn in pairs, where Equinox turns halves.

`equinox.nn.RotaryPositionalEmbedding` turns element `i` of a head with element `i + size / 2`, as
Hugging Face's models do. Meta's Llama and others turn `2i` with `2i + 1`: for Equinox the rows of
each head have to be put into another order, of which no shape says anything.
"""

from __future__ import annotations

from collections.abc import Mapping

from s2p_tui.alignment.skeleton import ROTARY, Leaf
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import keys_of
from s2p_tui.proposals.matcher.pieces import Piece
from s2p_tui.proposals.matcher.templates import words_of
from s2p_tui.proposals.matcher.words import Steps, steps_of_key

_OF_PAIRS = frozenset(
    (
        *("freqs", "freqs_cis", "freqs_cos", "freqs_sin", "tok_embeddings", "rotary_pos_emb"),
        *("fc_in", "roformer", "kv_a_proj_with_mqa", "post_self_attn_layernorm"),
    )
)
"""Names in checkpoints of models that turn pairs.

Meta's, Mistral's, torchtune's, lucidrains', then GPT-J's and CodeGen's, RoFormer's, DeepSeek's and
GLM's.
"""
_LLAMA = frozenset(("input_layernorm", "o_proj"))
_ONE_MORE = frozenset(("post_attention_layernorm",))
"""The second norm of Llama's blocks and those of many after it; Cohere's have the first alone."""
_META = frozenset(("wq", "wk", "wqkv"))
"""Meta's names of the weights, which others may use too."""
_TURNED = frozenset(("query", "key", "qkv"))


def in_pairs(
    found: Mapping[int, tuple[Leaf, Piece]], steps: Mapping[int, Steps], state_dict: StateDict
) -> dict[int, str]:
    """Queries and keys of which nothing shows that the checkpoint's model turns halves, and why.

    Args:
        found: Leaves and what they take, by index.
        steps: Steps of the leaves.
        state_dict: The entries.
    """
    beside = {index: pair for index, pair in found.items() if ROTARY in pair[0].config}
    if not beside:
        return {}
    named = {step for entry in state_dict for step in steps_of_key(entry.key)}
    is_shown = not named.isdisjoint(_OF_PAIRS) or (named >= _LLAMA and not _ONE_MORE & named)
    doubted: dict[int, str] = {}
    for index, (_, piece) in beside.items():
        its = {step for member in piece.members for key in keys_of(member) for step in _steps(key)}
        words = {*words_of(steps[index]), *words_of(piece.steps)}
        if words & _TURNED and (is_shown or its & _META - {*steps[index]}):
            doubted[index] = (
                "the checkpoint's rotary embedding may turn pairs of each head, Equinox's turns "
                "halves: its rows may need another order"
            )
    return doubted


def _steps(key: str) -> Steps:
    return tuple(step.lower() for step in steps_of_key(key))
