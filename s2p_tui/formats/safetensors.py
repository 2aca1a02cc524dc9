"""`.safetensors` files: the header read strictly, the layout of one to be written.

Format: 8 bytes of header length, a JSON header of `name → {dtype, shape, data_offsets}`, then the
tensors without holes (https://github.com/huggingface/safetensors, "Format").

msgspec reads JSON of a hundred thousand descriptions in a tenth of the standard library's time, but
takes the last of repeated names without a word. One colon stands behind each name: where there are
more of them, the standard library looks for the repeated one.
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Struct, UnsetType

from s2p_tui.alignment.dtypes import BY_SAFETENSORS, dtype_named
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.untrusted import (
    DuplicateNameError,
    MalformedError,
    object_of,
    parse_json,
    reason_of,
    refuse_brackets,
    shape_of,
)
from s2p_tui.errors import Code, Hint, InputError, UsageError, some
from s2p_tui.formats.base import Checkpoint, Extent, Locator, row_major
from s2p_tui.formats.tensors import FileTensors

_LENGTH = struct.Struct("<Q")
MAX_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library itself."""


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
    _Code = str
else:
    # Read as one of these, a hundred thousand times the same dtype is one object.
    _Code = Literal[tuple(BY_SAFETENSORS)]

_Offset = Annotated[int, msgspec.Meta(ge=0)]


class _TensorNode(Struct, gc=False):
    # The metadata have none of these.
    dtype: _Code | UnsetType = UNSET
    shape: tuple[int, ...] | UnsetType = UNSET
    data_offsets: tuple[_Offset, _Offset] | UnsetType = UNSET


class _Metadata(Struct):
    metadata: dict[str, str] | UnsetType = msgspec.field(default=UNSET, name="__metadata__")


_TENSORS = msgspec.json.Decoder(dict[str, _TensorNode])
_METADATA = msgspec.json.Decoder(_Metadata)


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
            return MalformedError(f"{name}: {reason_of(error)}")
        fields = (("dtype", node.dtype), ("shape", node.shape), ("data_offsets", node.data_offsets))
        missing = [field for field, found in fields if found is UNSET]
        if missing and name != "__metadata__":
            return MalformedError(f"{name}: {missing[0]!r} is missing")
    return MalformedError("it is damaged")


def open_safetensors(path: Locator, key: str | None = None) -> Checkpoint:
    """Describe a `.safetensors` file. Reads its header only.

    Args:
        path: The file.
        key: Must be empty or None: these files do not nest. See `narrowed`.

    Raises:
        InputError: The header is damaged, lies about the data or names a tensor twice.
    """
    if key:
        raise InputError(
            f"{path} is a .safetensors file, which holds one state dict: there is none at {key!r}.",
            Hint(Code.NO_NESTED_STATE_DICT),
        )
    size = path.stat().st_size
    header, start = _read_header(path, size)
    available = size - start
    entries = tuple(_entries(path, header, available))
    _check_ranges(path, header, available)
    offsets = array("q", [start + begin for begin in header.begins])
    state_dict = StateDict(entries)

    def extent(name: str) -> Extent | None:
        if name not in state_dict:
            return None
        entry, offset = state_dict[name], offsets[state_dict.index(name)]
        return Extent(path, offset, entry.shape, row_major(entry.shape), entry.dtype)

    return Checkpoint(path.name, (path,), size, state_dict, FileTensors(extent, (path,)))


def _damaged(path: Locator, reason: str) -> InputError:
    return InputError(
        f"{path} is not a sound .safetensors file: {reason}.", "Copy or download it again."
    )


def _read_header(path: Locator, size: int) -> tuple[Header, int]:
    """The tensors as the header has them, and where it ends."""
    with path.open("rb") as stream:
        prefix = stream.read(_LENGTH.size)
        length = _LENGTH.unpack(prefix)[0] if len(prefix) == _LENGTH.size else 0
        if not 2 <= length <= min(MAX_HEADER, size - _LENGTH.size):
            raise _damaged(path, f"its header claims {length:,} bytes of {size:,}")
        text = stream.read(length)
    try:
        refuse_brackets(text)
        header = tensors_of(text)
    except DuplicateNameError as error:
        raise _damaged(path, f"the header names {error} twice") from None
    except MalformedError as error:
        raise _damaged(path, f"{error}") from None
    except (ValueError, RecursionError):
        raise _damaged(path, "its header is not JSON") from None
    return header, _LENGTH.size + length


def _out_of_order(path: Locator, name: str) -> InputError:
    return _damaged(path, f"{name} has offsets that are not whole numbers in order")


def _entries(path: Locator, header: Header, available: int) -> Iterator[Entry]:
    for name, code, sizes, begin, end in zip(*header, strict=True):
        try:
            dtype, shape, nbytes = _kind(code, sizes)
        except MalformedError as error:
            raise _damaged(path, f"{name}: {error}") from None
        if begin > end:
            raise _out_of_order(path, name)
        if end - begin != nbytes or end > available:
            raise _damaged(path, f"{name}: bytes {begin:,} to {end:,} do not hold {list(shape)}")
        yield Entry(name, shape, dtype)


@lru_cache(maxsize=4096)
def _kind(code: str, sizes: tuple[int, ...]) -> tuple[str, tuple[int, ...], int]:
    """The dtype's name, the sizes checked, the bytes of such a tensor."""
    dtype, shape = BY_SAFETENSORS[code], shape_of(sizes)
    return dtype.name, shape, (prod(shape) * dtype.bits + 7) // 8


def _check_ranges(path: Locator, header: Header, available: int) -> None:
    """Make sure that the tensors follow each other without holes, in whatever order."""
    if [*header.begins, available] == [0, *header.ends]:
        return
    position = 0
    for begin, end, name in sorted(zip(header.begins, header.ends, header.names, strict=True)):
        if begin != position:
            raise _damaged(path, f"{name} starts at {begin:,}, not where the last tensor ended")
        position = end
    if position != available:
        raise _damaged(path, f"its tensors end at {position:,} of {available:,} bytes")


def _require_codes(tensors: Sequence[tuple[str, tuple[int, ...], str]]) -> None:
    """Make sure that a file of the format can hold tensors of these dtypes."""
    wrong = [
        f"{name} is {dtype}" for name, _, dtype in tensors if not dtype_named(dtype).safetensors
    ]
    if wrong:
        raise UsageError(
            f"{some(wrong, '; ')}: .safetensors files have no such dtype.",
            "Write an .eqx file.",
        )


def header_for(
    tensors: Sequence[tuple[str, tuple[int, ...], str]], made_for: Literal["jax", "pt"] = "jax"
) -> bytes:
    """Length and header of a file that holds these tensors in this order, 8-byte aligned.

    Args:
        tensors: Name, shape and dtype of each.
        made_for: The framework they are for; Transformers asks for it.

    Raises:
        UsageError: Dtypes have no code in the format; the tensors are named.
    """
    _require_codes(tensors)
    header: dict[str, Any] = {"__metadata__": {"format": made_for}}
    position = 0
    for name, shape, dtype in tensors:
        kind = dtype_named(dtype)
        nbytes = prod(shape) * kind.itemsize
        header[name] = {
            "dtype": kind.safetensors,
            "shape": list(shape),
            "data_offsets": [position, position + nbytes],
        }
        position += nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return _LENGTH.pack(len(text)) + text
