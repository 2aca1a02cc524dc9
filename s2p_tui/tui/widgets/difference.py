"""Which cells of a line have to be sent to the terminal again."""

from __future__ import annotations

from rich.segment import Segment
from textual.strip import Strip


def difference(old: Strip, new: Strip) -> tuple[int, int]:
    """The cells outside which two strips of one width are alike."""
    before, after = list(old), list(new)
    start = _alike(before, after)
    end = _alike(before[::-1], after[::-1], from_right=True)
    return min(start, new.cell_length - 1), max(start + 1, new.cell_length - end)


def _alike(first: list[Segment], second: list[Segment], *, from_right: bool = False) -> int:
    cells = 0
    for one, other in zip(first, second, strict=False):
        if one == other:
            cells += one.cell_length
            continue
        if one.style == other.style and one.text.isascii() and other.text.isascii():
            texts = (one.text[::-1], other.text[::-1]) if from_right else (one.text, other.text)
            pairs = zip(*texts, strict=False)
            differing = next((n for n, (a, b) in enumerate(pairs) if a != b), None)
            cells += min(map(len, texts)) if differing is None else differing
        break
    return cells
