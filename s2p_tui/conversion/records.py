"""Records of the output: the byte range of each leaf, computed before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from s2p_tui.alignment.dtypes import dtype_named
from s2p_tui.conversion.plan import Instruction, Plan
from s2p_tui.formats import npy
from s2p_tui.formats.safetensors import header_for
from s2p_tui.formats.skeleton_file import Target


@dataclass(frozen=True, slots=True)
class OutputRecord:
    """One leaf in the output.

    Attributes:
        instruction: Its source.
        head: Bytes that go before its elements.
        start: Byte at which `head` starts.
        nbytes: Bytes of its elements, which follow `head`.
        column_major: True if the elements are laid out in column-major order, as Equinox does for
            a kept NumPy array of that order.
    """

    instruction: Instruction
    head: bytes
    start: int
    nbytes: int
    column_major: bool = False

    @property
    def data(self) -> int:
        """Byte at which the elements start."""
        return self.start + len(self.head)

    @property
    def stop(self) -> int:
        """Byte behind the last element."""
        return self.data + self.nbytes


@dataclass(frozen=True, slots=True)
class RecordTable:
    """The whole output: what precedes the leaves, then the leaves."""

    head: bytes
    records: tuple[OutputRecord, ...]
    size: int


def record_table(plan: Plan, target: Target) -> RecordTable:
    """Place every leaf of a plan. Reads the headers of kept values, no data.

    Raises:
        UsageError: The file format cannot hold one of the dtypes.
    """
    if plan.format == "safetensors":
        head = header_for([(i.leaf.path, i.leaf.shape, i.dtype) for i in plan.instructions])
    else:
        head = b""
    position = len(head)
    records: list[OutputRecord] = []
    for instruction in plan.instructions:
        column_major = plan.format == "eqx" and _is_kept_column_major(instruction, target)
        leaf_head = b""
        if plan.format == "eqx":
            leaf_head = npy.header(instruction.leaf.shape, instruction.dtype, column_major)
        nbytes = prod(instruction.leaf.shape) * dtype_named(instruction.dtype).itemsize
        record = OutputRecord(instruction, leaf_head, position, nbytes, column_major)
        records.append(record)
        position = record.stop
    return RecordTable(head, tuple(records), position)


def _is_kept_column_major(instruction: Instruction, target: Target) -> bool:
    leaf = instruction.leaf
    if instruction.source is not None or len(leaf.shape) < 2:
        return False
    extent = target.values.extent(leaf.path)
    if extent is not None:
        return not extent.is_contiguous
    array = target.values.read(leaf.path, tuple((0, size) for size in leaf.shape))
    return array.flags.f_contiguous and not array.flags.c_contiguous
