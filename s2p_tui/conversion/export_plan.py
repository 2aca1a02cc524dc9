"""The way back as a plan: each entry of the checkpoint as an expression over the pytree's leaves.

Leaves go by their key paths. What no leaf holds comes from the original checkpoint, whose entries
go by their keys behind `ORIGINAL`, which no key path begins with.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from msgspec import structs

from s2p_tui.alignment.alignment import Row, Rows
from s2p_tui.alignment.dtypes import dtype_named
from s2p_tui.alignment.judge import landing
from s2p_tui.alignment.layer_rules import constant_for
from s2p_tui.alignment.left_over import NO_LEAF, no_parameter
from s2p_tui.alignment.parts import Part, joined, undone
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import (
    Expr,
    Scale,
    SpectralNorm,
    Take,
    keys_of,
    nodes_of,
)
from s2p_tui.conversion.evaluate import NORM_LIMIT, Evaluator, Reduced, tiles
from s2p_tui.errors import AlignmentError, Code, Hint, TransformError
from s2p_tui.formats.base import ByteRange, Checkpoint, Extent, Region, Tensors
from s2p_tui.formats.skeleton_file import Target
from s2p_tui.formats.tensors import ArrayTensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

ORIGINAL = "\0original:"
NO_TARGET = Target("", (), 0, Skeleton(()), ArrayTensors({}))
"""Stands for the skeleton where values of none are kept."""
Origin = Literal["leaves", "original", "missing"]
_LOOKED_AT = 64
_COMPARED = 1 << 18
"""Elements compared at a time: a few MB."""


@dataclass(frozen=True, slots=True)
class MadeEntry:
    """One entry of the export.

    Attributes:
        entry: Its key, and the shape and dtype that it has in the original.
        source: An expression over leaves and original entries; None where it is missing.
        origin: `leaves` if leaves hold any of it.
        why: The reason it is taken from the original or missing, or the choices that were made.
    """

    entry: Entry
    source: Expr | None
    origin: Origin
    why: str = ""


@dataclass(frozen=True, slots=True)
class Forward:
    """A leaf as the conversion made it of the entries: the other half of an export's proof.

    Attributes:
        leaf: The leaf, with the dtype that its file has.
        source: The row's source.
        held: The numbers that the source has to make, over the leaves.
    """

    leaf: Leaf
    source: Expr
    held: Expr


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """All entries in the order of the original.

    Attributes:
        entries: The entries.
        forwards: The leaves to be compared with what the entries make.
        left: Key paths of the leaves that no entry holds.
        both: Leaves and original entries under their names here.
    """

    entries: tuple[MadeEntry, ...]
    forwards: tuple[Forward, ...]
    left: tuple[str, ...]
    both: Checkpoint


class _Both(Tensors):
    """The numbers of leaves and, behind `ORIGINAL`, of original entries."""

    def __init__(self, leaves: Checkpoint, original: Checkpoint) -> None:
        self._leaves, self._original = leaves.tensors, original.tensors
        self._files = frozenset(leaves.files)

    def _of(self, name: str) -> tuple[Tensors, str]:
        if name.startswith(ORIGINAL):
            return self._original, name.removeprefix(ORIGINAL)
        return self._leaves, name

    def read(self, name: str, region: Region) -> NDArray[np.generic]:
        tensors, own = self._of(name)
        return tensors.read(own, region)

    @property
    def in_memory(self) -> bool:
        return self._leaves.in_memory and self._original.in_memory

    def extent(self, name: str) -> Extent | None:
        tensors, own = self._of(name)
        return tensors.extent(own)

    def byte_ranges(self, name: str, start: int, stop: int) -> Sequence[ByteRange] | None:
        tensors, own = self._of(name)
        return tensors.byte_ranges(own, start, stop)

    def _holding(self, extent: Extent) -> Tensors:
        return self._leaves if extent.file in self._files else self._original

    def descriptor(self, extent: Extent) -> int | None:
        return self._holding(extent).descriptor(extent)

    def fill(self, extent: Extent, buffer: memoryview, position: int) -> None:
        self._holding(extent).fill(extent, buffer, position)

    @property
    def is_remote(self) -> bool:
        return self._original.is_remote

    def ranges_in(self, name: str, region: Region) -> Iterable[ByteRange]:
        tensors, own = self._of(name)
        return tensors.ranges_in(own, region)

    def held(self, ranges: Callable[[], Iterable[ByteRange]]) -> AbstractContextManager[None]:
        return self._original.held(
            lambda: [one for one in ranges() if one.extent.file not in self._files]
        )

    def check_unchanged(self) -> None:
        self._leaves.check_unchanged()
        self._original.check_unchanged()

    def close(self) -> None:
        self._leaves.close()
        self._original.close()


def both_sides(leaves: Checkpoint, original: Checkpoint) -> Checkpoint:
    """Return leaves and original entries as one checkpoint, under their names here."""
    entries = (
        Entry(ORIGINAL + one.key, one.shape, one.dtype, one.storage) for one in original.state_dict
    )
    return Checkpoint(
        leaves.label,
        (*leaves.files, *original.files),
        leaves.size + original.size,
        StateDict((*leaves.state_dict, *entries)),
        _Both(leaves, original),
    )


def make_export_plan(
    leaves: Checkpoint,
    skeleton: Skeleton,
    rows: Rows,
    original: Checkpoint,
    *,
    has_original: bool = True,
) -> ExportPlan:
    """Turn rows round. Reads the counters of running statistics, and what may be a copy.

    Args:
        leaves: The numbers of the leaves, entries named by key path.
        skeleton: The leaves as the rows know them.
        rows: One per leaf, none of which blocks a conversion.
        original: The entries; their numbers, too, if `has_original`.
        has_original: False if nothing is known of the original but names, shapes and dtypes.

    Raises:
        AlignmentError: A row cannot be turned round, or entries that were one tensor would differ;
            all are named.
    """
    return _Planner(leaves, skeleton, rows, original, has_original).plan()


class _Planner:
    def __init__(
        self,
        leaves: Checkpoint,
        skeleton: Skeleton,
        rows: Rows,
        original: Checkpoint,
        has_original: bool,
    ) -> None:
        self._leaves, self._skeleton, self._rows = leaves, skeleton, rows
        self._entries, self._has_original = original.state_dict, has_original
        self._both = both_sides(leaves, original)
        self._evaluator = Evaluator(self._both.state_dict, self._both.tensors)
        self._problems: list[tuple[str, str]] = []

    def plan(self) -> ExportPlan:
        forwards: list[Forward] = []
        left: list[str] = []
        for leaf, row in zip(self._skeleton, self._rows, strict=True):
            if row.source is not None:
                forwards += self._forward(leaf, row)
            elif leaf.kind == "array" and constant_for(leaf) is None:
                left.append(leaf.path)
        parts: dict[str, list[Part]] = defaultdict(list)
        for one in forwards:
            try:
                whole = Part.whole(one.leaf.shape, one.held)
                for key, part in undone(one.source, whole, self._entries.shape):
                    parts[key].append(part)
            except TransformError as error:
                self._problems.append((one.leaf.path, error.message))
        made = {entry.key: self._made(entry, parts.get(entry.key, ())) for entry in self._entries}
        self._scale_vectors(forwards, made)
        self._follow(made)
        if self._problems:
            count = len(self._problems)
            raise AlignmentError(
                f"{count} {'row' if count == 1 else 'rows'} cannot be turned round.",
                self._problems,
                Hint(Code.TURN_ROUND),
            )
        self._require_ties(made)
        return ExportPlan(tuple(made.values()), tuple(forwards), tuple(left), self._both)

    def _forward(self, leaf: Leaf, row: Row) -> Iterator[Forward]:
        """The leaf's row, to be undone and compared; none for what a layer counts by itself."""
        assert row.source is not None
        if not row.keys and constant_for(leaf) is not None:
            return
        source = landing(row.source, leaf, self._entries)
        there = structs.replace(leaf, dtype=self._leaves.state_dict[leaf.path].dtype)
        held: Expr = Take(leaf.path)
        factor = self._share(leaf)
        if factor is not None:
            # The statistic is the sum so far divided by this, whatever it was divided by before.
            held = Scale(held, 1 / factor) if factor != 1 else held
            source = _unscaled(source)
        yield Forward(there, source, held)

    def _share(self, leaf: Leaf) -> float | None:
        """Return the share of the statistic that its sum holds; None for any other leaf.

        Equinox's batch mode keeps a decaying sum that begins at 0, and a counter of its steps.
        """
        before, dot, last = leaf.path.rpartition(".")
        if leaf.owner != "equinox.nn.BatchNorm" or not last.startswith("batch_state_index"):
            return None
        momentum, counter = leaf.config.get("momentum"), f"{before}{dot}batch_counter"
        if not isinstance(momentum, float) or counter not in self._leaves.state_dict:
            self._problems.append(
                (leaf.path, f"its meaning depends on {counter} and the momentum, which are missing")
            )
            return 1.0
        shape = self._leaves.state_dict.shape(counter)
        counts = self._leaves.tensors.read(counter, tuple((0, size) for size in shape))
        powers = momentum ** counts.astype(np.float64)
        # In float32, as Equinox has it: a count that settled gives 1 exactly.
        found = np.where(counts == 0, 1.0, 1.0 - powers).astype(np.float32)
        shares = set(map(float, found.reshape(-1)))
        if len(shares) != 1:
            self._problems.append((leaf.path, f"{counter} holds several counts"))
            return 1.0
        (share,) = shares
        return share

    def _made(self, entry: Entry, parts: Sequence[Part]) -> MadeEntry:
        if dtype_named(entry.dtype).kind == "packed":
            why = f"{entry.dtype} packs several numbers in a byte, which cannot be taken apart"
            self._problems.append((entry.key, why))
            return MadeEntry(entry, None, "missing", why)
        rest = Take(ORIGINAL + entry.key) if self._has_original else None
        if not parts:
            why = no_parameter(entry) or NO_LEAF
            return MadeEntry(entry, rest, "missing" if rest is None else "original", why)
        try:
            found = joined(entry.shape, parts, rest)
        except TransformError as error:
            self._problems.append((entry.key, error.message))
            return MadeEntry(entry, None, "missing", error.message)
        if found.value is None:
            return MadeEntry(entry, None, "missing", "no leaf holds a part of it")
        why = list(found.chosen)
        if found.has_gaps:
            why.append("what no leaf holds of it is from the original")
        return MadeEntry(entry, found.value, "leaves", "; ".join(why))

    def _scale_vectors(self, forwards: Sequence[Forward], made: dict[str, MadeEntry]) -> None:
        """Scale a vector of each spectral norm so that it divides by 1.

        The weight goes back divided already, and cannot be scaled itself: the norm would undo it.
        """
        for node in (node for one in forwards for node in nodes_of(one.source)):
            if not isinstance(node, SpectralNorm) or not isinstance(node.of[1], Take):
                continue
            vector = made[node.of[1].key]
            sources = {key: made[key].source for key in keys_of(node)}
            known = {key: source for key, source in sources.items() if source is not None}
            if vector.origin != "original" or vector.source is None or len(known) < len(sources):
                continue
            measured = put_in(node, known)
            assert isinstance(measured, SpectralNorm)
            sigma = Reduced(self._evaluator, NORM_LIMIT).sigma(measured)
            if not np.isfinite(sigma) or sigma <= 0:
                where = ", ".join(keys_of(node))
                self._problems.append((where, f"the spectral norm would divide by {sigma:g}"))
                continue
            source = Scale(vector.source, 1 / sigma)
            weight = " and ".join(keys_of(node.of[0]))
            why = f"scaled so that the norm leaves {weight} as it is"
            made[vector.entry.key] = replace(vector, source=source, origin="leaves", why=why)

    def _follow(self, made: dict[str, MadeEntry]) -> None:
        """Give copies of entries that leaves hold the same numbers.

        Copies are tied tensors, and entries of the same numbers in the original.
        """
        held = [one for one in made.values() if one.origin == "leaves"]
        others = [one for one in made.values() if one.origin != "leaves" and one.why == NO_LEAF]
        tied: dict[Hashable, MadeEntry] = {}
        for one in held:
            tied.setdefault(one.entry.storage, one)
        alike = self._alike(held, others)
        for one in others:
            first, why = tied.get(one.entry.storage), "the same tensor as"
            if first is None or one.entry.storage is None:
                found = alike.get(self._looks(one), ()) if alike else ()
                first = next((other for other in found if self._was_equal(one, other)), None)
                why = "in the original equal to"
            if first is not None:
                why = f"{why} {first.entry.key}"
                made[one.entry.key] = replace(one, source=first.source, origin="leaves", why=why)

    def _require_ties(self, made: Mapping[str, MadeEntry]) -> None:
        """Make sure that tied tensors are equal: PyTorch would take the last one for all.

        Raises:
            AlignmentError: They are not; all are named.
        """
        tied: dict[Hashable, MadeEntry] = {}
        problems: list[tuple[str, str]] = []
        for one in made.values():
            if one.entry.storage is not None and one.origin == "leaves":
                first = tied.setdefault(one.entry.storage, one)
                if not self._agree(first, one):
                    why = f"it was one tensor with {first.entry.key}, and their leaves differ now"
                    problems.append((one.entry.key, why))
        if problems:
            entries = "1 entry" if len(problems) == 1 else f"{len(problems):,} entries"
            raise AlignmentError(
                f"{entries} would differ from others that were the same tensor.",
                problems,
                Hint(Code.NO_ROOM_IN_ENTRIES),
            )

    def _alike(
        self, held: Iterable[MadeEntry], others: Iterable[MadeEntry]
    ) -> Mapping[Hashable, Sequence[MadeEntry]]:
        """Return entries that leaves hold by what tells most of them apart."""
        found: dict[Hashable, list[MadeEntry]] = defaultdict(list)
        kinds = {(one.entry.shape, one.entry.dtype) for one in others}
        if self._has_original:
            for one in held:
                if (one.entry.shape, one.entry.dtype) in kinds:
                    found[self._looks(one)].append(one)
        return found

    def _looks(self, one: MadeEntry) -> Hashable:
        """Return shape, dtype and first numbers of an entry in the original."""
        shape = one.entry.shape
        corner = (*((0, min(size, 1)) for size in shape[:-1]), *((0, size) for size in shape[-1:]))
        row = self._both.tensors.read(ORIGINAL + one.entry.key, corner)
        return shape, one.entry.dtype, bits(row.reshape(-1)[:_LOOKED_AT]).tobytes()

    def _agree(self, first: MadeEntry, other: MadeEntry) -> bool:
        if first.source == other.source or first.source is None or other.source is None:
            return True
        return self._equal(first.source, other.source, first.entry.shape)

    def _was_equal(self, one: MadeEntry, other: MadeEntry) -> bool:
        """Return True if two entries had the same numbers, more than one and not all alike."""
        first, second = (Take(ORIGINAL + found.entry.key) for found in (one, other))
        return self._equal(first, second, one.entry.shape, told_apart=True)

    def _equal(
        self, one: Expr, other: Expr, shape: tuple[int, ...], told_apart: bool = False
    ) -> bool:
        """Return True if two expressions give the same numbers.

        Args:
            one: The first.
            other: The second.
            shape: Their shape.
            told_apart: Only if these are not all the same number, as of fresh biases and norms.
        """
        first: Any = None
        varied = not told_apart
        for region in tiles(shape, frozenset(range(len(shape))), _COMPARED):
            mine, theirs = (self._evaluator.region(expr, region) for expr in (one, other))
            if not np.array_equal(bits(mine), bits(theirs)):
                return False
            first = mine.reshape(-1)[:1] if first is None else first
            varied = varied or bool((mine != first).any())
        return varied and prod(shape) > 0


def bits(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array's bytes, so that NaN equals itself and 0 differs from -0."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _unscaled(expr: Expr) -> Expr:
    """Return a statistic's source without the factor it was divided by at its time."""
    if isinstance(expr, Scale):
        return _unscaled(expr.of)
    return expr.with_operands(tuple(map(_unscaled, expr.operands)))


def put_in(expr: Expr, values: Mapping[str, Expr]) -> Expr:
    """Return an expression with others in the place of entries."""
    if isinstance(expr, Take):
        return values.get(expr.key, expr)
    return expr.with_operands(tuple(put_in(operand, values) for operand in expr.operands))
