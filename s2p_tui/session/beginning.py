"""The start of a session: the matcher's evidence, the first alignment, copies among the entries."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from s2p_tui.alignment.alignment import Alignment, in_order
from s2p_tui.alignment.evidence import Evidence, as_suggested
from s2p_tui.alignment.left_over import UnusedEntries
from s2p_tui.alignment.mapping_file import SavedAlignment, replayed
from s2p_tui.alignment.skeleton import Skeleton
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.task import Task
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.copies import copies
from s2p_tui.formats.skeleton_file import Target

Arrangement = Literal["auto", "order"]
_MATCHED_AT_ONCE = 2000
"""Leaves that the matcher is done with before anybody notices."""


@dataclass(frozen=True, slots=True)
class Findings:
    """All that the matcher finds out about two ends.

    Attributes:
        evidence: What names and structure say.
        suggested: The alignment they speak for.
        checkpoint: The torch side, with entries left over by it known as used ones again.
    """

    evidence: Evidence
    suggested: Alignment
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class Start:
    """The parts of a new session.

    Attributes:
        checkpoint: The torch side, with entries left over known as used ones again.
        alignment: The first alignment.
        evidence: The matcher's; None where it was left for later.
        told: Differences between this pair and the one a followed mapping was made for.
    """

    checkpoint: Checkpoint
    alignment: Alignment
    evidence: Evidence | None
    told: tuple[str, ...] = ()


def begin(
    checkpoint: Checkpoint,
    target: Target,
    *,
    mapping: SavedAlignment | None = None,
    arrange: Arrangement = "auto",
    soon: bool = False,
    task: Task | None = None,
    has_numbers: bool = True,
) -> Start:
    """Return the parts of a session on two open ends; see `Session.open`.

    Raises:
        OtherFilesError: The mapping was made for other files.
    """
    state_dict, leaves = checkpoint.state_dict, target.skeleton
    evidence = None
    try:
        if not soon or len(leaves) <= _MATCHED_AT_ONCE:
            evidence = evidence_of(state_dict, leaves, task)
    except Exception:
        # Where it may be left for later it fails again beside the rows, which says so and goes on.
        if not soon:
            raise
    told: tuple[str, ...] = ()
    if mapping is not None:
        followed = replayed(mapping, state_dict, leaves)
        alignment, told = followed.alignment, followed.told
    elif arrange == "auto" and evidence is not None:
        alignment = as_suggested(evidence, state_dict, leaves)
    else:
        alignment = in_order(state_dict, leaves)
    if has_numbers and evidence is not None:
        checkpoint = _with_copies(checkpoint, alignment)
    return Start(checkpoint, alignment, evidence, told)


def find_out(checkpoint: Checkpoint, target: Target, task: Task | None = None) -> Findings:
    """Return all that the matcher finds out, and which entries left over are used ones again."""
    evidence = evidence_of(checkpoint.state_dict, target.skeleton, task)
    suggested = as_suggested(evidence, checkpoint.state_dict, target.skeleton)
    return Findings(evidence, suggested, _with_copies(checkpoint, suggested))


def evidence_of(state_dict: StateDict, skeleton: Skeleton, task: Task | None = None) -> Evidence:
    """Return the offline matcher's evidence. Reads no tensor data."""
    # Its import takes longer than most matches.
    from s2p_tui.proposals.matcher import forget_names, match

    try:
        return match(state_dict, skeleton, task)
    finally:
        forget_names()


def _with_copies(checkpoint: Checkpoint, alignment: Alignment) -> Checkpoint:
    """Return the checkpoint with what is left over, and is a used entry again, known as such."""
    state_dict = checkpoint.state_dict
    unused = [one.key for one in UnusedEntries(state_dict, alignment).blocking_entries()]
    if not unused:
        return checkpoint
    benched = set(alignment.bench)
    used = {entry.key for entry in state_dict if entry.key not in benched}
    found = copies(checkpoint, unused, used)
    return replace(checkpoint, state_dict=state_dict.with_copies(found)) if found else checkpoint
