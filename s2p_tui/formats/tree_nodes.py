"""The nodes of a pytree as its flattening names them, leaves that hold no array among them.

A format that stores the tree itself, as Orbax does, needs more of a pytree than the leaves that
Equinox saves: each key of a key path as a name or an index, and every node without an array
(functions, Python scalars, None, empty containers). Skeleton files hold that as JSON, one list per
node in flatten order: its kind, then its keys, `["array", 0, "layers", 2, "weight"]`. A name is a
string, an index of a sequence a number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast, get_args

import msgspec

from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.errors import InputError
from s2p_tui.formats.skeleton_file import Target

NodeKind = Literal["array", "scalar", "none", "list", "tuple", "dict"]
"""An array; a Python scalar, which Equinox saves too; what is in no file; an empty container."""
KINDS = frozenset(get_args(NodeKind))
SAVED = ("array", "scalar")
"""Kinds of which each is a leaf of the skeleton, in the same order."""
Key = str | int
NAMELESS = -1
"""Stands for a key of a class of the user's own, which no file could name."""
_RENEW = "Write the skeleton again with s2p-tui skeleton of this version."


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a pytree that has nothing below it.

    Attributes:
        kind: What is there.
        keys: The keys to it: names, and indices of sequences.
        leaf: The skeleton's leaf, if Equinox saves it.
    """

    kind: NodeKind
    keys: tuple[Key, ...]
    leaf: Leaf | None = None

    @property
    def name(self) -> str:
        """The keys in a row, as Orbax names arrays."""
        return ".".join(map(str, self.keys))


def nodes_to_json(nodes: Iterable[tuple[NodeKind, tuple[Key, ...]]]) -> bytes:
    """Return nodes as the JSON of a skeleton file."""
    return json.dumps([[kind, *keys] for kind, keys in nodes], separators=(",", ":")).encode()


def nodes_of(target: Target) -> tuple[Node, ...]:
    """Return the nodes of a target's pytree in flatten order.

    Raises:
        InputError: The skeleton does not record them, or other ones than its leaves.
    """
    if not target.tree:
        raise InputError(
            f"{target.label} does not record the pytree's nodes, as skeleton files do since "
            "version 2.",
            _RENEW,
        )
    try:
        listed = msgspec.json.decode(target.tree, type=list[list[str | int]])
    except msgspec.MsgspecError as error:
        raise InputError(f"{target.label} is a damaged skeleton: {error}.", _RENEW) from None
    leaves = iter(target.skeleton)
    nodes: list[Node] = []
    for kind, *keys in (one or [""] for one in listed):
        if kind not in KINDS:
            break
        if not keys or NAMELESS in keys:
            raise InputError(
                f"{target.label} has a node whose key can be named in no tree: "
                f"{'.'.join(map(str, keys)) or '(the root)'}.",
                "Hold it in a module, dictionary, list or tuple, and write the skeleton again.",
            )
        leaf = next(leaves, None) if kind in SAVED else None
        if kind in SAVED and leaf is None:
            break
        nodes.append(Node(cast("NodeKind", kind), tuple(keys), leaf))
    if len(nodes) != len(listed) or next(leaves, None) is not None:
        raise InputError(f"{target.label} records other nodes than its leaves.", _RENEW)
    return tuple(nodes)
