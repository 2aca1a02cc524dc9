"""Copying: to the terminal's clipboard, and to a file for terminals without one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_state_path

from s2p_tui.app.background import app_of
from s2p_tui.errors import printable

if TYPE_CHECKING:
    from textual.dom import DOMNode

    from s2p_tui.session.session import Session


def copy(node: DOMNode, text: str) -> str:
    """Send a text to the terminal's clipboard (OSC 52) and write it to a file.

    Terminals do not say whether they took it, so the file is always written.

    Returns:
        What was done, in words.
    """
    app_of(node).copy_to_clipboard(text)
    path = user_state_path("s2p-tui", appauthor=False) / "copied.txt"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8") as stream:
            stream.write(f"{text}\n")
    except OSError as error:
        return f"Copied by OSC 52 alone: {printable(str(path))}: {error.strerror}."
    return f"Copied by OSC 52, and to {printable(_from_home(path))}"


def _from_home(path: Path) -> str:
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def row_text(session: Session, index: int) -> str:
    """The keys of the entries at an index, then the leaf's key path, one on a line.

    Control characters are spelled out: what is pasted into a shell must not run.
    """
    if index >= len(session):
        return ""
    row = session.row(index)
    if row is None:
        return printable(session.benched(index) or "")
    names = (*row.keys, session.target.skeleton[index].path)
    return "\n".join(printable(name) for name in names)
