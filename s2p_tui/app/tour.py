"""The tips of the demo's guided run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from s2p_tui.conversion.output import Converted
    from s2p_tui.session.session import Session

_START = (
    "Demo: the checkpoint lists its layers last to first, so rows marked {bad} do not fit. "
    "J and K move an entry; a has the matcher propose."
)
_MOVED = (
    "Demo: n goes to the next row that does not line up, and why is in the details. "
    "a has the matcher propose the rest: look through it, Enter takes it."
)
_FITS = "Demo: every row lines up now. u would take it back; V runs both models; c converts."
_COMPARING = "Demo: written and read back. Now both models run on the same images."
_DONE = "Demo: done. q quits; or undo with u and line them up by hand: m, Enter, s and t. ? helps."


class Tour(Struct, frozen=True):
    """A guided run.

    Attributes:
        compare: Runs both models, after a conversion, in any thread; what came of it, in words.
    """

    compare: Callable[[], str]


def next_step(
    session: Session, converted: Converted | None, bad: str, *, is_comparing: bool = False
) -> str:
    """Return the next tip of the guided run; `bad` is the symbol of a mismatched row."""
    if is_comparing:
        return _COMPARING
    if converted is not None:
        return _DONE
    if session.is_complete:
        return _FITS
    return _MOVED if len(session.history) else _START.format(bad=bad)
