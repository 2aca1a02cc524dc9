"""What of a checkpoint no leaf takes: whole entries are on the bench, parts of others are not."""

from __future__ import annotations

from collections import defaultdict

from s2p_tui.core.rows import Rows
from s2p_tui.core.state_dict import StateDict
from s2p_tui.core.transform import Expr, Split, Take, operands

_Ranges = list[tuple[int, int, int]]


def parts_unused(rows: Rows, state_dict: StateDict) -> dict[str, str]:
    """Entries of which rows take parts alone and not all of them: what is left, in words, by key.

    Parts along several axes of one entry are not added up. Reads no tensor data.
    """
    ranges: dict[str, _Ranges] = defaultdict(list)
    whole: set[str] = set()
    for held in rows.held:
        if isinstance(held, str):
            whole.add(held)
        elif held is not None:
            _collect(held, ranges, whole)
    found: dict[str, str] = {}
    for key, taken in ranges.items():
        axes = {axis for axis, _, _ in taken}
        if key in whole or len(axes) > 1:
            continue
        (axis,) = axes
        if left := _left(taken, state_dict.shape(key)[axis]):
            words = " and ".join(f"{start}:{stop}" for start, stop in left)
            found[key] = f"{words} of axis {axis}"
    return found


def _collect(expr: Expr, ranges: dict[str, _Ranges], whole: set[str]) -> None:
    match expr:
        case Take(key):
            whole.add(key)
        case Split(Take(key), axis, start, stop):
            ranges[key].append((axis, start, stop))
        case _:
            for operand in operands(expr):
                _collect(operand, ranges, whole)


def _left(taken: _Ranges, size: int) -> list[tuple[int, int]]:
    """The ranges of an axis that are not taken."""
    left: list[tuple[int, int]] = []
    position = 0
    for _, start, stop in sorted(taken, key=lambda part: part[1]):
        if start > position:
            left.append((position, start))
        position = max(position, stop)
    if position < size:
        left.append((position, size))
    return left
