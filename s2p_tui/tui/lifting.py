"""Which block around the cursor has something to teach its siblings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from s2p_tui.core.garbage import no_garbage_collection
from s2p_tui.core.lift import Block, lift
from s2p_tui.tui.reviewing import Reviewing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from s2p_tui.session import Session


@dataclass(frozen=True, slots=True)
class Lifted:
    """What came of trying blocks one after the other.

    Attributes:
        reviewing: What the first that changes something would change; None if none does.
        said: About those before it.
        tried: How many were tried.
    """

    reviewing: Reviewing | None
    said: tuple[str, ...]
    tried: int


def lifted(session: Session, blocks: Sequence[Block]) -> Lifted:
    """Try blocks, the innermost first. Slow in a long list; changes nothing, for a thread."""
    said: list[str] = []
    for tried, block in enumerate(blocks, 1):
        with no_garbage_collection():
            proposal = lift(
                session.checkpoint.state_dict,
                session.target.skeleton,
                session.alignment,
                block,
                session.evidence,
            )
        if proposal.hunks:
            return Lifted(Reviewing(session.alignment, proposal), tuple(said), tried)
        if not proposal.notes:
            said.append(f"Nothing in {block.prefix} feeds a leaf yet.")
        else:
            said.append(f"No sibling of {block.prefix} changes: {'; '.join(proposal.notes)}.")
    return Lifted(None, tuple(said), len(blocks))
