"""Proposals: changed rows with reasons and confidence, to be accepted whole, in part or not at all.

The offline matcher, Claude, recipes and the forward all end in one, and only an accepted part
becomes an edit.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Protocol

from msgspec import Struct

from s2p_tui.alignment.alignment import Alignment, Author, Row
from s2p_tui.alignment.edits import AcceptUnused, Edit, SetRows, Several
from s2p_tui.alignment.evidence import Evidence
from s2p_tui.alignment.sharing import takes_part
from s2p_tui.alignment.skeleton import Skeleton
from s2p_tui.alignment.state_dict import StateDict

_UNDOES = "names and structure speak against it: ticked, your decision is undone"
_BLOCK = re.compile(r".*?\[(?:\d+|'\d+')\]")


class Confidence(StrEnum):
    """A proposer's confidence in a row, best first."""

    CERTAIN = "certain"
    LIKELY = "likely"
    UNSURE = "unsure"

    @property
    def rank(self) -> int:
        """0 for the best."""
        return list(Confidence).index(self)


class Change(Struct, frozen=True):
    """One row as it is and as it is proposed.

    Attributes:
        index: The row's index.
        old: The present row.
        new: The proposed row.
        confidence: The proposer's confidence.
        objection: Another proposer's choice, in words; empty where they agree or it has
            no opinion.
    """

    index: int
    old: Row
    new: Row
    confidence: Confidence
    objection: str = ""


class Hunk(Struct, frozen=True):
    """Changes that belong together, by index ascending.

    Attributes:
        title: Key path of their block, or what else they have in common.
        reason: Why, in words.
        changes: At least one.
        ticked: Whether it is accepted until the user rejects it. A hunk that would undo decisions
            of the user's is not.
    """

    title: str
    reason: str
    changes: tuple[Change, ...]
    ticked: bool = True

    @property
    def confidence(self) -> Confidence:
        """The worst of its rows'."""
        return max((change.confidence for change in self.changes), key=lambda worst: worst.rank)


Placed = tuple[int, Row]
"""A row and its index."""


class Proposal(Struct, frozen=True):
    """The changes a proposer suggests.

    Attributes:
        by: The proposer.
        hunks: In the order they are shown.
        notes: Remarks for the user: parts left out of an answer, and the reasons.
        agreed: Rows the proposer would have as they are, of those that share entries with changes,
            be it by way of other rows: both halves of a tied weight.
        beside: Rows it has no opinion on, of those.
        unused: Entries to accept as unused with any of it.
    """

    by: Author
    hunks: tuple[Hunk, ...]
    notes: tuple[str, ...] = ()
    agreed: tuple[Placed, ...] = ()
    beside: tuple[Placed, ...] = ()
    unused: tuple[str, ...] = ()

    @property
    def changes(self) -> Iterator[Change]:
        """All changes, hunk by hunk."""
        return (change for hunk in self.hunks for change in hunk.changes)

    def accepted(self, indices: Collection[int]) -> Edit:
        """The one edit that accepting the changes at these indices amounts to.

        Entries they take from other rows leave those empty, unless the proposer would have it so
        that both take them, or both take no more than parts.
        """
        new = [(change.index, change.new) for change in self.changes if change.index in indices]
        rejected = (
            (change.index, change.old) for change in self.changes if change.index not in indices
        )
        taken = {key for _, row in new for key in row.keys}
        whole = {key for _, row in new for key in row.keys if not takes_part_of(row, key)}
        staying = [
            *self.agreed,
            *(
                (index, row)
                for index, row in (*rejected, *self.beside)
                if whole.isdisjoint(row.keys)
                and all(takes_part_of(row, key) for key in taken.intersection(row.keys))
            ),
        ]
        kept = _sharing(staying, taken)
        rows = SetRows(tuple(sorted((*new, *kept), key=lambda placed: placed[0])))
        return Several((rows, AcceptUnused(self.unused))) if self.unused else rows


def same_source(old: Row, new: Row) -> bool:
    """Return True if two rows fill the leaf alike, whoever decided it and why."""
    return old.source == new.source and old.gap == new.gap


def takes_part_of(row: Row, key: str) -> bool:
    """Return True if a row takes only parts of entries."""
    return row.source is None or takes_part(row.source, key)


def proposed(
    by: Author,
    alignment: Alignment,
    wanted: Iterable[Placed],
    skeleton: Skeleton,
    confidence: Mapping[int, Confidence],
    notes: Iterable[str] = (),
    undone: Iterable[Placed] = (),
    unused: tuple[str, ...] = (),
) -> Proposal:
    """Return the wanted rows that differ from an alignment, in one hunk per block of the tree.

    Args:
        by: The proposer.
        alignment: The rows as they are.
        wanted: Places and the rows that should be there.
        skeleton: The leaves.
        confidence: By index; rows not in it are unsure.
        notes: Remarks beside the hunks.
        undone: Places and rows that would undo decisions of the user's; they make a hunk of their
            own, the last one, which is not ticked.
        unused: Entries to accept as unused.
    """
    wanted, undone = sorted(wanted, key=_index), sorted(undone, key=_index)
    changes = list(_changes(alignment, wanted, confidence))
    groups = groupby(changes, key=lambda change: block_of(skeleton[change.index].path))
    hunks = [_hunk(block, tuple(group)) for block, group in groups]
    if undoing := tuple(_changes(alignment, undone, confidence)):
        hunks.append(Hunk("what you decided", _UNDOES, undoing, ticked=False))
    known = {index for index, _ in (*wanted, *undone)}
    agreed, beside = rows_sharing(alignment, (*changes, *undoing), known)
    return Proposal(by, tuple(hunks), tuple(notes), agreed, beside, unused)


def _index(placed: Placed) -> int:
    return placed[0]


def _changes(
    alignment: Alignment, wanted: Iterable[Placed], confidence: Mapping[int, Confidence]
) -> Iterator[Change]:
    for index, row in wanted:
        old = alignment.rows[index]
        is_settled = row.by in ("recipe", "forward") and row.by != old.by
        if not same_source(old, row) or (row.trusted and not old.trusted) or is_settled:
            yield Change(index, old, row, confidence.get(index, Confidence.UNSURE))


def rows_sharing(
    alignment: Alignment, changes: Iterable[Change], known: Collection[int]
) -> tuple[tuple[Placed, ...], tuple[Placed, ...]]:
    """A proposal's `agreed` and `beside`.

    Args:
        alignment: The rows as they are.
        changes: The proposal's.
        known: Places of the rows the proposer has an opinion on.
    """
    changes = list(changes)
    changed = {change.index for change in changes}
    shared = _sharing(
        (placed for placed in enumerate(alignment.rows) if placed[0] not in changed),
        {key for change in changes for row in (change.old, change.new) for key in row.keys},
    )
    agreed = tuple(placed for placed in shared if placed[0] in known)
    return agreed, tuple(placed for placed in shared if placed[0] not in known)


def _sharing(rows: Iterable[Placed], taken: Collection[str]) -> list[Placed]:
    """The rows that take some of these entries, or entries that such rows take, and so on."""
    reached, found, left = set(taken), list[Placed](), list(rows)
    while more := [placed for placed in left if not reached.isdisjoint(placed[1].keys)]:
        found += more
        left = [placed for placed in left if reached.isdisjoint(placed[1].keys)]
        reached.update(key for _, row in more for key in row.keys)
    return found


def _hunk(block: str, changes: tuple[Change, ...]) -> Hunk:
    reasons = Counter(change.new.why for change in changes if change.new.why)
    return Hunk(block, reasons.most_common(1)[0][0] if reasons else "", changes)


def block_of(path: str) -> str:
    """The innermost numbered block a leaf is in, else its module: `.layers[3]` of
    `.layers[3].attn.weight`, `.head` of `.head.weight`. The `[0]` of `(model, state)`
    is not a block.
    """
    numbered = "".join(_BLOCK.findall(path))
    if "[" in numbered[1:] and numbered != path:
        return numbered
    return path.rpartition(".")[0] or path.rpartition("[")[0] or path


@dataclass(frozen=True)
class Situation:
    """Both sides as names, shapes, dtypes and layers, and what lies between them.

    Attributes:
        state_dict: The entries.
        skeleton: The leaves.
        alignment: The rows as they are.
        evidence: Evidence from names and structure.
    """

    state_dict: StateDict
    skeleton: Skeleton
    alignment: Alignment
    evidence: Evidence


class Proposer(Protocol):
    """Finds what could be changed; changes nothing itself."""

    def propose(self, situation: Situation) -> Proposal:
        """Return the proposed changes. Reads no tensor data.

        Raises:
            ProposerError: It cannot say.
        """
        ...
