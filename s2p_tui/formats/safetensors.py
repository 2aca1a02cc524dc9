"""`.safetensors` files: the header read strictly, the layout of one to be written.

Format: 8 bytes of header length, a JSON header of `name → {dtype, shape, data_offsets}`, then the
tensors without holes (https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, cast

from s2p_tui.core.dtypes import BY_SAFETENSORS, DType, dtype_named
from s2p_tui.core.errors import InputError, UsageError
from s2p_tui.core.state_dict import Entry, StateDict
from s2p_tui.core.untrusted import (
    DuplicateNameError,
    MalformedError,
    is_size,
    refuse_brackets,
    shape_of,
    without_duplicates,
)
from s2p_tui.formats.base import Checkpoint, Extent, row_major
from s2p_tui.formats.tensors import FileTensors

_LENGTH = struct.Struct("<Q")
_SHOWN = 5
MAX_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library itself."""


def open_safetensors(path: Path, key: str | None = None) -> Checkpoint:
    """Describe a `.safetensors` file. Reads its header only.

    Args:
        path: The file.
        key: Must be empty or None: these files do not nest.

    Raises:
        InputError: The header is damaged, lies about the data or names a tensor twice.
    """
    if key:
        raise InputError(
            f"{path} is a .safetensors file, which holds one state dict.", "Leave --key out."
        )
    size = path.stat().st_size
    header, start = _read_header(path, size)
    described = [
        (name, *_tensor(path, name, value, size - start))
        for name, value in header.items()
        if name != "__metadata__"
    ]
    _check_ranges(path, [(begin, end, name) for name, _, _, begin, end in described], size - start)
    entries = [Entry(name, shape, dtype.name) for name, dtype, shape, _, _ in described]
    offsets = {name: start + begin for name, _, _, begin, _ in described}
    state_dict = StateDict(tuple(entries))

    def extent(name: str) -> Extent | None:
        if name not in offsets:
            return None
        entry = state_dict[name]
        return Extent(path, offsets[name], entry.shape, row_major(entry.shape), entry.dtype)

    return Checkpoint(path.name, (path,), size, state_dict, FileTensors(extent, (path,)))


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path} is not a sound .safetensors file: {reason}.", "Copy or download it again."
    )


def _read_header(path: Path, size: int) -> tuple[dict[str, Any], int]:
    with path.open("rb") as stream:
        prefix = stream.read(_LENGTH.size)
        length = _LENGTH.unpack(prefix)[0] if len(prefix) == _LENGTH.size else 0
        if not 2 <= length <= min(MAX_HEADER, size - _LENGTH.size):
            raise _damaged(path, f"its header claims {length:,} bytes of {size:,}")
        text = stream.read(length)
    try:
        refuse_brackets(text)
        header = json.loads(text.decode())
        if not _names_once(text, header):
            header = json.loads(text, object_pairs_hook=without_duplicates)
    except DuplicateNameError as error:
        raise _damaged(path, f"the header names {error} twice") from None
    except MalformedError as error:
        raise _damaged(path, f"its header is not as it should be: {error}") from None
    except (ValueError, RecursionError):
        raise _damaged(path, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _damaged(path, f"its header is a {type(header).__name__}, an object was expected")
    return cast("dict[str, Any]", header), _LENGTH.size + length


def _names_once(text: bytes, header: Any) -> bool:
    """Whether the header holds as many names as the text has colons, one behind each name.

    A repeated name leaves fewer. It may also say no where all is well, as where a name itself holds
    a colon: then a slower look decides.
    """
    if not isinstance(header, dict):
        return True
    values = cast("dict[str, Any]", header).values()
    fields = (len(cast("dict[str, Any]", value)) for value in values if isinstance(value, dict))
    return text.count(b":") == len(values) + sum(fields)


def _tensor(
    path: Path, name: str, value: Any, available: int
) -> tuple[DType, tuple[int, ...], int, int]:
    try:
        sizes, (begin, end) = value["shape"], value["data_offsets"]
        # Unlike 1, true and 1.0 are no sizes, but they would be found in a table of sizes.
        if {*map(type, sizes), type(begin), type(end)} != {int}:
            sizes = shape_of(sizes)
        dtype, shape, nbytes = _kind(value["dtype"], tuple(sizes))
    except MalformedError as error:
        raise _damaged(path, f"{name}: {error}") from None
    except (KeyError, TypeError, ValueError):
        raise _damaged(path, f"the header describes {name} in a way not known here") from None
    if not (is_size(begin) and is_size(end) and begin <= end):
        raise _damaged(path, f"{name} has offsets that are not whole numbers in order")
    if end - begin != nbytes or end > available:
        raise _damaged(path, f"{name}: bytes {begin:,} to {end:,} do not hold {list(shape)}")
    return dtype, shape, begin, end


@lru_cache(maxsize=4096)
def _kind(code: str, sizes: tuple[int, ...]) -> tuple[DType, tuple[int, ...], int]:
    """The dtype of a code, the sizes checked, the bytes of such a tensor."""
    dtype, shape = BY_SAFETENSORS[code], shape_of(sizes)
    return dtype, shape, (prod(shape) * dtype.bits + 7) // 8


def _check_ranges(path: Path, ranges: list[tuple[int, int, str]], available: int) -> None:
    """Make sure that the tensors follow each other without holes, in whatever order."""
    position = 0
    for begin, end, name in sorted(ranges):
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
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise UsageError(
            f"{'; '.join(wrong[:_SHOWN])}{more}: .safetensors files have no such dtype.",
            "Write an .eqx file.",
        )


def header_for(tensors: Sequence[tuple[str, tuple[int, ...], str]]) -> bytes:
    """Length and header of a file that holds these tensors in this order, 8-byte aligned.

    Args:
        tensors: Name, shape and dtype of each.

    Raises:
        UsageError: Dtypes have no code in the format; the tensors are named.
    """
    _require_codes(tensors)
    header: dict[str, Any] = {"__metadata__": {"format": "jax"}}
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
