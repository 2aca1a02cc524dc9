"""What every proposer is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from s2p_tui.core.alignment import Alignment
from s2p_tui.core.evidence import Evidence
from s2p_tui.core.proposal import Proposal
from s2p_tui.core.pytree import Skeleton
from s2p_tui.core.state_dict import StateDict


@dataclass(frozen=True)
class Situation:
    """Both sides as names, shapes, dtypes and layers, and what lies between them.

    Attributes:
        state_dict: The entries.
        skeleton: The leaves.
        alignment: The rows as they are.
        evidence: What names and structure say.
    """

    state_dict: StateDict
    skeleton: Skeleton
    alignment: Alignment
    evidence: Evidence


class Proposer(Protocol):
    """Finds what could be changed; changes nothing itself."""

    def propose(self, situation: Situation) -> Proposal:
        """What it would change. Reads no tensor data.

        Raises:
            ProposerError: It cannot say.
        """
        ...
