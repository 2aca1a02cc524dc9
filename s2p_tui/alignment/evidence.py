"""What names, structure and order say about which entry feeds which leaf.

A proposer gathers it; judging a row weighs it. Evidence never changes an alignment by itself.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

from s2p_tui.alignment.alignment import EMPTY, Alignment, Row, Rows
from s2p_tui.alignment.block_numbers import other_number
from s2p_tui.alignment.fit import Fit, Verdict
from s2p_tui.alignment.judge import judge, landing
from s2p_tui.alignment.layer_rules import constant_for, rule_for
from s2p_tui.alignment.layouts import ways
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import Expr, Flip, Permute, Take, describe, keys_of, nodes_of


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What one leaf should take.

    Attributes:
        source: The expression that fills the leaf, or None if nothing in the checkpoint does.
        certain: Whether the proposer vouches for it.
        reason: Why, in words.
        placed: Whether it is settled which entry belongs here, be its layout settled or not.
        numbered: Whether it is settled which of numbered blocks the entry belongs to.
    """

    source: Expr | None
    certain: bool
    reason: str
    placed: bool = False
    numbered: bool = False


Kind = tuple[bool, str, bool, bool]
"""`certain`, `reason`, `placed` and `numbered`."""


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
            kind = one.certain, one.reason, one.placed, one.numbered
            self._sources.append(source.key if type(source) is Take else source)
            self._kinds.append(shared.setdefault(kind, kind))

    def __len__(self) -> int:
        return len(self._sources)

    @overload
    def __getitem__(self, place: int) -> Suggestion: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Suggestion]: ...
    def __getitem__(self, place: int | slice) -> Suggestion | Sequence[Suggestion]:
        if isinstance(place, slice):
            return [self[one] for one in range(len(self))[place]]
        source = self._sources[place]
        return Suggestion(Take(source) if isinstance(source, str) else source, *self._kinds[place])

    def held(self, place: int) -> tuple[Expr | str | None, Kind]:
        """A suggestion's source, of a whole entry the key alone; and the rest of it."""
        return self._sources[place], self._kinds[place]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Suggestions):
            return NotImplemented
        return self._sources == other._sources and self._kinds == other._kinds

    def __hash__(self) -> int:
        return hash((len(self), *self._sources[:1]))


_NOWHERE = -1


@dataclass(frozen=True)
class Evidence:
    """One suggestion per leaf, in leaf order; and why entries are left over.

    Attributes:
        suggestions: In leaf order.
        left_over: Why no leaf takes an entry, by key.
    """

    suggestions: Suggestions
    left_over: Mapping[str, str]
    _claims: array[int] | None = field(default=None, init=False, compare=False, repr=False)

    def claimed(self, key: str, state_dict: StateDict) -> int | None:
        """The place of the leaf an entry certainly belongs to; None if nothing is certain.

        Args:
            key: The entry's key.
            state_dict: The entries the evidence is about.
        """
        place = self.claims(state_dict)[state_dict.position(key)]
        return None if place == _NOWHERE else place

    def claims(self, state_dict: StateDict) -> array[int]:
        """The place of the leaf each entry certainly belongs to, or -1; made when first asked for.

        A mapping from keys would take ten times the memory.
        """
        if self._claims is not None:
            return self._claims
        claims = array("i", [_NOWHERE]) * len(state_dict)
        for place, suggestion in enumerate(self.suggestions):
            if suggestion.source is not None and (suggestion.certain or suggestion.placed):
                for key in keys_of(suggestion.source):
                    claims[state_dict.position(key)] = place
        object.__setattr__(self, "_claims", claims)
        return claims


def as_suggested(evidence: Evidence, state_dict: StateDict, skeleton: Skeleton) -> Alignment:
    """The alignment the evidence speaks for.

    Leaves that nothing in the checkpoint feeds keep the skeleton's value, if it has one.
    """
    # With very many entries a key press would notice that they are looked for.
    evidence.claims(state_dict)
    rows = Rows.of(map(_as_suggested, skeleton, evidence.suggestions))
    used = set(rows.keys)
    return Alignment(rows, tuple(entry.key for entry in state_dict if entry.key not in used))


def _as_suggested(leaf: Leaf, suggestion: Suggestion) -> Row:
    takes = suggestion.source is not None and bool(keys_of(suggestion.source))
    fixed = (leaf.kind == "scalar" and not takes) or constant_for(leaf) is not None
    by = "rule" if fixed else "matcher"
    if suggestion.source is not None:
        return Row(suggestion.source, by=by, why=suggestion.reason, fixed=fixed)
    if leaf.has_value or fixed:
        return Row(gap=True, by=by, why=suggestion.reason, fixed=fixed)
    return EMPTY


def weigh(
    place: int,
    row: Row,
    state_dict: StateDict,
    skeleton: Skeleton,
    evidence: Evidence | None,
) -> Verdict:
    """How well a row fits its leaf by shapes, dtypes and layer, and by the evidence.

    Reads no tensor data.

    Args:
        place: The row's place.
        row: The row.
        state_dict: The entries.
        skeleton: The leaves.
        evidence: What is known of names and structure; without any, `judge` alone decides.
    """
    leaf = skeleton[place]
    verdict = judge(leaf, row, state_dict)
    if evidence is None or row.fixed or verdict.fit is Fit.MISMATCHED:
        return verdict
    doubt = _doubt(place, row, state_dict, skeleton, evidence)
    if not doubt:
        return verdict
    why = doubt if verdict.fit is Fit.GAP or not verdict.why else f"{doubt}; {verdict.why}"
    return Verdict(Fit.DOUBTFUL, why, blocks=not row.trusted)


def _doubt(
    place: int, row: Row, state_dict: StateDict, skeleton: Skeleton, evidence: Evidence
) -> str:
    """Why a row may be wrong although it fits; empty if nothing speaks against it.

    What nothing speaks for is left to the user, so a row of theirs is not doubted for that, nor is
    one of Claude's that they accepted; which way round a weight goes in is not Claude's to settle.
    What came here by moves, maybe of other rows, was not chosen for this leaf: what was doubtful
    here before still is, and so is what has another number than belongs here.
    """
    suggestion = evidence.suggestions[place]
    chosen, moved = row.by == "user", row.by == "moved"
    if row.source is None:
        neutral = suggestion.certain and suggestion.source is None
        return (
            ""
            if chosen or moved or neutral
            else f"{suggestion.reason}: it would keep the skeleton's value"
        )
    leaf = skeleton[place]
    keys, here = row.keys, suggestion.source
    is_here = row.source == here
    if here is not None and not is_here:
        here = landing(here, leaf, state_dict)
    if here is not None and (is_here or set(keys) == set(keys_of(here))):
        if is_here or landing(row.source, leaf, state_dict) == here:
            if row.by == "claude" and not (suggestion.certain or suggestion.placed):
                return _layout_doubt(row, leaf, state_dict)
            return "" if suggestion.certain or chosen else suggestion.reason
        picked = chosen and not isinstance(row.source, Take)
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
        if other not in (None, place):
            return f"by name and structure {key} belongs to {skeleton[other].path}"
    if row.by == "claude":
        return _layout_doubt(row, leaf, state_dict)
    if moved and here is not None and suggestion.numbered:
        (mine, *_), (wanted, *_) = row.keys, keys_of(here)
        if other_number(mine, wanted):
            return f"by the numbers {wanted} may belong here, and not {mine}"
    if moved:
        return _turned_doubt(row, leaf, state_dict)
    return "" if chosen else "only the order speaks for it"


def _moved(source: Expr | None) -> bool:
    return source is not None and any(isinstance(node, Permute | Flip) for node in nodes_of(source))


def _turned_doubt(row: Row, leaf: Leaf, state_dict: StateDict) -> str:
    """Why an entry may not be turned for a layer that keeps PyTorch's layout; empty if it may."""
    known = (leaf.owner or "").startswith("equinox.nn.") and rule_for(leaf) is None
    whole = known and len(row.keys) == 1 and state_dict.shape(row.keys[0]) == leaf.shape
    return "this layer keeps PyTorch's layout" if whole and _moved(row.source) else ""


def _layout_doubt(row: Row, leaf: Leaf, state_dict: StateDict) -> str:
    """Why the shapes leave open how a row's entries go in; empty if they or the layer settle it."""
    if rule_for(leaf) is not None:
        return ""
    if (leaf.owner or "").startswith("equinox.nn."):
        return _turned_doubt(row, leaf, state_dict)
    for key in row.keys:
        shape = state_dict.shape(key)
        layouts = ways(shape, leaf.shape) or ways(shape, shape)
        if len({way.out_last for way in layouts}) > 1:
            return f"nothing shows whether {key} is transposed here"
    return ""
