"""Proofs that layers are whole: each is of one module of the checkpoint, and nothing is left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from s2p_tui.alignment.evidence import Suggestion
from s2p_tui.alignment.layers import ALONE, module_of
from s2p_tui.alignment.proof import Answer, Proof, Question
from s2p_tui.alignment.skeleton import Skeleton
from s2p_tui.alignment.transform import keys_of

_BY_NAME = (Answer.SAME_NAME, Answer.NAMES)
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
        is_one = len({*members.values()}) == 1
        for place in members:
            proof = suggestions[place].proof
            answers[place] = Answer.ONE_MODULE if is_one else _leaf_by_leaf(proof)
    answers |= dict.fromkeys(torn)
    left = {module_of(key) for key in left_over}
    found: dict[int, Suggestion] = {}
    for place, modules in taken.items():
        one = suggestions[place]
        is_left = not left.isdisjoint(modules)
        accounted = Answer.ACCOUNTED if is_left else Answer.NOTHING
        proof = one.proof.answered(module=answers[place], left_over=accounted)
        why = _SEVERAL if proof.open == (Question.MODULE,) and place not in torn else one.reason
        found[place] = replace(one, proof=proof, reason=why)
    return found


def _leaf_by_leaf(proof: Proof) -> Answer | None:
    """Return what proves a leaf whose layer takes from several modules."""
    if proof.entry in _BY_NAME:
        return Answer.LEAF_BY_LEAF
    return Answer.SIZE if proof.entry is Answer.SIZE else None
