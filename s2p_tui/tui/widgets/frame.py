"""The horizontal lines of the frame, with the words on them."""

from __future__ import annotations

from rich.cells import cell_len

from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.text import inert, shorten

Title = tuple[str, ...]


def top_line(glyphs: Glyphs, titles: tuple[Title, Title], middle: int, width: int) -> str:
    """`┌ model.pt · 122 entries ──┬ skeleton.eqx · 122 leaves ──┐`.

    Args:
        glyphs: The signs to draw with.
        titles: Headings of the two sides: a name and facts, the last of which are left out first.
        middle: Cell of the `┬`.
        width: Cells of the line.
    """
    left, tee, right = glyphs.corners[:3]
    middle = max(1, min(middle, width - 2))
    first = _titled(glyphs, titles[0], middle - 1)
    second = _titled(glyphs, titles[1], width - middle - 2)
    return f"{left}{first}{tee}{second}{right}"


def rule(glyphs: Glyphs, title: Title, corners: str, width: int) -> str:
    """`├ details ─────┤`."""
    return f"{corners[0]}{_titled(glyphs, title, width - 2)}{corners[1]}"


def _titled(glyphs: Glyphs, title: Title, width: int) -> str:
    if width < 4 or not title:
        return glyphs.across * max(0, width)
    name, *facts = (inert(glyphs.plain(part), ascii_only=glyphs.is_ascii) for part in title)
    words = shorten(name, width - 2, ellipsis=glyphs.ellipsis)
    for fact in facts:
        longer = f"{words} {glyphs.dot} {fact}"
        if cell_len(longer) > width - 2:
            break
        words = longer
    return f" {words} " + glyphs.across * (width - 2 - cell_len(words))
