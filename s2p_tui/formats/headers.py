"""Large JSON headers read quickly, where nothing about them is out of the ordinary.

A hundred thousand descriptions take a second with the standard library. Here they take a tenth of
it, and whatever is not plainly right is left to those who read slowly and say what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from sys import intern
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from s2p_tui.alignment.dtypes import BY_NAME, BY_SAFETENSORS
from s2p_tui.alignment.skeleton import NO_CONFIG, Leaf, LeafKind
from s2p_tui.alignment.untrusted import MalformedError, object_of, parse_json, shape_of


class Header(NamedTuple):
    """What a `.safetensors` header says of its tensors; not looked at any further.

    Columns, as making an object of each takes longer than reading them all.

    Attributes:
        names: Their names.
        dtypes: The format's codes of their dtypes.
        shapes: Their sizes.
        begins: Where their bytes begin, counted from the end of the header.
        ends: Where they end.
    """

    names: list[str]
    dtypes: list[str]
    shapes: list[tuple[int, ...]]
    begins: list[int]
    ends: list[int]


if TYPE_CHECKING:
    _Code = _DtypeName = str
else:
    # Read as one of these, a hundred thousand times the same dtype is one object.
    _Code, _DtypeName = Literal[tuple(BY_SAFETENSORS)], Literal[tuple(BY_NAME)]

_Offset = Annotated[int, msgspec.Meta(ge=0)]


class _TensorNode(Struct, gc=False):
    # The metadata have none of these.
    dtype: _Code | UnsetType = UNSET
    shape: tuple[int, ...] | UnsetType = UNSET
    data_offsets: tuple[_Offset, _Offset] | UnsetType = UNSET


class _Metadata(Struct):
    metadata: dict[str, str] | UnsetType = msgspec.field(default=UNSET, name="__metadata__")


class _LeafNode(Struct, gc=False):
    path: str
    shape: tuple[int, ...]
    dtype: _DtypeName
    kind: LeafKind
    value: bool
    owner: str | UnsetType | None = UNSET
    config: Raw | UnsetType = UNSET
    fill: int | float | UnsetType | None = UNSET


class _Head(Struct):
    format: Literal["s2p-skeleton"]
    version: Literal[1]
    leaves: list[_LeafNode]


_TENSORS = msgspec.json.Decoder(dict[str, _TensorNode])
_METADATA = msgspec.json.Decoder(_Metadata)
_HEAD = msgspec.json.Decoder(_Head)


def quick_tensors(text: bytes) -> Header | None:
    """The tensors of a `.safetensors` header, in its order; None where a slower look is needed."""
    try:
        nodes = _TENSORS.decode(text)
        metadata = _METADATA.decode(text).metadata
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    # One colon behind each name: a repeated or unknown name makes them more.
    colons = len(nodes) + (len(nodes) * 3 if metadata is UNSET else len(nodes) * 3 - 3)
    if metadata is not UNSET:
        del nodes["__metadata__"]
        colons += len(metadata)
    if text.count(b":") != colons:
        return None
    tensors = nodes.values()
    dtypes = [node.dtype for node in tensors if node.dtype is not UNSET]
    shared: dict[tuple[int, ...], tuple[int, ...]] = {}
    shapes = [
        shared.setdefault(node.shape, node.shape) for node in tensors if node.shape is not UNSET
    ]
    ranges = [node.data_offsets for node in tensors if node.data_offsets is not UNSET]
    if not len(nodes) == len(dtypes) == len(shapes) == len(ranges):
        return None
    begins, ends = [begin for begin, _ in ranges], [end for _, end in ranges]
    return Header(list(nodes), dtypes, shapes, begins, ends)


def quick_leaves(line: bytes) -> tuple[Leaf, ...] | None:
    """The leaves of a skeleton file's first line; None where a slower look is needed."""
    try:
        nodes = _HEAD.decode(line).leaves
        leaves, colons = _leaves(nodes)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, KeyError, RecursionError):
        return None
    # Besides those of the leaves there are three in the head.
    return leaves if line.count(b":") == colons + 3 else None


def _leaves(nodes: list[_LeafNode]) -> tuple[tuple[Leaf, ...], int]:
    """The leaves, and how many colons their JSON has, one behind each name.

    Those that are alike share what they are alike in.

    Raises:
        KeyError: A dtype is not known.
        ValueError: A shape or the fields of an owner are not as they should be.
    """
    shapes, configs = cache(shape_of), cache(_config)
    leaves: list[Leaf] = []
    colons = 5 * len(nodes)
    nodes.reverse()
    while nodes:
        # What is done with makes room for what comes of it.
        node = nodes.pop()
        owner, fill, config, within = node.owner, node.fill, NO_CONFIG, 0
        if node.config is not UNSET:
            config, within = configs(bytes(node.config))
        colons += within + (owner is not UNSET) + (fill is not UNSET)
        if isinstance(fill, int):
            raise MalformedError(f"{node.path} is filled with a whole number")
        leaves.append(
            Leaf(
                node.path,
                shapes(node.shape),
                BY_NAME[node.dtype].name,
                node.kind,
                intern(owner) if isinstance(owner, str) else None,
                config,
                node.value,
                None if fill is UNSET else fill,
            )
        )
    return tuple(leaves), colons


def _config(text: bytes) -> tuple[Mapping[str, Any], int]:
    """The fields, and how many colons their JSON has with the one before it."""
    return object_of(parse_json(text)) or NO_CONFIG, text.count(b":") + 1
