"""The candidates that Enter lists: entries for a leaf, or leaves for a benched entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from s2p_tui.alignment.alignment import Alignment, Row
from s2p_tui.alignment.candidates import Candidate, Pool, Tier
from s2p_tui.alignment.choices import choices
from s2p_tui.alignment.edits import SetRows, apply
from s2p_tui.alignment.fit import Fit, Verdict
from s2p_tui.alignment.sharing import sharing
from s2p_tui.alignment.transform import Expr, Take, describe, keys_of
from s2p_tui.app.commands.arrange import ImpossibleError, Move
from s2p_tui.app.kinds import pattern_of, sources_alike
from s2p_tui.app.text import many
from s2p_tui.app.wording import together
from s2p_tui.errors import printable

if TYPE_CHECKING:
    from s2p_tui.session.session import Session


@dataclass(frozen=True, slots=True)
class SourceOption:
    """One line of the list.

    Attributes:
        index: The row it would fill.
        source: What the row would take.
        verdict: How good the row would be.
        tier: How well sizes go together.
    """

    index: int
    source: Expr
    verdict: Verdict
    tier: Tier


class Pools:
    """The pools of both sides of one session, made when they are first needed."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._entries: Pool | None = None
        self._leaves: Pool | None = None

    @property
    def entries(self) -> Pool:
        if self._entries is None:
            state_dict = self._session.checkpoint.state_dict
            keys = (entry.key for entry in state_dict)
            self._entries = Pool(keys, (entry.shape for entry in state_dict), whole=True)
        return self._entries

    @property
    def leaves(self) -> Pool:
        if self._leaves is None:
            skeleton = self._session.target.skeleton
            paths = (leaf.path for leaf in skeleton)
            self._leaves = Pool(paths, (leaf.shape for leaf in skeleton), whole=False)
        return self._leaves


@dataclass
class SourceOffer:
    """The candidates for a leaf or for a benched entry, filtered by what is typed.

    Attributes:
        session: The session.
        pool: What is listed.
        index: The leaf that is to be filled, or the benched entry that is to fill one.
        key: The benched entry; None if a leaf is to be filled.
        listed: What is listed now.
    """

    session: Session
    pool: Pool
    index: int
    key: str | None
    listed: list[Candidate] = field(default_factory=list[Candidate])
    _options: dict[int, SourceOption] = field(default_factory=dict[int, SourceOption])
    _holders: dict[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        self._holders = _holders(self.session.alignment)
        self.search("")

    def search(self, query: str) -> None:
        """List what a query is for, best first."""
        session = self.session
        if self.key is not None:
            entries = session.checkpoint.state_dict
            claimed = session.evidence.claimed(self.key, entries) if session.evidence else None
            first = [] if claimed is None else [claimed]
            name, shape = self.key, entries.shape(self.key)
        else:
            leaf = session.target.skeleton[self.index]
            name, shape, first = leaf.path, leaf.shape, self._suggested()
        found = self.pool.ranked(name, shape, query, first)
        rows = session.alignment.rows
        self.listed = [
            candidate for candidate in found if self.key is None or not rows[candidate.index].fixed
        ]

    def option(self, number: int) -> SourceOption:
        """The listed candidate of that number, judged."""
        candidate = self.listed[number]
        if candidate.index not in self._options:
            self._options[candidate.index] = self._judged(candidate)
        return self._options[candidate.index]

    def holder(self, source: Expr) -> int | None:
        """The row that takes (any of) a source's entries now."""
        held = (self._holders.get(key) for key in keys_of(source))
        return next((index for index in held if index is not None), None)

    def _suggested(self) -> list[int]:
        source = self._suggestion()
        if source is None:
            return []
        state_dict = self.session.checkpoint.state_dict
        return [state_dict.index(key) for key in keys_of(source)[:1]]

    def _suggestion(self) -> Expr | None:
        evidence = self.session.evidence
        return evidence.suggestions[self.index].source if evidence is not None else None

    def _judged(self, candidate: Candidate) -> SourceOption:
        session, state_dict = self.session, self.session.checkpoint.state_dict
        if self.key is None:
            index, key = self.index, state_dict.entries[candidate.index].key
        else:
            index, key = candidate.index, self.key
        source, evidence = as_fits_best(session, index, key), session.evidence
        if candidate.tier is Tier.SUGGESTED and evidence is not None:
            source = evidence.suggestions[index].source or source
        row = Row(source, by="user")
        tied = _tied(session, index, source)
        verdict = session.verdict_after(index, sharing(session.alignment, [(index, row)], tied))
        return SourceOption(index, source, verdict, candidate.tier)


def as_fits_best(session: Session, index: int, key: str) -> Expr:
    """An entry as it fits a leaf best: the entry itself if nothing makes it fit."""
    leaf, state_dict = session.target.skeleton[index], session.checkpoint.state_dict
    if state_dict.shape(key) == leaf.shape:
        return Take(key)
    ways = choices(leaf, (key,), state_dict)
    return ways[0].expr if ways else Take(key)


def offer(session: Session, index: int, pools: Pools) -> SourceOffer:
    """Return the candidates for a row or a benched entry.

    Raises:
        ImpossibleError: The leaf takes no entry.
    """
    if index >= len(session):
        raise ImpossibleError("There is no row here: go to one.")
    row, key = session.row(index), session.benched(index)
    if row is None or key is not None:
        return SourceOffer(session, pools.leaves, index, key)
    if row.fixed:
        way_out = " If it should, press s on it." if row.gap else ""
        raise ImpossibleError(f"Row {index + 1} takes no entry: {row.why}.{way_out}")
    if not len(session.checkpoint.state_dict):
        raise ImpossibleError("The checkpoint has no entries to choose from: s puts a gap here.")
    return SourceOffer(session, pools.entries, index, None)


def _holders(alignment: Alignment) -> dict[str, int]:
    holders: dict[str, int] = {}
    for index, key in alignment.rows.taken():
        holders.setdefault(key, index)
    return holders


def take(session: Session, option: SourceOption, *, swap: bool, other: int | None) -> Move:
    """Return the edit of a choice; with `swap`, the other row gets what this one holds.

    Raises:
        ImpossibleError: It is there already, or there is nothing to swap.
    """
    index, alignment = option.index, session.alignment
    old = alignment.rows[index]
    if old.source == option.source:
        raise ImpossibleError("The row takes it already: choose another, or Esc.")
    changes = [(index, Row(option.source, by="user"))]
    if swap:
        if other is None or other == index:
            raise ImpossibleError("No other row takes this entry: Enter takes it.")
        if old.source is None:
            raise ImpossibleError(
                "This row is empty, so there is nothing to swap. Press Enter to take the entry."
            )
        keys = old.keys
        back = as_fits_best(session, other, keys[0]) if len(keys) == 1 else old.source
        changes.append((other, Row(back, by="user")))
    edit = sharing(alignment, changes, () if swap else _tied(session, index, option.source))
    return Move(edit, index, None, _said(session, option, edit))


def _tied(session: Session, index: int, source: Expr) -> set[int]:
    """Return the rows that take an entry which names give both them and the row at an index."""
    evidence, rows = session.evidence, session.alignment.rows
    if evidence is None or evidence.suggestions[index].source != source:
        return set()
    taking = rows.taking(map(rows.numbering.entry, keys_of(source)))
    given = ((other, evidence.suggestions[other].source) for other in taking if other != index)
    return {other for other, one in given if one == source == rows[other].source}


def take_alike(session: Session, option: SourceOption, indices: Sequence[int]) -> Move:
    """Return the edit by which all rows of a kind take what was chosen for the first of them.

    Raises:
        ImpossibleError: Nothing shows which entries the others should take.
    """
    changes = sources_alike(session, indices, option.source)
    if changes is None:
        raise ImpossibleError(
            "The other rows' entries do not follow from this one by numbers: "
            "Enter shows the rows, choose for each."
        )
    name = printable(pattern_of(together(keys_of(option.source))))
    said = f"{many(len(changes), 'row')}: {name}."
    return Move(sharing(session.alignment, changes), indices[0], frozenset(), said)


def _said(session: Session, option: SourceOption, edit: SetRows) -> str:
    before, after = session.alignment, apply(session.alignment, edit)
    name = printable(together(keys_of(option.source))) if keys_of(option.source) else ""
    words = describe(option.source)
    said = f"Row {option.index + 1:,}: {name}{f', {words}' if words else ''}."
    if option.verdict.fit is Fit.DOUBTFUL:
        said = f"Doubtful, y trusts it. {said}"
    emptied = after.rows.emptied(before.rows)
    if emptied:
        which = f"row {emptied[0] + 1:,}" if len(emptied) == 1 else many(len(emptied), "row")
        said += f" {which[:1].upper()}{which[1:]} {'is' if len(emptied) == 1 else 'are'} empty now."
    was = set(before.bench)
    if fell := [key for key in after.bench if key not in was]:
        said += f" {printable(together(fell))} went to the bench."
    return said
