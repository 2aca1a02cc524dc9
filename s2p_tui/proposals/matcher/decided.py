"""The matcher's proposal beside the user's decisions, and what follows from them for other rows.

A decision that names and structure did not lead to says more than they do where they settle
nothing: for the rest of its layer, and for the same leaf of the sibling blocks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from math import prod

import numpy as np
from msgspec import structs

from s2p_tui.alignment.alignment import Alignment, Row, Rows
from s2p_tui.alignment.evidence import Evidence, Suggestion, as_suggested
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.judge import judge
from s2p_tui.alignment.layers import ALONE, module_of
from s2p_tui.alignment.numbering import NOTHING
from s2p_tui.alignment.skeleton import Skeleton
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import Expr, Split, Take
from s2p_tui.proposals.lift import counterparts
from s2p_tui.proposals.matcher.parts import steps_of_leaves
from s2p_tui.proposals.matcher.templates import words_of
from s2p_tui.proposals.matcher.words import steps_of_key
from s2p_tui.proposals.proposal import Confidence, Proposal, proposed, same_source

_SETTLED_BY = ("user", "recipe", "forward")


def propose(
    evidence: Evidence, state_dict: StateDict, skeleton: Skeleton, alignment: Alignment
) -> Proposal:
    """Return the evidence's rows that differ from the alignment's. Reads no tensor data.

    Rows that the user decided or trusted are given: they stay, what they take stays theirs, and
    what follows from them is proposed too. To undo those that names speak against is a hunk of its
    own, which is not ticked.
    """
    suggested = as_suggested(evidence, state_dict, skeleton).rows
    given = given_rows(alignment.rows, state_dict, skeleton)
    followed = following(given, alignment, evidence, state_dict, skeleton)
    # An entry that both have for the same row may be taken by others too: it is tied, or shared.
    own = {key for n, row in given.items() for key in row.keys if key not in suggested[n].keys}
    taken = own | taken_keys(followed.values())
    wanted: list[tuple[int, Row]] = []
    undone = [
        (index, suggested[index])
        for index, row in given.items()
        if evidence.suggestions[index].certain and not same_source(row, suggested[index])
    ]
    freed = taken_keys(given[index] for index, _ in undone)
    for index, row in enumerate(suggested):
        if index in given:
            continue
        row = followed.get(index, row)
        if index in followed or taken.isdisjoint(row.keys):
            wanted.append((index, row))
        elif freed.issuperset(taken.intersection(row.keys)):
            undone.append((index, row))
    confidence = {
        index: _confidence_of(suggestion) for index, suggestion in enumerate(evidence.suggestions)
    } | dict.fromkeys(followed, Confidence.LIKELY)
    return proposed("matcher", alignment, wanted, skeleton, confidence, undone=undone)


def _confidence_of(suggestion: Suggestion) -> Confidence:
    """Certain where the matcher vouches for the row, likely where only its layout is open."""
    if suggestion.certain:
        return Confidence.CERTAIN
    return Confidence.LIKELY if suggestion.placed else Confidence.UNSURE


def given_rows(rows: Rows, state_dict: StateDict, skeleton: Skeleton) -> dict[int, Row]:
    """Return the rows that the user decided or trusted.

    One whose shape does not fit is no decision yet: its entry may be on its way elsewhere.
    """
    numbering = rows.numbering
    # The shortest way to the few that were decided: rows are made of these alone.
    decided = (made.by in _SETTLED_BY or made.trusted for made in numbering.decisions)
    flags = np.fromiter(decided, np.bool_)
    chosen = np.flatnonzero(flags[rows.in_force()] & (rows.sources != NOTHING)).tolist()
    found = {index: rows[index] for index in chosen}
    return {
        index: row
        for index, row in found.items()
        if judge(skeleton[index], row, state_dict).fit is not Fit.MISMATCHED
    }


def following(
    given: Mapping[int, Row],
    alignment: Alignment,
    evidence: Evidence,
    state_dict: StateDict,
    skeleton: Skeleton,
) -> dict[int, Row]:
    """Return the rows that follow from decisions which the evidence did not lead to.

    Where the evidence is certain, or two decisions lead to different rows, or to one entry for
    several leaves, nothing follows; nor does it where a decided row takes the entry.

    Args:
        given: The decided rows.
        alignment: The rows as they are.
        evidence: What names and structure say.
        state_dict: The entries.
        skeleton: The leaves.
    """
    modules = _Modules(state_dict, skeleton)
    found: defaultdict[int, dict[Expr, str]] = defaultdict(dict)
    for index, row in given.items():
        suggested = evidence.suggestions[index].source
        if row.by != "user" or row.source is None or suggested == row.source:
            continue
        why = f"as you decided for {skeleton[index].path}"
        here = {index: row} | dict(modules.siblings(index, row))
        for at, one in (*here.items(), *_elsewhere(here, alignment, state_dict, skeleton)):
            if one.source is not None:
                found[at].setdefault(one.source, why)
    rows = {
        at: Row(source, by="matcher", why=why)
        for at, sources in found.items()
        if at not in given and not evidence.suggestions[at].certain and len(sources) == 1
        for source, why in sources.items()
    }
    takers: defaultdict[str, list[Split | None]] = defaultdict(list)
    for row in (*given.values(), *rows.values()):
        for key in row.keys:
            takers[key].append(_part_of(row.source))
    return {
        at: row
        for at, row in rows.items()
        if all(_is_shared(_part_of(row.source), takers[key]) for key in row.keys)
    }


def _part_of(source: Expr | None) -> Split | None:
    """Return the slice that a source is, if it is one."""
    return source if isinstance(source, Split) else None


def _is_shared(part: Split | None, takers: list[Split | None]) -> bool:
    """Return True if a row takes an entry alone, or a slice where others take other slices."""
    return len(takers) == 1 or (None not in takers and takers.count(part) == 1)


def _elsewhere(
    rows: Mapping[int, Row], alignment: Alignment, state_dict: StateDict, skeleton: Skeleton
) -> Iterator[tuple[int, Row]]:
    for index, row in rows.items():
        yield from counterparts(state_dict, skeleton, alignment, index, row).items()


class _Modules:
    """Finds the other entries of a module for the other leaves of a layer."""

    def __init__(self, state_dict: StateDict, skeleton: Skeleton) -> None:
        self._state_dict, self._skeleton = state_dict, skeleton

    @cached_property
    def _entries(self) -> dict[str, list[str]]:
        found: defaultdict[str, list[str]] = defaultdict(list)
        for entry in self._state_dict:
            found[module_of(entry.key)].append(entry.key)
        return found

    def siblings(self, index: int, row: Row) -> Iterator[tuple[int, Row]]:
        """Rows of a leaf's layer that take what the row's module has for them."""
        layers = self._skeleton.layers
        if layers[index] == ALONE or len(row.keys) != 1:
            return
        (key,) = row.keys
        others = [entry for entry in self._entries[module_of(key)] if entry != key]
        indices = [at for at in np.flatnonzero(layers == layers[index]).tolist() if at != index]
        steps = steps_of_leaves(self._skeleton, indices)
        for other in indices:
            role = words_of(steps[other])[-1:]
            alike = [one for one in others if role and _role(one) == role]
            if len(alike) == 1 and (source := self._taken_alike(row.source, alike[0])) is not None:
                new = structs.replace(row, source=source)
                leaf = self._skeleton[other]
                if judge(leaf, new, self._state_dict).fit is not Fit.MISMATCHED:
                    yield other, new

    def _taken_alike(self, source: Expr | None, key: str) -> Expr | None:
        """Return what is taken of an entry beside a row's source; None if that is not known."""
        match source:
            case Take():
                return Take(key)
            case Split(Take(own), 0, start, stop):
                whole, other = self._state_dict.shape(own), self._state_dict.shape(key)
                is_alike = bool(prod(other)) and other[:1] == whole[:1]
                return Split(Take(key), 0, start, stop) if is_alike else None
            case _:
                return None


def _role(key: str) -> tuple[str, ...]:
    return words_of(steps_of_key(key))[-1:]


def taken_keys(rows: Iterable[Row]) -> set[str]:
    """Return the keys of all entries that some rows take."""
    return {key for row in rows for key in row.keys}
