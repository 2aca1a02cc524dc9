"""A part of a flat checkpoint: the entries whose names begin with a prefix, without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.formats.base import ByteRange, Checkpoint, Extent, Region, Tensors
from s2p_tui.formats.nested import find_state_dict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class _Prefixed(Tensors):
    """Tensors of another checkpoint under shorter names."""

    def __init__(self, tensors: Tensors, prefix: str) -> None:
        self._tensors = tensors
        self._prefix = prefix

    def read(self, name: str, region: Region) -> NDArray[np.generic]:
        return self._tensors.read(self._prefix + name, region)

    def extent(self, name: str) -> Extent | None:
        return self._tensors.extent(self._prefix + name)

    @property
    def in_memory(self) -> bool:
        return self._tensors.in_memory

    def byte_ranges(self, name: str, start: int, stop: int) -> Sequence[ByteRange] | None:
        return self._tensors.byte_ranges(self._prefix + name, start, stop)

    def descriptor(self, extent: Extent) -> int:
        return self._tensors.descriptor(extent)

    def check_unchanged(self) -> None:
        self._tensors.check_unchanged()

    def close(self) -> None:
        self._tensors.close()


def begins_with(checkpoint: Checkpoint, key: str) -> bool:
    """Return True if names in it begin with the key."""
    return any(entry.key.startswith(f"{key.strip('.')}.") for entry in checkpoint.state_dict)


def narrowed(checkpoint: Checkpoint, key: str | None, label: str) -> Checkpoint:
    """The part of a flat checkpoint that a key names, or all of it if there is no choice.

    Raises:
        AmbiguousStateDictError: It holds a model and a copy of it, and `key` is None.
        InputError: No name begins with the key.
    """
    entries = {entry.key: entry for entry in checkpoint.state_dict}
    if not entries:
        return checkpoint
    found = find_state_dict(entries, lambda value: isinstance(value, Entry), key, label)
    prefix = f"{found.place}." if found.place.strip(".") else ""
    if not prefix:
        return checkpoint
    kept = [
        Entry(name, entry.shape, entry.dtype, entry.storage)
        for name, entry in found.tensors.items()
    ]
    return replace(
        checkpoint,
        state_dict=StateDict(tuple(kept)),
        tensors=_Prefixed(checkpoint.tensors, prefix),
        key=found.place,
        notes=(*checkpoint.notes, *found.notes),
    )
