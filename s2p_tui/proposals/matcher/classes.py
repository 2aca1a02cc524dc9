"""Layers whose class says one thing and the name of whose entry says another.

The class of a leaf's layer shows how it uses its weight, and the entry's name where that comes
from: a table or a dense layer, a recurrent cell of PyTorch's or one of a user's own, a norm that
adds 1 to its scale. Where the two differ, the same numbers mean something else; so may those of a
layer whose name says nothing beside others whose names do.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import keys_of
from s2p_tui.proposals.matcher.pieces import Piece
from s2p_tui.proposals.matcher.templates import numbered_levels, template
from s2p_tui.proposals.matcher.words import Steps, steps_of_key, written

_Found = Mapping[int, tuple[Leaf, Piece]]
_CELLS = frozenset(("equinox.nn.LSTMCell", "equinox.nn.GRUCell"))
_OF_CELLS = re.compile(r"(?:weight|bias)_(?:ih|hh)(?:_l\d+(?:_reverse)?)?")
"""Names of PyTorch's recurrent weights, whose gates have the order that Equinox's have."""
_EMBEDDING = "equinox.nn.Embedding"
_LINEAR = (".Linear", ".Dense")
_TABLES = frozenset(("embed", "emb", "embedding", "embeddings", "lookup", "table", "wte", "wpe"))
_LAYERS = frozenset(("linear", "lin", "fc", "dense", "proj", "projection", "mlp"))
_RMS_NORM = "equinox.nn.RMSNorm"
_LESS_ONE = frozenset(("pre_feedforward_layernorm", "in_proj_qkvz"))
_BESIDE = frozenset(("q_proj", "gate_proj"))
"""Names in Gemma's and Qwen3-Next's layers, whose norms multiply by one more than their weight.

Beside them are queries and a gated layer of these names.
"""


def tables_and_layers(found: _Found, entries: StateDict) -> dict[int, str]:
    """Square weights called a table whose class is a dense layer's, or the other way round.

    A dense layer without a bias that takes a row with a single one holds a table's columns as rows.

    Args:
        found: Leaves and what they take, by place.
        entries: The checkpoint.
    """
    doubted: dict[int, str] = {}
    for place, (leaf, piece) in found.items():
        # Stacked ones have as many more axes on both sides.
        if len(piece.member) != 2 or piece.member[0] != piece.member[1] or piece.member[0] == 1:
            continue
        is_table = leaf.owner == _EMBEDDING
        if not is_table and not _is_dense(leaf):
            continue
        module, _, last = next(iter(keys_of(piece.members[0])), "").rpartition(".")
        words = {*written(module.rpartition(".")[2])}
        if is_table and words & _LAYERS and not words & _TABLES:
            doubted[place] = "by its name it is a layer's weight, of which a table is the transpose"
        is_called_table = last == "weight" and words & _TABLES and not words & _LAYERS
        if not is_table and is_called_table and f"{module}.bias" not in entries:
            doubted[place] = "by its name it is a table, of which a layer's weight is the transpose"
    return doubted


def _is_dense(leaf: Leaf) -> bool:
    return (leaf.owner or "").endswith(_LINEAR) or (
        leaf.owner is None and leaf.path.endswith(("['kernel']", ".kernel"))
    )


def called_otherwise(found: _Found, steps: Mapping[int, Steps]) -> dict[int, str]:
    """Square weights among others whose names say that they hold the input axis first.

    They do not say so themselves. The others are the same layer of other blocks, or all other
    layers of the block.

    Args:
        found: Leaves and what they take, by place.
        steps: Steps of the leaves.
    """
    alike: dict[tuple[str, Steps], list[int]] = defaultdict(list)
    # Where sizes differ, those of PyTorch's layout show that their name says nothing.
    named = {
        place
        for place, (leaf, piece) in found.items()
        if piece.is_input_first and (leaf.shape != piece.shape or len({*piece.member}) == 1)
    }
    for place, (leaf, piece) in found.items() if named else ():
        if (leaf.owner or "").endswith(_LINEAR) and len(piece.member) == 2:
            path = steps[place]
            alike["layer", template(path)].append(place)
            level = (0, *numbered_levels(template(path)))[-1]
            alike["block", path[: level + 1]].append(place)
    doubted: dict[int, str] = {}
    for (kind, _), places in alike.items():
        others = [place for place in places if place not in named]
        if len(others) == len(places) or (kind == "block" and len(others) > 1):
            continue
        for place in others:
            if len({*found[place][1].member}) == 1:
                doubted[place] = (
                    "others beside it are called as those that hold the input axis first"
                )
    return doubted


def own_cells(found: _Found) -> dict[int, str]:
    """Weights of recurrent cells from cells that are not PyTorch's, and why they are in doubt.

    Args:
        found: Leaves and what they take, by place.
    """
    doubted: dict[int, str] = {}
    for place, (leaf, piece) in found.items():
        if leaf.owner not in _CELLS:
            continue
        names = {steps_of_key(key)[-1] for expr in piece.members for key in keys_of(expr)}
        if not all(map(_OF_CELLS.fullmatch, names)):
            doubted[place] = "it is of a cell of one's own, and nothing shows its gates' order"
    return doubted


def scales_less_one(
    found: _Found, steps: Mapping[int, Steps], entries: StateDict
) -> dict[int, str]:
    """Scales of norms of models that keep them less one, where the leaf's class adds none.

    Args:
        found: Leaves and what they take, by place.
        steps: Steps of the leaves.
        entries: The checkpoint.
    """
    norms = [p for p, (leaf, _) in found.items() if leaf.owner == _RMS_NORM]
    norms = [place for place in norms if steps[place][-1] == "weight"]
    if not norms:
        return {}
    named = {step for entry in entries for step in steps_of_key(entry.key)}
    shown = min(_LESS_ONE & named, default="") if named >= _BESIDE else ""
    why = f"models with {shown} keep the scales of norms less one, which the layer does not add"
    return dict.fromkeys(norms, why) if shown else {}
