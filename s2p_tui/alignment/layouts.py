"""The layout changes that turn a tensor of one shape into one of another.

Every axis of the target comes from one axis of the source: whole (a permutation), as one of its
factors (attention heads split out), or several source axes are merged into it. Factors of one axis
keep their order; 1-sized axes go anywhere. That covers what ports between PyTorch and JAX do to a
weight; a reshape that would run elements of two axes together in another way is never among them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from math import prod

from msgspec import Struct

from s2p_tui.alignment.transform import Expr, Permute, Reshape, Shape

_MOST_AXES = 8
_WORD = re.compile(r"[./]")
_INPUT_FIRST = frozenset(("c_attn", "c_proj", "c_fc", "q_attn", "kernel"))
"""Modules and weights that are known to hold the input axis first: GPT-2's `Conv1D` and Flax.
Layers of PyTorch's that are called so do not."""


class Way(Struct, frozen=True):
    """One layout change: reshape to `parts`, permute by `axes`, reshape to `shape`.

    Attributes:
        parts: The source's shape with its axes split into factors.
        axes: Axis i of the permuted tensor is axis `axes[i]` of `parts`.
        shape: The target's shape.
        out_last: Whether the target's last axis (of more than one element) comes from the source's
            first: a weight stored (in, out) where PyTorch stores (out, in).
    """

    parts: Shape
    axes: tuple[int, ...]
    shape: Shape
    out_last: bool

    @property
    def moves(self) -> bool:
        """True if elements change their order; if not, it is at most a reshape."""
        return _are_turned(self.axes)

    def of(self, expr: Expr, shape: Shape) -> Expr:
        """The expression that changes the layout of another one, of that shape."""
        if not self.moves:
            return expr if shape == self.shape else Reshape(expr, self.shape)
        if shape != self.parts:
            expr = Reshape(expr, self.parts)
        expr = Permute(expr, self.axes)
        moved = tuple(self.parts[axis] for axis in self.axes)
        return expr if moved == self.shape else Reshape(expr, self.shape)


# Few kinds of axes are asked about for every tensor.
@lru_cache(maxsize=65536)
def _are_turned(axes: tuple[int, ...]) -> bool:
    return any(first > second for first, second in pairwise(axes))


@lru_cache(maxsize=65536)
def ways(source: Shape, target: Shape) -> tuple[Way, ...]:
    """All layout changes from one shape to another, the simplest first; none if sizes differ.

    Two of them never do the same. Empty tensors and scalars have one.
    """
    if prod(source) != prod(target) or max(len(source), len(target)) > _MOST_AXES:
        return ()
    if prod(source) <= 1:
        return (Way(target, tuple(range(len(target))), target, out_last=False),)
    wide = tuple(axis for axis, size in enumerate(source) if size != 1)
    narrow_source = tuple(source[axis] for axis in wide)
    narrow_target = tuple(size for size in target if size != 1)
    found: dict[tuple[Shape, tuple[int, ...]], Way] = {}
    for origins in _origins(narrow_source, narrow_target):
        way = _splitting(source, target, narrow_source, narrow_target, origins)
        found.setdefault(_effect(way), way)
    for origins in _origins(narrow_target, narrow_source):
        way = _merging(narrow_source, target, narrow_target, origins)
        found.setdefault(_effect(way), way)
    return tuple(sorted(found.values(), key=_inversions))


def _origins(whole: Shape, parts: Shape) -> Iterator[tuple[int, ...]]:
    """Ways to give every part an axis of `whole` so that each axis is the product of its parts."""

    def give(number: int, left: Shape) -> Iterator[tuple[int, ...]]:
        if number == len(parts):
            if all(size == 1 for size in left):
                yield ()
            return
        for axis, size in enumerate(left):
            if size % parts[number] == 0 and size > 1:
                rest = (*left[:axis], size // parts[number], *left[axis + 1 :])
                for others in give(number + 1, rest):
                    yield (axis, *others)

    return give(0, whole)


def _splitting(
    source: Shape,
    target: Shape,
    narrow_source: Shape,
    narrow_target: Shape,
    origins: tuple[int, ...],
) -> Way:
    order = sorted(range(len(origins)), key=lambda part: origins[part])
    axes = tuple(order.index(part) for part in range(len(origins)))
    out_last = len(narrow_source) > 1 and origins[-1] == 0
    if len(source) == len(target) and len(narrow_source) == len(narrow_target):
        return Way(source, _with_ones(source, target, origins), target, out_last)
    return Way(tuple(narrow_target[part] for part in order), axes, target, out_last)


def _with_ones(source: Shape, target: Shape, origins: tuple[int, ...]) -> tuple[int, ...]:
    """A permutation of all axes from one of those wider than 1, 1-sized axes in their order."""
    wide = [axis for axis, size in enumerate(source) if size != 1]
    ones = iter(axis for axis, size in enumerate(source) if size == 1)
    moved = iter(wide[origin] for origin in origins)
    return tuple(next(ones) if size == 1 else next(moved) for size in target)


def _merging(
    narrow_source: Shape, target: Shape, narrow_target: Shape, origins: tuple[int, ...]
) -> Way:
    """`origins[i]` is the target axis that source axis i goes into."""
    axes = tuple(sorted(range(len(origins)), key=lambda axis: origins[axis]))
    out_last = len(narrow_target) > 1 and origins[0] == len(narrow_target) - 1
    return Way(narrow_source, axes, target, out_last)


def _effect(way: Way) -> tuple[Shape, tuple[int, ...]]:
    """Return a value equal for ways that do the same: runs of axes that stay together are one."""
    wide = [axis for axis in way.axes if way.parts[axis] != 1]
    runs: list[list[int]] = []
    for axis in wide:
        following = bool(runs) and all(
            way.parts[between] == 1 for between in range(runs[-1][-1] + 1, axis)
        )
        if following and runs[-1][-1] < axis:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    order = sorted(range(len(runs)), key=lambda run: runs[run][0])
    return (
        tuple(prod(way.parts[axis] for axis in runs[run]) for run in order),
        tuple(order.index(run) for run in range(len(runs))),
    )


def _inversions(way: Way) -> tuple[int, int, tuple[int, ...]]:
    """Fewest axes out of order first, but before all others the turn from (out, in, *k) to
    (*k, in, out) that kernels take.
    """
    kernel = way.axes == (*range(2, len(way.axes)), 1, 0)
    axes = [axis for axis in way.axes if way.parts[axis] != 1]
    pairs = [(a, b) for n, a in enumerate(axes) for b in axes[n + 1 :]]
    crossed = 1 if kernel and pairs else sum(a > b for a, b in pairs)
    return (len(way.parts) + len(way.shape), crossed, way.axes)


def is_input_first(key: str) -> bool:
    """Return True if an entry's name is of those whose weights hold the input axis first."""
    # Asked of every entry of a checkpoint, of which few have any of these, which all words hold.
    may_be = "c_" in key or "q_attn" in key or "kernel" in key
    return may_be and not _INPUT_FIRST.isdisjoint(_WORD.split(key))
