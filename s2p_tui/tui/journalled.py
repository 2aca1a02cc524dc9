"""What is known of a session's journal while the app runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from s2p_tui.journal import Journal

Resume = Literal["ask", "go on", "afresh"]


@dataclass(frozen=True, slots=True)
class Journalled:
    """What came of it.

    Attributes:
        journal: Where the session is journalled; None if nowhere.
        note: What the user should know; maybe empty.
        bad: Whether that is bad news.
    """

    journal: Journal | None
    note: str = ""
    bad: bool = False

    @property
    def keeps(self) -> bool:
        """Whether the next session on the pair could go on with every edit."""
        return self.journal is not None and not self.journal.trouble
