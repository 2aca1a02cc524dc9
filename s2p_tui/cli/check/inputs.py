"""The input both models are run on: random numbers of given shapes, or the user's own example."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from s2p_tui.alignment.dtypes import dtype_named, numpy_dtype
from s2p_tui.cli.check.arrays import UnreadableError, arrays_in
from s2p_tui.errors import InputError, S2PError, UsageError
from s2p_tui.formats.pytree.factory import call_factory

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LONGEST = 300
# Enough to tell the inputs of one run from those of another.
_DIGITS = 16


@contextlib.contextmanager
def code_of(who: str, hint: str) -> Generator[None]:
    """Run code of the user's.

    Args:
        who: The side and the part that runs: `The torch model's forward`.
        hint: The way out.

    Raises:
        InputError: The code raised an exception.
    """
    try:
        yield
    except S2PError:
        raise
    except Exception as error:
        raise InputError(f"{who} raised {type(error).__name__}: {_line(error)}.", hint) from error


def _line(error: BaseException) -> str:
    words = " ".join(str(error).split()).rstrip(".") or "it does not say why"
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}…"


_SHAPE = re.compile(r"\d+(?:[x×,]\d+)*")


@dataclass(frozen=True, slots=True)
class Examples:
    """Arguments of both forwards.

    Attributes:
        arrays: One per argument, the first axis counting the examples.
        batched: True if torch gets that axis; without it there is one example.
    """

    arrays: tuple[NDArray[Any], ...]
    batched: bool

    @property
    def count(self) -> int:
        """Number of examples."""
        return self.arrays[0].shape[0]


def random_examples(
    shapes: Sequence[str], dtypes: Sequence[str], *, batch: int, seed: int, below: int
) -> Examples:
    """Draw normal numbers, or integers from 0, for arguments of these shapes.

    Args:
        shapes: Of one example, one per argument: `3x32x32`; `()` for a single number.
        dtypes: One for all, or one per shape.
        batch: Examples; 0 for one that torch gets without a batch axis.
        seed: Of the random numbers.
        below: Exclusive upper bound for integers.

    Raises:
        UsageError: A shape or dtype is invalid, or their numbers differ.
    """
    if len(dtypes) not in (1, len(shapes)):
        raise UsageError(
            f"--shape and --dtype do not match: {len(shapes)} shapes, {len(dtypes)} dtypes.",
            "Give one --dtype for all, or one for each --shape.",
        )
    rng = np.random.default_rng(seed)
    each = list(dtypes) * len(shapes) if len(dtypes) == 1 else dtypes
    arrays = tuple(
        _random(rng, (max(batch, 1), *_parsed(shape)), dtype, below)
        for shape, dtype in zip(shapes, each, strict=True)
    )
    return Examples(arrays, batch > 0)


def sample_examples(spec: str, *, batched: bool) -> Examples:
    """Return the example that the user's function returns: an array, or several in a tuple.

    Raises:
        UsageError: There is no such function.
        InputError: It raised an exception, or returned no arrays.
    """
    value = call_factory(spec)
    items: list[Any] = [*value] if isinstance(value, list | tuple) else [value]
    with code_of(f"{spec}'s result", "Return an array, or a tuple of arrays."):
        arrays = tuple(_as_array(item) for item in items)
    if not arrays:
        raise InputError(
            f"{spec} returned nothing, an array or several were expected.",
            "Return an array, or a tuple of arrays.",
        )
    return Examples(tuple(array[None] for array in arrays), batched)


def digest_of(examples: Examples) -> str:
    """Return the beginning of the SHA-256 over all arguments."""
    digest = hashlib.sha256()
    for array in examples.arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:_DIGITS]


def other_examples(examples: Examples, seed: int) -> Examples | None:
    """Return as many examples like these with other numbers; None if all stay the same.

    Floating-point numbers are mixed with noise of their own size; whole ones change places.
    """
    rng = np.random.default_rng(seed)
    arrays = tuple(_other(array, rng) for array in examples.arrays)
    if all(np.array_equal(a, b) for a, b in zip(arrays, examples.arrays, strict=True)):
        return None
    return Examples(arrays, examples.batched)


def _other(array: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    if dtype_named(str(array.dtype)).kind != "float":
        return rng.permuted(array, axis=-1) if array.ndim > 1 else array
    wide = array.astype(np.float64)
    noise = rng.normal(size=array.shape) * (wide.std() or 1.0)
    return (0.7 * wide + 0.7 * noise).astype(array.dtype)


def _as_array(value: Any) -> NDArray[Any]:
    """Convert one argument to an array of its own dtype."""
    found = arrays_in(value)
    if len(found) != 1:
        raise TypeError(f"{type(value).__name__} is not an array")
    dtype = str(getattr(value, "dtype", found[0].dtype)).removeprefix("torch.")
    try:
        return found[0].astype(numpy_dtype(dtype))
    except UnreadableError:
        raise TypeError("it is being traced") from None


def _random(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: str, below: int
) -> NDArray[Any]:
    kind = dtype_named(dtype).kind
    if kind == "float":
        return rng.normal(size=shape).astype(numpy_dtype(dtype))
    if kind in ("int", "uint"):
        return rng.integers(0, below, shape).astype(numpy_dtype(dtype))
    if kind == "bool":
        return rng.random(shape) < 0.5
    raise UsageError(
        f"--dtype {dtype} has no random numbers: float, integer and bool dtypes have.",
        "Give one of those, or the numbers themselves by --sample-input pkg.module:function.",
    )


def _parsed(shape: str) -> tuple[int, ...]:
    if shape in ("", "()"):
        return ()
    if not _SHAPE.fullmatch(shape):
        raise UsageError(
            f"--shape {shape} is not a shape: whole numbers with x between them were expected.",
            "Write it as --shape 3x32x32, and () for a single number.",
        )
    sizes = tuple(map(int, re.split("[x×,]", shape)))
    if 0 in sizes:
        raise UsageError(f"--shape {shape} has no elements.", "Give sizes of at least 1.")
    return sizes
