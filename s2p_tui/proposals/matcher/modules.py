"""Proofs that layers are whole: each is of one module of the checkpoint, and nothing is left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from s2p_tui.alignment.evidence import Suggestion
from s2p_tui.alignment.layers import ALONE, module_of
from s2p_tui.alignment.proof import Answer, Proof, Question
from s2p_tui.alignment.skeleton import Skeleton
from s2p_tui.alignment.transform import keys_of

_BY_NAME = (Answer.SAME_NAME, Answer.SAME_INSIDE, Answer.NAMES)
_SEVERAL = "its layer takes from several modules, and nothing shows which"
Modules = frozenset[str]


def with_modules(
    suggestions: Mapping[int, Suggestion],
    skeleton: Skeleton,
    left_over: Iterable[str],
    torn: Collection[int],
) -> dict[int, Suggestion]:
    """Return suggestions whose proofs say where their layers come from, and what is left there.

    Args:
        suggestions: By place; only those that take entries are looked at.
        skeleton: The leaves.
        left_over: The keys of all entries that no leaf takes.
        torn: Places of leaves whose layers go with more than one.
    """
    taken = {
        place: frozenset(map(module_of, keys))
        for place, one in suggestions.items()
        if one.source is not None and (keys := keys_of(one.source))
    }
    layers: dict[int, dict[int, Modules]] = defaultdict(dict)
    for place, modules in taken.items():
        if (layer := int(skeleton.layers[place])) != ALONE:
            layers[layer][place] = modules
    answers: dict[int, Answer | None] = dict.fromkeys(taken, Answer.ALONE)
    for members in layers.values():
        if len({*members.values()}) == 1:
            answers |= dict.fromkeys(members, Answer.ONE_MODULE)
        else:
            answers |= {place: _leaf_by_leaf(suggestions[place].proof) for place in members}
    answers |= dict.fromkeys(torn)
    left = {module_of(key) for key in left_over}
    found: dict[int, Suggestion] = {}
    # Most of the proofs are a few, and a new one takes ten times as long to make as to find.
    known: dict[tuple[Proof, Answer | None, bool], Proof] = {}
    for place, modules in taken.items():
        one, module, is_left = suggestions[place], answers[place], not left.isdisjoint(modules)
        if (proof := known.get((one.proof, module, is_left))) is None:
            accounted = Answer.ACCOUNTED if is_left else Answer.NOTHING
            proof = one.proof.answered(module=module, left_over=accounted)
            known[one.proof, module, is_left] = proof
        is_open = module is None and proof.open == (Question.MODULE,) and place not in torn
        reason = _SEVERAL if is_open else one.reason
        found[place] = Suggestion(one.source, proof, reason, one.placed, one.numbered)
    return found


def _leaf_by_leaf(proof: Proof) -> Answer | None:
    """Return what proves a leaf whose layer takes from several modules."""
    if proof.entry in _BY_NAME:
        return Answer.LEAF_BY_LEAF
    return Answer.SIZE if proof.entry is Answer.SIZE else None
