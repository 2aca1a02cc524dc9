"""The candidates that Enter lists: entries for a leaf, or leaves for a benched entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from msgspec import Struct

from s2p_tui.alignment.alignment import Alignment, Row
from s2p_tui.alignment.candidates import Candidate, Pool, Tier
from s2p_tui.alignment.choices import best_choice
from s2p_tui.alignment.edits import SetRows, apply
from s2p_tui.alignment.fit import Fit, Verdict
from s2p_tui.alignment.judge import judge
from s2p_tui.alignment.sharing import sharing
from s2p_tui.alignment.transform import Expr, Take, describe, keys_of
from s2p_tui.app.commands.arrange import ImpossibleError, Move
from s2p_tui.app.kinds import pattern_of, sources_alike
from s2p_tui.app.text import many
from s2p_tui.app.wording import together
from s2p_tui.errors import printable

if TYPE_CHECKING:
    from s2p_tui.session.session import Session


class SourceOption(Struct, frozen=True):
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
        shows_all: List candidates that can never be converted too.
        listed: What is listed now.
        hidden: How many candidates that can never be converted are left out.
    """

    session: Session
    pool: Pool
    index: int
    key: str | None
    shows_all: bool = False
    listed: list[Candidate] = field(default_factory=list[Candidate])
    hidden: int = 0
    _options: dict[int, SourceOption] = field(default_factory=dict[int, SourceOption])
    _holders: dict[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        self._holders = _holders(self.session.alignment)
        self.search("")

    def search(self, query: str) -> None:
        """List what a query is for, best first."""
        session = self.session
        if self.key is not None:
            name, shape = self.key, session.checkpoint.state_dict.shape(self.key)
        else:
            leaf = session.target.skeleton[self.index]
            name, shape = leaf.path, leaf.shape
        found = self.pool.ranked(name, shape, query, self._first())
        rows = session.alignment.rows
        found = [
            candidate for candidate in found if self.key is None or not rows[candidate.index].fixed
        ]
        possible = [candidate for candidate in found if self._is_possible(candidate)]
        self.hidden = 0 if self.shows_all else len(found) - len(possible)
        self.listed = found if self.shows_all else possible

    def _is_possible(self, candidate: Candidate) -> bool:
        if candidate.tier is Tier.OTHER:
            return False
        # By itself: judged as an edit of all rows, 200 would take 0.3 s of 100,000 rows.
        index, source = self._source(candidate)
        leaf, state_dict = self.session.target.skeleton[index], self.session.checkpoint.state_dict
        return judge(leaf, Row(source, by="user"), state_dict).fit is not Fit.MISMATCHED

    def _first(self) -> list[int]:
        """Return what comes first: what the matcher has for it, and what is free beside siblings.

        A leaf that is filled already is less likely than the empty one of the entry's own module.
        """
        session = self.session
        if self.key is None:
            return list(dict.fromkeys((*self._suggested(), *self._entries_of_module())))
        entries, rows = session.checkpoint.state_dict, session.alignment.rows
        claimed = session.evidence.claimed(self.key, entries) if session.evidence else None
        wanted = [] if claimed is None else [claimed]
        taken = [index for index in wanted if rows[index].source is not None]
        empty = [index for index in wanted if index not in taken]
        return list(dict.fromkeys((*empty, *self._leaves_of_module(self.key), *taken)))

    def _leaves_of_module(self, key: str) -> list[int]:
        """Return empty leaves of the entry's size in layers that take others of its module."""
        session = self.session
        entries, rows, skeleton = (
            session.checkpoint.state_dict,
            session.alignment.rows,
            session.target.skeleton,
        )
        module, size = _module(key), prod(entries.shape(key))
        holders = {self._holders[one] for one in self._holders if _module(one) == module}
        beside = (
            other for row in sorted(holders) for other in session.verdicts.company.siblings(row)
        )
        return [
            index
            for index in dict.fromkeys(beside)
            if rows[index].source is None
            and not rows[index].gap
            and prod(skeleton[index].shape) == size
        ]

    def _entries_of_module(self) -> list[int]:
        """Return benched entries of the leaf's size, of modules that fill the rest of its layer."""
        session = self.session
        entries, rows = session.checkpoint.state_dict, session.alignment.rows
        siblings = session.verdicts.company.siblings(self.index)
        modules = {_module(key) for other in siblings for key in rows[other].keys}
        size = prod(session.target.skeleton[self.index].shape)
        return [
            entries.index(key)
            for key in session.alignment.bench
            if _module(key) in modules and prod(entries.shape(key)) == size
        ]

    def names(self) -> list[str]:
        """Return the key or key path of each listed candidate."""
        entries, skeleton = self.session.checkpoint.state_dict.entries, self.session.target.skeleton
        if self.key is not None:
            return [skeleton[one.index].path for one in self.listed]
        return [entries[one.index].key for one in self.listed]

    def option(self, number: int) -> SourceOption:
        """The listed candidate of that number, judged."""
        return self._option(self.listed[number])

    def _option(self, candidate: Candidate) -> SourceOption:
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

    def _source(self, candidate: Candidate) -> tuple[int, Expr]:
        """Return the row that a candidate is about, and what it would take."""
        session, state_dict = self.session, self.session.checkpoint.state_dict
        if self.key is None:
            index, key = self.index, state_dict.entries[candidate.index].key
        else:
            index, key = candidate.index, self.key
        source, evidence = as_fits_best(session, index, key), session.evidence
        if candidate.tier is Tier.SUGGESTED and evidence is not None:
            source = evidence.suggestions[index].source or source
        return index, source

    def _judged(self, candidate: Candidate) -> SourceOption:
        session = self.session
        index, source = self._source(candidate)
        row = Row(source, by="user")
        tied = _tied(session, index, source)
        verdict = session.verdict_after(index, sharing(session.alignment, [(index, row)], tied))
        return SourceOption(index, source, verdict, candidate.tier)


def _module(key: str) -> str:
    """Return the module that an entry belongs to."""
    return key.rpartition(".")[0]


def as_fits_best(session: Session, index: int, key: str) -> Expr:
    """An entry as it fits a leaf best: the entry itself if nothing makes it fit."""
    leaf, state_dict = session.target.skeleton[index], session.checkpoint.state_dict
    if state_dict.shape(key) == leaf.shape:
        return Take(key)
    best = best_choice(leaf, key, state_dict)
    return Take(key) if best is None else best.expr


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
