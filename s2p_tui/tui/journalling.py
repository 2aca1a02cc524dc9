"""A session's journal between opening and the first key: going on, or starting afresh."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from s2p_tui.core.errors import S2PError
from s2p_tui.tui.glyphs import Glyphs
from s2p_tui.tui.screens.going_on import Answer, GoOn
from s2p_tui.tui.threads import in_thread
from s2p_tui.tui.words import many

if TYPE_CHECKING:
    from s2p_tui.core.journal_replay import Replayed
    from s2p_tui.journal import Journal
    from s2p_tui.session import Session

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


async def open_journal(session: Session) -> Journalled:
    """The session's journal, or why there is none."""

    def opened() -> Journal:
        from s2p_tui.journal import Journal

        return Journal.open(session.checkpoint, session.target)

    try:
        journal = await in_thread(opened)
    except (S2PError, OSError) as error:
        return _without(error)
    return Journalled(journal, journal.damaged, bad=bool(journal.damaged))


async def begin(
    session: Session,
    opened: Journalled,
    resume: Resume,
    glyphs: Glyphs,
    ask: Callable[[GoOn], Awaitable[Answer]],
) -> Journalled | None:
    """Go on with what the journal holds or start afresh, as the user has it; None to quit."""
    journal = opened.journal
    if journal is None:
        return opened
    found = journal.found if journal.found and journal.found.edits else None
    note = opened.note
    if found is not None and resume == "ask":
        labels = session.checkpoint.label, session.target.label
        answer = await ask(GoOn(glyphs, found, labels))
        if answer == "quit":
            return None
        resume = answer
    elif found is not None and resume == "afresh":
        left = many(found.edits, "earlier edit")
        note = f"Started afresh; until the first edit --resume still brings back {left}."
    try:
        if found is not None and resume == "go on":
            await in_thread(lambda: _go_on(session, journal))
            note = f"Going on after {many(found.edits, 'edit')}; u undoes them."
        else:
            if resume == "go on":
                note = note or "There were no edits to go on with."
            if session.awaits_evidence:
                journal.start_later(session.alignment)
            else:
                await in_thread(lambda: journal.start(session.alignment))
    except OSError as error:
        journal.close()
        return _without(error)
    session.record(journal.record)
    return Journalled(journal, note, opened.bad)


def _go_on(session: Session, journal: Journal) -> None:
    found: Replayed = journal.go_on()
    session.go_on(found.alignment, found.history)


def _without(error: S2PError | OSError) -> Journalled:
    why = error.message if isinstance(error, S2PError) else f"{error.strerror}."
    return Journalled(None, f"Edits are not journalled: {why}", bad=True)
