"""Seeded faults: other sources for a few rows of a right alignment, which no shape shows."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod

from s2p_tui.alignment.skeleton import Skeleton
from s2p_tui.alignment.transform import (
    Concat,
    Constant,
    Expr,
    Flip,
    Permute,
    Reshape,
    Split,
    Stack,
    Sum,
    Take,
)

Fault = Mapping[int, Expr]
Sources = Sequence[Expr | None]
Kind = Callable[[random.Random, Skeleton, Sources], Fault | None]


def _filled(sources: Sources) -> list[int]:
    return [index for index, source in enumerate(sources) if source is not None]


def _chosen(chance: random.Random, found: Sequence[Fault]) -> Fault | None:
    return chance.choice(found) if found else None


def exchanged(chance: random.Random, skeleton: Skeleton, sources: Sources) -> Fault | None:
    """Two rows of one shape in one module, or in modules beside each other."""
    rows = [index for index in _filled(sources) if prod(skeleton[index].shape) > 1]
    chance.shuffle(rows)
    for first in rows:
        module, _, _ = skeleton[first].path.rpartition(".")
        outer = re.sub(r"(\.[^.\[]*|\[[^\]]*\])$", "", module)
        others = [
            index
            for index in rows
            if index != first
            and skeleton[index].shape == skeleton[first].shape
            and skeleton[index].dtype == skeleton[first].dtype
            and skeleton[index].path.startswith(outer or module)
        ]
        if others:
            second = chance.choice(others)
            one, other = sources[first], sources[second]
            assert one is not None
            assert other is not None
            return {first: other, second: one}
    return None


def same_place(chance: random.Random, skeleton: Skeleton, sources: Sources) -> Fault | None:
    """A row of one block with that of another block."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index in _filled(sources):
        groups[re.sub(r"\[\d+\]", "[]", skeleton[index].path)].append(index)
    alike = [
        group
        for group in groups.values()
        if len(group) > 1 and len({skeleton[n].shape for n in group}) == 1
        and prod(skeleton[group[0]].shape) > 1
    ]  # fmt: skip
    if not alike:
        return None
    first, second = chance.sample(chance.choice(alike), 2)
    one, other = sources[first], sources[second]
    assert one is not None
    assert other is not None
    return {first: other, second: one}


def _each(make: Callable[[Expr, tuple[int, ...]], Iterator[Expr]]) -> Kind:
    def fault(chance: random.Random, skeleton: Skeleton, sources: Sources) -> Fault | None:
        found: list[Fault] = []
        for index in _filled(sources):
            source, shape = sources[index], skeleton[index].shape
            assert source is not None
            found += [{index: other} for other in make(source, shape)]
        return _chosen(chance, found)

    return fault


def _transposed(source: Expr, shape: tuple[int, ...]) -> Iterator[Expr]:
    if len(shape) == 2 and shape[0] == shape[1] > 1:
        yield Permute(source, (1, 0))


def _flipped(source: Expr, shape: tuple[int, ...]) -> Iterator[Expr]:
    if len(shape) > 2 and prod(shape[2:]) > 1 and isinstance(source, Take):
        yield Flip(source, tuple(range(2, len(shape))))


def _more(source: Expr, shape: tuple[int, ...]) -> Iterator[Expr]:
    if len(shape) == 1 and shape[0] > 1:
        yield Sum((source, Constant(1.0, shape)))


def _less(source: Expr, shape: tuple[int, ...]) -> Iterator[Expr]:
    if len(shape) == 1 and shape[0] > 1:
        yield Sum((source, Constant(-1.0, shape)))


def _parts(source: Expr, shape: tuple[int, ...]) -> Iterator[Expr]:
    """Queries, keys and values in another order; gate and up exchanged."""
    if len(shape) == 2:
        for count in (2, 3):
            if shape[0] % count == 0 and shape[0] // count > 1:
                size = shape[0] // count
                parts = [Split(source, 0, n * size, (n + 1) * size) for n in range(count)]
                yield Concat((*parts[1:], parts[0]), 0)
                yield Concat(tuple(reversed(parts)), 0)


def _turned(
    source: Expr, shape: tuple[int, ...], axis: int, sizes: tuple[int, ...], order: tuple[int, ...]
) -> Expr:
    whole = (*shape[:axis], *sizes, *shape[axis + 1 :])
    axes = [*range(axis), *(axis + n for n in order), *range(axis + len(sizes), len(whole))]
    return Reshape(Permute(Reshape(source, whole), tuple(axes)), shape)


def _by_head(source: Expr, shape: tuple[int, ...]) -> Iterator[Expr]:
    """Parts interleaved by head, and back."""
    if len(shape) <= 2:
        for count in (2, 3):
            for heads in (2, 4, 12):
                if shape and shape[0] % (count * heads) == 0 and shape[0] > count * heads:
                    rest = shape[0] // count // heads
                    yield _turned(source, shape, 0, (count, heads, rest), (1, 0, 2))
                    yield _turned(source, shape, 0, (heads, count, rest), (1, 0, 2))


def _heads_inside(source: Expr, shape: tuple[int, ...]) -> Iterator[Expr]:
    for axis in range(min(2, len(shape))):
        for heads in (2, 4, 12):
            if shape[axis] % heads == 0 and shape[axis] > heads and len(shape) == 2:
                yield _turned(source, shape, axis, (heads, shape[axis] // heads), (1, 0))


def _rotary(source: Expr, shape: tuple[int, ...]) -> Iterator[Expr]:
    if len(shape) == 2:
        for heads in (1, 2, 12):
            if shape[0] % (2 * heads) == 0 and shape[0] // heads > 2:
                half = shape[0] // heads // 2
                yield _turned(source, shape, 0, (heads, 2, half), (0, 2, 1))
                yield _turned(source, shape, 0, (heads, half, 2), (0, 2, 1))


def _flattened(source: Expr, shape: tuple[int, ...]) -> Iterator[Expr]:
    """The inputs of a layer behind a flattened image, channels last."""
    if len(shape) == 2:
        for channels in (2, 4, 8, 16):
            if shape[1] % channels == 0 and shape[1] // channels > 1:
                yield _turned(source, shape, 1, (channels, shape[1] // channels), (1, 0))


def _stacked(source: Expr, shape: tuple[int, ...]) -> Iterator[Expr]:
    """A stacked list that runs backwards."""
    del shape
    if isinstance(source, Stack) and len(source.of) > 1:
        yield Stack(tuple(reversed(source.of)), source.axis)


def reversed_list(chance: random.Random, skeleton: Skeleton, sources: Sources) -> Fault | None:
    """A list of blocks in reverse."""
    lists: dict[str, dict[int, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    for index in _filled(sources):
        if found := re.fullmatch(r"(.*?)\[(\d+)\](.*)", skeleton[index].path.removeprefix("[0]")):
            lists[found[1]][int(found[2])][found[3]] = index
    faults: list[Fault] = []
    for items in lists.values():
        rows = [items[number] for number in sorted(items)]
        shapes = [{k: skeleton[n].shape for k, n in one.items()} for one in rows]
        if len(rows) > 1 and all(one == shapes[0] for one in shapes):
            fault: dict[int, Expr] = {}
            for one, other in zip(rows, reversed(rows), strict=True):
                for rest, index in one.items():
                    source = sources[other[rest]]
                    assert source is not None
                    if one is not other:
                        fault[index] = source
            faults.append(fault)
    return _chosen(chance, faults)


def modules_exchanged(chance: random.Random, skeleton: Skeleton, sources: Sources) -> Fault | None:
    """Two modules beside each other, such as gate and up, query and key."""
    modules: dict[str, dict[str, int]] = defaultdict(dict)
    for index in _filled(sources):
        module, _, name = skeleton[index].path.rpartition(".")
        modules[module][name] = index
    faults: list[Fault] = []
    names = list(modules)
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            one, other = modules[first], modules[second]
            if first.rpartition(".")[0] != second.rpartition(".")[0] or one.keys() != other.keys():
                continue
            if any(skeleton[one[n]].shape != skeleton[other[n]].shape for n in one):
                continue
            fault: dict[int, Expr] = {}
            for name in one:
                here, there = sources[one[name]], sources[other[name]]
                assert here is not None
                assert there is not None
                fault |= {one[name]: there, other[name]: here}
            faults.append(fault)
    return _chosen(chance, faults)


KINDS: dict[str, Kind] = {
    "two rows exchanged": exchanged,
    "same place of two blocks": same_place,
    "two modules exchanged": modules_exchanged,
    "list reversed": reversed_list,
    "transposed": _each(_transposed),
    "kernel flipped": _each(_flipped),
    "plus 1": _each(_more),
    "less 1": _each(_less),
    "parts in another order": _each(_parts),
    "interleaved by head": _each(_by_head),
    "heads inside": _each(_heads_inside),
    "rotary halves or pairs": _each(_rotary),
    "flattened otherwise": _each(_flattened),
    "stack reversed": _each(_stacked),
}
