"""Symbols, colours and breakpoints. Each state has a symbol of its own as well as a colour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from s2p_tui.alignment.fit import Fit, Verdict
from s2p_tui.errors import printable


@dataclass(frozen=True)
class Symbols:
    """One set of symbols, each one cell wide except the ellipsis and the sign of trusted rows.

    Attributes:
        fits: A sign for each fit.
        trusted: A doubtful row that the user trusts.
        agreement: A row whose module agreed when both models were run, and one whose differed.
        cursor: The row the cursor is on.
        picked: The entry that is being moved.
        marked: A marked row.
        match: A row that `/` found.
        folded: A block that is shown as one line.
        nothing: In place of an entry where there is none.
        ellipsis: Where a name was cut.
        times: Between the sizes of a shape.
        dot: Between facts on one line.
        arrow: From an entry to its leaf.
        across: Horizontal line of the frame.
        corners: Top left, top middle, top right, tee left, tee right, bottom left, bottom right.
    """

    fits: Mapping[Fit, str]
    trusted: str
    agreement: Mapping[bool, str]
    cursor: str
    picked: str
    marked: str
    match: str
    folded: str
    nothing: str
    ellipsis: str
    times: str
    dot: str
    arrow: str
    across: str
    corners: str

    @property
    def is_ascii(self) -> bool:
        """True if nothing beyond ASCII may be shown."""
        return self.dot.isascii()

    def sign(self, verdict: Verdict) -> str:
        """Return the sign of a row; one that is trusted has its own."""
        return self.trusted if verdict.is_trusted else self.fits[verdict.fit]

    def plain(self, text: str) -> str:
        """Return this program's own words in these symbols; names beyond ASCII are spelled out."""
        if not self.is_ascii:
            return text
        own = {ord("×"): "x", ord("·"): "-", ord("…"): "..", ord("→"): ">"}
        return printable(text.translate(own), ascii_only=True)


UNICODE = Symbols(
    {Fit.EXACT: "✓", Fit.TRANSFORMED: "≈", Fit.DOUBTFUL: "?", Fit.MISMATCHED: "✗", Fit.GAP: "·"},
    trusted="✓*",
    agreement={True: "=", False: "≠"},
    cursor="▸",
    picked="↕",
    marked="●",
    match="›",
    folded="+",
    nothing="—",
    ellipsis="…",
    times="×",
    dot="·",
    arrow="→",
    across="─",
    corners="┌┬┐├┤└┘",
)
ASCII = Symbols(
    {Fit.EXACT: "=", Fit.TRANSFORMED: "~", Fit.DOUBTFUL: "?", Fit.MISMATCHED: "x", Fit.GAP: "."},
    trusted="=*",
    agreement={True: ":", False: "#"},
    cursor=">",
    picked="^",
    marked="*",
    match="/",
    folded="+",
    nothing="-",
    ellipsis="..",
    times="x",
    dot="-",
    arrow=">",
    across="-",
    corners="+++++++",
)


OWN_COLOURS = "ansi-dark"
"""The theme that leaves colours to the terminal."""


def suitable_theme() -> str | None:
    """The terminal's own colours where it has 16; None, for Textual's default, where it has more.

    Other themes' colours come to the nearest of the 16, in which red and green are both grey.
    """
    from rich.console import Console

    has_16 = Console(force_terminal=True).color_system == "standard"
    return OWN_COLOURS if has_16 else None


# Text stays readable (4.5:1) at this share of the background's colour in all of Textual's themes
# whose own text has 7:1.
_TOWARDS_BACKGROUND = 0.38


def quiet(foreground: str, background: str) -> str:
    """Return the colour of what matters less; the terminal's own where colours are its own."""
    from textual.color import Color

    if foreground.startswith("ansi"):
        return foreground
    return Color.parse(foreground).blend(Color.parse(background), _TOWARDS_BACKGROUND).hex


BY_COLUMNS = [(0, "-narrow"), (60, "-wide")]
BROAD = 180
"""Cells from which on the details stand beside the list: it keeps 110 of them."""
BY_LINES = [(0, "-short"), (16, "-tall")]
