"""The offline matcher at work while the rows are on the screen already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from s2p_tui.core.garbage import give_memory_back
from s2p_tui.tui.threads import in_thread

if TYPE_CHECKING:
    from s2p_tui.core.alignment import Alignment
    from s2p_tui.core.evidence import Evidence
    from s2p_tui.journal import Beginning, Journal
    from s2p_tui.session import Session

WAIT = "Still matching by names and structure: that works once it is done."
TAKEN = "Lined up by names and structure."
OFFERED = "Matched by names and structure; your rows stay, a shows what that would change."


@dataclass(frozen=True, slots=True)
class _Found:
    evidence: Evidence
    suggested: Alignment
    beginning: Beginning | None
    can_begin: bool


async def match_meanwhile(
    session: Session, journal: Journal | None, may_take: Callable[[], bool]
) -> bool:
    """Gather evidence in a thread and have the session weigh rows by it.

    Args:
        session: The session.
        journal: Its journal, if it has one.
        may_take: Whether rows may be changed when the evidence is there; not while a choice made
            from the rows as they are is open.

    Returns:
        Whether its alignment was taken over, as nobody had touched the rows; the journal begins
        with it then.
    """

    def found() -> _Found:
        evidence, suggested = session.gather_evidence()
        try:
            beginning = None if journal is None else journal.prepare(suggested)
        except OSError:
            return _Found(evidence, suggested, None, can_begin=False)
        return _Found(evidence, suggested, beginning, can_begin=True)

    gathered = await in_thread(found)
    is_taken = session.take_evidence(
        gathered.evidence, gathered.suggested if gathered.can_begin and may_take() else None
    )
    if journal is not None and gathered.beginning is not None:
        if is_taken:
            journal.begin_with(gathered.beginning)
        else:
            gathered.beginning.discard()
    await in_thread(give_memory_back)
    return is_taken
