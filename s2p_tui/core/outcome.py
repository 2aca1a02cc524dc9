"""What accepting a part of a proposal would do to other rows and to the bench.

The same as making the edit and comparing, kept up to date as rows are accepted and rejected in time
that depends on the toggled rows alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from s2p_tui.core.alignment import Alignment
from s2p_tui.core.proposal import Change, Proposal, takes_part_of
from s2p_tui.core.rows import Row


class Outcome:
    """Starts with everything accepted.

    Args:
        alignment: The alignment the proposal was made for.
        proposal: What could be accepted.

    Attributes:
        accepted: Places of the accepted changes.
        emptied: Places of the rows that would lose their entries and get none.
        benched: Keys that would go to the bench.
    """

    def __init__(self, alignment: Alignment, proposal: Proposal) -> None:
        self.accepted: set[int] = set()
        self.emptied: set[int] = set()
        self.benched: set[str] = set()
        self._rows = alignment.rows
        self._changes = {change.place: change for change in proposal.changes}
        self._agreed = {place for place, _ in proposal.agreed}
        concerned = {key for change in self._changes.values() for key in change.new.keys}
        concerned.update(key for change in self._changes.values() for key in change.old.keys)
        self._holders: defaultdict[str, list[int]] = defaultdict(list)
        self._used = Counter[str]()
        for place, key in alignment.rows.taken():
            self._used[key] += 1
            if key in concerned:
                self._holders[key].append(place)
        self._was_used = set(self._used)
        self._whole = Counter[str]()
        self._part = Counter[str]()
        self.set(self._changes, accept=True)

    def set(self, places: Iterable[int], *, accept: bool) -> None:
        """Accept changes, or reject them."""
        for place in places:
            if (place in self.accepted) != accept:
                self._toggle(self._changes[place], accept)

    def _toggle(self, change: Change, accept: bool) -> None:
        place, step = change.place, 1 if accept else -1
        before, after = (change.old, change.new) if accept else (change.new, change.old)
        if place in self.emptied:
            self.emptied.discard(place)
        else:
            self._count(before, -1)
        (self.accepted.add if accept else self.accepted.discard)(place)
        self._count(after, 1)
        for key in change.new.keys:
            (self._part if takes_part_of(change.new, key) else self._whole)[key] += step
        for key in change.new.keys:
            for holder in self._holders[key]:
                self._look_at(holder)
        if not accept:
            self._look_at(place)

    def _look_at(self, place: int) -> None:
        """Empty a row that its entries are taken from, or give them back."""
        if place in self.accepted:
            return
        row = self._rows[place]
        empty = self._loses(place, row)
        if empty != (place in self.emptied):
            (self.emptied.add if empty else self.emptied.discard)(place)
            self._count(row, -1 if empty else 1)

    def _loses(self, place: int, row: Row) -> bool:
        return place not in self._agreed and any(
            self._whole[key] or (self._part[key] and not takes_part_of(row, key))
            for key in row.keys
        )

    def _count(self, row: Row, step: int) -> None:
        for key in row.keys:
            self._used[key] += step
            if self._used[key]:
                self.benched.discard(key)
            elif key in self._was_used:
                self.benched.add(key)
