"""Carrying out a plan in memory: each leaf's numbers as one NumPy array."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from s2p_tui.core.dtypes import dtype_named, numpy_dtype
from s2p_tui.core.plan import Plan
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.target import Target
from s2p_tui.streaming.contents import CastLoss, Contents
from s2p_tui.streaming.convert import DEFAULT_CHUNK, SMALLEST_CHUNK
from s2p_tui.streaming.layout import Piece

if TYPE_CHECKING:
    from numpy.typing import NDArray


def filled(
    plan: Plan, checkpoint: Checkpoint, target: Target, *, chunk_bytes: int = DEFAULT_CHUNK
) -> Iterator[tuple[NDArray[Any] | None, CastLoss]]:
    """The leaves of a plan in order, each a new array, and what its cast lost.

    None stands for a leaf that keeps the target's own value in its own dtype.

    Args:
        plan: What to make.
        checkpoint: Source of rows; its tensor data is read.
        target: Source of kept values that are to be cast.
        chunk_bytes: Memory to stay within beside the arrays, about.

    Raises:
        InputError: A source was cut short meanwhile.
        AlignmentError: A whole number does not fit its leaf's dtype.
    """
    contents = Contents(checkpoint, target, max(chunk_bytes, SMALLEST_CHUNK))
    for instruction in plan.instructions:
        loss = CastLoss()
        if instruction.source is None and instruction.dtype == instruction.leaf.dtype:
            yield None, loss
            continue
        shape, dtype = instruction.leaf.shape, numpy_dtype(instruction.dtype)
        nbytes = int(np.prod(shape)) * dtype_named(instruction.dtype).itemsize
        array: NDArray[Any] = np.empty(shape, dtype)
        made = contents.made(Piece(instruction, b"", 0, nbytes))
        for region in made.regions():
            part = made.elements(region, loss)
            array[tuple(slice(start, stop) for start, stop in region)] = part
        yield array, loss
