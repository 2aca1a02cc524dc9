"""The session's journal at the start: resuming it, or starting over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from s2p_tui.app.background import in_thread
from s2p_tui.app.screens.questions import GoOn, ResumeAnswer
from s2p_tui.app.text import many
from s2p_tui.app.theme import Symbols
from s2p_tui.errors import S2PError, printable
from s2p_tui.session.saved_mapping import Offered

if TYPE_CHECKING:
    from s2p_tui.session.journal import Journal
    from s2p_tui.session.journal_lines import Replayed
    from s2p_tui.session.session import Session

Resume = Literal["ask", "go on", "afresh"]


class Journalled(Struct, frozen=True):
    """The result of opening and beginning a journal.

    Attributes:
        journal: Where the session is journalled; None if nowhere.
        note: A message for the user; possibly empty.
        bad: Whether that is bad news.
    """

    journal: Journal | None
    note: str = ""
    bad: bool = False

    @property
    def keeps(self) -> bool:
        """True if the next session on the pair could resume with every edit."""
        return self.journal is not None and not self.journal.trouble


_READING = "Reading the journal"
_STARTING = "Starting the journal"


async def open_journal(session: Session) -> Journalled:
    """Open the session's journal, or note why there is none."""

    def opened() -> Journal:
        from s2p_tui.session.journal import Journal

        return Journal.open(session.checkpoint, session.target)

    try:
        journal = await in_thread(opened, "Opening the journal", expected=OSError)
    except (S2PError, OSError) as error:
        return _without(error)
    return Journalled(journal, journal.damaged, bad=bool(journal.damaged))


async def begin(
    session: Session,
    opened: Journalled,
    resume: Resume,
    offered: Offered | None,
    symbols: Symbols,
    ask: Callable[[GoOn], Awaitable[ResumeAnswer]],
) -> Journalled | None:
    """Resume a journal, start from a mapping file or start over; return None to quit.

    Args:
        session: The session; it gets the alignment that was chosen and its steps are journalled.
        opened: What came of opening its journal.
        resume: What to do without asking.
        offered: A mapping file that it could be started from, or was.
        symbols: The signs to draw with.
        ask: Asks the user.
    """
    journal = opened.journal
    found = journal.found if journal is not None else None
    found = found if found is not None and found.edits else None
    if found is not None and offered is not None and _says_alike(found, offered):
        # It is what was journalled, saved: resuming has undo besides.
        offered = offered if offered.is_taken else None
    answer = _answered(resume, found, offered)
    if answer is None:
        labels = session.checkpoint.label, session.target.label
        answer = await ask(GoOn(symbols, found, offered, labels))
    if answer == "quit":
        return None
    note = opened.note
    if answer == "mapping" and offered is not None:
        session.begin_with(offered.followed, offered.path)
        note = note or f"Started from {printable(offered.path.name)}."
    if answer == "go on" and found is None:
        note = note or "There were no edits to resume."
    if found is not None and answer != "go on" and resume == "afresh":
        left = many(found.edits, "earlier edit")
        note = f"Started over; until the first edit --resume still brings back {left}."
    if journal is None:
        return Journalled(None, note, opened.bad)
    try:
        if found is not None and answer == "go on":
            await in_thread(lambda: _go_on(session, journal), _READING, expected=OSError)
            note = f"Resumed {many(found.edits, 'edit')}; u undoes them."
        else:
            if session.awaits_evidence:
                journal.start_later(session.alignment)
            else:
                await in_thread(
                    lambda: journal.start(session.alignment), _STARTING, expected=OSError
                )
    except (S2PError, OSError) as error:
        journal.close()
        return _without(error)
    session.record(journal.record)
    return Journalled(journal, note, opened.bad)


def _says_alike(found: Replayed, offered: Offered) -> bool:
    return found.alignment.says_as(offered.alignment)


def _answered(
    resume: Resume, found: Replayed | None, offered: Offered | None
) -> ResumeAnswer | None:
    """Return the answer that needs no question; None if one is needed."""
    if resume != "ask":
        return resume
    if offered is None or not offered.is_taken:
        return "afresh" if found is None and offered is None else None
    # Asked for by name: only what was done since it was saved comes before it.
    is_newer = found is not None and found.last > offered.saved and not _says_alike(found, offered)
    return None if is_newer else "mapping"


def _go_on(session: Session, journal: Journal) -> None:
    found: Replayed = journal.go_on()
    session.go_on(found.alignment, found.history)


def _without(error: S2PError | OSError) -> Journalled:
    why = error.line if isinstance(error, S2PError) else f"{error.strerror}."
    return Journalled(None, f"Edits are not journalled: {why}", bad=True)
