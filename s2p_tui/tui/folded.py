"""What a folded block says of itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from s2p_tui.core.folds import Fold
from s2p_tui.tui.amounts import many
from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.text import inert
from s2p_tui.tui.words import per_fit

if TYPE_CHECKING:
    from s2p_tui.session import Session

_FAR = 64
"""Rows without entries that are looked past for the first and last one of a block."""


def title(fold: Fold, glyphs: Glyphs) -> str:
    """`.layers[0 … 60] ×61`, `.layers[3]`; `bench ×12` for the bench."""
    if not fold.blocks:
        return f"bench {glyphs.times}{len(fold):,}"
    words = glyphs.plain(fold.title())
    return words if fold.blocks == 1 else f"{words} {glyphs.times}{fold.blocks:,}"


def rows_in_words(fold: Fold) -> str:
    """`775 rows`."""
    return many(len(fold), "row") if fold.blocks else ""


def entries(session: Session, span: range, glyphs: Glyphs) -> str:
    """What the entries' keys have in common: `layers.3`, `layers.0 … 60`; empty without any."""
    first = _first_key(session, span)
    last = _first_key(session, reversed(span))
    if not first or not last:
        return first or last
    one, other = first.split("."), last.split(".")
    alike = 0
    while alike < min(len(one), len(other)) and one[alike] == other[alike]:
        alike += 1
    common = ".".join(one[:alike])
    if first == last or alike == len(one) or alike == len(other):
        return common
    low, high = one[alike], other[alike]
    if low.isdecimal() and high.isdecimal():
        return f"{common}.{low} {glyphs.ellipsis} {high}".lstrip(".")
    return common or f"{first} {glyphs.ellipsis} {last}"


def _first_key(session: Session, positions: Iterable[int]) -> str:
    for passed, position in enumerate(positions):
        if passed > _FAR:
            break
        row = session.row(position)
        keys = row.keys if row is not None else (session.benched(position) or "",)
        if keys:
            return keys[0]
    return ""


def details(session: Session, fold: Fold, glyphs: Glyphs) -> list[str]:
    """Lines about a folded block: its entries, its leaves, how good they are, and the way in."""
    span = range(fold.start, fold.stop)
    taken = inert(entries(session, span, glyphs)) or glyphs.nothing
    if not fold.blocks:
        unused = f"{many(len(fold), 'entry', 'entries')} on the bench: no leaf takes them"
        return [taken, unused, "", "Tab unfolds it"]
    blocks = f"{many(fold.blocks, 'block')}, " if fold.blocks > 1 else ""
    fits = per_fit(session.verdicts.counts_in(span), glyphs)
    return [
        taken,
        f"{glyphs.arrow} {inert(fold.title())}  {blocks}{many(len(fold), 'row')}",
        fits,
        f"rows {fold.start + 1:,} to {fold.stop:,}, folded: Tab unfolds",
    ]
