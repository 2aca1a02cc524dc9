"""The files beside an Orbax checkpoint's arrays: the tree, the certificate.

A test compares them with what the installed Orbax writes of the same tree.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from s2p_tui.conversion.orbax_grid import Grid, StoredArray
from s2p_tui.formats.tree_nodes import Node, NodeKind

TREE, CHECKPOINT = "_METADATA", "_CHECKPOINT_METADATA"
_HANDLER = "orbax.checkpoint._src.handlers.standard_checkpoint_handler.StandardCheckpointHandler"
_SEQUENCE, _NAMED = 1, 2
_EMPTY: Mapping[NodeKind, str] = {"list": "List", "tuple": "Tuple", "dict": "Dict"}


def tree_metadata(grid: Grid) -> bytes:
    """Return `_METADATA`: each node's keys, and of arrays the chunk shape."""
    arrays = {array.name: array for array in grid.arrays}
    tree = {
        str(tuple(map(str, node.keys))): {
            "key_metadata": [
                {"key": str(key), "key_type": _SEQUENCE if isinstance(key, int) else _NAMED}
                for key in node.keys
            ],
            "value_metadata": _value(node, arrays),
        }
        for node in grid.nodes
    }
    return json.dumps(
        {
            "tree_metadata": tree,
            "use_ocdbt": True,
            "use_zarr3": True,
            "store_array_data_equal_to_fill_value": True,
            "custom_metadata": None,
        }
    ).encode()


def _value(node: Node, arrays: Mapping[str, StoredArray]) -> dict[str, Any]:
    if node.kind != "array":
        # A Python scalar is nothing that a loader's abstract tree has an array for.
        return {"value_type": _EMPTY.get(node.kind, "None"), "skip_deserialize": True}
    return {
        "value_type": "jax.Array",
        "skip_deserialize": False,
        "write_shape": list(arrays[node.name].chunk),
    }


def checkpoint_metadata(certificate: Mapping[str, Any]) -> bytes:
    """Return `_CHECKPOINT_METADATA`, with what was verified as custom metadata."""
    now = time.time_ns()
    return json.dumps(
        {
            "item_handlers": _HANDLER,
            "metrics": {},
            "performance_metrics": {},
            "init_timestamp_nsecs": now,
            "commit_timestamp_nsecs": now,
            "custom_metadata": {"s2p": certificate},
        }
    ).encode()
