"""A tensor's own statistics, read in bounded chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite, prod, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from s2p_tui.alignment.dtypes import dtype_named, numpy_dtype
from s2p_tui.alignment.task import Task
from s2p_tui.alignment.transform import Take
from s2p_tui.conversion.evaluate import fast_axes, tiles
from s2p_tui.formats.base import Tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[Any]

BINS = 11
_CHUNK = 1 << 19
"""Elements read at once: 4 MiB as float64, and a few arrays of that size beside it."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of all elements of a tensor; of the magnitudes where they are complex.

    Attributes:
        count: Elements.
        nan: Not a number.
        inf: Infinite, of either sign.
        zeros: Zero, of either sign.
        low: The least finite number; None if there is none, as for the next four.
        high: The greatest.
        mean: Their mean, computed in float64.
        std: Their population standard deviation.
        bins: Counts of the numbers in each of `BINS` equal intervals from `low` to `high`; one for
            all if they are equal.
    """

    count: int
    nan: int
    inf: int
    zeros: int
    low: float | int | None
    high: float | int | None
    mean: float | None
    std: float | None
    bins: tuple[int, ...]


def statistics(
    tensors: Tensors, name: str, shape: tuple[int, ...], dtype: str, progress: Task
) -> Statistics:
    """Read a tensor twice, chunk by chunk, and describe its numbers.

    Args:
        tensors: Gives the numbers.
        name: The tensor's name there.
        shape: Its shape.
        dtype: Its dtype's name.
        progress: Its steps are elements, those read twice counted twice.

    Raises:
        InputError: The file was cut short, or the dtype packs several elements in a byte.
        CancelledError: Cancelled.
    """
    numpy_dtype(dtype)
    progress.total += 2 * prod(shape)
    first = _First()
    for numbers in _chunks(tensors, name, shape, dtype):
        first.add(numbers)
        progress.done += numbers.size
        progress.check()
    bins = np.zeros(BINS, np.int64)
    for numbers in _chunks(tensors, name, shape, dtype):
        if first.finite and first.low != first.high:
            bins += _binned(numbers, float(first.low), float(first.high))
        progress.done += numbers.size
        progress.check()
    return first.result(tuple(map(int, bins)))


def _chunks(tensors: Tensors, name: str, shape: tuple[int, ...], dtype: str) -> Iterator[Numbers]:
    """All elements as flat arrays of booleans, whole numbers or floats that NumPy computes with."""
    kind = dtype_named(dtype).kind
    for region in tiles(shape, fast_axes(Take(name), lambda _: shape), _CHUNK):
        numbers: Numbers = np.asarray(tensors.read(name, region)).reshape(-1)
        if kind == "complex":
            with np.errstate(all="ignore"):
                numbers = np.abs(numbers.astype(np.complex128))
        elif kind == "float":
            numbers = numbers.astype(np.float64)
        elif kind == "bool" or numbers.dtype.itemsize == 1:
            numbers = numbers.astype(np.int64)
        yield numbers


class _First:
    """Results of the first pass; means and squares are merged after Chan et al. 1979."""

    def __init__(self) -> None:
        self.count = self.nan = self.inf = self.zeros = self.finite = 0
        self.low: float | int = 0
        self.high: float | int = 0
        self._mean = self._squares = 0.0

    def add(self, numbers: Numbers) -> None:
        self.count += numbers.size
        self.zeros += int(np.count_nonzero(numbers == 0))
        if numbers.dtype.kind == "f":
            nan = np.isnan(numbers)
            finite = np.isfinite(numbers)
            self.nan += int(np.count_nonzero(nan))
            self.inf += int(np.count_nonzero(~finite & ~nan))
            numbers = numbers[finite]
        if not numbers.size:
            return
        low, high = numbers.min().item(), numbers.max().item()
        self.low, self.high = (
            (min(self.low, low), max(self.high, high)) if self.finite else (low, high)
        )
        with np.errstate(all="ignore"):
            wide = numbers.astype(np.float64)
            mean = float(wide.mean())
            squares = float(np.square(wide - mean).sum())
            together = self.finite + numbers.size
            apart = mean - self._mean
            self._squares += squares + apart * apart * (self.finite * numbers.size / together)
            self._mean += apart * (numbers.size / together)
        self.finite = together

    def result(self, bins: tuple[int, ...]) -> Statistics:
        if not self.finite:
            counts = self.count, self.nan, self.inf, self.zeros
            return Statistics(*counts, None, None, None, None, ())
        same = self.low == self.high
        return Statistics(
            self.count,
            self.nan,
            self.inf,
            self.zeros,
            self.low,
            self.high,
            float(self.low) if same else self._mean,
            0.0 if same else sqrt(self._squares / self.finite),
            (self.finite,) if same else bins,
        )


def _binned(numbers: Numbers, low: float, high: float) -> NDArray[np.int64]:
    wide = numbers.astype(np.float64)
    wide = wide[np.isfinite(wide)]
    span = high - low
    with np.errstate(all="ignore"):
        # Halved where the span itself would overflow.
        at = (wide - low) / span if isfinite(span) else (wide / 2 - low / 2) / (high / 2 - low / 2)
        places = np.clip((at * BINS).astype(np.int64), 0, BINS - 1)
    return np.bincount(places, minlength=BINS)
