"""Which theme suits a terminal."""

from __future__ import annotations

OWN_COLOURS = "ansi-dark"
"""The theme that leaves colours to the terminal."""


def suitable_theme() -> str | None:
    """The terminal's own colours where it has 16; None, for Textual's default, where it has more.

    Other themes' colours come to the nearest of the 16, in which red and green are both grey.
    """
    from rich.console import Console

    has_16 = Console(force_terminal=True).color_system == "standard"
    return OWN_COLOURS if has_16 else None
