"""`s2p-tui keys`: what the configuration file can say about keys, and says."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from s2p_tui.cli.options import app


@app.command
def keys(
    *,
    shipped: Annotated[
        bool, Parameter(negative="", help="As they are without a configuration file.")
    ] = False,
) -> int:
    """Print every action of the app and its keys, as a configuration file.

    Put the lines to change into that file, under [keys]; its place is told on standard error.
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
