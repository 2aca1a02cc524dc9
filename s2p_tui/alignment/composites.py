"""Tensors that PyTorch keeps in several entries, and what leaves are made of them.

Weight norm keeps `weight_g` and `weight_v` (or `parametrizations.weight.original0` and `1`),
spectral norm `weight_orig`, `weight_u` and `weight_v` (or `parametrizations.weight.original`,
`.0._u` and `.0._v`), recurrent layers `bias_ih` and `bias_hh`. A weight of theirs holds all gates,
which are several leaves in Flax. Names as of torch 2.13; what is made of them measured by comparing
forwards with equinox 0.13.8 and flax 0.12.8.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from math import prod
from typing import Any, Literal, cast

from msgspec import Struct, structs

from s2p_tui.alignment.flax_rules import FLAX_CELLS, gates_in
from s2p_tui.alignment.layer_rules import CONV_TRANSPOSE, TRANSPOSED, rule_applied
from s2p_tui.alignment.skeleton import LIBRARIES, Leaf
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import (
    Concat,
    Constant,
    Expr,
    Norm,
    Shape,
    SpectralNorm,
    Split,
    Stack,
    Sum,
    Take,
    WeightNorm,
    keys_of,
    operands,
    shape_of,
)
from s2p_tui.errors import TransformError

Kind = Literal["weight norm", "spectral norm", "recurrent biases", "recurrent weight"]


class Composite(Struct, frozen=True):
    """Entries of one PyTorch layer that make up one tensor together.

    Attributes:
        kind: How they do.
        layer: What the layer's keys start with, dot included.
        name: The tensor's name in the layer, such as `weight`; the suffix of recurrent biases.
        parts: The keys: g and v; W, u and v; bias_ih and bias_hh; the one of a recurrent weight.
        shape: Shape of the tensor, in PyTorch's layout.
    """

    kind: Kind
    layer: str
    name: str
    parts: tuple[str, ...]
    shape: Shape

    def folded(self, state_dict: StateDict, *, transposed: bool | None) -> Expr | None:
        """The weight the layer computes with, in PyTorch's layout; None for recurrent layers.

        Args:
            state_dict: Gives the shapes.
            transposed: Whether the layer is a transposed convolution, if known; spectral norm
                takes the other axis there, and if that shows nowhere the answer is None.
        """
        match self.kind:
            case "weight norm":
                return WeightNorm(tuple(map(Take, self.parts)))
            case "spectral norm":
                of = tuple(map(Take, self.parts))
                possible = [SpectralNorm(of, axis) for axis in (0, 1) if axis < len(self.shape)]
                possible = [one for one in possible if _applies(one, state_dict)]
                if len(possible) == 1 or len(self.shape) == 2:
                    return possible[0]
                return None if transposed is None else possible[transposed]
            case "recurrent biases" | "recurrent weight":
                return None


_ENDINGS: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    ("weight norm", ("{0}{1}_g", "{0}{1}_v")),
    ("weight norm", ("{0}parametrizations.{1}.original0", "{0}parametrizations.{1}.original1")),
    ("spectral norm", ("{0}{1}_orig", "{0}{1}_u", "{0}{1}_v")),
    (
        "spectral norm",
        (
            "{0}parametrizations.{1}.original",
            "{0}parametrizations.{1}.0._u",
            "{0}parametrizations.{1}.0._v",
        ),
    ),
    ("recurrent biases", ("{0}bias_ih{1}", "{0}bias_hh{1}")),
)
MAY_BE_PART = re.compile(r"(_g|_v|_u|_orig|\.original[01]?|\.0\._[uv]|bias_[ih]h[^.]*)$")
"""Matches the keys of entries that are named as parts of composites are; see `composite_of`."""
_ENDS = ("_g", "_v", "_u", "_orig", ".original", ".original0", ".original1")
_BIAS = "bias_"
"""The ends, or what is in it, of all that `MAY_BE_PART` matches."""


def _pattern(ending: str) -> re.Pattern[str]:
    text = re.escape(ending).replace(re.escape("{0}"), r"((?:.*\.)?)")
    return re.compile(text.replace(re.escape("{1}"), r"([^.]*)"))


_PATTERNS: tuple[tuple[re.Pattern[str], Kind, tuple[str, ...]], ...] = tuple(
    (_pattern(ending), kind, endings) for kind, endings in _ENDINGS for ending in endings
)


def composite_of(key: str, state_dict: StateDict) -> Composite | None:
    """Return the composite of an entry, if its companions are there and have fitting shapes."""
    # Asked of all keys of a checkpoint, of which most end otherwise: in a fifth of the time.
    if not (key.endswith(_ENDS) or _BIAS in key) or MAY_BE_PART.search(key) is None:
        return None
    for pattern, kind, endings in _PATTERNS:
        match = pattern.fullmatch(key)
        if match is None:
            continue
        layer, name = match.groups()
        parts = tuple(ending.format(layer, name) for ending in endings)
        if all(part in state_dict for part in parts):
            shape = _shape(kind, layer, name, parts, state_dict)
            if shape is not None:
                return Composite(kind, layer, name, parts, shape)
    return None


def composites(state_dict: StateDict) -> tuple[Composite, ...]:
    """All of a state dict, in the order of their first parts."""
    return composites_of((entry.key for entry in state_dict), state_dict)


def composites_of(keys: Iterable[str], state_dict: StateDict) -> tuple[Composite, ...]:
    """Return the composites that entries are parts of, each once."""
    found = (composite_of(key, state_dict) for key in keys)
    return tuple(dict.fromkeys(composite for composite in found if composite is not None))


def gates_of(composite: Composite, state_dict: StateDict) -> int:
    """Return a recurrent layer's number of gates: 4 LSTM, 3 GRU; 0 if that does not show."""
    hidden = f"{composite.layer}weight_hh{composite.name}"
    if composite.kind != "recurrent biases" or hidden not in state_dict:
        return 0
    rows, columns = state_dict.shape(hidden)
    return rows // columns


def _shape(
    kind: Kind, layer: str, name: str, parts: tuple[str, ...], state_dict: StateDict
) -> Shape | None:
    shapes = [state_dict.shape(part) for part in parts]
    match kind:
        case "weight norm":
            fits = _applies(WeightNorm(tuple(map(Take, parts))), state_dict)
            return shapes[1] if fits and len(shapes[1]) > 1 else None
        case "spectral norm":
            of = tuple(map(Take, parts))
            fits = any(_applies(SpectralNorm(of, axis), state_dict) for axis in (0, 1))
            return shapes[0] if fits else None
        case "recurrent biases":
            hidden = f"{layer}weight_hh{name}"
            if hidden not in state_dict or shapes[0] != shapes[1]:
                return None
            weight = state_dict.shape(hidden)
            fits = len(weight) == 2 and prod(weight) and weight[0] % weight[1] == 0
            return shapes[0] if fits and shapes[0] == weight[:1] else None
        case "recurrent weight":
            return shapes[0]


def _applies(expr: Expr, state_dict: StateDict) -> bool:
    try:
        shape_of(expr, state_dict.shape)
    except TransformError:
        return False
    return True


_GATES = {"equinox.nn.LSTMCell": 4, "equinox.nn.GRUCell": 3}
_FINAL = frozenset((*_GATES, *FLAX_CELLS, "equinox.nn.WeightNorm"))
_PART_NAMES = ("g", "v", "u", "orig", "original", "original0", "original1")


class Composed(Struct, frozen=True):
    """The part of a composite that belongs on a leaf.

    Attributes:
        expr: The expression, in PyTorch's layout: the leaf's layer may turn it yet.
        shape: Its shape.
        why: How it is made, in words.
    """

    expr: Expr
    shape: Shape
    why: str


def composed(leaf: Leaf, composite: Composite, state_dict: StateDict) -> Composed | None:
    """Return a leaf's part of a composite; None if its layer has no use for it."""
    expr = _expr(leaf, composite, state_dict)
    if expr is None:
        return None
    whole = len(keys_of(expr)) > 1
    why = _WHYS[composite.kind] if whole or composite.kind == "recurrent biases" else ""
    return Composed(expr, shape_of(expr, state_dict.shape), why)


_WHYS = {
    "weight norm": "the weight a weight-normed layer computes with",
    "spectral norm": "the weight a spectrally normed layer computes with",
    "recurrent biases": "the cell adds PyTorch's two biases up",
    "recurrent weight": "",
}


def _expr(leaf: Leaf, composite: Composite, state_dict: StateDict) -> Expr | None:
    match composite.kind:
        case "recurrent biases":
            return _bias(leaf, composite, state_dict)
        case "weight norm":
            return _weight_normed(leaf, composite, state_dict)
        case "spectral norm":
            return _spectrally_normed(leaf, composite, state_dict)
        case "recurrent weight":
            gates = gates_in(leaf)
            (key,) = composite.parts
            if gates is None or f"{gates.tensor}{composite.name}" != key.rpartition(".")[2]:
                return None
            return gates.part(Take(key), composite.shape)


def _bias(leaf: Leaf, composite: Composite, state_dict: StateDict) -> Expr | None:
    if (held := gates_in(leaf)) is not None:
        if held.tensor != "bias" or gates_of(composite, state_dict) != held.count:
            return None
        ours, theirs = map(Take, composite.parts)
        return held.bias(ours, theirs, composite.shape)
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
    known = (leaf.owner or "").startswith(LIBRARIES)
    return composite.folded(state_dict, transposed=leaf.owner in TRANSPOSED if known else None)


def part_doubt(leaf: Leaf, source: Expr, state_dict: StateDict) -> str | None:
    """Return why a source that reads parts of a composite may be wrong; empty if it is right.

    None where that says nothing, or not all: the rule of the leaf's layer has to be asked yet. A
    module of the user's own may keep the parts as PyTorch does: leaves named like parts are left
    to the names. A stack of layers is asked of each.
    """
    if isinstance(source, Stack) and source.axis < len(leaf.shape):
        shape = (*leaf.shape[: source.axis], *leaf.shape[source.axis + 1 :])
        one = structs.replace(leaf, shape=shape)
        doubts = [part_doubt(one, operand, state_dict) for operand in source.of]
        return next(filter(None, doubts), "" if None not in doubts else None)
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
            folded = composite.folded(state_dict, transposed=leaf.owner in TRANSPOSED)
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
