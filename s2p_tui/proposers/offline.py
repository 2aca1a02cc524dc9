"""What the offline matcher would change about an alignment."""

from __future__ import annotations

from s2p_tui.core.alignment import Alignment
from s2p_tui.core.evidence import Evidence, as_suggested
from s2p_tui.core.proposal import Confidence, Proposal, proposed
from s2p_tui.core.pytree import Skeleton
from s2p_tui.core.state_dict import StateDict
from s2p_tui.core.suggestions import Suggestion


def propose(
    evidence: Evidence, state_dict: StateDict, skeleton: Skeleton, alignment: Alignment
) -> Proposal:
    """The evidence's rows that differ from the alignment's. Reads no tensor data."""
    wanted = as_suggested(evidence, state_dict, skeleton)
    confidence = {
        place: confidence_of(suggestion) for place, suggestion in enumerate(evidence.suggestions)
    }
    return proposed("matcher", alignment, enumerate(wanted.rows), skeleton, confidence)


def confidence_of(suggestion: Suggestion) -> Confidence:
    """Certain where the matcher vouches for the row, likely where only its layout is open."""
    if suggestion.certain:
        return Confidence.CERTAIN
    return Confidence.LIKELY if suggestion.placed else Confidence.UNSURE
