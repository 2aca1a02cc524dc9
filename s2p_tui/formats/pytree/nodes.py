"""A pytree's nodes in flatten order, for formats that store the tree. Imports JAX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.tree_util
import numpy as np

from s2p_tui.formats.tree_nodes import NAMELESS, Key, NodeKind, nodes_to_json

jtu: Any = jax.tree_util


def tree_as_json(tree: Any, is_saved: Callable[[Any], bool]) -> bytes:
    """Return all nodes with nothing below them; see `tree_nodes.py` for the format.

    Args:
        tree: The pytree, abstract or not.
        is_saved: Says of a leaf whether Equinox saves it.
    """
    found = jtu.tree_flatten_with_path(tree, is_leaf=_is_empty)[0]
    return nodes_to_json(
        (_kind(value, is_saved), tuple(_key(key) for key in path)) for path, value in found
    )


def _is_empty(value: Any) -> bool:
    """Return True for a node that JAX knows and that has no children, None included."""
    children_and_aux = jtu.default_registry.flatten_one_level(value)
    return children_and_aux is not None and not list(children_and_aux[0])


def _kind(value: Any, is_saved: Callable[[Any], bool]) -> NodeKind:
    if is_saved(value):
        is_array = isinstance(value, jax.Array | jax.ShapeDtypeStruct | np.ndarray | np.generic)
        return "array" if is_array else "scalar"
    match value:
        case list():
            return "list"
        case Mapping():
            return "dict"
        # A named tuple without fields is nothing that Orbax knows.
        case tuple() if not hasattr(cast("Any", value), "_fields"):
            return "tuple"
        case _:
            return "none"


def _key(key: Any) -> Key:
    if isinstance(key, jtu.SequenceKey):
        return int(key.idx)
    if isinstance(key, jtu.FlattenedIndexKey):
        return int(key.key)
    if isinstance(key, jtu.GetAttrKey):
        return str(key.name)
    return str(key.key) if isinstance(key, jtu.DictKey) else NAMELESS
