"""Folders that exist only for a while, however the work in them ends."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Generator
from pathlib import Path

from s2p_tui.streaming.atomic import output_error


@contextlib.contextmanager
def temporary_folder(parent: Path, prefix: str) -> Generator[Path]:
    """A new folder that only the user can look into; it is gone when the block ends.

    Args:
        parent: Where to make it.
        prefix: What its name starts with.

    Raises:
        OutputError: It cannot be made.
    """
    folder = parent / f"{prefix}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        # A signal's exception may interrupt the first removal; it is raised once only.
        try:
            try:
                folder.mkdir(mode=0o700)
            except OSError as error:
                raise output_error(error, folder) from None
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
