"""Entries that a file holds twice, bit for bit, without saying so: found by reading their numbers.

`safetensors` shares no storage, so a tied weight that was saved under both names is there twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from math import prod

import numpy as np

from s2p_tui.alignment.dtypes import dtype_named
from s2p_tui.alignment.state_dict import Entry
from s2p_tui.formats.base import Checkpoint, Region, Tensors

# As many are compared at most: each takes a read of its first numbers, also of remote files.
_MOST = 1000
_FIRST = 256
"""Elements that are compared before whole tensors are."""
_CHUNK = 1 << 20
"""Elements that are read at once."""


def copies(
    checkpoint: Checkpoint, unused: Iterable[str], used: Collection[str]
) -> Mapping[str, str]:
    """Return the unused entries that are used ones again, and which.

    Numbers that are all the same, as those of a new layer are, make no copy.

    Args:
        checkpoint: The entries and their numbers.
        unused: Keys of the entries to look at.
        used: Keys of entries that leaves take.

    Raises:
        InputError: The file has been truncated or removed meanwhile.
    """
    state_dict, tensors = checkpoint.state_dict, checkpoint.tensors
    wanted = [entry for key in unused if _may_be_copy(entry := state_dict[key])]
    kinds = {(entry.shape, entry.dtype) for entry in wanted}
    alike: dict[tuple[object, ...], list[Entry]] = defaultdict(list)
    for entry in state_dict:
        if entry.key in used and (entry.shape, entry.dtype) in kinds:
            alike[entry.shape, entry.dtype].append(entry)
    wanted = [entry for entry in wanted if (entry.shape, entry.dtype) in alike]
    if len(wanted) + sum(map(len, alike.values())) > _MOST:
        return {}
    compared = [*wanted, *(other for others in alike.values() for other in others)]
    with tensors.held(
        lambda: [part for one in compared for part in tensors.ranges_in(one.key, _first(one))]
    ):
        beginnings = {
            (kind, _beginning(other, tensors)): other
            for kind, others in alike.items()
            for other in reversed(others)
        }
        pairs = [
            (entry, beginnings.get(((entry.shape, entry.dtype), _beginning(entry, tensors))))
            for entry in wanted
        ]
    return {
        entry.key: other.key
        for entry, other in pairs
        if other is not None and _is_same(entry, other, tensors)
    }


def _may_be_copy(entry: Entry) -> bool:
    return dtype_named(entry.dtype).is_floating and prod(entry.shape) > 1


def _first(entry: Entry) -> Region:
    *outer, last = entry.shape
    return (*((0, 1) for _ in outer), (0, min(last, _FIRST)))


def _beginning(entry: Entry, tensors: Tensors) -> bytes:
    return tensors.read(entry.key, _first(entry)).tobytes()


def _is_same(entry: Entry, other: Entry, tensors: Tensors) -> bool:
    """Return True if two tensors of one shape are the same bit for bit, and not all one number."""
    values: set[bytes] = set()
    for region in _regions(entry.shape):
        mine, theirs = (tensors.read(key, region) for key in (entry.key, other.key))
        if mine.tobytes() != theirs.tobytes():
            return False
        if len(values) < 2:
            # Bit patterns, as NumPy sorts no numbers of dtypes that it does not know.
            bits = np.ascontiguousarray(mine).view(f"V{mine.itemsize}").reshape(-1)
            values |= {bits[0].tobytes()} | {one.tobytes() for one in bits[bits != bits[0]][:1]}
    return len(values) > 1


def _regions(shape: tuple[int, ...]) -> Iterator[Region]:
    """Regions that cover a shape, of about a chunk each; of its rows one at a time if large."""
    first, *rest = shape
    step = max(1, _CHUNK // prod(rest))
    for start in range(0, first, step):
        yield ((start, min(start + step, first)), *((0, size) for size in rest))
