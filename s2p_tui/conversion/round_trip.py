"""The proof of an export: its entries converted forward again equal the leaves they were made from.

What only moves numbers has to give the same bits, after the cast to the entry's dtype; what
computes may differ by the rounding of the dtypes in it. A leaf that differs holds something that
the entries have no room for: a constant that was trained, parts that should be equal and are not,
or other numbers than another leaf that the same entry feeds.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from s2p_tui.alignment.dtypes import dtype_named, numpy_dtype
from s2p_tui.alignment.task import Job
from s2p_tui.alignment.transform import (
    Broadcast,
    Constant,
    Expr,
    Norm,
    Scale,
    SpectralNorm,
    Sum,
    Take,
    WeightNorm,
    keys_of,
    nodes_of,
)
from s2p_tui.conversion.contents import Contents, Made, OutputRecord, Run, runs_of
from s2p_tui.conversion.evaluate import Evaluator
from s2p_tui.conversion.export_plan import NO_TARGET, ExportPlan, Forward, bits
from s2p_tui.conversion.plan import Instruction
from s2p_tui.conversion.units import share
from s2p_tui.formats.base import Checkpoint, Region

if TYPE_CHECKING:
    from numpy.typing import NDArray

_COMPUTED = (Sum, Scale, Norm, WeightNorm, SpectralNorm)
_ROUNDINGS = 32
"""Half units in the last place that computed numbers may differ by, of the largest beside them: a
weight norm there and back takes four roundings, sums of squares add some more."""
_BLOCK = 1 << 24
_COMPARE = 1 << 18


@dataclass(frozen=True, slots=True)
class _Block:
    """Bytes of a leaf that lie in the export as they do in the leaf's own file."""

    forward: Forward
    ours: Run
    theirs: Run
    offset: int


@dataclass(frozen=True, slots=True)
class _Box:
    """A region of a leaf that is computed."""

    forward: Forward
    made: Made
    region: Region


class RoundTrip:
    """Compares all leaves of a plan with what an export's entries make.

    Args:
        plan: The plan.
        exported: The entries as they were written.
        job: Progress and cancellation.

    Attributes:
        differing: The largest difference of each leaf that differs, by key path.
    """

    def __init__(self, plan: ExportPlan, exported: Checkpoint, job: Job) -> None:
        self.differing: dict[str, float] = {}
        self._plan, self._exported, self._job = plan, exported, job
        self._lock = threading.Lock()
        self._made = Evaluator(exported.state_dict, exported.tensors)
        self._held = Evaluator(plan.both.state_dict, plan.both.tensors)
        there = {one.key for one in exported.state_dict}
        self._forwards = [one for one in plan.forwards if there.issuperset(keys_of(one.source))]

    def compare(self, chunk_bytes: int, jobs: int) -> list[tuple[str, str]]:
        """Compare everything; return `(key path, reason)` of each leaf that differs.

        Args:
            chunk_bytes: Memory to stay within, about.
            jobs: Threads that share it.

        Raises:
            InputError: A file became shorter meanwhile.
            CancelledError: Someone cancelled the job.
        """
        # Both sides of a region, a cast of one and the bytes of the other are there at a time.
        contents = Contents(self._exported, NO_TARGET, max(1, chunk_bytes // 4), jobs)
        share(self._units(contents), self._do, jobs)
        holders = self._holders()
        return [
            (one.leaf.path, self._why(one, holders))
            for one in self._forwards
            if one.leaf.path in self.differing
        ]

    @property
    def proven(self) -> frozenset[str]:
        """Keys of entries of which each number was compared, bit by bit."""
        exact = {
            key
            for one in self._forwards
            if is_exact(one.source, self._exported) and one.leaf.path not in self.differing
            for key in keys_of(one.source)
        }
        whole = {
            one.entry.key for one in self._plan.entries if one.origin == "leaves" and not one.why
        }
        return frozenset(exact & whole)

    def _units(self, contents: Contents) -> Iterator[_Block | _Box]:
        for one in self._forwards:
            runs = self._runs(one)
            if runs is None:
                made = contents.made(self._record(one))
                yield from (_Box(one, made, region) for region in made.regions())
                continue
            start, (found, theirs) = 0, runs
            for run in found:
                for offset in range(0, run.nbytes, _BLOCK):
                    count = min(_BLOCK, run.nbytes - offset)
                    ours = Run(run.tensors, run.extent, run.start + offset, count)
                    yield _Block(one, ours, theirs, start + offset)
                start += run.nbytes

    def _runs(self, one: Forward) -> tuple[list[Run], Run] | None:
        """Return the bytes of a leaf in the export and in its own file, if they are the same."""
        if not isinstance(one.held, Take):
            return None
        ranges = runs_of(one.source, self._made.entry_shape)
        if ranges is None:
            return None
        found: list[Run] = []
        for key, start, stop in ranges:
            there = self._exported.tensors.byte_ranges(key, start, stop)
            if there is None or self._exported.state_dict[key].dtype != one.leaf.dtype:
                return None
            found += (Run(self._exported.tensors, *part) for part in there)
        size = int(np.prod(one.leaf.shape, dtype=np.int64))
        own = self._plan.both.tensors.byte_ranges(one.held.key, 0, size)
        if own is None or len(own) != 1:
            return None
        return found, Run(self._plan.both.tensors, *own[0])

    def _record(self, one: Forward) -> OutputRecord:
        """Return a leaf as something to make of the entries, in a dtype that loses nothing."""
        dtypes = {self._exported.state_dict[key].dtype for key in keys_of(one.source)}
        if is_exact(one.source, self._exported):
            dtype = next(iter(dtypes), one.leaf.dtype)
        elif any(dtype_named(dtype).kind == "complex" for dtype in (*dtypes, one.leaf.dtype)):
            dtype = "complex128"
        else:
            dtype = "float64"
        return OutputRecord(Instruction(one.leaf, one.source, dtype), b"", 0, 0)

    def _do(self, unit: _Block | _Box) -> None:
        self._job.check()
        if unit.forward.leaf.path in self.differing:
            return
        self._job.leaf = unit.forward.leaf.path
        if isinstance(unit, _Block):
            self._block(unit)
        else:
            self._box(unit)

    def _block(self, unit: _Block) -> None:
        ours, theirs = np.empty((2, min(_COMPARE, unit.ours.nbytes)), np.uint8)
        mine, other = unit.ours, unit.theirs
        for done in range(0, unit.ours.nbytes, _COMPARE):
            self._job.check()
            count = min(_COMPARE, unit.ours.nbytes - done)
            mine.tensors.fill(mine.extent, ours.data[:count], mine.start + done)
            start = other.start + unit.offset + done
            other.tensors.fill(other.extent, theirs.data[:count], start)
            if not np.array_equal(ours[:count], theirs[:count]):
                self._note(unit.forward, float("nan"))
                return
            self._count(count)

    def _box(self, unit: _Box) -> None:
        one = unit.forward
        made = unit.made.elements(unit.region)
        held = self._held.again().region(one.held, unit.region)
        with np.errstate(all="ignore"):
            if is_exact(one.source, self._exported):
                different = _differ(made, held.astype(made.dtype, copy=False))
            else:
                dtypes = {self._exported.state_dict[key].dtype for key in keys_of(one.source)}
                allowed = _ROUNDINGS * max(map(_epsilon, (*dtypes, one.leaf.dtype)))
                different = _far(made, held, allowed)
        if different.any():
            wide = np.complex128 if np.iscomplexobj(made) else np.float64
            far = np.abs(made.astype(wide) - held.astype(wide))[different]
            finite = far[np.isfinite(far)]
            self._note(one, float(finite.max()) if finite.size else float("nan"))
        self._count(held.size * dtype_named(one.leaf.dtype).itemsize)

    def _note(self, one: Forward, difference: float) -> None:
        with self._lock:
            known = self.differing.get(one.leaf.path, 0.0)
            self.differing[one.leaf.path] = max(known, difference)

    def _count(self, nbytes: int) -> None:
        with self._lock:
            self._job.verified += nbytes

    def _holders(self) -> Mapping[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for one in self._forwards:
            for key in keys_of(one.source):
                found[key].append(one.leaf.path)
        return found

    def _why(self, one: Forward, holders: Mapping[str, list[str]]) -> str:
        keys = keys_of(one.source)
        nodes = list(nodes_of(one.source))
        path, largest = one.leaf.path, self.differing[one.leaf.path]
        by = "" if np.isnan(largest) else f" (by up to {largest:.3g})"
        constants = [node.value for node in nodes if isinstance(node, Constant)]
        shared = [(key, holders[key][0]) for key in keys if holders[key][0] != path]
        if not keys:
            return f"it was filled with {constants[0]:g} and holds something else now{by}: no entry"
        if shared:
            key, first = shared[0]
            return f"it and {first} are both made of {key}, and do not agree{by}"
        if constants:
            return (
                f"the part of it that was filled with {constants[0]:g} holds something else now{by}"
            )
        if any(isinstance(node, Broadcast) for node in nodes):
            return f"its parts were copies of one another and differ now{by}"
        return f"its entries make other numbers than it holds{by}"


def is_exact(source: Expr, exported: Checkpoint) -> bool:
    """Return True if a source only moves numbers, of entries of one dtype."""
    if any(isinstance(node, _COMPUTED) for node in nodes_of(source)):
        return False
    return len({exported.state_dict[key].dtype for key in keys_of(source)}) <= 1


def _differ(made: NDArray[Any], held: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which numbers are not the same bits; any NaN is one."""
    if np.array_equal(bits(made), bits(held)):
        return np.zeros(made.shape, np.bool_)
    return (made != held) & ~(np.isnan(made) & np.isnan(held))


def _far(made: NDArray[Any], held: NDArray[Any], allowed: float) -> NDArray[np.bool_]:
    """Return which numbers differ by more than a part of the largest one among them."""
    first, second = made, held.astype(made.dtype)
    finite = np.isfinite(first) & np.isfinite(second)
    size = np.abs(second[finite])
    limit = allowed * float(size.max()) if size.size else 0.0
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    return ~same & ~(finite & (np.abs(first - second) <= limit))


@cache
def _epsilon(dtype: str) -> float:
    import ml_dtypes

    finfo: Any = ml_dtypes.finfo
    return float(finfo(numpy_dtype(dtype)).eps) / 2 if dtype_named(dtype).is_floating else 0.0
