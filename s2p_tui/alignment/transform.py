"""Transforms of entries on their way into a leaf: small expressions over whole tensors.

An expression is a tree of frozen nodes whose ends are entries (`Take`) or constants. It knows its
shape (`shape_of`), its entries (`keys_of`), its JSON form for mapping files (`to_json`,
`from_json`) and its words for people (`describe`). Its numbers are computed region by region, in
bounded memory, by `s2p_tui.conversion.evaluate`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from math import prod
from typing import TYPE_CHECKING, Any, Self, get_args

from msgspec import Struct, structs

from s2p_tui.alignment.untrusted import (
    MalformedError,
    list_of,
    object_of,
    size_of,
    sizes_of,
    string_of,
)
from s2p_tui.errors import TransformError

if TYPE_CHECKING:
    from s2p_tui.alignment.parts import Part

Shape = tuple[int, ...]
EntryShape = Callable[[str], Shape]
"""Gives the shape of the entry of a key."""


class _Node(Struct, frozen=True):
    """An expression."""

    @property
    def operands(self) -> tuple[Expr, ...]:
        """The expressions directly under this one."""
        return ()

    def with_operands(self, of: tuple[Expr, ...]) -> Self:
        """Return the same step done to other operands, as many as before."""
        return self

    def result_shape(self, entry_shape: EntryShape) -> Shape:
        """Return the shape of the result; see `shape_of`."""
        raise NotImplementedError

    def describe(self) -> str:
        """Return the steps in words; see the function `describe`."""
        inner = self.operands[0].describe()
        return f"{inner}, {self._step()}" if inner else self._step()

    def _step(self) -> str:
        """Return this step alone in words."""
        raise NotImplementedError

    def to_json(self, sources: Sequence[str]) -> Any:
        """Return JSON values; see the function `to_json`."""
        node: dict[str, Any] = {"op": _name(type(self))}
        for name in self.__struct_fields__:
            if name == "of":
                of = [operand.to_json(sources) for operand in self.operands]
                node["of"] = of if isinstance(self, _Join) else of[0]
            else:
                node[name] = getattr(self, name)
        return node

    def undo(self, part: Part, entry_shape: EntryShape) -> Iterable[tuple[Expr, Part]]:
        """Return the operands that a part of the result is made of, each with a part of it.

        The inverse of the step. Where several operands give the same result, one choice of them,
        which is named. None for what the step leaves out, makes up or merely measures.

        Raises:
            TransformError: The parts cannot be put back where they were taken from.
        """
        return ()


class _Step(_Node, frozen=True):
    """One step done to one operand."""

    of: Expr

    @property
    def operands(self) -> tuple[Expr, ...]:
        return (self.of,)

    def with_operands(self, of: tuple[Expr, ...]) -> Self:
        return structs.replace(self, of=of[0])

    def result_shape(self, entry_shape: EntryShape) -> Shape:
        return self._result(self.of.result_shape(entry_shape))

    def _result(self, shape: Shape) -> Shape:
        """Return what becomes of the operand's shape."""
        raise NotImplementedError


class _Join(_Node, frozen=True):
    """One step done to several operands."""

    of: tuple[Expr, ...]

    @property
    def operands(self) -> tuple[Expr, ...]:
        return self.of

    def with_operands(self, of: tuple[Expr, ...]) -> Self:
        return structs.replace(self, of=of)

    def result_shape(self, entry_shape: EntryShape) -> Shape:
        return self._joined([operand.result_shape(entry_shape) for operand in self.of])

    def _joined(self, shapes: Sequence[Shape]) -> Shape:
        """Return what becomes of the operands' shapes."""
        raise NotImplementedError

    def _same_shape(self, shapes: Sequence[Shape]) -> Shape:
        if not shapes or any(shape != shapes[0] for shape in shapes):
            raise TransformError(
                f"{type(self).__name__.lower()} needs operands of one shape, got {_list(shapes)}."
            )
        return shapes[0]

    def describe(self) -> str:
        return _describe_many(self.of, self._step())


class Take(_Node, frozen=True):
    """A whole entry of the state dict."""

    key: str

    def result_shape(self, entry_shape: EntryShape) -> Shape:
        return entry_shape(self.key)

    def describe(self) -> str:
        return ""

    def to_json(self, sources: Sequence[str]) -> Any:
        return sources.index(self.key)


class Constant(_Node, frozen=True):
    """A tensor filled with one number."""

    value: float
    shape: Shape

    def result_shape(self, entry_shape: EntryShape) -> Shape:
        return self.shape

    def describe(self) -> str:
        return f"constant {self.value:g}"


class Permute(_Step, frozen=True):
    """Axes reordered: axis i of the result is axis `axes[i]` of the operand (`numpy.transpose`)."""

    axes: tuple[int, ...]

    def _result(self, shape: Shape) -> Shape:
        if sorted(self.axes) != list(range(len(shape))):
            raise TransformError(f"permute{self.axes} does not reorder the axes of {show(shape)}.")
        return tuple(shape[axis] for axis in self.axes)

    def _step(self) -> str:
        return f"permute axes to ({_numbers(self.axes)})"

    def undo(self, part: Part, entry_shape: EntryShape) -> Iterable[tuple[Expr, Part]]:
        back = sorted(range(len(self.axes)), key=self.axes.__getitem__)
        return [(self.of, part.permuted(back))]


class Flip(_Step, frozen=True):
    """The order of elements reversed along `axes` (`numpy.flip`)."""

    axes: tuple[int, ...]

    def _result(self, shape: Shape) -> Shape:
        _require_axes("flip", self.axes, shape)
        return shape

    def _step(self) -> str:
        return f"flip axes {_numbers(self.axes)}"

    def undo(self, part: Part, entry_shape: EntryShape) -> Iterable[tuple[Expr, Part]]:
        return [(self.of, part.flipped(self.axes))]


class Reshape(_Step, frozen=True):
    """The same elements in row-major order under another shape (`numpy.reshape`)."""

    shape: Shape

    def _result(self, shape: Shape) -> Shape:
        if prod(shape) != prod(self.shape) or any(size < 0 for size in self.shape):
            raise TransformError(f"{show(shape)} cannot be reshaped to {show(self.shape)}.")
        return self.shape

    def _step(self) -> str:
        return f"reshape to {show(self.shape)}"

    def undo(self, part: Part, entry_shape: EntryShape) -> Iterable[tuple[Expr, Part]]:
        return [(self.of, one) for one in part.reshaped(self.of.result_shape(entry_shape))]


class Split(_Step, frozen=True):
    """The part `start:stop` along one axis."""

    axis: int
    start: int
    stop: int

    def _result(self, shape: Shape) -> Shape:
        axis, start, stop = self.axis, self.start, self.stop
        if not 0 <= axis < len(shape) or not 0 <= start <= stop <= shape[axis]:
            raise TransformError(f"split {start}:{stop} on axis {axis} lies outside {show(shape)}.")
        return (*shape[:axis], stop - start, *shape[axis + 1 :])

    def _step(self) -> str:
        return f"take {self.start}:{self.stop} of axis {self.axis}"

    def undo(self, part: Part, entry_shape: EntryShape) -> Iterable[tuple[Expr, Part]]:
        size = self.of.result_shape(entry_shape)[self.axis]
        return [(self.of, one) for one in part.within(self.axis, self.start, size)]


class Stack(_Join, frozen=True):
    """Equal shapes put side by side along a new axis (`numpy.stack`)."""

    axis: int

    def _joined(self, shapes: Sequence[Shape]) -> Shape:
        shape, axis = self._same_shape(shapes), self.axis
        if not 0 <= axis <= len(shape):
            raise TransformError(f"stack on axis {axis} does not apply to {show(shape)}.")
        return (*shape[:axis], len(shapes), *shape[axis:])

    def _step(self) -> str:
        return f"stack {len(self.of)} on axis {self.axis}"

    def undo(self, part: Part, entry_shape: EntryShape) -> Iterable[tuple[Expr, Part]]:
        return [
            (operand, one.without(self.axis))
            for number, operand in enumerate(self.of)
            for one in part.cut(self.axis, number, number + 1)
        ]


class Concat(_Join, frozen=True):
    """Shapes joined along an existing axis (`numpy.concatenate`)."""

    axis: int

    def _joined(self, shapes: Sequence[Shape]) -> Shape:
        axis = self.axis
        if not shapes or not all(0 <= axis < len(shape) for shape in shapes):
            raise TransformError(f"concat on axis {axis} does not apply to {_list(shapes)}.")
        rest = self._same_shape([(*s[:axis], *s[axis + 1 :]) for s in shapes])
        return (*rest[:axis], sum(shape[axis] for shape in shapes), *rest[axis:])

    def _step(self) -> str:
        return f"concatenate {len(self.of)} on axis {self.axis}"

    def undo(self, part: Part, entry_shape: EntryShape) -> Iterable[tuple[Expr, Part]]:
        sizes = [operand.result_shape(entry_shape)[self.axis] for operand in self.of]
        ends = accumulate(sizes, initial=0)
        return [
            (operand, one)
            for operand, (start, stop) in zip(self.of, pairwise(ends), strict=True)
            for one in part.cut(self.axis, start, stop)
        ]


class Sum(_Join, frozen=True):
    """Equal shapes added element by element."""

    def _joined(self, shapes: Sequence[Shape]) -> Shape:
        return self._same_shape(shapes)

    def describe(self) -> str:
        match self.of:
            case (of, Constant(value)) if not isinstance(of, Constant):
                step = f"add {value:g}" if value >= 0 else f"subtract {-value:g}"
                return f"{inner}, {step}" if (inner := of.describe()) else step
            case _:
                return _Join.describe(self)

    def _step(self) -> str:
        return f"add {len(self.of)}"

    def undo(self, part: Part, entry_shape: EntryShape) -> Iterable[tuple[Expr, Part]]:
        return part.shared_out(self.of, entry_shape)


class Scale(_Step, frozen=True):
    """Every element multiplied by one number."""

    factor: float

    def _result(self, shape: Shape) -> Shape:
        return shape

    def _step(self) -> str:
        return f"multiply by {self.factor:g}"

    def undo(self, part: Part, entry_shape: EntryShape) -> Iterable[tuple[Expr, Part]]:
        return [(self.of, part.scaled(1 / self.factor))] if self.factor else []


class Broadcast(_Step, frozen=True):
    """1-sized axes repeated, and new axes put in front (`numpy.broadcast_to`)."""

    shape: Shape

    def _result(self, shape: Shape) -> Shape:
        tail = self.shape[len(self.shape) - len(shape) :]
        if len(self.shape) < len(shape) or any(
            size not in (1, wanted) for size, wanted in zip(shape, tail, strict=True)
        ):
            raise TransformError(f"{show(shape)} cannot be broadcast to {show(self.shape)}.")
        return self.shape

    def _step(self) -> str:
        return f"repeat to {show(self.shape)}"

    def undo(self, part: Part, entry_shape: EntryShape) -> Iterable[tuple[Expr, Part]]:
        shape = self.of.result_shape(entry_shape)
        new = len(self.shape) - len(shape)
        parts = [part]
        for axis, size in enumerate((*(1,) * new, *shape)):
            if size == 1:
                parts = [one for each in parts for one in each.cut(axis, 0, 1)]
        for _ in range(new):
            parts = [one.without(0) for one in parts]
        return [(self.of, one) for one in parts]


class Norm(_Step, frozen=True):
    """The Euclidean norm over `axes`, which stay as axes of size 1."""

    axes: tuple[int, ...]

    def _result(self, shape: Shape) -> Shape:
        _require_axes("norm", self.axes, shape)
        return tuple(1 if axis in self.axes else size for axis, size in enumerate(shape))

    def _step(self) -> str:
        return f"norm over axes {_numbers(self.axes)}"


class WeightNorm(_Join, frozen=True):
    """The weight of a weight-normed layer, `g · v / ‖v‖`, from `of = (g, v)`.

    The norm is over the axes along which g has size 1, or over all if g has none.
    Source: Salimans & Kingma 2016, as in `torch.nn.utils.weight_norm`.
    """

    def _joined(self, shapes: Sequence[Shape]) -> Shape:
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

    def describe(self) -> str:
        if len(self.of) != 2:
            return "fold nothing"
        return _describe_many(self.of[1:], "fold the weight norm")

    def undo(self, part: Part, entry_shape: EntryShape) -> Iterable[tuple[Expr, Part]]:
        magnitude, weight = self.of
        chosen = f"the norms of {' and '.join(keys_of(weight))}"
        norms = part.norms(magnitude.result_shape(entry_shape), chosen)
        return [(weight, part), (magnitude, norms)]


class SpectralNorm(_Join, frozen=True):
    """The weight of a spectrally normed layer, `W / (uᵀ W v)`, from `of = (W, u, v)`.

    There W is a matrix of which the rows are `axis` and the columns the other axes, row-major.
    Source: Miyato et al. 2018, as in `torch.nn.utils.spectral_norm` in evaluation mode.
    """

    axis: int

    def _joined(self, shapes: Sequence[Shape]) -> Shape:
        axis = self.axis
        weight, *vectors = shapes or [()]
        rows = weight[axis] if 0 <= axis < len(weight) else 0
        if not rows or vectors != [(rows,), (prod(weight) // rows,)]:
            raise TransformError(f"spectral_norm on axis {axis} does not apply to {_list(shapes)}.")
        return weight

    def describe(self) -> str:
        if not self.of:
            return "fold nothing"
        along = f" of axis {self.axis}" if self.axis else ""
        return _describe_many(self.of[:1], f"fold the spectral norm{along}")

    def undo(self, part: Part, entry_shape: EntryShape) -> Iterable[tuple[Expr, Part]]:
        # The two vectors are no part of the result.
        return [(self.of[0], part)]


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
    return expr.operands


def nodes_of(expr: Expr) -> Iterator[Expr]:
    """The expression and all under it."""
    yield expr
    for operand in expr.operands:
        yield from nodes_of(operand)


def keys_of(expr: Expr) -> tuple[str, ...]:
    """The keys of all entries the expression reads, each once, in order of first use."""
    if isinstance(expr, Take):
        return (expr.key,)
    return tuple(dict.fromkeys(node.key for node in nodes_of(expr) if isinstance(node, Take)))


def rename(expr: Expr, names: Mapping[str, str]) -> Expr:
    """The same expression over other entries; keys missing from `names` stay."""
    if isinstance(expr, Take):
        return Take(names.get(expr.key, expr.key))
    return expr.with_operands(tuple(rename(operand, names) for operand in expr.operands))


def _name(kind: type[Any]) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


_OPS: dict[str, type[Any]] = {_name(kind): kind for kind in get_args(Expr) if kind is not Take}


def to_json(expr: Expr, sources: Sequence[str]) -> Any:
    """The expression as JSON values, entries given by their place in `sources`."""
    return expr.to_json(sources)


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
    if kind is None or set(step) != {*kind.__struct_fields__}:
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


def shape_of(expr: Expr, entry_shape: EntryShape) -> Shape:
    """Shape of the result.

    Args:
        expr: The expression.
        entry_shape: Gives the shape of the entry of that key.

    Raises:
        TransformError: A step does not apply to the shape it meets.
    """
    return expr.result_shape(entry_shape)


def describe(expr: Expr) -> str:
    """The steps in words, innermost first, without the entries' names; empty for a plain copy."""
    return expr.describe()


def _list(shapes: Sequence[Shape]) -> str:
    return ", ".join(map(show, shapes)) or "none"


def _numbers(axes: Sequence[int]) -> str:
    return ", ".join(map(str, axes))


def _require_axes(step: str, axes: tuple[int, ...], shape: Shape) -> None:
    if len(set(axes)) != len(axes) or not all(0 <= axis < len(shape) for axis in axes):
        raise TransformError(f"{step}{axes} names axes that {show(shape)} does not have.")


def _describe_many(of: tuple[Expr, ...], step: str) -> str:
    described = (operand.describe() for operand in of)
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
