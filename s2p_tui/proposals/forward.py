"""The changes that running both models proposes: rows that the forward decided."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.judge import landing
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.errors import some
from s2p_tui.proposals.proposal import (
    Confidence,
    Proposal,
    Situation,
    proposed,
    same_source,
)

_SHOWN = 3


def propose(settled: Sequence[Row], situation: Situation, notes: Sequence[str] = ()) -> Proposal:
    """Return the rows that the forward settled or changed, as a proposal.

    All others stay as they are: both models agree with the whole. A row that was changed and not
    settled is unsure.

    Args:
        settled: All rows as both models agreed with them.
        situation: The pair.
        notes: Remarks of the run.
    """
    state_dict, skeleton = situation.state_dict, situation.skeleton
    alignment = situation.alignment
    wanted: list[tuple[int, Row]] = []
    confidence: dict[int, Confidence] = {}
    decided: list[str] = []
    for index, (old, new) in enumerate(zip(alignment.rows, settled, strict=True)):
        leaf = skeleton[index]
        if _fills_alike(old, new, leaf, state_dict):
            is_news = new.by == "forward" != old.by
            wanted.append((index, structs.replace(new, source=old.source) if is_news else old))
        else:
            wanted.append((index, new))
            if old.by in ("user", "claude", "recipe") or old.trusted:
                decided.append(leaf.path)
        is_certain = new.by == "forward"
        confidence[index] = Confidence.CERTAIN if is_certain else Confidence.UNSURE
    said = list(notes)
    if decided:
        names = some(decided, most=_SHOWN)
        said.append(f"Decided before, but both models differ with it: {names}.")
    return proposed("forward", alignment, wanted, skeleton, confidence, said)


def _fills_alike(old: Row, new: Row, leaf: Leaf, state_dict: StateDict) -> bool:
    if same_source(old, new):
        return True
    if old.source is None or new.source is None:
        return False
    return landing(old.source, leaf, state_dict) == landing(new.source, leaf, state_dict)
