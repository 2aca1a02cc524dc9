"""An Orbax checkpoint cut into chunks: the units of writing, verification and sharing.

Each array is stored as chunks that are written whole, by one worker each, and that consist of
smaller inner chunks, which a loader can read alone. Everything here follows from the plan and the
chunk size alone, so that workers that never talk to each other agree.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import ceil, prod
from typing import Any, NamedTuple

from s2p_tui.alignment.dtypes import dtype_named, numpy_dtype
from s2p_tui.alignment.transform import Expr, Shape, Take, keys_of, to_json
from s2p_tui.conversion.needs import Needs
from s2p_tui.conversion.orbax_sources import Sources, Stretch, families, shared_keys, together
from s2p_tui.conversion.plan import Instruction, Plan
from s2p_tui.errors import UsageError, some
from s2p_tui.formats.base import Checkpoint, Region
from s2p_tui.formats.skeleton_file import Target
from s2p_tui.formats.tree_nodes import Node, nodes_of

INNER_BYTES = 1 << 20
"""Of an inner chunk: what loaders read is 1.00 times what they hold under every sharding tried;
with chunks of 16 MiB alone 1.2 to 1.8 times."""
_LEAST_INNER, _PIECES = 1 << 14, 8
"""Down to so many bytes an inner chunk is cut further, along axes that are in fewer pieces: a model
of 22 MB sharded by columns over 4 devices then loads with 1.00 times its bytes, not 1.51."""
_STEPS = (2, 3, 5, 7)
"""Inner chunks are cut by these first, as axes are that meshes of devices divide."""
UNWRITABLE = frozenset(("float8_e4m3", "uint4", "uint2"))
"""Dtypes that TensorStore 0.1.86 has no zarr arrays of."""
_LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}


@dataclass(frozen=True, slots=True)
class StoredArray:
    """One array of the checkpoint.

    Attributes:
        name: Its name, `0.layers.2.weight`.
        instruction: Its leaf, source and dtype.
        chunk: Shape of the chunks that are written whole.
        inner: Shape of the chunks that can be read alone.
    """

    name: str
    instruction: Instruction
    chunk: Shape
    inner: Shape

    @property
    def expr(self) -> Expr:
        """The source of its numbers, over entries, or over leaves if it keeps its value."""
        return self.instruction.source or Take(self.instruction.leaf.path)

    @property
    def shape(self) -> Shape:
        """Shape of the array."""
        return self.instruction.leaf.shape

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return dtype_named(self.instruction.dtype).itemsize

    @property
    def zarr_key(self) -> str:
        """The key of its metadata in the database."""
        return f"{self.name}/zarr.json"

    @property
    def zarr(self) -> dict[str, Any]:
        """Its metadata as zarr version 3 has it."""
        kind = numpy_dtype(self.instruction.dtype).kind
        fill: Any = {"b": False, "i": 0, "u": 0, "c": [0.0, 0.0]}.get(kind, 0.0)
        if self.instruction.dtype in ("int4", "int2"):
            fill = 0
        return {
            "chunk_grid": {
                "configuration": {"chunk_shape": list(self.chunk)},
                "name": "regular",
            },
            "chunk_key_encoding": {"name": "default"},
            "codecs": [
                {
                    "configuration": {
                        "chunk_shape": list(self.inner),
                        "codecs": [_LITTLE if self.itemsize > 1 else {"name": "bytes"}],
                        "index_codecs": [_LITTLE, {"name": "crc32c"}],
                    },
                    "name": "sharding_indexed",
                }
            ],
            "data_type": self.instruction.dtype,
            "fill_value": fill,
            "node_type": "array",
            "shape": list(self.shape),
            "zarr_format": 3,
        }


@dataclass(frozen=True, slots=True)
class Chunk:
    """A unit of work.

    Attributes:
        array: What it is a chunk of.
        region: Its elements.
        key: Its key in the database.
        is_first: True for the array's first, with which the array's metadata is written.
    """

    array: StoredArray
    region: Region
    key: str
    is_first: bool

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return prod(stop - start for start, stop in self.region) * self.array.itemsize

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys that are written with it."""
        return (self.array.zarr_key, self.key) if self.is_first else (self.key,)


Group = tuple[Chunk, ...]
"""Chunks that are made together, as they share stretches of their sources; mostly one alone."""


class Grid:
    """All chunks of a checkpoint, in the plan's order.

    Args:
        plan: What to write.
        checkpoint: The torch side; its shapes decide how arrays are cut.
        target: The JAX side, which names the nodes of the tree.
        chunk_bytes: Bytes of a chunk at the most.

    Raises:
        UsageError: A leaf cannot be stored in an Orbax checkpoint.
        InputError: The skeleton does not record the tree.

    Attributes:
        nodes: All nodes of the tree.
        arrays: The arrays among them.
        scalars: Instructions of Python scalars, which a loader takes from the model's own code.
        chunks: All chunks.
        groups: The same, those together that share stretches of their sources.
        digest: SHA-256 over what all workers must agree about.
    """

    def __init__(
        self, plan: Plan, checkpoint: Checkpoint, target: Target, chunk_bytes: int
    ) -> None:
        self.nodes = nodes_of(target)
        of_leaf = {one.leaf.path: one for one in plan.instructions}
        held = [(node, of_leaf[node.leaf.path]) for node in self.nodes if node.leaf is not None]
        self.scalars = tuple(one for node, one in held if node.kind == "scalar")
        lot = [_Uncut(node, one) for node, one in held if node.kind != "scalar"]
        _refuse(self.nodes, [(one.node, one.instruction) for one in lot])
        kept = {leaf.path: leaf.shape for leaf in target.skeleton}
        taken = Sources(checkpoint.tensors, Needs(checkpoint.state_dict.shape))
        own = Sources(target.values, Needs(kept.__getitem__))
        alike = _families(lot, taken)
        limits = _limits(lot, alike, chunk_bytes)
        self.arrays = tuple(
            _stored(one, taken if one.instruction.source is not None else own, limit, chunk_bytes)
            for one, limit in zip(lot, limits, strict=True)
        )
        self.chunks = tuple(chunk for array in self.arrays for chunk in _chunks_of(array))
        self.groups = tuple(self._grouped(alike, taken, chunk_bytes))
        self.total = sum(chunk.nbytes for chunk in self.chunks)
        self.digest = self._digest(plan, checkpoint, target, chunk_bytes)

    def _grouped(
        self, alike: Sequence[Sequence[int]], taken: Sources, limit: int
    ) -> Iterator[Group]:
        """Yield the groups, by their first chunks in the plan's order."""
        families = {self.arrays[n].name: number for number, lot in enumerate(alike) for n in lot}
        members: defaultdict[int, list[int]] = defaultdict(list)
        for number, chunk in enumerate(self.chunks):
            if chunk.array.name in families:
                members[families[chunk.array.name]].append(number)
        groups: dict[int, Group] = {}
        later: set[int] = set()
        for lot in members.values():
            placed = (
                (n, self.chunks[n].nbytes, taken.stretches(self.chunks[n].array.expr, region))
                for n in lot
                for region in [self.chunks[n].region]
            )
            for numbers in together(placed, limit):
                first, *others = sorted(numbers)
                groups[first] = tuple(self.chunks[n] for n in (first, *others))
                later.update(others)
        for number, chunk in enumerate(self.chunks):
            if number not in later:
                yield groups.get(number, (chunk,))

    def share(self, part: int, of: int) -> Sequence[Group]:
        """The groups of one of so many workers: neighbours, about as many bytes as the others'."""
        return self.shares(of)[part]

    def shares(self, of: int) -> list[list[Group]]:
        """The groups of each of so many workers."""
        found: list[list[Group]] = [[] for _ in range(of)]
        position = 0
        for group in self.groups:
            nbytes = sum(chunk.nbytes for chunk in group)
            middle = position + nbytes // 2
            found[min(of - 1, middle * of // max(1, self.total))].append(group)
            position += nbytes
        return found

    @cached_property
    def by_key(self) -> Mapping[str, Chunk]:
        """Chunks by their keys."""
        return {chunk.key: chunk for chunk in self.chunks}

    def missing(self, held: set[str]) -> list[Chunk]:
        """The chunks that, or the metadata with which, is not among the keys."""
        return [chunk for chunk in self.chunks if not held.issuperset(chunk.keys)]

    def _digest(self, plan: Plan, checkpoint: Checkpoint, target: Target, chunk_bytes: int) -> str:
        found = hashlib.sha256()
        head = [
            checkpoint.state_dict.digest, target.skeleton.digest, plan.dtype, chunk_bytes,
            [(node.kind, node.keys) for node in self.nodes if node.kind != "array"],
        ]  # fmt: skip
        found.update(json.dumps(head).encode())
        for array in self.arrays:
            expr = array.instruction.source
            keys = () if expr is None else keys_of(expr)
            source = None if expr is None else to_json(expr, keys)
            facts = [array.name, array.instruction.dtype, array.chunk, array.inner, keys, source]
            found.update(json.dumps(facts).encode())
        return found.hexdigest()


class _Uncut(NamedTuple):
    """An array before it is cut."""

    node: Node
    instruction: Instruction

    @property
    def nbytes(self) -> int:
        return prod(self.instruction.leaf.shape) * dtype_named(self.instruction.dtype).itemsize


def _families(arrays: Sequence[_Uncut], sources: Sources) -> list[list[int]]:
    """Return the arrays, by number, that share stretches of entries."""
    exprs = [one.instruction.source for one in arrays]
    shared = shared_keys(expr for expr in exprs if expr is not None)
    whole: list[list[Stretch]] = []
    for one, expr in zip(arrays, exprs, strict=True):
        is_shared = expr is not None and not shared.isdisjoint(keys_of(expr))
        region = tuple((0, size) for size in one.instruction.leaf.shape)
        whole.append(sources.stretches(expr, region) if expr is not None and is_shared else [])
    return families(whole)


def _limits(
    arrays: Sequence[_Uncut], alike: Sequence[Sequence[int]], chunk_bytes: int
) -> list[int]:
    """Return the most bytes of a chunk of each array.

    A chunk of each of a family take no more than one of another array, each by its size: then they
    are cut at the same places of their sources.
    """
    limits = [chunk_bytes] * len(arrays)
    for lot in alike:
        total = sum(arrays[number].nbytes for number in lot)
        for number in lot if total > chunk_bytes else ():
            limits[number] = chunk_bytes * arrays[number].nbytes // total
    return limits


def _stored(one: _Uncut, sources: Sources, limit: int, chunk_bytes: int) -> StoredArray:
    node, instruction = one
    shape, itemsize = instruction.leaf.shape, dtype_named(instruction.dtype).itemsize
    expr = instruction.source or Take(instruction.leaf.path)
    chunk = _outer(shape, sources.steps(expr, shape), max(1, limit // itemsize))
    inner = _inner(shape, chunk, itemsize, min(INNER_BYTES, chunk_bytes))
    whole = zip(chunk, inner, strict=True)
    return StoredArray(node.name, instruction, tuple(ceil(n / k) * k for n, k in whole), inner)


def _outer(shape: Shape, steps: Sequence[float], limit: int) -> Shape:
    """Cut a shape until it is small enough.

    The axes along which neighbours are farthest from each other in the sources are cut first: then
    each chunk is made of long stretches of its sources.
    """
    size = [max(1, length) for length in shape]
    for axis in sorted(range(len(size)), key=lambda at: (-steps[at], at)):
        if prod(size) <= limit:
            break
        length = size[axis]
        most = max(1, limit * length // prod(size))
        pieces = ceil(length / most)
        # Equal ones if it takes no more than twice as many: then meshes of devices divide them too.
        equal = (n for n in range(pieces, min(length, 2 * pieces) + 1) if length % n == 0)
        size[axis] = ceil(length / next(equal, pieces))
    return tuple(size)


def _inner(shape: Shape, chunk: Shape, itemsize: int, limit: int) -> Shape:
    """Cut a chunk until it is small enough and, if it stays large enough, all axes are cut.

    Then a loader can read its shard alone along whatever axes an array is sharded.
    """
    size = list(chunk)

    def pieces(axis: int) -> int:
        return ceil(shape[axis] / size[axis])

    while (nbytes := prod(size) * itemsize) > _LEAST_INNER:
        axis = min((at for at in range(len(size)) if size[at] > 1), key=lambda at: (pieces(at), at))
        if nbytes <= limit and pieces(axis) >= _PIECES:
            break
        step = next((step for step in _STEPS if size[axis] % step == 0), None)
        size[axis] = size[axis] // step if step else ceil(size[axis] / 2)
    return tuple(size)


def _chunks_of(array: StoredArray) -> Iterator[Chunk]:
    steps = [range(0, size, step) for size, step in zip(array.shape, array.chunk, strict=True)]
    is_first = True
    for corner in product(*steps):
        region = tuple(
            (start, min(start + step, size))
            for start, step, size in zip(corner, array.chunk, array.shape, strict=True)
        )
        places = (start // step for start, step in zip(corner, array.chunk, strict=True))
        key = "/".join([array.name, "c", *map(str, places)])
        yield Chunk(array, region, key, is_first)
        is_first = False


def _refuse(nodes: Sequence[Node], arrays: Sequence[tuple[Node, Instruction]]) -> None:
    """Make sure that Orbax can hold, tell apart and restore every array.

    Raises:
        UsageError: It cannot; the leaves are named.
    """
    empty = [one.leaf.path for _, one in arrays if not prod(one.leaf.shape)]
    if empty:
        raise UsageError(
            f"Orbax stores no arrays without elements, as these leaves are: {some(empty)}.",
            "Leave them out of the model, or write another format.",
        )
    odd = [one for _, one in arrays if one.dtype in UNWRITABLE]
    if odd:
        names = ", ".join(dict.fromkeys(one.dtype for one in odd))
        raise UsageError(
            f"{len(odd)} leaves, {odd[0].leaf.path} the first, are {names}: "
            "TensorStore, which writes Orbax checkpoints, has no such arrays.",
            "Give them another dtype in the skeleton, or write another format.",
        )
    seen: dict[str, Node] = {}
    for node in nodes:
        other = seen.setdefault(node.name, node)
        if other is not node:
            path = node.leaf.path if node.leaf is not None else str(node.keys)
            raise UsageError(
                f"Orbax would give two nodes one name, {node.name}; {path} is the second.",
                "Rename a dictionary's key that holds a dot.",
            )
