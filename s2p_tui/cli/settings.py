"""`s2p-tui keys`: what the configuration file can say about keys, and says."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from cyclopts import Parameter

from s2p_tui.cli.options import app, command


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
    # bash, from the next shell on
    mkdir -p ~/.local/share/bash-completion/completions
    s2p-tui completion bash > ~/.local/share/bash-completion/completions/s2p-tui

    # bash, in this shell alone
    eval "$(s2p-tui completion bash)"

    # zsh, if ~/.zfunc is in $fpath
    s2p-tui completion zsh > ~/.zfunc/_s2p-tui

    # fish
    s2p-tui completion fish > ~/.config/fish/completions/s2p-tui.fish
    """
)
def completion(
    shell: Annotated[Shell, Parameter(help="Whose script to print.")],
    /,
) -> int:
    """Print a script that has a shell complete commands, options and files.

    Nothing is installed: put the script where the shell looks for such scripts, as below. It has to
    be printed again for a newer version.
    """
    print(script(shell))
    return 0


def script(shell: Shell) -> str:
    """The script of a shell, complete with all commands and options."""
    made = app.generate_completion(shell=shell)
    return _with_whole_names(made) if shell == "bash" else made


def _with_whole_names(made: str) -> str:
    """Have bash keep file names with spaces whole, and put a slash behind folders."""
    words, asked = "  local cur prev\n", "complete -F _s2p_tui s2p-tui"
    assert words in made
    assert asked in made
    made = made.replace(words, f"{words}  local IFS=$'\\n'\n", 1)
    return made.replace(asked, "complete -o filenames -F _s2p_tui s2p-tui")
