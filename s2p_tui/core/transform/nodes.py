"""The nodes of an expression over whole tensors, and walking them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

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
