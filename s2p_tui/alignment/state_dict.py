"""The torch side: what a checkpoint holds, without its numbers.

`Encoded` entries are not the weights they are named after: quantised, packed or pruned ones.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from json.encoder import encode_basestring_ascii
from math import prod
from operator import mul
from typing import NamedTuple

from msgspec import Struct, structs

from s2p_tui.alignment.dtypes import dtype_named
from s2p_tui.alignment.numbering import Numbering


class Encoded(NamedTuple):
    """The step an entry needs before it is a weight.

    Attributes:
        why: Why it is none yet, and the way out.
        narrow: Whether it is one for leaves of its own dtype, as those of a quantised model.
    """

    why: str
    narrow: bool


_SCALES: Mapping[str, tuple[str, ...]] = {
    "SCB": (".weight",),
    "absmax": ("",),
    "weight_scale": (".weight", ".weight_packed"),
    "weight_scale_inv": (".weight",),
    "weight_scales": (".weight",),
    "scale_weight": (".weight",),
    "scales": (".qweight",),
    "_scale": ("._data",),
}
"""By the last name of a scale, what follows the names before it in that of the weight.

bitsandbytes (8 and 4 bits), compressed-tensors, DeepSeek, EETQ, ComfyUI, GPTQ and AWQ, quanto.
"""
_FEWEST_BITS = 16
"""Of a floating-point dtype that holds a weight as it is."""


def encoded(entries: Sequence[Entry]) -> Mapping[str, Encoded]:
    """The entries that are none of the model's weights as they are, by key."""
    found: dict[str, Encoded] = {}
    if not any(map(_is_telling, {entry.key.rpartition(".")[2] for entry in entries})):
        return found
    known = {entry.key: entry for entry in entries}
    for key in known:
        before, dot, last = key.rpartition(".")
        weights = [f"{before}{ending}" if dot else ending[1:] for ending in _SCALES.get(last, ())]
        if last.endswith("_scales"):
            weights.append(key.removesuffix("_scales") + "_blocks")
        for weight in weights:
            if weight in known and _is_narrow(known[weight]):
                found[weight] = Encoded(_QUANTISED.format(key), narrow=True)
        if last.endswith("_mask"):
            weight = key.removesuffix("_mask") + "_orig"
            if weight in known and known[weight].shape == known[key].shape:
                name = last.removesuffix("_mask")
                found[weight] = Encoded(_PRUNED.format(key, name), narrow=False)
    return found


_QUANTISED = (
    "it is quantised, and {} is its scale: dequantise first (weight × scale), then save the state "
    "dict again"
)
_PRUNED = (
    "it is pruned, and {} says where it is 0: call torch.nn.utils.prune.remove(module, {!r}), then "
    "save the state dict again"
)


def _is_telling(last: str) -> bool:
    """Return True if an entry of that last name describes another one."""
    return last in _SCALES or last.endswith(("_scales", "_mask"))


def _is_narrow(entry: Entry) -> bool:
    dtype = dtype_named(entry.dtype)
    return not dtype.is_floating or dtype.bits < _FEWEST_BITS


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
    _index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        index = {entry.key: i for i, entry in enumerate(self.entries)}
        object.__setattr__(self, "_index", index)

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __contains__(self, key: object) -> bool:
        return key in self._index

    def __getitem__(self, key: str) -> Entry:
        return self.entries[self._index[key]]

    @cached_property
    def encoded(self) -> Mapping[str, Encoded]:
        """The entries that have to be decoded before they are weights."""
        return encoded(self.entries)

    @cached_property
    def shapes_of_weights(self) -> frozenset[tuple[int, ...]]:
        """The shapes of all entries of floating-point numbers."""
        return frozenset(e.shape for e in self.entries if dtype_named(e.dtype).is_floating)

    def index(self, key: str) -> int:
        """Index of the key in the state dict, counted from 0."""
        return self._index[key]

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of the entry of that key."""
        return self[key].shape

    @cached_property
    def numbering(self) -> Numbering:
        """Numbers of sources over these entries: an entry's is its index."""
        return Numbering((entry.key for entry in self.entries), self._index)

    def with_copies(self, copies: Mapping[str, str]) -> StateDict:
        """Return the same entries under the same numbers, some of them known as others again.

        Args:
            copies: The entries that each hold the same numbers as another one, by key.
        """
        storages = {key: self[key].storage for key in copies.values()}
        for key in copies.values():
            storages[key] = storages[key] or ("copied", key)
        storages |= {key: storages[other] for key, other in copies.items()}
        made = StateDict(
            tuple(
                structs.replace(entry, storage=storages.get(entry.key, entry.storage))
                for entry in self.entries
            )
        )
        made.__dict__["numbering"] = self.numbering
        return made

    @property
    def nbytes(self) -> int:
        """Bytes of all elements together, tied tensors counted each time."""
        kinds = Counter((entry.shape, entry.dtype) for entry in self.entries)
        one_each = (Entry("", *kind).nbytes for kind in kinds)
        return sum(map(mul, one_each, kinds.values()))

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
