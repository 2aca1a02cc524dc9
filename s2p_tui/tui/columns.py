"""How wide each column of the list is, for any width of the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_NUMBERS_FROM = 100
_NAME_WITH_SHAPE = 14
_NAME_WITH_DTYPE = 18
_MAX_SHAPE = 16
_MAX_DTYPE = 10


@dataclass(frozen=True, slots=True)
class Columns:
    """Cells of each column; 0 for one that is left out. Both sides are alike.

    Attributes:
        flags: Cursor and mark, with the space after them.
        number: The row's number, with the space after it.
        name: Entry key, leaf path.
        shape: Its shape, with the space before it.
        dtype: Its dtype, with the space before it.
        glyph: The fit's sign, with the spaces around it.
        spare: Cells left over at the right end.
    """

    flags: int
    number: int
    name: int
    shape: int
    dtype: int
    glyph: int
    spare: int

    @property
    def side(self) -> int:
        """Cells of one side."""
        return self.name + self.shape + self.dtype

    @property
    def left(self) -> int:
        """Cells before the glyph."""
        return self.flags + self.number + self.side


def lay_out_columns(width: int, rows: int, shape: int, dtype: int) -> Columns:
    """Divide a line: names first, then shapes, then dtypes, then row numbers, as room allows.

    Args:
        width: Cells of the line.
        rows: Number of rows, for the width of their numbers.
        shape: Cells the widest shape needs.
        dtype: Cells the widest dtype needs.
    """
    flags, glyph = 3, 3
    number = len(str(rows)) + 1 if width >= _NUMBERS_FROM else 0
    side = max(2, (width - flags - number - glyph) // 2)
    shape, dtype = min(shape, _MAX_SHAPE) + 1, min(dtype, _MAX_DTYPE) + 1
    if side < _NAME_WITH_DTYPE + shape + dtype:
        dtype = 0
    if side < _NAME_WITH_SHAPE + shape:
        shape = dtype = 0
    used = flags + number + glyph + 2 * side
    return Columns(flags, number, side - shape - dtype, shape, dtype, glyph, max(0, width - used))


def widest(texts: Iterable[str]) -> int:
    """Cells of the longest of some ASCII-like texts, at least 3."""
    return max(map(len, texts), default=3)
