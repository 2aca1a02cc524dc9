"""How good a row is, and why: the judgement every screen, command and plan relies on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import prod

from s2p_tui.core.alignment import Row
from s2p_tui.core.dtypes import DType, dtype_named
from s2p_tui.core.errors import S2PError
from s2p_tui.core.pytree import Leaf
from s2p_tui.core.state_dict import StateDict
from s2p_tui.core.transform import Expr, Reshape, Shape, Take, describe, shape_of, show


class Fit(StrEnum):
    """How good a row is, best first, gaps aside."""

    EXACT = "exact"
    TRANSFORMED = "transformed"
    DOUBTFUL = "doubtful"
    MISMATCHED = "mismatched"
    GAP = "gap"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A row's fit and the reason in words.

    Attributes:
        fit: How good the row is.
        why: The reason; empty for an exact row.
        blocks: Whether the row stands in the way of a conversion.
    """

    fit: Fit
    why: str = ""
    blocks: bool = False


_EXACT = Verdict(Fit.EXACT)
NOTHING_YET = "nothing from the checkpoint is here yet"


def same_but_ones(first: Shape, second: Shape) -> bool:
    """Whether two shapes differ by 1-sized axes only, so that a reshape cannot mix elements."""
    return [size for size in first if size != 1] == [size for size in second if size != 1]


def judge(leaf: Leaf, row: Row, state_dict: StateDict) -> Verdict:
    """How well the row's source fits its leaf, from shapes and dtypes. Reads no tensor data."""
    source = row.source
    if isinstance(source, Take) and row.source is not None:
        entry = state_dict[source.key]
        if entry.shape == leaf.shape and entry.dtype == leaf.dtype and leaf.kind == "array":
            return _EXACT
    if source is None:
        return _judge_gap(leaf, row)
    try:
        shape = shape_of(source, state_dict.shape)
    except S2PError as error:
        return Verdict(Fit.MISMATCHED, error.message, blocks=True)
    if prod(shape) != prod(leaf.shape):
        return Verdict(
            Fit.MISMATCHED,
            f"expected {show(leaf.shape)} ({prod(leaf.shape):,} elements), "
            f"got {show(shape)} ({prod(shape):,})",
            blocks=True,
        )
    notes = [words] if (words := describe(source)) else []
    doubts: list[str] = []
    if shape != leaf.shape:
        words = f"reshape {show(shape)} to {show(leaf.shape)}"
        if same_but_ones(shape, leaf.shape):
            notes.append(words)
        else:
            doubts.append(f"{words} has the right size but may mix the elements")
    for key in row.keys:
        cast = _judge_cast(dtype_named(state_dict[key].dtype), dtype_named(leaf.dtype))
        if cast is not None and cast.fit is Fit.MISMATCHED:
            return cast
        if cast is not None:
            (doubts if cast.fit is Fit.DOUBTFUL else notes).append(cast.why)
    if doubts:
        why = "; ".join(dict.fromkeys((*doubts, *notes)))
        return Verdict(Fit.DOUBTFUL, why, blocks=not row.trusted)
    why = "; ".join(dict.fromkeys(notes))
    return Verdict(Fit.TRANSFORMED, why) if notes else _EXACT


def _judge_gap(leaf: Leaf, row: Row) -> Verdict:
    if not row.gap:
        return Verdict(Fit.MISMATCHED, NOTHING_YET, blocks=True)
    if not leaf.has_value:
        why = "a gap keeps the skeleton's value, but this skeleton was saved without values"
        return Verdict(Fit.MISMATCHED, why, blocks=True)
    return Verdict(Fit.GAP, row.why or "keeps the skeleton's value")


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


def landing(source: Expr, leaf: Leaf, state_dict: StateDict) -> Expr:
    """The source with the last reshape to the leaf's shape written out, if it needs one."""
    if shape_of(source, state_dict.shape) == leaf.shape:
        return source
    return Reshape(source, leaf.shape)
