"""Orders of axes and parts that shapes leave open: offered, chosen, recorded and replayed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2p_tui import AlignmentError, convert_tree
from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.choices import choices
from s2p_tui.alignment.judge import landing
from s2p_tui.alignment.sharing import sharing
from s2p_tui.formats.memory import checkpoint_in_memory
from s2p_tui.session.opening import target_in_memory
from s2p_tui.session.session import Session
from tests.helpers.exprs import by_numpy

CHANCE = np.random.default_rng(0)
KEY = jax.random.PRNGKey(0)


def random(*shape: int) -> np.ndarray:
    return CHANCE.standard_normal(shape).astype("float32")


def linear(inputs: int, outputs: int) -> Any:
    return eqx.nn.Linear(inputs, outputs, use_bias=False, key=KEY)


CONV = random(8, 3, 3, 3)
FLAT = random(5, 72)
QKV = random(24, 8)
PAIR = random(12, 8)


def head_by_head(part: int) -> np.ndarray:
    return QKV.reshape(4, 3, 2, 8)[:, part].reshape(8, 8)


CASES = {
    "flattened": (
        {"conv.weight": CONV, "fc.weight": FLAT},
        lambda: {"conv": {"kernel": jnp.zeros((3, 3, 3, 8))}, "fc": {"kernel": jnp.zeros((72, 5))}},
        {"['fc']['kernel']": FLAT.reshape(5, 8, 9).transpose(2, 1, 0).reshape(72, 5)},
    ),
    "another order": (
        {"attn.qkv.weight": QKV, "fc.weight": FLAT},
        lambda: {"attn": {"kqv": linear(8, 24)}, "fc": linear(72, 5)},
        {"['attn']['kqv'].weight": np.concatenate((QKV[8:16], QKV[:8], QKV[16:]))},
    ),
    "in turns": (
        {"mlp.up_gate.weight": PAIR, "fc.weight": FLAT},
        lambda: {"mlp": {"fused": linear(8, 12)}, "fc": linear(72, 5)},
        {"['mlp']['fused'].weight": PAIR.reshape(2, 6, 8).transpose(1, 0, 2).reshape(12, 8)},
    ),
    "head by head": (
        {"attn.query_key_value.weight": QKV, "fc.weight": FLAT},
        lambda: {"attn": {name: linear(8, 8) for name in "qkv"}, "fc": linear(72, 5)},
        {f"['attn']['{name}'].weight": head_by_head(n) for n, name in enumerate("qkv")},
    ),
    "heads together": (
        {"attn.query_key_value.weight": QKV, "fc.weight": FLAT},
        lambda: {"attn": {"fused": linear(8, 24)}, "fc": linear(72, 5)},
        {"['attn']['fused'].weight": np.concatenate([head_by_head(n) for n in range(3)])},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_right_order_is_offered_and_settles_the_row(name: str, tmp_path: Path) -> None:
    arrays, make, wanted = CASES[name]
    tree = make()
    with pytest.raises(AlignmentError):
        convert_tree(arrays, tree)
    session = Session.between(checkpoint_in_memory(arrays), target_in_memory(tree))
    state_dict, skeleton = session.checkpoint.state_dict, session.target.skeleton
    (key,) = [key for key in arrays if "fc" not in key and "conv" not in key] or ["fc.weight"]
    for index, leaf in enumerate(skeleton):
        if leaf.path in wanted:
            offered = [
                choice.expr
                for choice in choices(leaf, [key], state_dict)
                if np.array_equal(
                    by_numpy(landing(choice.expr, leaf, state_dict), arrays), wanted[leaf.path]
                )
            ]
            row = Row(offered[0], by="user")
            session.edit(sharing(session.alignment, [(index, row)]))
    assert session.is_complete, list(session.problems())
    path = tmp_path / "mapping.json"
    session.save_mapping(path)
    filled = convert_tree(arrays, tree, mapping=path)
    leaves = {
        jax.tree_util.keystr(k): leaf for k, leaf in jax.tree_util.tree_leaves_with_path(filled)
    }
    assert all(np.array_equal(leaves[path], array) for path, array in wanted.items())
