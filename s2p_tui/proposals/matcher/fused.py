"""Fused weights that models keep in several orders: one part after the other, or head by head."""

from __future__ import annotations

import re

from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import Concat, Expr, Split, keys_of, nodes_of, shape_of
from s2p_tui.proposals.matcher.pieces import parts_named

_MAY_ALTERNATE = frozenset(
    (
        *("wqkv", "query_key_value", "key_value", "qkv_proj", "kv_proj"),
        *("linear_qkv", "linear_kv", "qkv_linear"),
    )
)
"""Fused weights that some models keep head by head, so that a third is not one of the parts."""
_PLAIN = re.compile(r"(?<![^.])(?:qkv|kv)(?=\.)")
"""Fused weights of many models. Those that call what follows `proj`, as timm's transformers and
most models of images do, have the parts one after the other, but for convolutions (guided
diffusion, EfficientViT), for LeViT and TinyViT, which have `attention_biases` beside them, and for
MaxViT and CoAtNet, which have a module `rel_pos`.
"""
_OF_HEADS = (
    "attention_biases",
    *("rel_pos.relative_position_bias_table", "rel_pos.mlp.fc1.weight", "rel_pos"),
)
_OWN = frozenset(("qkv", "kv"))
"""Fused weights of models of any author's own, of which nothing shows how they are put together."""
_EITHER_FIRST = frozenset(("scale_shift", "shift_scale"))
"""Fused weights whose names models give whichever part comes first, as PixArt's scales and shifts.
"""
_OF_LIBRARIES = {"to_qkv": (), "to_kv": ("to_out", "to_out.0", "to_q"), "c_attn": ("c_proj",)}
"""Fused weights of x-transformers and of GPT-2, and layers beside them there.

They have their parts one after the other.
"""
_MATRIX = 2
# Those of GPT-OSS, whose experts have biases and hold gates in turns with the other halves.
_IN_TURNS = (".gate_up_proj", ".gate_up_proj_bias")


def may_alternate(expr: Expr, steps: tuple[str, ...], entries: StateDict) -> bool:
    """Return True for fused weights, or parts of them, whose layout nothing shows.

    Args:
        expr: What a leaf takes.
        steps: The leaf's steps: under the entry's own name it holds what that holds.
        entries: The checkpoint.
    """
    named = _MAY_ALTERNATE.intersection(map(str.lower, steps))
    if any(named.difference(key.lower().split(".")) for key in keys_of(expr)):
        return True
    mine = set(filter(parts_named, steps))
    split = [node for node in nodes_of(expr) if isinstance(node, Split)]
    if any(_may_be_in_groups(node, entries) for node in split):
        return True
    if mine and isinstance(expr, Concat) and len({entries.shape(k)[0] for k in keys_of(expr)}) > 1:
        return True
    if isinstance(expr, Concat) and len(keys_of(expr)) > 1 and _OWN.intersection(mine):
        return True
    fused = {key for node in (split or [expr] if mine else split) for key in keys_of(node)}
    fused = {key for key in fused if mine.isdisjoint(key.split("."))}
    return any(_alternates(key, entries) for key in fused)


def order_is_open(expr: Expr) -> bool:
    """Return True for a part of a fused weight whose name need not give the order of its parts."""
    return any(
        _EITHER_FIRST.intersection(key.lower().split("."))
        for node in nodes_of(expr)
        if isinstance(node, Split)
        for key in keys_of(node)
    )


def _may_be_in_groups(part: Split, entries: StateDict) -> bool:
    """Return True for a part of a weight that no library is known to keep one after the other.

    Parts that differ in size are of several queries for each key, which may be kept together.
    """
    (key, *_) = keys_of(part)
    around, _, name = key.rpartition(".")[0].rpartition(".")
    parts = parts_named(name)
    if not parts or (beside := _OF_LIBRARIES.get(name)) is None:
        return False
    size = shape_of(part.of, entries.shape)[part.axis]
    if name != "to_kv" and (part.stop - part.start) * len(parts) == size:
        return False
    before = f"{around}." if around else ""
    return not any(f"{before}{other}.weight" in entries for other in beside)


def _alternates(key: str, entries: StateDict) -> bool:
    """Return True if a fused weight may be kept head by head, or in turns."""
    if _MAY_ALTERNATE.intersection(key.lower().split(".")):
        return True
    if key.endswith(_IN_TURNS):
        return f"{key.removesuffix('_bias')}_bias" in entries
    match = _PLAIN.search(key)
    if match is None:
        return False
    weight = f"{key.rpartition('.')[0]}.weight"
    is_kernel = len(entries.shape(weight if weight in entries else key)) > _MATRIX
    around = key[: match.start()]
    is_timm = f"{around}proj.weight" in entries
    return is_kernel or not is_timm or any(f"{around}{name}" in entries for name in _OF_HEADS)
