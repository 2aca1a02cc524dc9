"""Evidence of names, structure and order for which entry feeds which leaf.

A proposer gathers it; judging a row weighs it. Evidence never changes an alignment by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import overload

import numpy as np
from msgspec import Struct

from s2p_tui.alignment.alignment import Alignment, Row, Rows
from s2p_tui.alignment.block_numbers import other_number
from s2p_tui.alignment.fit import Fit, Verdict
from s2p_tui.alignment.judge import is_padded, judge, landing
from s2p_tui.alignment.layer_rules import constant_for, other_layouts, rule_for
from s2p_tui.alignment.layouts import ways
from s2p_tui.alignment.numbering import GAP, NOTHING, Decision, Flags, Numbers
from s2p_tui.alignment.proof import UNPROVEN, Answer, Proof, proven_by
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import (
    Expr,
    Flip,
    Permute,
    Reshape,
    Split,
    Take,
    describe,
    keys_of,
    nodes_of,
)


class Suggestion(Struct, frozen=True):
    """The source that one leaf should take.

    Attributes:
        source: The expression that fills the leaf, or None if nothing in the checkpoint does.
        proof: Why it is right, question by question; it is certain where all have an answer.
        reason: Why it is right, or may be wrong, in words.
        placed: Whether it is settled which entry belongs here, be its layout settled or not.
        numbered: Whether it is settled which of numbered blocks the entry belongs to.
    """

    source: Expr | None
    proof: Proof
    reason: str
    placed: bool = False
    numbered: bool = False

    @property
    def certain(self) -> bool:
        """True if every question about it has an answer."""
        return self.proof.is_complete


Kind = tuple[Proof, str, bool, bool]
"""`proof`, `reason`, `placed` and `numbered`."""


class Suggestions(Sequence[Suggestion]):
    """One suggestion per leaf, made anew whenever somebody asks.

    Of most only the key of a whole entry is held, and what they have in common with others. Objects
    made among those a proposer needs for a while would keep the memory of all of these.
    """

    __slots__ = ("_kinds", "_sources")

    def __init__(self, suggestions: Iterable[Suggestion]) -> None:
        self._sources: list[Expr | str | None] = []
        self._kinds: list[Kind] = []
        shared: dict[Kind, Kind] = {}
        for one in suggestions:
            source = one.source
            kind = one.proof, one.reason, one.placed, one.numbered
            self._sources.append(source.key if type(source) is Take else source)
            self._kinds.append(shared.setdefault(kind, kind))

    def __len__(self) -> int:
        return len(self._sources)

    @overload
    def __getitem__(self, index: int) -> Suggestion: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Suggestion]: ...
    def __getitem__(self, index: int | slice) -> Suggestion | Sequence[Suggestion]:
        if isinstance(index, slice):
            return [self[one] for one in range(len(self))[index]]
        source = self._sources[index]
        return Suggestion(Take(source) if isinstance(source, str) else source, *self._kinds[index])

    def held(self, index: int) -> tuple[Expr | str | None, Kind]:
        """A suggestion's source, of a whole entry the key alone; and the rest of it."""
        return self._sources[index], self._kinds[index]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Suggestions):
            return NotImplemented
        return self._sources == other._sources and self._kinds == other._kinds

    def __hash__(self) -> int:
        return hash((len(self), *self._sources[:1]))


class Columns(Struct, frozen=True):
    """Evidence as arrays, numbered as one checkpoint's entries are.

    Attributes:
        sources: What each leaf should take.
        certain: See `Suggestion`.
        placed: See `Suggestion`.
        claims: The leaf that each entry certainly belongs to, or -1; two more behind them are -1.
    """

    sources: Numbers
    certain: Flags
    placed: Flags
    claims: Numbers


@dataclass(frozen=True)
class Evidence:
    """One suggestion per leaf, in leaf order; and why entries are left over.

    Attributes:
        suggestions: In leaf order.
        left_over: Why no leaf takes an entry, by key.
    """

    suggestions: Suggestions
    left_over: Mapping[str, str]
    _columns: Columns | None = field(default=None, init=False, compare=False, repr=False)

    def claimed(self, key: str, state_dict: StateDict) -> int | None:
        """The index of the leaf an entry certainly belongs to; None if nothing is certain.

        Args:
            key: The entry's key.
            state_dict: The entries the evidence is about.
        """
        index = int(self.columns(state_dict).claims[state_dict.index(key)])
        return None if index == NOTHING else index

    def columns(self, state_dict: StateDict) -> Columns:
        """Return the evidence as arrays; made when first asked for.

        Args:
            state_dict: The entries the evidence is about.
        """
        if self._columns is not None:
            return self._columns
        numbering, count = state_dict.numbering, len(self.suggestions)
        sources = np.full(count, NOTHING, np.int32)
        flags = np.zeros((2, count), np.bool_)
        claims = np.full(len(state_dict) + 2, NOTHING, np.int32)
        for index in range(count):
            source, (proof, _, is_placed, _) = self.suggestions.held(index)
            is_certain = proof.is_complete
            flags[:, index] = is_certain, is_placed
            if source is None:
                continue
            whole = isinstance(source, str)
            number = numbering.entry(source) if whole else numbering.number(source)
            sources[index] = number
            if is_certain or is_placed:
                for key in (source,) if whole else keys_of(source):
                    claims[numbering.entry(key)] = index
        columns = Columns(sources, flags[0], flags[1], claims)
        object.__setattr__(self, "_columns", columns)
        return columns


def no_evidence(count: int) -> Evidence:
    """Evidence about so many leaves that says nothing, so that all of them are doubtful."""
    nothing = Suggestion(None, UNPROVEN, "names and structure were not compared")
    return Evidence(Suggestions(nothing for _ in range(count)), {})


def as_suggested(evidence: Evidence, state_dict: StateDict, skeleton: Skeleton) -> Alignment:
    """The alignment the evidence speaks for.

    Leaves that nothing in the checkpoint feeds keep the skeleton's value, if it has one.
    """
    numbering, columns = state_dict.numbering, evidence.columns(state_dict)
    sources, decisions = columns.sources.copy(), np.empty(len(skeleton), np.int32)
    known: dict[Decision, int] = {}
    for index, leaf in enumerate(skeleton):
        is_fixed = (leaf.kind == "scalar" and sources[index] == NOTHING) or (
            leaf.owner and constant_for(leaf) is not None
        )
        by, why = "rule" if is_fixed else "matcher", evidence.suggestions.held(index)[1][1]
        decision = Decision(by, why, fixed=bool(is_fixed))
        if sources[index] == NOTHING:
            if leaf.has_value or is_fixed:
                sources[index] = GAP
            else:
                decision = Decision()
        number = known.get(decision)
        if number is None:
            number = known[decision] = numbering.decision(decision)
        decisions[index] = number
    used = np.zeros(len(state_dict), np.bool_)
    used[numbering.read_by(sources)] = True
    bench = tuple(compress(numbering.keys, ~used))
    return Alignment(Rows(numbering, sources, sources, decisions), bench, skeleton.layers)


def proof_of(index: int, row: Row, evidence: Evidence | None, *, replayed: bool = False) -> Proof:
    """Return the answers that prove a row; questions that nothing answers are open.

    Args:
        index: The row's index.
        row: The row.
        evidence: What is known of names and structure.
        replayed: The rows are those of a mapping, which decides in place of evidence.
    """
    if row.fixed:
        return proven_by(Answer.LAYER)
    if row.trusted:
        return proven_by(Answer.TRUSTED)
    if row.by == "forward":
        return proven_by(Answer.FORWARD)
    if replayed:
        return proven_by(Answer.REPLAYED) if row.gap or row.source is not None else UNPROVEN
    suggestion = None if evidence is None else evidence.suggestions[index]
    if suggestion is not None and suggestion.certain and suggestion.source == row.source:
        return suggestion.proof
    if row.by == "user":
        return proven_by(Answer.CHOSEN)
    if row.by == "recipe":
        return proven_by(Answer.RECIPE)
    if suggestion is not None and suggestion.source == row.source:
        return suggestion.proof
    return UNPROVEN


def weigh(
    index: int,
    row: Row,
    state_dict: StateDict,
    skeleton: Skeleton,
    evidence: Evidence | None,
) -> Verdict:
    """Judge a row alone by shapes, dtypes and layer, and by the evidence.

    Reads no tensor data.

    Args:
        index: The row's index.
        row: The row.
        state_dict: The entries.
        skeleton: The leaves.
        evidence: What is known of names and structure; without any, `judge` alone decides.
    """
    leaf = skeleton[index]
    verdict = judge(leaf, row, state_dict)
    is_padding = row.source is not None and is_padded(row.source)
    if row.by == "forward" and not row.fixed and not is_padding:
        is_doubt = verdict.fit is Fit.DOUBTFUL
        return Verdict(Fit.TRANSFORMED, f"{row.why}; {verdict.why}") if is_doubt else verdict
    if evidence is None or row.fixed or verdict.fit is Fit.MISMATCHED:
        return verdict
    doubt = _doubt(index, row, state_dict, skeleton, evidence)
    if not doubt:
        return verdict
    why = doubt if verdict.fit is Fit.GAP or not verdict.why else f"{doubt}; {verdict.why}"
    return Verdict(Fit.DOUBTFUL, why, blocks=not row.trusted)


def _doubt(
    index: int, row: Row, state_dict: StateDict, skeleton: Skeleton, evidence: Evidence
) -> str:
    """Return why a row may be wrong although it fits; empty if nothing speaks against it.

    Rows the user chose are trusted unless the names contradict them. So are Claude's rows that the
    user accepted, except for a weight's orientation. Rows that came here by an edit elsewhere were
    not chosen for this leaf: only names settle them. A recipe's are chosen, unless names and
    structure are certain of another entry, or sizes show another layout.
    """
    suggestion = evidence.suggestions[index]
    is_recipe = row.by == "recipe"
    chosen = row.by == "user" or is_recipe
    if row.source is None:
        neutral = suggestion.certain and suggestion.source is None
        return (
            "" if chosen or neutral else f"{suggestion.reason}: it would keep the skeleton's value"
        )
    leaf = skeleton[index]
    keys, here = row.keys, suggestion.source
    is_here = row.source == here
    if here is not None and not is_here:
        here = landing(here, leaf, state_dict)
    if here is not None and (is_here or set(keys) == set(keys_of(here))):
        if is_here or landing(row.source, leaf, state_dict) == here:
            if row.by == "claude" and not (suggestion.certain or suggestion.placed):
                return _layout_doubt(row, leaf, state_dict)
            return "" if suggestion.certain or chosen else suggestion.reason
        is_settled = suggestion.certain or suggestion.placed
        if is_recipe:
            is_other = is_settled and _parts(row.source) != _parts(here)
            is_shown = suggestion.certain and suggestion.proof.axes not in _CONVENTIONS
            if is_other or (is_shown and not _regroups(row.source)):
                return f"the recipe has it otherwise laid out: {suggestion.reason}"
            return ""
        if row.by == "pattern" and row.why:
            return row.why
        picked = chosen and not isinstance(row.source, Take)
        parts = _parts(row.source)
        if picked and is_settled and parts and parts != _parts(here):
            return f"by name and structure another part of {keys[0]} belongs here"
        return (
            "" if picked else f"the weight may have to be laid out otherwise: {suggestion.reason}"
        )
    if here is not None and (suggestion.certain or suggestion.placed):
        keys = list(keys_of(here))
        if not keys:
            return f"it should hold a {describe(here)}: {suggestion.reason}"
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        return f"by name and structure {keys[0]}{more} belongs here"
    for key in row.keys:
        other = evidence.claimed(key, state_dict)
        if other not in (None, index):
            return f"by name and structure {key} belongs to {skeleton[other].path}"
    if row.by == "claude":
        return _layout_doubt(row, leaf, state_dict)
    if chosen:
        return ""
    if row.by == "pattern" and row.why:
        return row.why
    if here is not None and suggestion.numbered and keys and keys_of(here):
        (mine, *_), (wanted, *_) = keys, keys_of(here)
        if other_number(mine, wanted):
            return f"by the numbers {wanted} may belong here, and not {mine}"
    return "only the order speaks for it"


# They hold for most models; what a hand settled otherwise for a model of this kind goes before.
_CONVENTIONS = (Answer.KEPT, Answer.OWN_NAME, Answer.TABLE)


def _regroups(source: Expr) -> bool:
    """Return True if a source mixes axes, as for heads of another order, which no size shows."""
    return any(isinstance(node, Reshape) for node in nodes_of(source))


def _parts(source: Expr) -> set[tuple[int, int]]:
    """Return the ranges of the slices that a source takes of entries as they are."""
    return {
        (node.start, node.stop)
        for node in nodes_of(source)
        if isinstance(node, Split) and not isinstance(node.of, Reshape)
    }


def _moved(source: Expr | None) -> bool:
    return source is not None and any(isinstance(node, Permute | Flip) for node in nodes_of(source))


def _turned_doubt(row: Row, leaf: Leaf, state_dict: StateDict) -> str:
    """Return a doubt about an entry transposed for a layer that keeps PyTorch's layout."""
    known = (leaf.owner or "").startswith("equinox.nn.") and rule_for(leaf) is None
    whole = known and len(row.keys) == 1 and state_dict.shape(row.keys[0]) == leaf.shape
    return "this layer keeps PyTorch's layout" if whole and _moved(row.source) else ""


def _layout_doubt(row: Row, leaf: Leaf, state_dict: StateDict) -> str:
    """Return why shapes do not settle the layout of a row's entries; empty if they do."""
    if rule_for(leaf) is not None:
        for key in row.keys:
            if other_layouts(leaf, Take(key), state_dict.shape(key)):
                return f"nothing shows whether {key} is transposed here"
        return ""
    if (leaf.owner or "").startswith("equinox.nn."):
        return _turned_doubt(row, leaf, state_dict)
    for key in row.keys:
        shape = state_dict.shape(key)
        layouts = ways(shape, leaf.shape) or ways(shape, shape)
        if len({way.out_last for way in layouts}) > 1:
            return f"nothing shows whether {key} is transposed here"
    return ""
