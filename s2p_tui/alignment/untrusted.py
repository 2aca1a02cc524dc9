"""Narrowing values from files (JSON, pickles) to types, with a reason where they are not."""

from __future__ import annotations

import json
from collections.abc import Collection
from math import prod
from typing import Any, TypeGuard, cast

LARGEST_SIZE = 2**62
MOST_AXES = 64
"""The limit of NumPy."""
LARGEST_COUNT = 2**58
"""Elements: NumPy counts an array's bytes in 63 bits, and leaves out axes of size 0 there."""
_BYTES_PER_BRACKET = 8
_BRACKETS = 64


class MalformedError(ValueError):
    """A value is not of the kind the format says; caught where the file's name is known."""


def why_malformed(error: Exception) -> str:
    """Return why a value from a file was refused, in words without a full stop."""
    match error:
        case KeyError(args=(name, *_)):
            return f"{name!r} is missing"
        case RecursionError():
            return "it is nested too deeply"
        case _:
            return str(error).rstrip(".") or "it is damaged"


def repeated(names: Collection[str]) -> str | None:
    """The first name that comes a second time; None if all differ."""
    if len(set(names)) == len(names):
        return None
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


class DuplicateNameError(MalformedError):
    """A JSON object names something twice; its text is the name."""


def parse_json(text: bytes) -> Any:
    """The value of UTF-8 JSON text that names nothing twice.

    Raises:
        MalformedError: It is mostly brackets, of which each would take far more memory than its
            byte in the file; or `DuplicateNameError`.
        ValueError: It is no JSON, or no UTF-8.
        RecursionError: It is nested too deeply.
    """
    refuse_brackets(text)
    return json.loads(text.decode(), object_pairs_hook=without_duplicates)


def refuse_brackets(text: bytes) -> None:
    """Make sure that JSON text has content between its brackets.

    Raises:
        MalformedError: It is mostly brackets.
    """
    brackets = text.count(b"[") + text.count(b"{")
    if brackets > _BRACKETS + len(text) // _BYTES_PER_BRACKET:
        raise MalformedError(f"it is mostly brackets ({brackets:,})")


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The JSON object of these items, as an `object_pairs_hook` for `json.loads`."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise DuplicateNameError(name)
        found[name] = value
    return found


def object_of(value: Any) -> dict[str, Any]:
    """The value as a JSON object."""
    if not isinstance(value, dict):
        raise MalformedError(f"expected an object, got {type(value).__name__}")
    return cast("dict[str, Any]", value)


def list_of(value: Any) -> list[Any]:
    """The value as a JSON array."""
    if not isinstance(value, list):
        raise MalformedError(f"expected a list, got {type(value).__name__}")
    return cast("list[Any]", value)


def string_of(value: Any) -> str:
    """The value as a string."""
    if not isinstance(value, str):
        raise MalformedError(f"expected a string, got {type(value).__name__}")
    return value


def is_size(value: Any) -> TypeGuard[int]:
    """Return True if the value is a whole number that can be a size or an offset."""
    return type(value) is int and 0 <= value < LARGEST_SIZE


def sizes_of(value: Any) -> tuple[int, ...]:
    """A list or tuple of sizes as a tuple."""
    if not isinstance(value, list | tuple):
        raise MalformedError(f"expected a list of sizes, got {type(value).__name__}")
    sizes = cast("list[Any]", value)
    if len(sizes) > MOST_AXES:
        raise MalformedError(f"{len(sizes)} axes are more than NumPy's {MOST_AXES}")
    if not all(map(is_size, sizes)):
        raise MalformedError("sizes are not whole numbers of at least 0")
    return tuple(sizes)


def shape_of(value: Any) -> tuple[int, ...]:
    """A list or tuple of sizes as the shape of an array that there can be."""
    shape = sizes_of(value)
    if not is_possible(shape):
        raise MalformedError(f"an array of shape {list(shape)} is larger than any can be")
    return shape


def is_possible(shape: tuple[int, ...]) -> bool:
    """Return True if there can be an array of the shape, not counting axes of size 0."""
    return prod(size or 1 for size in shape) < LARGEST_COUNT


def size_of(value: Any) -> int:
    """The value as a whole number of at least 0."""
    if not is_size(value):
        kind = value if isinstance(value, int) else type(value).__name__
        raise MalformedError(f"expected a whole number of at least 0, got {kind!s:.40}")
    return value


def reason_of(error: Exception) -> str:
    """Return msgspec's message in the words of the other errors."""
    text, _, where = str(error).partition(" - at `$")
    where = where.rstrip("`").lstrip(".")
    text = text[:1].lower() + text[1:].replace("nvalid enum value", "t cannot be")
    return f"{where}: {text}" if where else text
