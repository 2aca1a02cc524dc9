"""Widths of the list's columns: both sides mirrored, so that the shapes meet at the sign."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# The number of a row is worth four cells where a name still gets twenty.
_NUMBERS_FROM = 60
# Below these a name says less than what would stand beside it: of a transformer's block, 16 cells
# still tell every name from the others.
_NAME_WITH_SHAPE = 16
_NAME_WITH_DTYPE = 20
_MAX_SHAPE = 16
_MAX_DTYPE = 10
# Where there are cells to spare, a slice (` [:,0:10]`) is seen behind the longest name.
_PART = 8
_FLAGS = 3
_SYMBOL = 4


@dataclass(frozen=True, slots=True)
class Needs:
    """Cells that the contents of one side take at most."""

    name: int
    dtype: int
    shape: int


@dataclass(frozen=True, slots=True)
class Side:
    """Cells of one side's columns; 0 for one that is left out, else with a space beside it."""

    name: int
    dtype: int
    shape: int

    @property
    def width(self) -> int:
        return self.name + self.dtype + self.shape


@dataclass(frozen=True, slots=True)
class Columns:
    """Cells of each column: flags, number, entry, sign, leaf, and what is left over.

    Attributes:
        flags: Cursor and mark, with the space after them.
        number: The row's number, with the space after it.
        entry: The left side: name, dtype, shape.
        symbol: The fit's sign, with the spaces around it.
        leaf: The right side: shape, dtype, name.
        spare: Cells left over at the right end.
    """

    flags: int
    number: int
    entry: Side
    symbol: int
    leaf: Side
    spare: int

    @property
    def left(self) -> int:
        """Cells before the sign."""
        return self.flags + self.number + self.entry.width


def lay_out_columns(width: int, rows: int, entry: Needs, leaf: Needs) -> Columns:
    """Divide a line: names first, then shapes, then dtypes, each as wide as it needs to be.

    Where names need more than there is, the side that needs less gets what it needs.
    """
    number = len(str(rows)) + 1 if width >= _NUMBERS_FROM else 0
    room = max(2, width - _FLAGS - number - _SYMBOL)
    names, shapes, dtypes = room, (0, 0), (0, 0)
    wanted = min(entry.shape, _MAX_SHAPE) + 1, min(leaf.shape, _MAX_SHAPE) + 1
    if _have_room(names - sum(wanted), entry, leaf, _NAME_WITH_SHAPE):
        names, shapes = names - sum(wanted), wanted
        wanted = min(entry.dtype, _MAX_DTYPE) + 1, min(leaf.dtype, _MAX_DTYPE) + 1
        if _have_room(names - sum(wanted), entry, leaf, _NAME_WITH_DTYPE):
            names, dtypes = names - sum(wanted), wanted
    left, right = _shared(names, entry.name, leaf.name)
    left += min(_PART, names - left - right)
    sides = Side(left, dtypes[0], shapes[0]), Side(right, dtypes[1], shapes[1])
    return Columns(_FLAGS, number, sides[0], _SYMBOL, sides[1], names - left - right)


def _have_room(room: int, entry: Needs, leaf: Needs, least: int) -> bool:
    return room >= min(entry.name, least) + min(leaf.name, least)


def _shared(room: int, first: int, second: int) -> tuple[int, int]:
    if first + second <= room:
        return first, second
    half = room // 2
    if first <= half:
        return first, room - first
    return (room - second, second) if second <= half else (room - half, half)


def widest(texts: Iterable[str]) -> int:
    """Cells of the longest of some ASCII-like texts, at least 3."""
    return max(3, max(map(len, texts), default=3))
