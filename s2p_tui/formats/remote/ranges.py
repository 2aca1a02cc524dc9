"""Byte ranges of a file, joined to few requests."""

from __future__ import annotations

from collections.abc import Iterable

Span = tuple[int, int]
"""First byte, and the one behind the last."""
_WASTE = 0.04
"""Bytes asked for although nobody wants them, of those that are wanted."""
_MOST_WASTE = 4.0
"""The same where parts lie in very many strips."""
_FEW = 32
"""Requests for the sources of one part of the output, above which more is asked for than wanted."""
_WIDEST = 1 << 20
"""Bytes between two parts that are never asked for: a request takes no longer than they would."""
_LONGEST = 1 << 24
"""Bytes of a request that holds gaps."""


def joined(spans: Iterable[Span], widest: int = _WIDEST) -> list[Span]:
    """Return ranges that cover the given ones, in order, as few as waste little.

    The narrowest gaps between them are closed first, none wider than `widest`, as long as no result
    is longer than 16 MiB.
    """
    apart: list[Span] = []
    for start, stop in sorted(spans):
        if apart and start <= apart[-1][1]:
            first, last = apart[-1]
            apart[-1] = first, max(last, stop)
        elif start < stop:
            apart.append((start, stop))
    wanted = sum(stop - start for start, stop in apart)
    gaps = sorted((apart[i + 1][0] - apart[i][1], i) for i in range(len(apart) - 1))
    closed: set[int] = set()
    wasted = 0
    for gap, number in gaps:
        too_many = len(apart) - len(closed) > _FEW
        most = (_MOST_WASTE if too_many else _WASTE) * wanted
        if gap > widest or wasted + gap > most:
            break
        closed.add(number)
        wasted += gap
    found: list[Span] = []
    for number, (start, stop) in enumerate(apart):
        if found and number - 1 in closed and stop - found[-1][0] <= _LONGEST:
            found[-1] = found[-1][0], stop
        else:
            found.append((start, stop))
    return found
