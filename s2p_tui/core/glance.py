"""The fit of the plainest rows, without its reason: a key press may change thousands of them."""

from __future__ import annotations

from s2p_tui.core.composites import may_be_part
from s2p_tui.core.evidence import Evidence
from s2p_tui.core.layers import rule_for
from s2p_tui.core.numbered import other_number
from s2p_tui.core.pytree import Skeleton
from s2p_tui.core.rows import Rows
from s2p_tui.core.state_dict import StateDict
from s2p_tui.core.verdict import Fit, Verdict

_EXACT = Verdict(Fit.EXACT)
_DOUBTED = Verdict(Fit.DOUBTFUL, blocks=True)
_EMPTY = Verdict(Fit.MISMATCHED, blocks=True)
_TRUSTED = Verdict(Fit.DOUBTFUL)


def glance(
    place: int, rows: Rows, state_dict: StateDict, skeleton: Skeleton, evidence: Evidence | None
) -> Verdict | None:
    """What `weigh` says of a row, its reason aside, where that takes no more than a glance.

    None of all rows but those that take nothing yet, or a whole entry of their leaf's own shape and
    dtype.
    """
    held, leaf = rows.held[place], skeleton[place]
    gap, by, trusted, fixed = rows.facts(place)
    if held is None and not gap:
        return _EMPTY
    if not isinstance(held, str) or may_be_part(held) or rule_for(leaf) is not None:
        return None
    entry = state_dict[held]
    if entry.shape != leaf.shape or entry.dtype != leaf.dtype:
        return None
    if evidence is None or fixed:
        return _EXACT
    wanted, (certain, _, placed, numbered) = evidence.suggestions.held(place)
    if by == "claude" or not (wanted is None or isinstance(wanted, str)):
        return None
    settled = wanted is not None and (certain or placed)
    if wanted == held:
        is_doubtful = not (certain or by == "user")
    elif settled or by not in ("user", "moved"):
        is_doubtful = True
    else:
        is_doubtful = evidence.claimed(held, state_dict) not in (None, place)
        if by == "moved" and numbered and wanted is not None:
            is_doubtful = is_doubtful or other_number(held, wanted)
    if not is_doubtful:
        return _EXACT
    return _TRUSTED if trusted else _DOUBTED
