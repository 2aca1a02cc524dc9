"""Where each leaf's bytes go in the output, worked out before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from s2p_tui.alignment.dtypes import dtype_named
from s2p_tui.conversion.plan import Instruction, Plan
from s2p_tui.formats import npy
from s2p_tui.formats.safetensors import header_for
from s2p_tui.formats.skeleton_file import Target


@dataclass(frozen=True, slots=True)
class Piece:
    """One leaf in the output.

    Attributes:
        instruction: What it is made from.
        head: Bytes that go before its elements.
        start: Byte at which `head` starts.
        nbytes: Bytes of its elements, which follow `head`.
        column_major: Whether the elements are laid out in column-major order, as Equinox does for
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
class Layout:
    """The whole output: what precedes the leaves, then the leaves."""

    head: bytes
    pieces: tuple[Piece, ...]
    size: int


def lay_out(plan: Plan, target: Target) -> Layout:
    """Place every leaf of a plan. Reads the headers of kept values, no data.

    Raises:
        UsageError: The file format cannot hold one of the dtypes.
    """
    if plan.format == "safetensors":
        head = header_for([(i.leaf.path, i.leaf.shape, i.dtype) for i in plan.instructions])
    else:
        head = b""
    position = len(head)
    pieces: list[Piece] = []
    for instruction in plan.instructions:
        column_major = plan.format == "eqx" and _is_kept_column_major(instruction, target)
        leaf_head = b""
        if plan.format == "eqx":
            leaf_head = npy.header(instruction.leaf.shape, instruction.dtype, column_major)
        nbytes = prod(instruction.leaf.shape) * dtype_named(instruction.dtype).itemsize
        piece = Piece(instruction, leaf_head, position, nbytes, column_major)
        pieces.append(piece)
        position = piece.stop
    return Layout(head, tuple(pieces), position)


def _is_kept_column_major(instruction: Instruction, target: Target) -> bool:
    leaf = instruction.leaf
    if instruction.source is not None or len(leaf.shape) < 2:
        return False
    extent = target.values.extent(leaf.path)
    if extent is not None:
        return not extent.is_contiguous
    array = target.values.read(leaf.path, tuple((0, size) for size in leaf.shape))
    return array.flags.f_contiguous and not array.flags.c_contiguous
