"""Numbered norms of a block beside norms that are named for what they are around."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from s2p_tui.proposals.matcher.likeness import BETWEEN, slot
from s2p_tui.proposals.matcher.templates import Pairs, words_of
from s2p_tui.proposals.matcher.words import Steps, meanings


def other_order(pairs: Pairs, entries: Sequence[Steps], *, leaves_in_order: bool) -> dict[int, str]:
    """Pairs of numbered norms and named ones of blocks whose parts are declared in another order.

    `norm1`, `norm2` and `norm3` are numbered as a block runs: attention first and the MLP last in
    most, and not in all.

    Args:
        pairs: Steps of leaves and of the entries they take, by place.
        entries: Steps of all entries, in the checkpoint's order.
        leaves_in_order: Whether the order of the leaves says something.
    """
    blocks: dict[tuple[Steps, Steps], list[int]] = defaultdict(list)
    for templates, places in pairs.by_template.items():
        is_norm = all("norm" in words_of(steps[-2:-1]) for steps in templates)
        if is_norm and templates[0][-1:] in (("weight",), ("scale",)):
            for n in places:
                target, source = pairs[n]
                blocks[target[:-2], source[:-2]].append(n)
    if not any(len(members) > 1 for members in blocks.values()):
        return {}
    places = {steps: place for place, steps in enumerate(entries)}
    # A checkpoint in another order than PyTorch's, which has weights before biases, says nothing.
    weights = {steps[:-1]: place for steps, place in places.items() if steps[-1] == "weight"}
    is_ordered = (
        leaves_in_order,
        [*entries] != sorted(entries)
        and all(
            place < places.get((*module, "bias"), len(places)) for module, place in weights.items()
        ),
    )
    found: dict[Steps, str] = {}
    for members in blocks.values():
        # Leaves are in their places, and entries in those they have in the checkpoint.
        by_place = sorted(members), sorted(members, key=lambda n: places.get(pairs[n][1], n))
        for named, numbered in ((0, 1), (1, 0)):
            declared = [_major(pairs[n][named]) for n in by_place[named]]
            known = [around for around in declared if around not in (None, BETWEEN)]
            if len(known) < len(declared) or not is_ordered[named] or known == sorted(known):
                continue
            if any(_major(pairs[n][numbered]) != BETWEEN for n in members):
                continue
            for n in members:
                name = pairs[n][numbered][-2]
                why = f"the parts of its block are in another order: {name} may be another one"
                found[pairs[n][0][:-1]] = why
    return {n: found[target[:-1]] for n, (target, _) in pairs.items() if target[:-1] in found}


def _major(steps: Steps) -> float | None:
    """Return what a norm is around, in the order in which most blocks have it; None if unknown."""
    words, numbers = meanings(steps[-2:-1])
    known = slot(words, numbers)
    return None if known is None else 0.0 if known[0] == BETWEEN and "self" in words else known[0]
