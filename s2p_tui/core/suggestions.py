"""What a proposer suggests for each leaf, in little memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

from s2p_tui.core.transform import Expr, Take


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What one leaf should take.

    Attributes:
        source: The expression that fills the leaf, or None if nothing in the checkpoint does.
        certain: Whether the proposer vouches for it.
        reason: Why, in words.
        placed: Whether it is settled which entry belongs here, be its layout settled or not.
        numbered: Whether it is settled which of numbered blocks the entry belongs to.
    """

    source: Expr | None
    certain: bool
    reason: str
    placed: bool = False
    numbered: bool = False


Kind = tuple[bool, str, bool, bool]
"""`certain`, `reason`, `placed` and `numbered`."""


class Suggestions(Sequence[Suggestion]):
    """One suggestion per leaf, made anew whenever somebody asks.

    Of most only the key of a whole entry is held, and what they have in common with others. Objects
    made among those a proposer needs for a while would keep the memory of all of these.
    """

    __slots__ = ("_kinds", "_sources")

    def __init__(self, suggestions: Iterable[Suggestion]) -> None:
        self._sources: list[Expr | str | None] = []
        self._kinds: list[Kind] = []
        shared: dict[Kind, Kind] = {}
        for one in suggestions:
            source = one.source
            kind = one.certain, one.reason, one.placed, one.numbered
            self._sources.append(source.key if type(source) is Take else source)
            self._kinds.append(shared.setdefault(kind, kind))

    def __len__(self) -> int:
        return len(self._sources)

    @overload
    def __getitem__(self, place: int) -> Suggestion: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Suggestion]: ...
    def __getitem__(self, place: int | slice) -> Suggestion | Sequence[Suggestion]:
        if isinstance(place, slice):
            return [self[one] for one in range(len(self))[place]]
        source = self._sources[place]
        return Suggestion(Take(source) if isinstance(source, str) else source, *self._kinds[place])

    def held(self, place: int) -> tuple[Expr | str | None, Kind]:
        """A suggestion's source, of a whole entry the key alone; and the rest of it."""
        return self._sources[place], self._kinds[place]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Suggestions):
            return NotImplemented
        return self._sources == other._sources and self._kinds == other._kinds

    def __hash__(self) -> int:
        return hash((len(self), *self._sources[:1]))
