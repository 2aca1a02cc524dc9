"""The fit of a row and its verdict."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class Fit(StrEnum):
    """Fits, best first except for gaps."""

    EXACT = "exact"
    TRANSFORMED = "transformed"
    DOUBTFUL = "doubtful"
    MISMATCHED = "mismatched"
    GAP = "gap"


class Verdict(Struct, frozen=True):
    """A row's fit and the reason in words.

    Attributes:
        fit: How good the row is.
        why: The reason; empty for an exact row.
        blocks: Whether the row stands in the way of a conversion.
    """

    fit: Fit
    why: str = ""
    blocks: bool = False

    @property
    def is_trusted(self) -> bool:
        """True for a doubtful row that the user trusts."""
        return self.fit is Fit.DOUBTFUL and not self.blocks
