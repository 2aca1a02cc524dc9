"""A twin's session arranged by its truth."""

from __future__ import annotations

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import SetRows
from s2p_tui.session.session import Session
from tests.models.twin import Truth


def arrange(session: Session, truth: Truth) -> None:
    skeleton = session.target.skeleton
    assert set(truth) == {leaf.path for leaf in skeleton}
    rows = [
        Row(gap=True, by="user")
        if (source := truth[leaf.path]) is None
        else Row(source, by="user", trusted=True)
        for leaf in skeleton
    ]
    session.edit(SetRows(tuple(enumerate(rows))))
