"""A pytree's leaves as Equinox saves them, named by key path, with the module that holds each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import takewhile
from typing import Any, cast

import equinox
import jax
import jax.dtypes
import jax.numpy
import jax.tree_util
import numpy as np
from msgspec import structs

from s2p_tui.alignment.dtypes import BY_NAME
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.errors import UsageError

eqx: Any = equinox
jtu: Any = jax.tree_util
_Path = tuple[Any, ...]
_WRAPPERS = (eqx.nn.WeightNorm, eqx.nn.SpectralNorm)
_SCALARS = (bool, int, float, complex, np.generic)


def with_state_apart(pytree: Any) -> Any:
    """Turn a module with state still inside into `(model, state)`, leaving the original alone."""
    indices = [node for node in jtu.tree_leaves(pytree, is_leaf=_is_index) if _is_index(node)]
    if not any(jtu.tree_leaves(index.init) for index in indices):
        return pytree
    leaves, structure = jtu.tree_flatten(pytree)
    fresh = jtu.tree_unflatten(structure, leaves)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        return eqx.filter_eval_shape(_split_state, fresh)
    return _split_state(fresh)


def _split_state(model: Any) -> Any:
    return eqx.nn.make_with_state(lambda: model)()


def _is_index(node: Any) -> bool:
    return isinstance(node, eqx.nn.StateIndex)


def _is_state(node: Any) -> bool:
    return isinstance(node, eqx.nn.State)


def saved_leaves(tree: Any) -> list[tuple[Leaf, Any]]:
    """Every leaf Equinox saves, with its value, in flatten order."""
    owners = _Owners(tree)
    places: dict[Any, list[_Path]] = {}
    for path, index in jtu.tree_flatten_with_path(tree, is_leaf=_is_index)[0]:
        if _is_index(index):
            places.setdefault(index.marker, []).append(path)
    found: list[tuple[Leaf, Any]] = []
    problems: list[str] = []
    for path, node in jtu.tree_flatten_with_path(tree, is_leaf=_is_state)[0]:
        if _is_state(node):
            items = _state_items(node, path, places, owners)
        else:
            items = [(jtu.keystr(path), path, node)]
        for name, place, value in items:
            if not is_saved(value):
                continue
            dtype = _dtype_name(value)
            if dtype is None:
                problems.append(f"{name} is {getattr(value, 'dtype', type(value).__name__)}")
                continue
            kind = "scalar" if _is_scalar(value) else "array"
            owner, config = owners.of(place)
            found.append((Leaf(name, np.shape(value), dtype, kind, owner, config), value))
    if problems:
        raise UsageError(
            f"Equinox cannot save these leaves: {'; '.join(problems[:5])}.",
            "Leave them out of the model, or give them a dtype that Equinox saves.",
        )
    return _with_names_apart(found)


def _with_names_apart(leaves: list[tuple[Leaf, Any]]) -> list[tuple[Leaf, Any]]:
    """Number the leaves whose key paths print alike, as keys of a user's own may."""
    seen: Counter[str] = Counter()
    found: list[tuple[Leaf, Any]] = []
    for leaf, value in leaves:
        seen[leaf.path] += 1
        again = seen[leaf.path]
        named = leaf if again == 1 else structs.replace(leaf, path=f"{leaf.path}#{again}")
        found.append((named, value))
    return found


def _state_items(
    state: Any, prefix: _Path, places: Mapping[Any, list[_Path]], owners: _Owners
) -> list[tuple[str, _Path, Any]]:
    """Name, place of the index, and value of each leaf of a State, by its index's key path."""
    values, markers = state.tree_flatten()
    items: list[tuple[str, _Path, Any]] = []
    for marker, value in zip(markers, values, strict=True):
        place = _place_of(str(marker), prefix, places.get(marker, []), owners)
        if place:
            name = jtu.keystr(place[_shared(place, prefix) + 1 :])
        else:
            name = re.sub(r"^[^.\[]*", "", str(marker))
        for inner, leaf in jtu.tree_flatten_with_path(value)[0]:
            items.append((jtu.keystr(prefix) + name + jtu.keystr(inner), place, leaf))
    return items


def _place_of(marker: str, prefix: _Path, places: list[_Path], owners: _Owners) -> _Path:
    """The `StateIndex` a state's value belongs to: of those of that marker, the nearest.

    Raises:
        UsageError: Models of one class stand beside several states, and differ.
    """
    nearest = max((_shared(place, prefix) for place in places), default=0)
    candidates = [place for place in places if _shared(place, prefix) == nearest]
    if any(owners.of(place) != owners.of(candidates[0]) for place in candidates):
        raise UsageError(
            f"{jtu.keystr(prefix)} holds the state {marker}, which {len(candidates)} models of "
            "the same class beside it could mean, and these differ.",
            "Nest each model with its own state: {'a': (model, state), 'b': (model, state)}.",
        )
    return candidates[0] if candidates else ()


def _shared(place: _Path, prefix: _Path) -> int:
    """Return the number of leading keys two paths have in common."""
    return sum(
        1 for _ in takewhile(lambda keys: keys[0] == keys[1], zip(place, prefix, strict=False))
    )


class _Owners:
    """Finds the module that holds a leaf, by walking key paths from the root."""

    def __init__(self, tree: Any) -> None:
        self._nodes: dict[_Path, Any] = {(): tree}
        self._described: dict[int, tuple[str | None, Mapping[str, Any]]] = {}

    def of(self, path: _Path) -> tuple[str | None, Mapping[str, Any]]:
        """Class name and plain static fields of the innermost module above the path.

        A layer within a `WeightNorm` or `SpectralNorm` also has that as its "wrapper", with its
        "wrapper_axis"; and they have their "layer" and its fields as "layer_config".
        """
        for length in range(len(path) - 1, -1, -1):
            node = self._node(path[:length])
            if is_dataclass(node) and not isinstance(node, type):
                if id(node) not in self._described:
                    around = self._node(path[: length - 1]) if length else None
                    self._described[id(node)] = _class_name(node.__class__), _config(node, around)
                return self._described[id(node)]
        return None, {}

    def _node(self, path: _Path) -> Any:
        if path not in self._nodes:
            self._nodes[path] = _child(self._node(path[:-1]), path[-1])
        return self._nodes[path]


def _child(node: Any, key: Any) -> Any:
    if isinstance(key, jtu.GetAttrKey):
        return getattr(node, key.name, None)
    if isinstance(key, jtu.SequenceKey) and isinstance(node, list | tuple):
        return cast("Sequence[Any]", node)[key.idx]
    if isinstance(key, jtu.DictKey) and isinstance(node, Mapping):
        return cast("Mapping[Any, Any]", node).get(key.key)
    return None


def _class_name(cls: type[Any]) -> str:
    """The class's name as one writes it; a subclass of an Equinox layer counts as that layer."""
    for base in cls.__mro__:
        if base.__module__.startswith("equinox.nn") and hasattr(eqx.nn, base.__name__):
            return f"equinox.nn.{base.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def _config(node: Any, around: Any = None) -> Mapping[str, Any]:
    plain: dict[str, Any] = {}
    for attribute in fields(node):
        value = getattr(node, attribute.name, None)
        if attribute.metadata.get("static") and _is_plain(value):
            plain[attribute.name] = value
    layer: Any = getattr(node, "layer", None) if isinstance(node, _WRAPPERS) else None
    if layer is not None:
        plain["layer"], plain["layer_config"] = _class_name(layer.__class__), _config(layer)
    if isinstance(around, _WRAPPERS) and getattr(around, "layer", None) is node:
        plain["wrapper"] = _class_name(around.__class__)
        plain["wrapper_axis"] = getattr(around, "axis", None)
    return plain


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, cast("list[Any]", value)))
    return isinstance(value, bool | int | float | str | None)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, _SCALARS)


def is_saved(value: Any) -> bool:
    """Return True if such a leaf is saved: as Equinox does, except typed PRNG keys."""
    is_leaf = isinstance(value, jax.ShapeDtypeStruct) or eqx.is_array_like(value)
    return is_leaf and not is_key(value)


def is_key(value: Any) -> bool:
    """Return True for typed PRNG keys (`jax.random.key`), on which Equinox's saving fails."""
    is_jax = isinstance(value, jax.Array | jax.ShapeDtypeStruct)
    return is_jax and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key)


def key_paths(tree: Any) -> tuple[str, ...]:
    """Return the key paths of all typed PRNG keys, those within a State by the state's own."""
    found = jtu.tree_flatten_with_path(tree)[0]
    return tuple(jtu.keystr(path) for path, value in found if is_key(value))


def _dtype_name(value: Any) -> str | None:
    """The dtype Equinox stores a leaf in, or None if it cannot be stored or read back in place."""
    dtype: Any = getattr(value, "dtype", None)
    if dtype is None:
        dtype = np.asarray(value).dtype
    if not getattr(dtype, "isnative", True):
        return None
    name = str(dtype)
    return name if name in BY_NAME else None
