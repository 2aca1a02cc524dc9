"""JSON headers of `.safetensors` and skeleton files, of a hundred thousand descriptions and more.

msgspec reads them in a tenth of the time of the standard library, but takes the last of repeated
names without a word. One colon stands behind each name: where there are more of them, the standard
library looks for the repeated one.
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
    """The tensors of a `.safetensors` header, as it describes them; ranges are not checked.

    Columns, as making an object of each takes longer than reading them all.

    Attributes:
        names: Their names.
        dtypes: The format's codes of their dtypes.
        shapes: Their sizes.
        begins: First byte of each, counted from the end of the header.
        ends: The byte behind each.
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

VERSION = 1
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
    version: int
    leaves: list[_LeafNode] | UnsetType = UNSET


class _Keys(Struct):
    keys: tuple[str, ...] = ()


class _AnyVersion(Struct):
    format: Literal["s2p-skeleton"]
    version: int


_TENSORS = msgspec.json.Decoder(dict[str, _TensorNode])
_METADATA = msgspec.json.Decoder(_Metadata)
_HEAD = msgspec.json.Decoder(_Head)
_KEYS = msgspec.json.Decoder(_Keys)
_ANY_VERSION = msgspec.json.Decoder(_AnyVersion)


def tensors_of(text: bytes) -> Header:
    """Return the tensors of a `.safetensors` header, in its order.

    Raises:
        MalformedError: It repeats a name (`DuplicateNameError`), or a tensor is not described as
            the format asks.
        ValueError: It is not JSON.
        RecursionError: It is nested too deeply.
    """
    try:
        nodes = _TENSORS.decode(text)
    except msgspec.ValidationError:
        raise _first_malformed(text) from None
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    nodes.pop("__metadata__", None)
    tensors = nodes.values()
    dtypes = [node.dtype for node in tensors if node.dtype is not UNSET]
    shared: dict[tuple[int, ...], tuple[int, ...]] = {}
    shapes = [
        shared.setdefault(node.shape, node.shape) for node in tensors if node.shape is not UNSET
    ]
    ranges = [node.data_offsets for node in tensors if node.data_offsets is not UNSET]
    if not len(nodes) == len(dtypes) == len(shapes) == len(ranges):
        raise _first_malformed(text)
    if text.count(b":") != 4 * len(nodes) + _colons_of_metadata(text):
        parse_json(text)
    begins, ends = [begin for begin, _ in ranges], [end for _, end in ranges]
    return Header(list(nodes), dtypes, shapes, begins, ends)


def _colons_of_metadata(text: bytes) -> int:
    """Return the number of colons of plain metadata, -1 for others."""
    try:
        metadata = _METADATA.decode(text).metadata
    except msgspec.ValidationError:
        return -1
    return 0 if metadata is UNSET else 1 + len(metadata)


def _first_malformed(text: bytes) -> MalformedError:
    """Return the error of the first tensor that is not described as the format asks.

    Raises:
        MalformedError: The header is not an object, or repeats a name.
    """
    for name, value in object_of(parse_json(text)).items():
        try:
            node = msgspec.convert(value, _TensorNode)
        except msgspec.ValidationError as error:
            return MalformedError(f"{name}: {_reason(error)}")
        fields = (("dtype", node.dtype), ("shape", node.shape), ("data_offsets", node.data_offsets))
        missing = [field for field, found in fields if found is UNSET]
        if missing and name != "__metadata__":
            return MalformedError(f"{name}: {missing[0]!r} is missing")
    return MalformedError("it is damaged")


def leaves_of(line: bytes) -> tuple[Leaf, ...] | int:
    """Return the leaves of a skeleton file's first line, or the version if it is another one.

    Raises:
        MalformedError: It repeats a name, or a leaf is not described as the format asks.
        ValueError: It is not JSON.
        RecursionError: It is nested too deeply.
    """
    try:
        head = _HEAD.decode(line)
    except msgspec.ValidationError as error:
        version = _version(line)
        if version not in (None, VERSION):
            return version
        raise MalformedError(_reason(error)) from None
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    if head.version != VERSION:
        return head.version
    if head.leaves is UNSET:
        raise MalformedError("'leaves' is missing")
    leaves, colons = _leaves(head.leaves)
    # Besides those of the leaves there are three in the head.
    if line.count(b":") != colons + 3:
        parse_json(line)
    return leaves


def keys_of(line: bytes) -> tuple[str, ...]:
    """Return the key paths of typed PRNG keys in a skeleton file's first line, mostly none.

    Raises:
        MalformedError: They are not described as the format asks.
    """
    # They stand before the leaves, of which a hundred thousand need not be read twice.
    if b'"keys"' not in line.partition(b'"leaves"')[0]:
        return ()
    try:
        return _KEYS.decode(line).keys
    except msgspec.ValidationError as error:
        raise MalformedError(_reason(error)) from None


def _version(line: bytes) -> int | None:
    try:
        return _ANY_VERSION.decode(line).version
    except msgspec.ValidationError:
        return None


def leaf_from_json(node: Any) -> Leaf:
    """Return the leaf that `leaf_to_json` described.

    Raises:
        MalformedError: The JSON does not describe a leaf.
    """
    try:
        fields = {name: value for name, value in object_of(node).items() if name != "config"}
        read = msgspec.convert(fields, _LeafNode)
    except msgspec.ValidationError as error:
        raise MalformedError(_reason(error)) from None
    return _leaf(read, shape_of(read.shape), object_of(node.get("config", {})) or NO_CONFIG)


def _reason(error: msgspec.ValidationError) -> str:
    """Return msgspec's message in the words of the other errors."""
    text, _, where = str(error).partition(" - at `$")
    where = where.rstrip("`").lstrip(".")
    text = text[:1].lower() + text[1:].replace("nvalid enum value", "t cannot be")
    return f"{where}: {text}" if where else text


def _leaves(nodes: list[_LeafNode]) -> tuple[tuple[Leaf, ...], int]:
    """Return the leaves and the number of colons in their JSON, one behind each name.

    Equal shapes and configs are one object each.

    Raises:
        MalformedError: A leaf is not described as the format asks.
    """
    shapes, configs = cache(shape_of), cache(_config)
    leaves: list[Leaf] = []
    colons = 5 * len(nodes)
    nodes.reverse()
    while nodes:
        # Each node is released once its leaf is made.
        node = nodes.pop()
        config, within = NO_CONFIG, 0
        if node.config is not UNSET:
            config, within = configs(bytes(node.config))
        colons += within + (node.owner is not UNSET) + (node.fill is not UNSET)
        leaves.append(_leaf(node, shapes(node.shape), config))
    return tuple(leaves), colons


def _leaf(node: _LeafNode, shape: tuple[int, ...], config: Mapping[str, Any]) -> Leaf:
    if isinstance(node.fill, int):
        raise MalformedError(f"{node.path} is filled with a whole number")
    return Leaf(
        node.path,
        shape,
        BY_NAME[node.dtype].name,
        node.kind,
        intern(node.owner) if isinstance(node.owner, str) else None,
        config,
        node.value,
        None if node.fill is UNSET else node.fill,
    )


def _config(text: bytes) -> tuple[Mapping[str, Any], int]:
    """Return the fields, and the number of colons in their JSON with the one before it."""
    return object_of(parse_json(text)) or NO_CONFIG, text.count(b":") + 1
