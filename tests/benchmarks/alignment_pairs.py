"""Alignment pairs with a known truth: JSON files in, expressions and what they do to indices out.

A file holds `id`, `target_library`, `source` (entries: name, shape, dtype), `target` (leaves: path,
shape, dtype), `truth` (per leaf: `target`, `sources`, `transform`) and `ties` (groups of entries
that share a storage). A transform is steps joined by `+`, applied to each source up to `stack` or
`concat`, and to the result after it; `[a|b]+concat(0)` has other steps for every source.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from s2p_tui.alignment.transform import (
    Concat,
    Expr,
    Flip,
    Permute,
    Reshape,
    Shape,
    Split,
    Stack,
    Take,
    keys_of,
    operands,
    shape_of,
)

Indices = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
_STEP = re.compile(r"(\w+)(?:\(([^)]*)\))?")
_EACH = re.compile(r"\[(.*)\]\+(.*)")
_ENTRY = 1 << 40
"""Indices of different entries are this far apart; no entry has so many elements."""


@dataclass(frozen=True)
class Tensor:
    """An entry or a leaf."""

    name: str
    shape: Shape
    dtype: str


@dataclass(frozen=True)
class Pair:
    """A state dict, the leaves of a port, and the expression for every leaf.

    Attributes:
        source: In state-dict order.
        target: In leaf order.
        truth: In leaf order; over source names; None where the checkpoint has nothing for a leaf.
        tied: For every source name the first of those that share its storage.
    """

    id: str
    library: str
    source: tuple[Tensor, ...]
    target: tuple[Tensor, ...]
    truth: tuple[Expr | None, ...]
    tied: Mapping[str, str]


def read_pairs(folders: Iterable[Path]) -> list[Pair]:
    """All pairs in folders, by file name; a file may stand for a folder."""
    files = (file for path in folders for file in (sorted(path.glob("*.json")) or [path]))
    return [_pair(data) for file in files if "truth" in (data := json.loads(file.read_text()))]


def _pair(data: Any) -> Pair:
    source = _tensors(data["source"], "name")
    target = _tensors(data["target"], "path")
    truth: list[Expr | None] = [None] * len(target)
    for row in data["truth"]:
        numbers: list[int] = row["sources"]
        takes = [source[n] for n in numbers]
        if takes:
            place: int = row["target"]
            truth[place] = parse(row["transform"], takes, target[place].shape)
    tied = {tensor.name: tensor.name for tensor in source}
    for group in data.get("ties", ()):
        numbers = group
        tied |= {source[n].name: source[min(numbers)].name for n in numbers}
    library = str(data.get("target_library", "")).split(" ")[0]
    return Pair(data["id"], library, source, target, tuple(truth), tied)


def _tensors(nodes: Any, name: str) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(node[name], tuple(node["shape"]), node["dtype"].removeprefix("torch."))
        for node in nodes
    )


def parse(text: str, sources: Sequence[Tensor], shape: Shape) -> Expr:
    """The expression a transform's text stands for.

    Args:
        text: The steps.
        sources: The entries it applies to.
        shape: The leaf's shape, which `squeeze`, `unsqueeze` and a bare `reshape` lead to.

    Raises:
        ValueError: A step is not known, or does not apply.
    """
    shapes = {tensor.name: tensor.shape for tensor in sources}
    each = _EACH.fullmatch(text)
    before, joins = _halves((each[2] if each else text).split("+"))
    many = each[1].split("|") if each else ["+".join(before)] * len(sources)
    part = _part_shape(joins, shape)
    parts = [
        _apply(steps.split("+") if steps else [], Take(tensor.name), part, shapes)
        for steps, tensor in zip(many, sources, strict=True)
    ]
    if not joins:
        (expr,) = parts
        return expr
    expr, used = _join(parts, joins, shape)
    return _apply(joins[used:], expr, shape, shapes)


def _halves(steps: list[str]) -> tuple[list[str], list[str]]:
    """The steps for each source, and those from the first that brings sources together."""
    joins = [n for n, step in enumerate(steps) if step.startswith(("stack", "concat"))]
    first = joins[0] if joins else len(steps)
    return steps[:first], steps[first:]


def _part_shape(joins: Sequence[str], shape: Shape) -> Shape:
    if not joins or not joins[0].startswith("stack"):
        return shape
    axes = _step(joins[0])[1]
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)


def _join(parts: Sequence[Expr], joins: Sequence[str], shape: Shape) -> tuple[Expr, int]:
    """Sources brought together, and how many steps that took."""
    name, axes = _step(joins[0])
    if name == "stack2":
        first, second = axes
        rows = shape[first]
        columns = len(parts) // rows
        inner, outer = (second - (first < second), first)
        stacked = [
            Stack(tuple(parts[row * columns : (row + 1) * columns]), inner) for row in range(rows)
        ]
        return Stack(tuple(stacked), outer), 1
    (axis,) = axes
    if name == "stack":
        return Stack(tuple(parts), axis), 1
    if len(joins) > 1 and joins[1].startswith("stack"):
        (outer,) = _step(joins[1])[1]
        size = len(parts) // shape[outer]
        groups = [tuple(parts[n : n + size]) for n in range(0, len(parts), size)]
        return Stack(tuple(Concat(group, axis) for group in groups), outer), 2
    return Concat(tuple(parts), axis), 1


def _step(text: str) -> tuple[str, tuple[int, ...]]:
    if (match := _STEP.fullmatch(text)) is None:
        raise ValueError(f"{text!r} is not a step")
    return match[1], tuple(int(n) for n in (match[2] or "").split(",") if n.strip())


def _apply(steps: Sequence[str], expr: Expr, end: Shape, shapes: Mapping[str, Shape]) -> Expr:
    for text in steps:
        if text.startswith("split"):
            for part in text.removeprefix("split(").removesuffix(")").split(";"):
                expr = Split(expr, *map(int, part.split(",")))
            continue
        match _step(text):
            case "identity", ():
                pass
            case "reshape", sizes if sizes:
                expr = Reshape(expr, sizes)
            case (("reshape" | "squeeze" | "unsqueeze"), _):
                expr = Reshape(expr, end)
            case (("transpose" | "permute"), axes):
                rank = len(shape_of(expr, shapes.__getitem__))
                expr = Permute(expr, axes or tuple(reversed(range(rank))))
            case "flip", axes:
                expr = Flip(expr, axes)
            case "index", (axis, place):
                shape = shape_of(expr, shapes.__getitem__)
                part = Split(expr, axis, place, place + 1)
                expr = Reshape(part, (*shape[:axis], *shape[axis + 1 :]))
            case _:
                raise ValueError(f"{text!r} is not a step")
    return expr


def write(expr: Expr) -> str:
    """The text of an expression, the inverse of `parse`.

    Raises:
        ValueError: The text has no words for it.
    """
    return "+".join(_steps(expr)) or "identity"


def _steps(expr: Expr) -> list[str]:
    match expr:
        case Take():
            return []
        case Stack(of, axis):
            inner = _same(of)
            if isinstance(of[0], Stack):
                *inner, _ = inner
                second = of[0].axis + (of[0].axis >= axis)
                return [*inner, f"stack2({axis},{second})"]
            return [*inner, f"stack({axis})"]
        case Concat(of, axis):
            each = ["+".join(_steps(operand)) or "identity" for operand in of]
            if len(set(each)) > 1:
                return [f"[{'|'.join(each)}]", f"concat({axis})"]
            return [*_same(of), f"concat({axis})"]
        case Permute(of, axes) | Flip(of, axes):
            name = type(expr).__name__.lower()
            return [*_steps(of), f"{name}({','.join(map(str, axes))})"]
        case Reshape(of, shape):
            return [*_steps(of), f"reshape({','.join(map(str, shape))})"]
        case Split(of, axis, start, stop):
            return [*_steps(of), f"split({axis},{start},{stop})"]
        case _:
            raise ValueError(f"{type(expr).__name__} has no text")


def _same(of: Sequence[Expr]) -> list[str]:
    inner = [_steps(operand) for operand in of]
    if any(steps != inner[0] for steps in inner):
        raise ValueError("a stack of sources treated differently has no text")
    return inner[0]


def indices_of(expr: Expr, pair: Pair) -> Indices:
    """Which element of which entry stands where: the expression run on numbered elements."""
    entries: dict[str, Indices] = {}
    places = {tensor.name: n for n, tensor in enumerate(pair.source)}
    for key in keys_of(expr):
        tensor = pair.source[places[key]]
        numbers = np.arange(prod(tensor.shape), dtype=np.int64).reshape(tensor.shape)
        entries[key] = numbers + places[pair.tied[key]] * _ENTRY
    return _run(expr, entries)


def _run(expr: Expr, entries: Mapping[str, Indices]) -> Indices:
    of = [_run(operand, entries) for operand in operands(expr)]
    match expr:
        case Take(key):
            return entries[key]
        case Permute(_, axes):
            return of[0].transpose(axes)
        case Flip(_, axes):
            return np.flip(of[0], axes)
        case Reshape(_, shape):
            return of[0].reshape(shape)
        case Split(_, axis, start, stop):
            return of[0][(slice(None),) * axis + (slice(start, stop),)]
        case Stack(_, axis):
            return np.stack(of, axis)
        case Concat(_, axis):
            return np.concatenate(of, axis)
        case _:
            raise ValueError(f"{type(expr).__name__} has no indices")


def same_effect(first: Expr, second: Expr, pair: Pair, shape: Shape) -> bool:
    """Whether two expressions put the same elements in the same places of that shape."""
    if first == second:
        return shape_of(first, {t.name: t.shape for t in pair.source}.__getitem__) == shape
    mine, theirs = indices_of(first, pair), indices_of(second, pair)
    return mine.shape == theirs.shape == shape and np.array_equal(mine, theirs)
