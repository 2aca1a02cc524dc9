"""How many rows take each entry, known without looking at every row again after each edit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from s2p_tui.core.rows import Rows

_MOST_DIFFERING = 500


class Uses:
    """Rows per key: a large table that alignments share, and a small one of what differs from it.

    Neither is ever changed, so an alignment keeps its own through every edit and undo.
    """

    __slots__ = ("_base", "_differing")

    def __init__(self, base: dict[str, int], differing: dict[str, int]) -> None:
        self._base = base
        self._differing = differing

    @classmethod
    def of(cls, rows: Rows) -> Uses:
        """Count them all."""
        return cls(Counter(rows.keys), {})

    def count(self, key: str) -> int:
        """Rows that take the entry."""
        differing = self._differing.get(key)
        return self._base.get(key, 0) if differing is None else differing

    def after(self, lost: Iterable[str], gained: Iterable[str]) -> Uses:
        """The same once rows have lost and gained these keys, each as often as it is named."""
        changes = Counter(gained)
        changes.subtract(lost)
        differing = dict(self._differing)
        for key, change in changes.items():
            if change:
                differing[key] = self.count(key) + change
        if len(differing) <= _MOST_DIFFERING:
            return Uses(self._base, differing)
        return Uses({**self._base, **differing}, {})
