"""Random transform expressions together with what NumPy makes of them on whole arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from hypothesis import strategies as st

from s2p_tui.alignment.transform import (
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
from s2p_tui.formats.base import Region

NUMBERS = np.arange(1, 1 << 12, dtype=np.float32)


@dataclass(frozen=True)
class Case:
    """An expression, the arrays it is over, and its whole result by NumPy's own functions."""

    expr: Expr
    arrays: dict[str, np.ndarray]
    result: np.ndarray


@st.composite
def cases(draw: st.DrawFn, steps: int = 4) -> Case:
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    arrays: dict[str, np.ndarray] = {}
    expr, result = draw(_ends(shape, arrays))
    for _ in range(draw(st.integers(0, steps))):
        expr, result = draw(_step(expr, result, arrays))
    return Case(expr, arrays, result)


@st.composite
def _ends(draw: st.DrawFn, shape: Shape, arrays: dict[str, np.ndarray]) -> tuple[Expr, np.ndarray]:
    """An entry (new or known) or a constant of that shape."""
    if draw(st.integers(0, 5)) == 0:
        value = draw(st.integers(-4, 4)) / 2
        return Constant(value, shape), np.full(shape, value)
    key = f"entry.{draw(st.integers(0, 3))}"
    if key not in arrays:
        start = len(arrays) * 7
        arrays[key] = NUMBERS[start : start + prod(shape)].reshape(shape)
    if arrays[key].shape == shape:
        return Take(key), arrays[key]
    return Constant(1.5, shape), np.full(shape, 1.5)


@st.composite
def _step(
    draw: st.DrawFn, expr: Expr, whole: np.ndarray, arrays: dict[str, np.ndarray]
) -> tuple[Expr, np.ndarray]:
    rank = whole.ndim
    ops = ["reshape", "stack", "sum", "scale", "broadcast"]
    ops += ["permute", "flip", "split", "concat", "ones"] * (rank > 0)
    match draw(st.sampled_from(ops)):
        case "permute":
            axes = tuple(draw(st.permutations(range(rank))))
            return Permute(expr, axes), whole.transpose(axes)
        case "flip":
            axes = tuple(draw(st.lists(st.integers(0, rank - 1), unique=True)))
            return Flip(expr, axes), np.flip(whole, axes)
        case "split":
            axis = draw(st.integers(0, rank - 1))
            start, stop = sorted(draw(st.tuples(*[st.integers(0, whole.shape[axis])] * 2)))
            index = (slice(None),) * axis + (slice(start, stop),)
            return Split(expr, axis, start, stop), whole[index]
        case "reshape":
            shape = draw(factorings(whole.size))
            return Reshape(expr, shape), whole.reshape(shape)
        case "ones":
            sizes = [size for size in whole.shape if size != 1]
            shape = tuple(draw(st.permutations([*sizes, 1])) if len(sizes) < 2 else [1, *sizes, 1])
            return Reshape(expr, shape), whole.reshape(shape)
        case "scale":
            factor = draw(st.sampled_from([-1, 2, 0.5]))
            return Scale(expr, factor), whole * factor
        case "broadcast":
            front = draw(st.lists(st.integers(0, 2), max_size=1))
            sizes = [draw(st.integers(0, 3)) if size == 1 else size for size in whole.shape]
            return Broadcast(expr, (*front, *sizes)), np.broadcast_to(whole, (*front, *sizes))
        case "stack":
            others = draw(st.lists(_ends(whole.shape, arrays), max_size=2))
            axis = draw(st.integers(0, rank))
            exprs, wholes = zip((expr, whole), *others, strict=True)
            return Stack(exprs, axis), np.stack(wholes, axis)
        case "concat":
            axis = draw(st.integers(0, rank - 1))
            shape = (*whole.shape[:axis], draw(st.integers(0, 3)), *whole.shape[axis + 1 :])
            exprs, wholes = zip(
                draw(_ends(shape, arrays)), (expr, whole), (expr, whole), strict=True
            )
            return Concat(exprs, axis), np.concatenate(wholes, axis)
        case _:
            others = draw(st.lists(_ends(whole.shape, arrays), max_size=2))
            exprs, wholes = zip((expr, whole), *others, strict=True)
            return Sum(exprs), np.sum(np.stack(wholes), axis=0)


@st.composite
def factorings(draw: st.DrawFn, size: int) -> Shape:
    """A shape of that many elements."""
    shape: list[int] = []
    for _ in range(draw(st.integers(0, 3))):
        if size == 0:
            shape.append(draw(st.integers(0, 3)))
            continue
        factor = draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
        shape.append(factor)
        size //= factor
    return tuple(draw(st.permutations([*shape, size])))


def regions(shape: Shape) -> st.SearchStrategy[Region]:
    """Any box in a shape, empty ones included."""
    return st.tuples(
        *(
            st.tuples(*[st.integers(0, size)] * 2).map(lambda ends: tuple(sorted(ends)))
            for size in shape
        )
    )


def slices(region: Region) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in region)


def by_numpy(expr: Expr, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """What NumPy's own functions make of an expression over whole arrays."""
    match expr:
        case Take(key):
            return arrays[key]
        case Constant(value, shape):
            return np.full(shape, value)
        case Permute(of, axes):
            return by_numpy(of, arrays).transpose(axes)
        case Flip(of, axes):
            return np.flip(by_numpy(of, arrays), axes)
        case Reshape(of, shape):
            return by_numpy(of, arrays).reshape(shape)
        case Split(of, axis, start, stop):
            return by_numpy(of, arrays).take(range(start, stop), axis)
        case Stack(of, axis):
            return np.stack([by_numpy(operand, arrays) for operand in of], axis)
        case Concat(of, axis):
            return np.concatenate([by_numpy(operand, arrays) for operand in of], axis)
        case Sum(of):
            return np.sum([by_numpy(operand, arrays) for operand in of], axis=0)
        case Scale(of, factor):
            return by_numpy(of, arrays) * factor
        case Broadcast(of, shape):
            return np.broadcast_to(by_numpy(of, arrays), shape)
        case Norm(of, axes):
            return np.linalg.vector_norm(by_numpy(of, arrays), axis=axes, keepdims=True)
        case WeightNorm(of):
            magnitude, direction = (by_numpy(operand, arrays) for operand in of)
            axes = tuple(n for n, size in enumerate(magnitude.shape) if size == 1) or None
            norm = np.linalg.vector_norm(direction, axis=axes, keepdims=True)
            return magnitude * direction / norm
        case SpectralNorm(of, axis):
            weight, u, v = (by_numpy(operand, arrays) for operand in of)
            return weight / (u @ np.moveaxis(weight, axis, 0).reshape(len(u), -1) @ v)
