"""What a user should know of an alignment before it is written, and after."""

from __future__ import annotations

from collections.abc import Iterator

from s2p_tui.core.pytree import Skeleton
from s2p_tui.core.rows import Rows

_SHOWN = 3
TAKEN_AS_THEY_ARE = (
    "note: the skeleton names no layer classes, so that transposed convolutions, LSTM, "
    "GRU and batch normalisation were taken as they are; --like names them"
)


def remarks(rows: Rows, skeleton: Skeleton) -> Iterator[str]:
    """Which leaves keep the skeleton's values, and what the skeleton does not tell; a line each."""
    kept = rows.gaps()
    if kept:
        names = ", ".join(skeleton[place].path for place in kept[:_SHOWN])
        more = ", …" if len(kept) > _SHOWN else ""
        leaves = "leaf keeps its value" if len(kept) == 1 else "leaves keep their values"
        yield f"{len(kept):,} {leaves} of the skeleton: {names}{more}"
    if skeleton.is_nameless:
        yield TAKEN_AS_THEY_ARE
