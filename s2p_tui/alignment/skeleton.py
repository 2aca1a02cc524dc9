"""The JAX side: the leaves of the target pytree, without their numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from s2p_tui.alignment.dtypes import dtype_named
from s2p_tui.alignment.layers import ALONE, layers_of
from s2p_tui.alignment.state_dict import digest_of

LeafKind = Literal["array", "scalar"]
LIBRARIES = ("equinox.nn.", "flax.nnx.", "flax.linen.")
"""The beginnings of the names of layers whose leaves are known."""
_CLASS_DIGITS = 16
"""Digits of a class's digest: enough to tell changes that nobody made on purpose."""
ROTARY, HALVES = "rotary", "halves"
"""The setting of layers beside an `equinox.nn.RotaryPositionalEmbedding`, which holds no leaf."""
NO_CONFIG: Mapping[str, Any] = MappingProxyType({})


class Leaf(Struct, frozen=True, gc=False):
    """One leaf that Equinox writes to a file.

    Attributes:
        path: Its key path (`jax.tree_util.keystr`), state leaves by their `StateIndex` marker,
            those of a `flax.nnx` module by their attributes alone (`.layers[0].kernel`).
        shape: Its shape; `()` for a scalar.
        dtype: Its dtype's name; what Equinox stores for a Python scalar (float64, int64, …).
        kind: An array, or a Python scalar such as `Dropout.p`.
        owner: Qualified name of the module class that holds it, if known.
        config: The owner's static fields that are plain values; of Flax's layers what they compute.
        has_value: Whether the skeleton holds its numbers, so that a gap can keep them.
        fill: The number that all its elements are in the skeleton, if it was found to be one.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    kind: LeafKind = "array"
    owner: str | None = None
    config: Mapping[str, Any] = NO_CONFIG
    has_value: bool = True
    fill: float | None = None

    def __hash__(self) -> int:
        return hash((self.path, self.shape, self.dtype))

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return prod(self.shape) * dtype_named(self.dtype).itemsize


@dataclass(frozen=True)
class Skeleton:
    """The leaves of a pytree in flatten order.

    Attributes:
        leaves: The leaves.
        keys: Key paths of typed PRNG keys, which Equinox saves in no file, and of the PRNG state of
            a `flax.nnx` module; they stay as they are.
    """

    leaves: tuple[Leaf, ...]
    keys: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.leaves)

    def __iter__(self) -> Iterator[Leaf]:
        return iter(self.leaves)

    @cached_property
    def _index(self) -> dict[str, int]:
        """Indices by path. Most sessions look up none."""
        return {leaf.path: i for i, leaf in enumerate(self.leaves)}

    def __getitem__(self, index: int) -> Leaf:
        return self.leaves[index]

    def __contains__(self, path: object) -> bool:
        return path in self._index

    def index(self, path: str) -> int:
        """Index of the leaf in flatten order, counted from 0."""
        return self._index[path]

    @cached_property
    def layers(self) -> NDArray[np.int32]:
        """A number per leaf, equal for the leaves of one layer; see `layers_of`."""
        if self.is_nameless:
            return np.full(len(self.leaves), ALONE, np.int32)
        return layers_of((leaf.path, leaf.owner) for leaf in self.leaves)

    @property
    def is_nameless(self) -> bool:
        """True if the leaves are numbered, as in a plain `.eqx`, which names no layer either."""
        return all(leaf.path == f"[{n}]" for n, leaf in enumerate(self.leaves))

    @property
    def nbytes(self) -> int:
        """Bytes of all elements together."""
        return sum(leaf.nbytes for leaf in self.leaves)

    @cached_property
    def classes(self) -> Mapping[str, str]:
        """SHA-256 (its beginning) over the key paths and settings of each class of layers."""
        lines: dict[str, list[str]] = {}
        known: dict[tuple[str, int], tuple[list[str], str]] = {}
        for leaf in self.leaves:
            if leaf.owner is None:
                continue
            # Leaves of layers that are alike share their settings.
            kind = leaf.owner, id(leaf.config)
            if (found := known.get(kind)) is None:
                config = json.dumps(dict(leaf.config), default=repr, sort_keys=True)
                found = known[kind] = lines.setdefault(class_name(leaf.owner), []), f" {config}\n"
            found[0].append(leaf.path + found[1])
        return {
            name: hashlib.sha256("".join(held).encode()).hexdigest()[:_CLASS_DIGITS]
            for name, held in sorted(lines.items())
        }

    @property
    def digest(self) -> str:
        """SHA-256 over key paths, shapes and dtypes in order; not over the numbers."""
        return digest_of((leaf.path, leaf.shape, leaf.dtype) for leaf in self.leaves)


def class_name(owner: str) -> str:
    """Return the name that a class of layers is told apart by.

    A class of the user's own goes by its name alone: it may be imported in another way.
    """
    return owner if owner.startswith(LIBRARIES) else owner.rpartition(".")[2]
