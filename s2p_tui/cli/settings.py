"""`s2p-tui keys`: what the configuration file can say about keys, and says."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from s2p_tui.cli.commands import command


@command(
    """
    # as they are now
    s2p-tui keys

    # as they were shipped
    s2p-tui keys --shipped
    """
)
def keys(
    *,
    shipped: Annotated[
        bool, Parameter(negative="", help="Print them as they are without a configuration file.")
    ] = False,
) -> int:
    """Print the app's actions and their keys, as a configuration file.

    Put the lines that should differ into that file, under [keys]; its place is told on standard
    error.
    """
    from s2p_tui.config import as_text, load_settings, settings_file
    from s2p_tui.tui.bound import Bound

    path = settings_file()
    bound = Bound() if shipped else load_settings(path).bound
    there = "" if path.exists() else ", which is not there yet"
    print(f"Read at each start: {path}{there}", file=sys.stderr)
    for line in as_text(bound):
        print(line)
    return 0
