"""An expression in words."""

from __future__ import annotations

from s2p_tui.core.transform.nodes import (
    Broadcast,
    Concat,
    Constant,
    Expr,
    Flip,
    Norm,
    Permute,
    Reshape,
    Scale,
    SpectralNorm,
    Split,
    Stack,
    Sum,
    Take,
    WeightNorm,
)
from s2p_tui.core.transform.shapes import show


def describe(expr: Expr) -> str:
    """The steps in words, innermost first, without the entries' names; empty for a plain copy."""
    match expr:
        case Take():
            return ""
        case Constant(value):
            return f"constant {value:g}"
        case Permute(of, axes):
            step = f"permute axes to ({', '.join(map(str, axes))})"
        case Flip(of, axes):
            step = f"flip axes {', '.join(map(str, axes))}"
        case Reshape(of, shape):
            step = f"reshape to {show(shape)}"
        case Split(of, axis, start, stop):
            step = f"take {start}:{stop} of axis {axis}"
        case Scale(of, factor):
            step = f"multiply by {factor:g}"
        case Broadcast(of, shape):
            step = f"repeat to {show(shape)}"
        case Norm(of, axes):
            step = f"norm over axes {', '.join(map(str, axes))}"
        case WeightNorm((_, direction)):
            return _describe_many((direction,), "fold the weight norm")
        case SpectralNorm((weight, *_)):
            return _describe_many((weight,), "fold the spectral norm")
        case WeightNorm() | SpectralNorm():
            return "fold nothing"
        case Stack(of, axis):
            return _describe_many(of, f"stack {len(of)} on axis {axis}")
        case Concat(of, axis):
            return _describe_many(of, f"concatenate {len(of)} on axis {axis}")
        case Sum(of):
            return _describe_many(of, f"add {len(of)}")
    inner = describe(of)
    return f"{inner}, {step}" if inner else step


def _describe_many(of: tuple[Expr, ...], step: str) -> str:
    described = (describe(operand) for operand in of)
    inner = list(dict.fromkeys(words for words in described if words))
    return f"each: {' | '.join(inner)}; then {step}" if inner else step
