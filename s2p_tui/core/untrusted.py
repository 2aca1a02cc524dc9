"""Narrowing values from files (JSON, pickles) to types, with a reason where they are not."""

from __future__ import annotations

from typing import Any, TypeGuard, cast

LARGEST_SIZE = 2**62
MOST_AXES = 64
"""What NumPy allows."""


class MalformedError(ValueError):
    """A value is not of the kind the format says; caught where the file's name is known."""


class DuplicateNameError(MalformedError):
    """A JSON object names something twice; its text is the name."""


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
    """Whether the value is a whole number that can be a size or an offset."""
    return type(value) is int and 0 <= value < LARGEST_SIZE


def sizes_of(value: Any) -> tuple[int, ...]:
    """A list or tuple of sizes as a tuple."""
    if not isinstance(value, list | tuple):
        raise MalformedError(f"expected a list of sizes, got {type(value).__name__}")
    sizes = tuple(cast("list[Any]", value))
    if len(sizes) > MOST_AXES:
        raise MalformedError(f"{len(sizes)} axes are more than NumPy's {MOST_AXES}")
    if not all(map(is_size, sizes)):
        raise MalformedError("sizes are not whole numbers of at least 0")
    return sizes


def size_of(value: Any) -> int:
    """The value as a whole number of at least 0."""
    if not is_size(value):
        kind = value if isinstance(value, int) else type(value).__name__
        raise MalformedError(f"expected a whole number of at least 0, got {kind!s:.40}")
    return value
