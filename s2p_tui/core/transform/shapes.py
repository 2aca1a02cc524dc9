"""The shape of an expression's result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from s2p_tui.core.errors import TransformError
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
    Shape,
    SpectralNorm,
    Split,
    Stack,
    Sum,
    Take,
    WeightNorm,
)


def show(shape: Shape) -> str:
    """A shape as people read it: `64×3×7×7`, `()` for no axes."""
    return "×".join(map(str, shape)) if shape else "()"


def shape_of(expr: Expr, entry_shape: Callable[[str], Shape]) -> Shape:
    """Shape of the result.

    Args:
        expr: The expression.
        entry_shape: Gives the shape of the entry of that key.

    Raises:
        TransformError: A step does not apply to the shape it meets.
    """
    match expr:
        case Take(key):
            return entry_shape(key)
        case Constant(_, shape):
            return shape
        case Permute(of, axes):
            shape = shape_of(of, entry_shape)
            if sorted(axes) != list(range(len(shape))):
                raise TransformError(f"permute{axes} does not reorder the axes of {show(shape)}.")
            return tuple(shape[axis] for axis in axes)
        case Flip(of, axes):
            shape = shape_of(of, entry_shape)
            if len(set(axes)) != len(axes) or not all(0 <= axis < len(shape) for axis in axes):
                raise TransformError(f"flip{axes} names axes that {show(shape)} does not have.")
            return shape
        case Reshape(of, shape):
            before = shape_of(of, entry_shape)
            if prod(before) != prod(shape) or any(size < 0 for size in shape):
                raise TransformError(f"{show(before)} cannot be reshaped to {show(shape)}.")
            return shape
        case Split(of, axis, start, stop):
            shape = shape_of(of, entry_shape)
            if not 0 <= axis < len(shape) or not 0 <= start <= stop <= shape[axis]:
                raise TransformError(
                    f"split {start}:{stop} on axis {axis} lies outside {show(shape)}."
                )
            return (*shape[:axis], stop - start, *shape[axis + 1 :])
        case Stack(of, axis):
            shape = _same_shape(expr, [shape_of(operand, entry_shape) for operand in of])
            if not 0 <= axis <= len(shape):
                raise TransformError(f"stack on axis {axis} does not apply to {show(shape)}.")
            return (*shape[:axis], len(of), *shape[axis:])
        case Concat(of, axis):
            shapes = [shape_of(operand, entry_shape) for operand in of]
            if not shapes or not all(0 <= axis < len(shape) for shape in shapes):
                raise TransformError(f"concat on axis {axis} does not apply to {_list(shapes)}.")
            rest = _same_shape(expr, [(*s[:axis], *s[axis + 1 :]) for s in shapes])
            return (*rest[:axis], sum(shape[axis] for shape in shapes), *rest[axis:])
        case Sum(of):
            return _same_shape(expr, [shape_of(operand, entry_shape) for operand in of])
        case Scale(of):
            return shape_of(of, entry_shape)
        case Broadcast(of, shape):
            before = shape_of(of, entry_shape)
            tail = shape[len(shape) - len(before) :]
            if len(shape) < len(before) or any(
                size not in (1, wanted) for size, wanted in zip(before, tail, strict=True)
            ):
                raise TransformError(f"{show(before)} cannot be broadcast to {show(shape)}.")
            return shape
        case Norm(of, axes):
            shape = shape_of(of, entry_shape)
            if len(set(axes)) != len(axes) or not all(0 <= axis < len(shape) for axis in axes):
                raise TransformError(f"norm{axes} names axes that {show(shape)} does not have.")
            return tuple(1 if axis in axes else size for axis, size in enumerate(shape))
        case WeightNorm(of):
            return _weight_normed([shape_of(operand, entry_shape) for operand in of])
        case SpectralNorm(of, axis):
            return _spectrally_normed([shape_of(operand, entry_shape) for operand in of], axis)


def _weight_normed(shapes: Sequence[Shape]) -> Shape:
    fits = len(shapes) == 2 and (
        prod(shapes[0]) == 1
        or (
            len(shapes[0]) == len(shapes[1])
            and all(size in (1, whole) for size, whole in zip(*shapes, strict=True))
        )
    )
    if not fits:
        raise TransformError(
            f"weight_norm expected a magnitude per slice and a weight, got {_list(shapes)}."
        )
    return shapes[1]


def _spectrally_normed(shapes: Sequence[Shape], axis: int) -> Shape:
    weight, *vectors = shapes or [()]
    rows = weight[axis] if 0 <= axis < len(weight) else 0
    if not rows or vectors != [(rows,), (prod(weight) // rows,)]:
        raise TransformError(f"spectral_norm on axis {axis} does not apply to {_list(shapes)}.")
    return weight


def _same_shape(expr: Expr, shapes: Sequence[Shape]) -> Shape:
    if not shapes or any(shape != shapes[0] for shape in shapes):
        raise TransformError(
            f"{type(expr).__name__.lower()} needs operands of one shape, got {_list(shapes)}."
        )
    return shapes[0]


def _list(shapes: Sequence[Shape]) -> str:
    return ", ".join(map(show, shapes)) or "none"
