"""A guided first run: what the demo says next, and what it shows at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
_FITS = "Demo: every row lines up now. u would take it back; c converts."
_COMPARING = "Demo: written and read back. Now both models run on the same images."
_DONE = "Demo: done. q quits; or undo with u and line them up by hand: m, Enter, s and t. ? helps."


@dataclass(frozen=True, slots=True)
class Tour:
    """A guided run.

    Attributes:
        compare: Runs both models, after a conversion, in any thread; what came of it, in words.
    """

    compare: Callable[[], str]


def next_step(
    session: Session, converted: Converted | None, bad: str, *, is_comparing: bool = False
) -> str:
    """What to try next.

    Args:
        session: The session.
        converted: The last conversion.
        bad: The sign of a row that does not fit.
        is_comparing: Whether both models are being run.
    """
    if is_comparing:
        return _COMPARING
    if converted is not None:
        return _DONE
    if not session.blocking and not session.blocking_entries:
        return _FITS
    return _MOVED if len(session.history) else _START.format(bad=bad)
