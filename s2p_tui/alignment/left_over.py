"""Entries of kinds that hold no parameter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod

from s2p_tui.alignment.dtypes import dtype_named
from s2p_tui.alignment.state_dict import Entry

_STEP = re.compile(r"[./]")
_COUNTERS = frozenset(
    (
        *("num_batches_tracked", "num_updates", "n_averaged", "counter", "count"),
        *("step", "steps", "num_steps", "global_step", "initialized", "initted"),
    )
)
_POSITIONS = frozenset(
    (
        *("position_ids", "pos_ids", "token_type_ids", "cache_position", "positions"),
        *("relative_position_index", "rel_pos_index", "relative_position_bucket", "rp_bucket"),
    )
)
_FREQUENCIES = frozenset(("inv_freq", "original_inv_freq", "inv_freqs"))
_ROTARY = frozenset(
    (
        *("cos_cached", "sin_cached", "cos_cache", "sin_cache", "cos_sin_cache"),
        *("freqs_cis", "freqs_cos", "freqs_sin"),
    )
)
_MASKS = frozenset(("mask", "tril", "triu", "attn_mask", "causal_mask", "attention_mask"))
_PRUNED = frozenset(("weight_mask", "bias_mask"))
"""What `torch.nn.utils.prune` multiplies a parameter by: part of the parameter, not a buffer."""
_SINGLE = frozenset(("masked_bias", "_float_tensor", "version", "total_ops", "total_params"))
"""One number each: GPT-2's value for masked scores, fairseq's markers, what thop counts."""
_GEOMETRY = frozenset(("relative_coords_table",))
"""Swin v2's table of distances, made from the window's size alone."""
_MOMENTS = frozenset(("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"))
_OPTIMISERS = frozenset(
    ("optimizer", "optimizer_state", "optimizer_states", "optim", "lr_scheduler", "lr_schedulers")
)
_MATRIX = 2


def no_parameter(entry: Entry) -> str:
    """The kind of an entry that holds no parameter; empty if it may hold one."""
    steps = [step.lower() for step in _STEP.split(entry.key)]
    last, shape = steps[-1], entry.shape
    size, dtype = prod(shape), dtype_named(entry.dtype)
    whole = not dtype.is_floating and dtype.kind not in ("complex", "packed")
    if not size:
        return "it holds no numbers"
    if last in _COUNTERS and size == 1 and whole:
        return "a counter"
    if last in _POSITIONS and whole:
        return "positions, which hold no parameter"
    if (last in _FREQUENCIES and len(shape) == 1) or (last in _ROTARY and len(shape) >= _MATRIX):
        return "a table of rotary frequencies, which holds no parameter"
    if _is_mask(last, steps, entry, whole=whole):
        return "a mask, which holds no parameter"
    if last in _SINGLE and size == 1:
        return "a marker, which holds no parameter"
    if last in _GEOMETRY and len(shape) > _MATRIX:
        return "a table of distances, which holds no parameter"
    if last in _MOMENTS or _OPTIMISERS.intersection(steps[:1]):
        return "state of an optimiser"
    return ""


def _is_mask(last: str, steps: Sequence[str], entry: Entry, *, whole: bool) -> bool:
    shape = entry.shape
    square = len(shape) >= _MATRIX and shape[-1] == shape[-2]
    flat = square and prod(shape[:-2]) == 1
    if last == "bias" and len(shape) == 2 * _MATRIX and flat and steps[-2:-1] == ["attn"]:
        # GPT-2's causal mask goes by the name of a bias; its files hold it as numbers too.
        return entry.dtype in ("bool", "uint8") or shape[-1] > 1
    if last in _PRUNED or not (last in _MASKS or last.endswith("_mask")):
        return False
    if whole:
        return entry.dtype in ("bool", "uint8", "int8")
    return square and last != "mask" and last in _MASKS
