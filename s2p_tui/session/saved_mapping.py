"""A mapping file that the session could start from, found where it would be saved."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from s2p_tui.errors import OtherFilesError, S2PError, printable

if TYPE_CHECKING:
    from s2p_tui.alignment.alignment import Alignment
    from s2p_tui.alignment.mapping_file import Replayed
    from s2p_tui.session.session import Session


class Offered(Struct, frozen=True):
    """A mapping file of the pair.

    Attributes:
        path: The file.
        followed: Its alignment over the pair.
        saved: When it was saved, in Unix seconds.
        is_taken: True if the session was opened with it.
    """

    path: Path
    followed: Replayed
    saved: float
    is_taken: bool = False

    @property
    def alignment(self) -> Alignment:
        """Its alignment."""
        return self.followed.alignment


def taken(session: Session, path: Path) -> Offered:
    """Return the mapping file that a session was opened with."""
    from s2p_tui.alignment.mapping_file import Replayed

    followed = Replayed(session.alignment, session.told)
    return Offered(path, followed, _saved(path), is_taken=True)


def offered(session: Session, path: Path) -> Offered | str | None:
    """Read the mapping file under a name, if it belongs to the session's pair.

    Returns:
        None if there is none, or it says what the session does; the reason if it cannot be used.
    """
    if not path.is_file():
        return None
    from s2p_tui.alignment.mapping_file import replayed
    from s2p_tui.session.opening import load_mapping

    name = printable(path.name)
    try:
        mapping = load_mapping(path)
        followed = replayed(mapping, session.checkpoint.state_dict, session.target.skeleton)
    except OtherFilesError:
        return f"{name} here is of another pair; saving backs it up"
    except S2PError:
        return f"{name} here is no usable mapping file; saving backs it up"
    if followed.alignment.says_as(session.alignment):
        return None
    return Offered(path, followed, _saved(path))


def missing(path: Path) -> str:
    """Describe a mapping file that does not exist yet, with a likely name if it was mistyped."""
    from rapidfuzz import process

    there = [file.name for file in path.parent.glob("*.json")]
    near = process.extractOne(path.name, there, score_cutoff=85)
    meant = f" Or is {printable(near[0])} meant?" if near else ""
    return f"{printable(path.name)} does not exist yet: saving will create it.{meant}"


def _saved(path: Path) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0
