"""What a leaf takes of a tensor that PyTorch keeps in several entries."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from msgspec import structs

from s2p_tui.core.composites import Composite, composites_of, gates_of
from s2p_tui.core.layers import CONV_TRANSPOSE
from s2p_tui.core.pytree import Leaf
from s2p_tui.core.ruled import rule_applied
from s2p_tui.core.state_dict import StateDict
from s2p_tui.core.transform import (
    Concat,
    Constant,
    Expr,
    Norm,
    Shape,
    Split,
    Sum,
    Take,
    keys_of,
    operands,
    shape_of,
)

_GATES = {"equinox.nn.LSTMCell": 4, "equinox.nn.GRUCell": 3}
_FINAL = frozenset((*_GATES, "equinox.nn.WeightNorm"))
_PART_NAMES = ("g", "v", "u", "orig", "original", "original0", "original1")


@dataclass(frozen=True, slots=True)
class Composed:
    """What belongs on a leaf.

    Attributes:
        expr: The expression, in PyTorch's layout: the leaf's layer may turn it yet.
        shape: Its shape.
        why: How it is made, in words.
    """

    expr: Expr
    shape: Shape
    why: str


def composed(leaf: Leaf, composite: Composite, state_dict: StateDict) -> Composed | None:
    """What the leaf takes of a composite; None if its layer has no use for it."""
    expr = _expr(leaf, composite, state_dict)
    if expr is None:
        return None
    whole = len(keys_of(expr)) > 1
    why = _WHYS[composite.kind] if whole or composite.kind == "recurrent biases" else ""
    return Composed(expr, shape_of(expr, state_dict.shape), why)


_WHYS = {
    "weight norm": "the weight a weight-normed layer computes with",
    "spectral norm": "the weight a spectrally normed layer computes with",
    "recurrent biases": "Equinox's cell adds PyTorch's two biases up",
}


def _expr(leaf: Leaf, composite: Composite, state_dict: StateDict) -> Expr | None:
    match composite.kind:
        case "recurrent biases":
            return _bias(leaf, composite, state_dict)
        case "weight norm":
            return _weight_normed(leaf, composite, state_dict)
        case "spectral norm":
            return _spectrally_normed(leaf, composite, state_dict)


def _bias(leaf: Leaf, composite: Composite, state_dict: StateDict) -> Expr | None:
    gates = _GATES.get(leaf.owner or "")
    if gates is None or gates_of(composite, state_dict) != gates:
        return None
    ours, theirs = map(Take, composite.parts)
    if gates == _GATES["equinox.nn.LSTMCell"]:
        return Sum((ours, theirs)) if leaf.path.endswith(".bias") else None
    hidden = composite.shape[0] // gates
    if leaf.path.endswith(".bias_n"):
        return Split(theirs, 0, 2 * hidden, 3 * hidden)
    if not leaf.path.endswith(".bias"):
        return None
    rest = Split(theirs, 0, 0, 2 * hidden)
    return Sum((ours, Concat((rest, Constant(0.0, (hidden,))), 0)))


def _weight_normed(leaf: Leaf, composite: Composite, state_dict: StateDict) -> Expr | None:
    magnitude, direction = map(Take, composite.parts)
    folded = composite.folded(state_dict, transposed=None)
    if leaf.owner == "equinox.nn.WeightNorm":
        if _keeps_magnitude(leaf, composite, state_dict):
            return magnitude
        return folded and _norm_of(leaf, folded, composite.shape)
    if leaf.config.get("wrapper") == "equinox.nn.WeightNorm":
        config = {"axis": leaf.config.get("wrapper_axis"), "layer": leaf.owner}
        around = Leaf(
            f"{leaf.path}.g",
            _norm_shape(leaf.shape, config["axis"]),
            leaf.dtype,
            owner="equinox.nn.WeightNorm",
            config={**config, "layer_config": leaf.config},
        )
        return direction if _keeps_magnitude(around, composite, state_dict) else folded
    return folded


def _keeps_magnitude(leaf: Leaf, composite: Composite, state_dict: StateDict) -> bool:
    key = composite.parts[0]
    return rule_applied(leaf, Take(key), state_dict.shape(key)) is not None


def _norm_shape(shape: Shape, axis: Any) -> Shape:
    return tuple(size if place == axis else 1 for place, size in enumerate(shape))


def _norm_of(leaf: Leaf, folded: Expr, shape: Shape) -> Expr | None:
    """The norm of the weight as the layer within stores it, along the axis Equinox takes."""
    config = cast("dict[str, Any]", leaf.config.get("layer_config", {}))
    layer = Leaf(f"{leaf.path}.weight", shape, leaf.dtype, owner=leaf.config.get("layer"))
    stored: Expr | None = folded
    if layer.owner in CONV_TRANSPOSE:
        groups = config.get("groups")
        if not isinstance(groups, int) or groups < 1 or shape[0] % groups:
            return None
        turned = (shape[1] * groups, shape[0] // groups, *shape[2:])
        stored = rule_applied(structs.replace(layer, shape=turned, config=config), folded, shape)
    axis = leaf.config.get("axis")
    return stored and Norm(stored, tuple(n for n in range(len(shape)) if n != axis))


def _spectrally_normed(leaf: Leaf, composite: Composite, state_dict: StateDict) -> Expr | None:
    whole, left, right = map(Take, composite.parts)
    if leaf.owner == "equinox.nn.SpectralNorm":
        return left if leaf.path.endswith("[0]") else right
    if leaf.config.get("wrapper") == "equinox.nn.SpectralNorm":
        return whole
    known = (leaf.owner or "").startswith("equinox.nn.")
    return composite.folded(state_dict, transposed=leaf.owner in CONV_TRANSPOSE if known else None)


def part_doubt(leaf: Leaf, source: Expr, state_dict: StateDict) -> str | None:
    """Why a source that reads parts of a composite may be wrong; empty if it is what belongs here.

    None where that says nothing, or not all: the rule of the leaf's layer has to be asked yet. A
    module of the user's own may keep the parts as PyTorch does: leaves named like parts are left
    to the names.
    """
    settled: str | None = None
    for composite in composites_of(keys_of(source), state_dict):
        made = composed(leaf, composite, state_dict)
        if made is None and composite.kind == "recurrent biases":
            continue
        known = (leaf.owner or "").startswith("equinox.nn.")
        if not known and re.split(r"[._]", leaf.path)[-1] in _PART_NAMES:
            continue
        accepted = {_sorted(made.expr)} if made is not None else set[Expr]()
        if made is not None and leaf.owner in _FINAL and _sorted(source) in accepted:
            settled = ""
            continue
        if leaf.owner not in _FINAL:
            folded = composite.folded(state_dict, transposed=leaf.owner in CONV_TRANSPOSE)
            accepted |= {folded} if folded is not None else set()
        bare = set(_bare(_sorted(source), accepted)).intersection(composite.parts)
        if bare:
            first = next(part for part in composite.parts if part in bare)
            rest = " and ".join(part for part in composite.parts if part != first)
            return f"{first} is only a part of what belongs here, together with {rest}"
    return settled


def _bare(expr: Expr, accepted: set[Expr]) -> Iterator[str]:
    """Keys read outside the accepted expressions."""
    if expr in accepted:
        return
    if isinstance(expr, Take):
        yield expr.key
    for operand in operands(expr):
        yield from _bare(operand, accepted)


def _sorted(expr: Expr) -> Expr:
    """The same with sums in one order."""
    if isinstance(expr, Sum):
        return Sum(tuple(sorted(map(_sorted, expr.of), key=repr)))
    return expr
