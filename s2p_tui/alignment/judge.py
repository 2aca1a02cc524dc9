"""The judgement of a row by shapes, dtypes and its layer's rule."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.composites import MAY_BE_PART, part_doubt
from s2p_tui.alignment.dtypes import DType, dtype_named
from s2p_tui.alignment.fit import Fit, Verdict
from s2p_tui.alignment.layer_rules import as_layer_needs, constant_for, departs_from_rule, rule_for
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Encoded, Entry, StateDict
from s2p_tui.alignment.transform import (
    Concat,
    Constant,
    Expr,
    Norm,
    Permute,
    Reshape,
    Scale,
    Shape,
    SpectralNorm,
    Stack,
    Sum,
    Take,
    WeightNorm,
    describe,
    nodes_of,
    shape_of,
    show,
)
from s2p_tui.errors import TransformError

_EXACT = Verdict(Fit.EXACT)
NOTHING_YET = "nothing from the checkpoint is here yet"


def same_but_ones(first: Shape, second: Shape) -> bool:
    """Return True if two shapes differ by 1-sized axes only: a reshape cannot mix elements."""
    return [size for size in first if size != 1] == [size for size in second if size != 1]


def judge(leaf: Leaf, row: Row, state_dict: StateDict) -> Verdict:
    """Judge a row by shapes, dtypes and the layer's rule.

    Reads no tensor data.
    """
    source = row.source
    if source is None:
        return _judge_gap(leaf, row)
    rule = rule_for(leaf)
    for key in row.keys if state_dict.encoded else ():
        if key in state_dict.encoded and not _is_meant(leaf, state_dict[key], state_dict.encoded):
            return Verdict(Fit.MISMATCHED, state_dict.encoded[key].why, blocks=True)
    # Almost every row is one of these, and a key press may have thousands judged.
    is_part = any(map(MAY_BE_PART.search, row.keys))
    if isinstance(source, Take) and rule is None and not is_part:
        entry = state_dict[source.key]
        if entry.shape == leaf.shape and entry.dtype == leaf.dtype:
            return _EXACT
    parts = part_doubt(leaf, source, state_dict) if is_part else None
    try:
        made = as_taken(source, leaf, state_dict)
        shape = shape_of(made, state_dict.shape)
        ruled = rule is not None and parts is None
        departs = ruled and departs_from_rule(leaf, source, state_dict.shape)
    except TransformError as error:
        return Verdict(Fit.MISMATCHED, error.message, blocks=True)
    if prod(shape) != prod(leaf.shape):
        return Verdict(
            Fit.MISMATCHED,
            f"expected {show(leaf.shape)} ({prod(leaf.shape):,} elements), "
            f"got {show(shape)} ({prod(shape):,})",
            blocks=True,
        )
    notes: list[str] = []
    doubts: list[str] = []
    if words := describe(made):
        notes.append(words)
    if parts:
        doubts.append(parts)
    if _is_padded(source):
        doubts.append("its last rows are made up")
    constant = constant_for(leaf) if rule is not None else None
    if constant is not None and not row.keys and source != constant[0]:
        doubts.append(f"this layer holds {describe(constant[0])}: {constant[1]}")
    if rule is not None and (made != source or (parts == "" and not isinstance(source, Take))):
        notes = [f"{'; '.join(notes)}: {rule.why}"]
    elif (
        rule is not None
        and isinstance(source, Take)
        and as_layer_needs(leaf, source.key, shape) is None
    ):
        doubts.append(f"{source.key} alone is not what belongs here: {rule.why}")
    elif rule is not None and departs:
        doubts.append(f"this layer needs something else: {rule.why}")
    elif row.by == "rule" and row.why:
        notes.append(row.why)
    if shape != leaf.shape:
        words = f"reshape {show(shape)} to {show(leaf.shape)}"
        if same_but_ones(shape, leaf.shape):
            notes.append(words)
        else:
            doubts.append(f"{words} has the right size but may mix the elements")
    if lossy := _lossy_arithmetic(made, {state_dict[key].dtype for key in row.keys}):
        return Verdict(Fit.MISMATCHED, lossy, blocks=True)
    for key in row.keys:
        entry = state_dict[key]
        if is_mask_of_bytes(entry) and leaf.dtype == "bool":
            notes.append("cast uint8 to bool, a mask as PyTorch kept it once")
            continue
        cast = _judge_cast(dtype_named(entry.dtype), dtype_named(leaf.dtype))
        if cast is not None and cast.fit is Fit.MISMATCHED:
            return cast
        if cast is not None:
            (doubts if cast.fit is Fit.DOUBTFUL else notes).append(cast.why)
    if doubts:
        why = "; ".join(dict.fromkeys((*doubts, *notes)))
        return Verdict(Fit.DOUBTFUL, why, blocks=not row.trusted)
    return Verdict(Fit.TRANSFORMED, "; ".join(dict.fromkeys(notes))) if notes else _EXACT


def _is_meant(leaf: Leaf, entry: Entry, encoded: Mapping[str, Encoded]) -> bool:
    """Return True if a leaf is of a model that is quantised or pruned itself."""
    if encoded[entry.key].narrow:
        return leaf.dtype == entry.dtype
    return leaf.path.rpartition(".")[2] == entry.key.rpartition(".")[2]


def _is_padded(source: Expr) -> bool:
    """Return True for entries with a constant behind them, as a table with too few rows."""
    while isinstance(source, Permute | Reshape):
        source = source.of
    constants = [isinstance(one, Constant) for one in source.operands]
    return isinstance(source, Concat) and any(constants) and not all(constants)


_COMPUTED = {Sum, Scale, Norm, WeightNorm, SpectralNorm}


def _lossy_arithmetic(expr: Expr, dtypes: set[str]) -> str:
    """Return why an expression would not keep whole numbers exact; empty if it does or has none."""
    whole = {name for name in dtypes if not dtype_named(name).is_floating}
    kinds = {type(node) for node in nodes_of(expr)}
    if not whole or not kinds & {*_COMPUTED, Stack, Concat}:
        return ""
    names = ", ".join(sorted(dtypes))
    if kinds & _COMPUTED:
        return f"computing with whole numbers ({names}) could overflow"
    if len(dtypes) > 1 or Constant in kinds:
        return f"joining {names} with other numbers would not keep whole numbers exact"
    return ""


def _judge_gap(leaf: Leaf, row: Row) -> Verdict:
    if not row.gap:
        return Verdict(Fit.MISMATCHED, NOTHING_YET, blocks=True)
    if not leaf.has_value:
        why = "a gap keeps the skeleton's value, but this skeleton was saved without values"
        return Verdict(Fit.MISMATCHED, why, blocks=True)
    return Verdict(Fit.GAP, row.why or "keeps the skeleton's value")


def is_mask_of_bytes(entry: Entry) -> bool:
    """Return True for masks from before PyTorch had a dtype of truth values: each byte is one."""
    return entry.dtype == "uint8" and "mask" in entry.key.rpartition(".")[2].lower()


def _judge_cast(source: DType, target: DType) -> Verdict | None:
    if source is target:
        return None
    words = f"cast {source.name} to {target.name}"
    if source.kind == "packed" or (source.kind == "complex" and target.kind != "complex"):
        return Verdict(Fit.MISMATCHED, f"{words} is not possible", blocks=True)
    whole = ("int", "uint")
    if source.is_floating == target.is_floating and (
        source.kind == target.kind or source.is_floating or {source.kind, target.kind} == {*whole}
    ):
        return Verdict(Fit.TRANSFORMED, words)
    return Verdict(Fit.DOUBTFUL, f"{words} changes what the numbers are")


def as_taken(source: Expr, leaf: Leaf, state_dict: StateDict) -> Expr:
    """Return a row's source as the leaf's layer needs it."""
    if not isinstance(source, Take):
        return source
    return as_layer_needs(leaf, source.key, state_dict.shape(source.key)) or source


def landing(source: Expr, leaf: Leaf, state_dict: StateDict) -> Expr:
    """All that is done to a row's source on its way into the leaf, the last reshape included."""
    made = as_taken(source, leaf, state_dict)
    if shape_of(made, state_dict.shape) == leaf.shape:
        return made
    return Reshape(made, leaf.shape)
