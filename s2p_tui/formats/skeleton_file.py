"""Skeleton files and plain `.eqx` files: the target's leaves, read without importing JAX.

A skeleton file is one line of JSON (`{"format": "s2p-skeleton", "version": 2, "leaves": […],
"tree": […], "models": {…}}`) and then the leaves that have a value, as Equinox writes them. `tree`
is described in `tree_nodes.py`, and `models`, which may be absent, in `models.py`; files of version
1, which lack both, are read as well. As in `safetensors.py`, msgspec reads the line, and colons are
counted to find repeated names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from sys import intern
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from s2p_tui.alignment.dtypes import BY_NAME, numpy_dtype
from s2p_tui.alignment.skeleton import NO_CONFIG, Leaf, LeafKind, Skeleton
from s2p_tui.alignment.untrusted import (
    MalformedError,
    object_of,
    parse_json,
    reason_of,
    refuse_brackets,
    repeated,
    shape_of,
    why_malformed,
)
from s2p_tui.errors import InputError
from s2p_tui.formats.base import Extent, Tensors, strides_of
from s2p_tui.formats.models import UNKNOWN, Models, models_as_json, models_from_json
from s2p_tui.formats.npy import Record, iter_records
from s2p_tui.formats.sniff import KIND_NAMES, READABLE, sniff
from s2p_tui.formats.tensors import FileTensors

FORMAT = "s2p-skeleton"
VERSION = 2
_VERSIONS = (1, VERSION)
_PYTHON = frozenset(("float64", "int64", "bool", "complex128"))
"""Dtypes that Equinox stores Python scalars in; JAX has arrays of 64 bits in its x64 mode alone."""
_PLAIN = [name for name, dtype in BY_NAME.items() if dtype.loads_in_equinox and name != "bfloat16"]
# A skeleton of 100,000 leaves has a first line of 20 million bytes; reading one takes several times
# its size of memory.
_MAX_HEAD = 1 << 26
_SCANNED = 1 << 20
_AGAIN = "Write the skeleton again with s2p-tui skeleton."


@dataclass(frozen=True)
class Target:
    """An opened skeleton.

    Attributes:
        label: What to call it.
        files: The file it was read from; empty for a pytree in memory.
        size: Bytes of the file.
        skeleton: Its leaves.
        values: The values it holds, by key path.
        tree: Its pytree's nodes as JSON, see `tree_nodes.py`; empty where they are not known.
        models: The code that makes the pytree and its twin in PyTorch, where it is known.
    """

    label: str
    files: tuple[Path, ...]
    size: int
    skeleton: Skeleton
    values: Tensors
    tree: bytes = b""
    models: Models = UNKNOWN


def open_target(path: str | Path) -> Target:
    """Describe a skeleton file or a plain `.eqx`. Reads headers only.

    Raises:
        InputError: It is missing, damaged, or neither of the two.
    """
    path = Path(path)
    kind = sniff(path)
    try:
        if kind == "skeleton":
            return _open_skeleton(path)
        if kind == "eqx":
            return _open_plain(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.", READABLE) from None
    raise InputError(
        f"{path} is {KIND_NAMES[kind]}, a skeleton was expected.",
        "Make one with s2p-tui skeleton pkg.module:factory.",
    )


def head_line(
    leaves: Iterable[Leaf],
    keys: Sequence[str] = (),
    tree: bytes = b"",
    models: Models = UNKNOWN,
) -> bytes:
    """The first line of a skeleton file, newline included.

    Args:
        leaves: The leaves.
        keys: Key paths of PRNG state, see `Skeleton`.
        tree: The pytree's nodes as JSON, if they are known.
        models: The code of both models, if it is known.
    """
    head: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    if keys:
        head["keys"] = keys
    head["leaves"] = [leaf_to_json(leaf) for leaf in leaves]
    line = json.dumps(head, separators=(",", ":")).encode()
    more = {b"tree": tree, b"models": b"" if models == UNKNOWN else models_as_json(models)}
    # Behind the leaves, so that looking for the keys in front of them need not go through it.
    behind = b"".join(b',"%b":%b' % item for item in more.items() if item[1])
    return line[:-1] + behind + b"}\n"


def leaf_to_json(leaf: Leaf) -> dict[str, Any]:
    """Return a leaf as the JSON values of a skeleton file."""
    node: dict[str, Any] = {
        "path": leaf.path,
        "shape": leaf.shape,
        "dtype": leaf.dtype,
        "kind": leaf.kind,
        "owner": leaf.owner,
        "config": dict(leaf.config),
        "value": leaf.has_value,
    }
    return node if leaf.fill is None else node | {"fill": leaf.fill}


def _open_skeleton(path: Path) -> Target:
    with path.open("rb") as stream:
        line = _first_line(path, stream)
        leaves, tree, models = _leaves_in(path, line)
        held = [leaf for leaf in leaves if leaf.has_value]
        likely = ((leaf.shape, leaf.dtype) for leaf in held)
        records = list(iter_records(stream.fileno(), len(line), path, likely))
    if len(records) != len(held):
        raise InputError(f"{path} describes {len(held)} values and holds {len(records)}.", _AGAIN)
    problems = [
        f"{leaf.path} is {list(leaf.shape)} {leaf.dtype}, its value {list(record.shape)}"
        for leaf, record in zip(held, records, strict=True)
        if leaf.shape != record.shape or not _is_stored_as(leaf.dtype, record.descr)
    ]
    if problems:
        raise InputError(f"{path} contradicts itself: {'; '.join(problems[:5])}.", _AGAIN)
    target = _target(path, leaves, held, records, _keys(path, line), tree)
    return replace(target, models=models)


def _first_line(path: Path, stream: BinaryIO) -> bytes:
    """The first line, whose length is found before it is read."""
    length = 0
    while length <= _MAX_HEAD:
        part = stream.read(_SCANNED)
        newline = part.find(b"\n")
        length += len(part) if newline < 0 else newline + 1
        if newline >= 0 or not part:
            stream.seek(0)
            return stream.read(length)
    raise InputError(
        f"{path} is refused: its first line has more than {_MAX_HEAD:,} bytes, far more than the "
        "description of a pytree takes.",
        _AGAIN,
    )


def _open_plain(path: Path) -> Target:
    with path.open("rb") as stream:
        records = list(iter_records(stream.fileno(), 0, path))
    leaves = [_plain_leaf(path, number, record) for number, record in enumerate(records)]
    return _target(path, leaves, leaves, records)


def _plain_leaf(path: Path, number: int, record: Record) -> Leaf:
    dtype = _dtype_of(path, number, record)
    is_scalar = record.shape == () and dtype in _PYTHON
    return Leaf(f"[{number}]", record.shape, dtype, "scalar" if is_scalar else "array")


def _target(
    path: Path,
    leaves: Sequence[Leaf],
    held: Sequence[Leaf],
    records: Sequence[Record],
    keys: tuple[str, ...] = (),
    tree: bytes = b"",
) -> Target:
    skeleton = Skeleton(tuple(leaves), keys)
    places = {leaf.path: record for leaf, record in zip(held, records, strict=True)}

    def extent(leaf_path: str) -> Extent | None:
        record = places.get(leaf_path)
        if record is None:
            return None
        strides = strides_of(record.shape, is_fortran=record.fortran_order)
        dtype = skeleton[skeleton.index(leaf_path)].dtype
        return Extent(path, record.data, record.shape, strides, dtype)

    values = FileTensors(extent, (path,))
    return Target(path.name, (path,), path.stat().st_size, skeleton, values, tree)


@cache
def _is_stored_as(dtype: str, descr: str) -> bool:
    expected = numpy_dtype(dtype)
    return descr in (expected.str, f"|V{expected.itemsize}")


def _dtype_of(path: Path, number: int, record: Record) -> str:
    if record.descr[1:] == "V2":
        return "bfloat16"
    for name in _PLAIN:
        if numpy_dtype(name).str == record.descr:
            return name
    raise InputError(
        f"{path}: record {number} is of type {record.descr}, which could be any of several.",
        "Use a skeleton file, which names the dtypes, as s2p-tui skeleton makes them.",
    )


def _keys(path: Path, line: bytes) -> tuple[str, ...]:
    try:
        return keys_of(line)
    except ValueError as error:
        raise InputError(
            f"{path} is a damaged skeleton file: {why_malformed(error)}.", _AGAIN
        ) from None


def _leaves_in(path: Path, line: bytes) -> tuple[tuple[Leaf, ...], bytes, Models]:
    try:
        refuse_brackets(line)
        head = head_of(line)
    except (ValueError, RecursionError) as error:
        why = why_malformed(error)
        raise InputError(f"{path} is a damaged skeleton file: {why}.", _AGAIN) from None
    if isinstance(head, int):
        raise InputError(
            f"{path} is a skeleton of version {head}, this reads {VERSION}.",
            "Write it again with s2p-tui skeleton of this version.",
        )
    twice = repeated([leaf.path for leaf in head[0]])
    if twice is not None:
        raise InputError(f"{path} is a damaged skeleton file: it names {twice} twice.", _AGAIN)
    return head


if TYPE_CHECKING:
    _DtypeName = str
else:
    # Read as one of these, a hundred thousand times the same dtype is one object.
    _DtypeName = Literal[tuple(BY_NAME)]


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
    tree: Raw | UnsetType = UNSET
    models: Raw | UnsetType = UNSET


class _Keys(Struct):
    keys: tuple[str, ...] = ()


class _AnyVersion(Struct):
    format: Literal["s2p-skeleton"]
    version: int


_HEAD = msgspec.json.Decoder(_Head)
_KEYS = msgspec.json.Decoder(_Keys)
_ANY_VERSION = msgspec.json.Decoder(_AnyVersion)


def leaves_of(line: bytes) -> tuple[Leaf, ...] | int:
    """Return the leaves of a skeleton file's first line, or the version; see `head_of`."""
    head = head_of(line)
    return head if isinstance(head, int) else head[0]


def head_of(line: bytes) -> tuple[tuple[Leaf, ...], bytes, Models] | int:
    """Return leaves, tree and models in a skeleton file's first line, or an unknown version.

    Raises:
        MalformedError: It repeats a name, or a leaf is not described as the format asks.
        ValueError: It is not JSON.
        RecursionError: It is nested too deeply.
    """
    try:
        head = _HEAD.decode(line)
    except msgspec.ValidationError as error:
        version = _version(line)
        if version not in (None, *_VERSIONS):
            return version
        raise MalformedError(reason_of(error)) from None
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    if head.version not in _VERSIONS:
        return head.version
    if head.leaves is UNSET:
        raise MalformedError("'leaves' is missing")
    leaves, colons = _leaves(head.leaves)
    tree = b"" if head.tree is UNSET else bytes(head.tree)
    models = b"" if head.models is UNSET else bytes(head.models)
    # Besides those of the leaves there are three in the head, and those of tree and models.
    more = sum(text.count(b":") + 1 for text in (tree, models) if text)
    if line.count(b":") != colons + 3 + more:
        parse_json(line)
    return leaves, tree, models_from_json(models) if models else UNKNOWN


def keys_of(line: bytes) -> tuple[str, ...]:
    """Return the key paths of PRNG state in a skeleton file's first line, mostly none.

    Raises:
        MalformedError: They are not described as the format asks.
    """
    # They stand before the leaves, of which a hundred thousand need not be read twice.
    if b'"keys"' not in line.partition(b'"leaves"')[0]:
        return ()
    try:
        return _KEYS.decode(line).keys
    except msgspec.ValidationError as error:
        raise MalformedError(reason_of(error)) from None


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
        raise MalformedError(reason_of(error)) from None
    return _leaf(read, shape_of(read.shape), object_of(node.get("config", {})) or NO_CONFIG)


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
        config = NO_CONFIG
        if node.config is not UNSET:
            config, within = configs(bytes(node.config))
            colons += within
        if node.owner is not UNSET:
            colons += 1
        if node.fill is not UNSET:
            colons += 1
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
