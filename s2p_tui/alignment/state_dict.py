"""The torch side: what a checkpoint holds, without its numbers."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from json.encoder import encode_basestring_ascii
from math import prod
from operator import mul

from msgspec import Struct

from s2p_tui.alignment.dtypes import dtype_named


class Entry(Struct, frozen=True, gc=False):
    """One tensor of a state dict.

    Attributes:
        key: Its name in the state dict, exactly as the file has it.
        shape: Its shape.
        dtype: Its dtype's name, see `dtypes`.
        storage: Equal for entries that are the same elements of the same storage (tied tensors).
    """

    key: str
    shape: tuple[int, ...]
    dtype: str
    storage: Hashable = None

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, were they stored contiguously."""
        return (prod(self.shape) * dtype_named(self.dtype).bits + 7) // 8


@dataclass(frozen=True)
class StateDict:
    """The entries of a checkpoint in their own order."""

    entries: tuple[Entry, ...]
    _position: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        position = {entry.key: i for i, entry in enumerate(self.entries)}
        object.__setattr__(self, "_position", position)

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __contains__(self, key: object) -> bool:
        return key in self._position

    def __getitem__(self, key: str) -> Entry:
        return self.entries[self._position[key]]

    def position(self, key: str) -> int:
        """Place of the key in the state dict, counted from 0."""
        return self._position[key]

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of the entry of that key."""
        return self[key].shape

    @property
    def nbytes(self) -> int:
        """Bytes of all elements together, tied tensors counted each time."""
        kinds = Counter((entry.shape, entry.dtype) for entry in self.entries)
        one_each = (Entry("", *kind).nbytes for kind in kinds)
        return sum(map(mul, one_each, kinds.values()))

    def tied(self, entry: Entry) -> Sequence[str]:
        """Keys of the other entries that are the same elements of the same storage."""
        if entry.storage is None:
            return ()
        return [key for key in self._by_storage.get(entry.storage, ()) if key != entry.key]

    @cached_property
    def _by_storage(self) -> dict[Hashable, list[str]]:
        """Keys of each storage that more than one entry has."""
        found: dict[Hashable, list[str]] = {}
        for entry in self.entries:
            if entry.storage is not None:
                found.setdefault(entry.storage, []).append(entry.key)
        return {storage: keys for storage, keys in found.items() if len(keys) > 1}

    @property
    def digest(self) -> str:
        """SHA-256 over names, shapes and dtypes in order; not over the numbers."""
        return digest_of((entry.key, entry.shape, entry.dtype) for entry in self.entries)


def digest_of(items: Iterable[tuple[str, tuple[int, ...], str]]) -> str:
    """SHA-256 (hex) over `(name, shape, dtype)` in order, one JSON line each."""
    encode, kind_of = encode_basestring_ascii, cache(_kind)
    lines = [f"[{encode(name)}, {kind_of(shape, dtype)}" for name, shape, dtype in items]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _kind(shape: tuple[int, ...], dtype: str) -> str:
    return f"{json.dumps(shape)}, {json.dumps(dtype)}]\n"
