"""The results of a search, kept up to date; hiding the rest, and marking them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s2p_tui.app.kinds import pattern_of
from s2p_tui.session.find import BLOCKING

if TYPE_CHECKING:
    from s2p_tui.app.cursor import Cursor
    from s2p_tui.session.session import Session


def search(session: Session, cursor: Cursor, query: str) -> None:
    """Search for something else; where others are hidden, show what is found now.

    Raises:
        UsageError: The query is not well formed; nothing is found then.
    """
    if query == cursor.query:
        return
    cursor.query, cursor.matches = query, ()
    is_filtered = cursor.filtering is not None
    cursor.show_all()
    cursor.matches = tuple(session.find(query)) if query else ()
    if is_filtered and cursor.matches:
        hide_others(session, cursor)


def search_again(session: Session, cursor: Cursor, changed: range) -> None:
    """Bring the matches up to date once rows have changed; the bench may have too.

    Rows that were shown alone stay in sight when they match no more: what was done is seen there.
    """
    rows = len(session.alignment.rows)
    kept = [index for index in cursor.matches if index < rows and index not in changed]
    found = session.find(cursor.query, changed)
    benched = session.find(cursor.query, range(rows, len(session)))
    cursor.matches = tuple(sorted((*kept, *found, *benched)))
    if cursor.filtering is not None:
        cursor.filtering.show(cursor.matches)


def hide_others(session: Session, cursor: Cursor) -> None:
    """Show only what was found."""
    cursor.hide_others(len(session.alignment.rows))


def filter_query(cursor: Cursor) -> str:
    """Return what a filter is about: what was searched for, or else what blocks."""
    return cursor.query or BLOCKING


def mark_found(session: Session, cursor: Cursor) -> None:
    """Mark what was found, or else the rows of the kind here; unmark it if all of it is marked.

    Raises:
        UsageError: See `search`.
    """
    if not cursor.query and cursor.index < len(session.target.skeleton):
        search(session, cursor, pattern_of(session.target.skeleton[cursor.index].path))
    found = set(cursor.matches)
    cursor.mark_only(cursor.marks - found if found <= cursor.marks else cursor.marks | found)
