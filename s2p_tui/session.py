"""The one mutable object: an open pair, and the edits that change its alignment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from s2p_tui.core.alignment import Alignment, in_order
from s2p_tui.core.edits import Edit, SetRows, Trust
from s2p_tui.core.errors import UsageError
from s2p_tui.core.evidence import Evidence, as_suggested, weigh
from s2p_tui.core.find import parse_query
from s2p_tui.core.garbage import keep_for_good, no_garbage_collection
from s2p_tui.core.glance import glance
from s2p_tui.core.history import History
from s2p_tui.core.journal import Step
from s2p_tui.core.mapping import Mapping, replay
from s2p_tui.core.proposal import Proposal
from s2p_tui.core.pytree import Skeleton
from s2p_tui.core.rows import Row
from s2p_tui.core.state_dict import StateDict
from s2p_tui.core.verdict import Fit, Verdict
from s2p_tui.core.verdicts import Verdicts
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.registry import open_checkpoint
from s2p_tui.formats.target import Target
from s2p_tui.opening import load_mapping, open_any_target
from s2p_tui.pair import Pair
from s2p_tui.proposers import offline
from s2p_tui.proposers.base import Situation

Listener = Callable[[range], None]
Recorder = Callable[[Step, Alignment, range], None]
"""Told of every step, of the alignment it made and of the rows that may have changed."""
Arrangement = Literal["auto", "order"]
_JUDGED_AT_ONCE = 500
"""Rows that are judged when a session is made; others when somebody asks, or by and by."""
_MATCHED_AT_ONCE = 2000
"""Leaves that the matcher is done with before anybody notices."""


class Session(Pair):
    """An open pair of files and the edits made so far.

    Positions count leaves first, then benched entries: `0 … len(rows) + len(bench) - 1`.

    Attributes:
        history: The edits made and undone.
        verdicts: What is known of the rows' fits; a row is judged when somebody asks.
        awaits_evidence: Whether the matcher has yet to say what it makes of the two ends.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        target: Target,
        alignment: Alignment | None = None,
        *,
        evidence: Evidence | None = None,
    ) -> None:
        start = alignment or in_order(checkpoint.state_dict, target.skeleton)
        super().__init__(checkpoint, target, start, evidence)
        self.history = History()
        self.verdicts = Verdicts(self._judge, len(target.skeleton), self._glance)
        self.verdicts.settle(_JUDGED_AT_ONCE)
        self.awaits_evidence = False
        self._is_guess = False
        self._listeners: list[Listener] = []
        self._recorder: Recorder | None = None

    @classmethod
    def open(
        cls,
        model: str | Path,
        skeleton: str | Path,
        *,
        key: str | None = None,
        like: str | None = None,
        mapping: str | Path | None = None,
        arrange: Arrangement = "auto",
        soon: bool = False,
    ) -> Session:
        """Open both ends. Reads no tensor data.

        Args:
            model: The checkpoint: file, index of shards, or folder that holds one.
            skeleton: A skeleton file, a plain `.eqx`, or `pkg.module:factory` (runs its code).
            key: Dotted place of the state dict in a nested checkpoint.
            like: `pkg.module:factory` that names the leaves of a plain `.eqx`.
            mapping: A mapping file to start from.
            arrange: What to start from otherwise: the offline matcher's proposal, or strictly the
                order of both sides.
            soon: With many leaves, leave the matcher for later: see `awaits_evidence`.

        Raises:
            S2PError: Anything wrong with one of them, in one line.
        """
        with no_garbage_collection():
            checkpoint = open_checkpoint(model, key)
            target = open_any_target(skeleton, like)
            wanted = load_mapping(mapping) if mapping is not None else None
            session = cls.between(checkpoint, target, mapping=wanted, arrange=arrange, soon=soon)
            if session.awaits_evidence:
                keep_for_good()
        if mapping is not None:
            session._own_mappings.add(Path(mapping))
        return session

    @classmethod
    def between(
        cls,
        checkpoint: Checkpoint,
        target: Target,
        *,
        mapping: Mapping | None = None,
        arrange: Arrangement = "auto",
        soon: bool = False,
    ) -> Session:
        """A session on two open ends; see `open`. Reads no tensor data.

        Raises:
            OtherFilesError: The mapping was made for other files.
        """
        state_dict, leaves = checkpoint.state_dict, target.skeleton
        later = soon and len(leaves) > _MATCHED_AT_ONCE
        evidence = None if later else _match(state_dict, leaves)
        if mapping is not None:
            alignment = replay(mapping, state_dict, leaves)
        elif arrange == "auto" and evidence is not None:
            alignment = as_suggested(evidence, state_dict, leaves)
        else:
            alignment = in_order(state_dict, leaves)
        session = cls(checkpoint, target, alignment, evidence=evidence)
        session.awaits_evidence = later
        session._is_guess = later and mapping is None and arrange == "auto"
        return session

    def gather_evidence(self) -> tuple[Evidence, Alignment]:
        """What the offline matcher makes of both ends. Slow; changes nothing, for a thread."""
        with no_garbage_collection():
            evidence = _match(self.checkpoint.state_dict, self.target.skeleton)
            return evidence, as_suggested(
                evidence, self.checkpoint.state_dict, self.target.skeleton
            )

    def take_evidence(self, evidence: Evidence, suggested: Alignment | None) -> bool:
        """Weigh rows by what `gather_evidence` found from now on.

        Args:
            evidence: What it found.
            suggested: The alignment it found; None to keep the present one in any case.

        Returns:
            Whether its alignment was taken over: an order nobody has touched yet is but a guess.
        """
        self.evidence, self.awaits_evidence = evidence, False
        is_taken = self._is_guess and not self._is_touched and suggested is not None
        if is_taken and suggested is not None:
            self.alignment = suggested
        everything = range(len(self.verdicts))
        self.verdicts.forget(everything)
        for listener in self._listeners:
            listener(everything)
        return is_taken

    @property
    def _is_touched(self) -> bool:
        return bool(len(self.history) or self.history.undone)

    def match_proposal(self) -> Proposal:
        """What the offline matcher would change. Reads no tensor data and changes nothing."""
        state_dict, skeleton = self.checkpoint.state_dict, self.target.skeleton
        if self.evidence is None:
            self.evidence = _match(state_dict, skeleton)
        return offline.propose(self.evidence, state_dict, skeleton, self.alignment)

    @property
    def situation(self) -> Situation:
        """What a proposer is given."""
        state_dict, skeleton = self.checkpoint.state_dict, self.target.skeleton
        evidence = self.evidence or _match(state_dict, skeleton)
        return Situation(state_dict, skeleton, self.alignment, evidence)

    def subscribe(self, listener: Listener) -> None:
        """Have the listener called with the rows that may have changed, after each edit."""
        self._listeners.append(listener)

    def record(self, recorder: Recorder) -> None:
        """Have the recorder told of every step that changes something, before listeners are."""
        self._recorder = recorder

    def go_on(self, alignment: Alignment, history: History) -> None:
        """Take over where an earlier session on the same pair was left, undo and redo included."""
        self.alignment, self.history = alignment, history
        self._is_guess = False
        self.verdicts.forget(range(len(alignment.rows)))

    def begin_with(self, alignment: Alignment, mapping: Path) -> None:
        """Start from what a mapping file says, which saving may replace then."""
        self.go_on(alignment, History())
        self._own_mappings.add(mapping)

    def begin_from(self, mapping: Path) -> None:
        """Start from a mapping file, which saving may replace then.

        Raises:
            InputError: It cannot be read, or was made for other files.
        """
        state_dict, skeleton = self.checkpoint.state_dict, self.target.skeleton
        self.begin_with(replay(load_mapping(mapping), state_dict, skeleton), mapping)

    def __len__(self) -> int:
        return len(self.alignment.rows) + len(self.alignment.bench)

    def row(self, position: int) -> Row | None:
        """The row at a position, None for a benched entry."""
        rows = self.alignment.rows
        return rows[position] if position < len(rows) else None

    def benched(self, position: int) -> str | None:
        """The benched key at a position, None for a row."""
        number = position - len(self.alignment.rows)
        return self.alignment.bench[number] if number >= 0 else None

    def verdict(self, position: int) -> Verdict | None:
        """The fit of the row at a position, None for a benched entry."""
        return self.verdicts.at(position) if position < len(self.verdicts) else None

    @property
    def counts(self) -> Counter[Fit]:
        """Rows per fit."""
        self.verdicts.settle()
        return self.verdicts.counts

    @property
    def blocking(self) -> int:
        """Rows that stand in the way of a conversion."""
        self.verdicts.settle()
        return self.verdicts.blocking

    def edit(self, edit: Edit) -> range:
        """Make an edit; returns the rows that may have changed, empty if nothing did."""
        return self._step(edit, *self.history.make(self.alignment, edit))

    def undo(self) -> range:
        """Take back the last edit."""
        return self._step("undo", *self.history.undo(self.alignment))

    def redo(self) -> range:
        """Make the last undone edit again."""
        return self._step("redo", *self.history.redo(self.alignment))

    def start_from(self, mapping: Mapping) -> range:
        """Take over a mapping's alignment as one edit; returns the rows that may have changed.

        Raises:
            OtherFilesError: It was made for other files; the differences are named.
        """
        wanted = replay(mapping, self.checkpoint.state_dict, self.target.skeleton)
        return self.edit(SetRows(tuple(enumerate(wanted.rows))))

    def trust(self, paths: Sequence[str] | None) -> None:
        """Take doubtful rows for right, as one edit.

        Args:
            paths: The rows' leaf key paths; None for all that are doubtful.

        Raises:
            UsageError: A path is no leaf's, or its row is not doubtful.
        """
        doubtful = {
            self.target.skeleton[position].path: position
            for position in range(len(self.verdicts))
            if self.verdicts.fit(position) is Fit.DOUBTFUL
        }
        wrong = [path for path in paths or () if path not in doubtful]
        if wrong:
            raise UsageError(
                f"These rows are not doubtful: {', '.join(wrong)}.",
                f"Trust doubtful rows only: {', '.join(doubtful) or 'there are none'}.",
            )
        positions = doubtful.values() if paths is None else [doubtful[path] for path in paths]
        self.edit(Trust(tuple(positions)))

    def find(self, query: str, within: range | None = None) -> list[int]:
        """Positions that match every word of a query: names, shapes (`10x10`), statuses.

        Args:
            query: The words.
            within: Look at these positions alone.
        """
        matches = parse_query(query, self.checkpoint.state_dict)
        found: list[int] = []
        for position in range(len(self)) if within is None else within:
            row = self.row(position)
            leaf = self.target.skeleton[position] if row is not None else None
            fit = self.verdicts.fit(position) if row is not None else None
            if matches(leaf, row, self.benched(position) or "", fit):
                found.append(position)
        return found

    def next_blocking(self, position: int, step: Literal[1, -1]) -> int | None:
        """The nearest row after (or before) a position that stands in the way, going round."""
        return self.verdicts.next_blocking(position, step)

    def problems(self) -> Iterator[tuple[int, str]]:
        """Rows that stand in the way of a conversion, with the reason."""
        rest = range(len(self.verdicts))
        while (found := self.verdicts.blocking_in(rest)) is not None:
            rest = range(found + 1, len(self.verdicts))
            yield found, self.verdicts.at(found).why

    def _judge(self, position: int) -> Verdict:
        row = self.alignment.rows[position]
        state_dict, skeleton = self.checkpoint.state_dict, self.target.skeleton
        return weigh(position, row, state_dict, skeleton, self.evidence)

    def _glance(self, position: int) -> Verdict | None:
        state_dict, skeleton = self.checkpoint.state_dict, self.target.skeleton
        return glance(position, self.alignment.rows, state_dict, skeleton, self.evidence)

    def _step(self, step: Step, alignment: Alignment, changed: range) -> range:
        if alignment is self.alignment:
            return changed
        self.alignment = alignment
        if self._recorder is not None:
            self._recorder(step, alignment, changed)
        self.verdicts.changed(changed)
        if changed:
            for listener in self._listeners:
                listener(changed)
        return changed


def _match(state_dict: StateDict, skeleton: Skeleton) -> Evidence:
    # Its import takes longer than most matches.
    from s2p_tui.proposers.matcher import forget_names, match

    try:
        return match(state_dict, skeleton)
    finally:
        forget_names()
