"""`s2p-tui keys` and `s2p-tui completion`."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from cyclopts import Parameter

from s2p_tui.cli.options import app, command


@command(
    """
    # the current ones
    s2p-tui keys

    # the defaults
    s2p-tui keys --shipped
    """
)
def keys(
    *,
    shipped: Annotated[
        bool, Parameter(negative="", help="Print the defaults, without the configuration file.")
    ] = False,
) -> int:
    """Print the app's actions and their keys, as a configuration file.

    Put the lines to change into that file, under [keys]; its path is printed on standard error.
    """
    from s2p_tui.app.config import as_text, load_settings, settings_file
    from s2p_tui.app.keys import Keymap

    path = settings_file()
    keymap = Keymap() if shipped else load_settings(path).keymap
    there = "" if path.exists() else ", which is not there yet"
    print(f"Read at each start: {path}{there}", file=sys.stderr)
    for line in as_text(keymap):
        print(line)
    return 0


Shell = Literal["bash", "zsh", "fish"]


@command(
    """
    # bash, for new shells
    mkdir -p ~/.local/share/bash-completion/completions
    s2p-tui completion bash > ~/.local/share/bash-completion/completions/s2p-tui

    # bash, for this shell only
    eval "$(s2p-tui completion bash)"

    # zsh, if ~/.zfunc is in $fpath
    s2p-tui completion zsh > ~/.zfunc/_s2p-tui

    # fish
    s2p-tui completion fish > ~/.config/fish/completions/s2p-tui.fish
    """
)
def completion(
    shell: Annotated[Shell, Parameter(help="Shell to print the script for.")],
    /,
) -> int:
    """Print a script that lets a shell complete commands, options and files.

    Nothing is installed: put the script where the shell looks for such scripts, as below. Print it
    again after an upgrade.
    """
    print(script(shell))
    return 0


def script(shell: Shell) -> str:
    """Return a shell's completion script for all commands and options."""
    made = app.generate_completion(shell=shell)
    return _with_whole_names(made) if shell == "bash" else made


def _with_whole_names(made: str) -> str:
    """Make bash keep file names with spaces whole and put a slash after folders."""
    words, asked = "  local cur prev\n", "complete -F _s2p_tui s2p-tui"
    assert words in made
    assert asked in made
    made = made.replace(words, f"{words}  local IFS=$'\\n'\n", 1)
    return made.replace(asked, "complete -o filenames -F _s2p_tui s2p-tui")
