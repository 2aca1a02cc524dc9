"""What is done to entries on their way into a leaf: a small expression over whole tensors.

An expression is a tree of frozen nodes whose ends are entries (`Take`) or constants. It knows its
shape (`shape_of`), its entries (`keys_of`), its JSON form for mapping files (`to_json`,
`from_json`) and its words for people (`describe`). Its numbers are computed region by region, in
bounded memory, by `s2p_tui.conversion.evaluate`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any, get_args

from s2p_tui.alignment.untrusted import (
    MalformedError,
    list_of,
    object_of,
    size_of,
    sizes_of,
    string_of,
)
from s2p_tui.errors import TransformError

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Take:
    """A whole entry of the state dict."""

    key: str


@dataclass(frozen=True, slots=True)
class Constant:
    """A tensor filled with one number."""

    value: float
    shape: Shape


@dataclass(frozen=True, slots=True)
class Permute:
    """Axes reordered: axis i of the result is axis `axes[i]` of the operand (`numpy.transpose`)."""

    of: Expr
    axes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Flip:
    """The order of elements reversed along `axes` (`numpy.flip`)."""

    of: Expr
    axes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reshape:
    """The same elements in row-major order under another shape (`numpy.reshape`)."""

    of: Expr
    shape: Shape


@dataclass(frozen=True, slots=True)
class Split:
    """The part `start:stop` along one axis."""

    of: Expr
    axis: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Stack:
    """Equal shapes put side by side along a new axis (`numpy.stack`)."""

    of: tuple[Expr, ...]
    axis: int


@dataclass(frozen=True, slots=True)
class Concat:
    """Shapes joined along an existing axis (`numpy.concatenate`)."""

    of: tuple[Expr, ...]
    axis: int


@dataclass(frozen=True, slots=True)
class Sum:
    """Equal shapes added element by element."""

    of: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """Every element multiplied by one number."""

    of: Expr
    factor: float


@dataclass(frozen=True, slots=True)
class Broadcast:
    """1-sized axes repeated, and new axes put in front (`numpy.broadcast_to`)."""

    of: Expr
    shape: Shape


@dataclass(frozen=True, slots=True)
class Norm:
    """The Euclidean norm over `axes`, which stay as axes of size 1."""

    of: Expr
    axes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WeightNorm:
    """The weight of a weight-normed layer, `g · v / ‖v‖`, from `of = (g, v)`.

    The norm is over the axes along which g has size 1, or over all if g has none.
    Source: Salimans & Kingma 2016, as in `torch.nn.utils.weight_norm`.
    """

    of: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class SpectralNorm:
    """The weight of a spectrally normed layer, `W / (uᵀ W v)`, from `of = (W, u, v)`.

    There W is a matrix of which the rows are `axis` and the columns the other axes, row-major.
    Source: Miyato et al. 2018, as in `torch.nn.utils.spectral_norm` in evaluation mode.
    """

    of: tuple[Expr, ...]
    axis: int


Joining = Stack | Concat | Sum | WeightNorm | SpectralNorm
"""Nodes over several expressions."""
Expr = (
    Take
    | Constant
    | Permute
    | Flip
    | Reshape
    | Split
    | Broadcast
    | Scale
    | Norm
    | Stack
    | Concat
    | Sum
    | WeightNorm
    | SpectralNorm
)


def operands(expr: Expr) -> tuple[Expr, ...]:
    """The expressions directly under this one."""
    match expr:
        case Take() | Constant():
            return ()
        case Stack() | Concat() | Sum() | WeightNorm() | SpectralNorm():
            return expr.of
        case _:
            return (expr.of,)


def nodes_of(expr: Expr) -> Iterator[Expr]:
    """The expression and all under it."""
    yield expr
    for operand in operands(expr):
        yield from nodes_of(operand)


def keys_of(expr: Expr) -> tuple[str, ...]:
    """The keys of all entries the expression reads, each once, in order of first use."""
    if isinstance(expr, Take):
        return (expr.key,)
    return tuple(dict.fromkeys(node.key for node in nodes_of(expr) if isinstance(node, Take)))


def rename(expr: Expr, names: Mapping[str, str]) -> Expr:
    """The same expression over other entries; keys missing from `names` stay."""
    match expr:
        case Take(key):
            return Take(names.get(key, key))
        case Constant():
            return expr
        case Stack() | Concat() | Sum() | WeightNorm() | SpectralNorm():
            return replace(expr, of=tuple(rename(operand, names) for operand in expr.of))
        case _:
            return replace(expr, of=rename(expr.of, names))


def _name(kind: type[Any]) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


_OPS: dict[str, type[Any]] = {_name(kind): kind for kind in get_args(Expr) if kind is not Take}


def to_json(expr: Expr, sources: Sequence[str]) -> Any:
    """The expression as JSON values, entries given by their place in `sources`."""
    if isinstance(expr, Take):
        return sources.index(expr.key)
    node: dict[str, Any] = {"op": _name(type(expr))}
    for attribute in fields(expr):
        if attribute.name == "of":
            of = [to_json(operand, sources) for operand in operands(expr)]
            node["of"] = of if isinstance(expr, Joining) else of[0]
        else:
            node[attribute.name] = getattr(expr, attribute.name)
    return node


def from_json(node: Any, sources: Sequence[str]) -> Expr:
    """Inverse of `to_json`.

    Raises:
        MalformedError: The JSON is not such an expression.
    """
    if type(node) is int:
        if 0 <= node < len(sources):
            return Take(sources[node])
        raise MalformedError(f"a transform refers to source {node}, the row has {len(sources)}")
    step = dict(object_of(node))
    kind = _OPS.get(string_of(step.pop("op", None)))
    if kind is None or set(step) != {attribute.name for attribute in fields(kind)}:
        raise MalformedError(f"{node!r} is not a transform; known are {', '.join(_OPS)}")
    return kind(**{name: _argument(kind, name, step[name], sources) for name in step})


def _argument(kind: type[Any], name: str, value: Any, sources: Sequence[str]) -> Any:
    match name:
        case "of" if kind in get_args(Joining):
            return tuple(from_json(operand, sources) for operand in list_of(value))
        case "of":
            return from_json(value, sources)
        case "axes" | "shape":
            return sizes_of(value)
        case "axis" | "start" | "stop":
            return size_of(value)
        case _ if type(value) is float or (type(value) is int and abs(value) < 2**63):
            return value
        case _:
            raise MalformedError(f"{_name(kind)}: {name} must be a number")


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


__all__ = [
    "Broadcast",
    "Concat",
    "Constant",
    "Expr",
    "Flip",
    "Joining",
    "Norm",
    "Permute",
    "Reshape",
    "Scale",
    "Shape",
    "SpectralNorm",
    "Split",
    "Stack",
    "Sum",
    "Take",
    "WeightNorm",
    "describe",
    "from_json",
    "keys_of",
    "nodes_of",
    "operands",
    "rename",
    "shape_of",
    "show",
    "to_json",
]
