"""Names that say nothing: only sizes in their order are left."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from math import prod

from rapidfuzz.distance import LCSseq

from s2p_tui.proposers.matcher.align import Pair
from s2p_tui.proposers.matcher.tree import Node
from s2p_tui.proposers.matcher.words import is_known, meanings, name_of

ORDER_ALONE = "only the order speaks for it"
_NUMBER = re.compile(r"[0-9]+")


def say_nothing(steps: Sequence[tuple[str, ...]], targets: Sequence[tuple[str, ...]]) -> bool:
    """Whether names say nothing: they differ by numbers alone, or no word of theirs is known.

    Names that are the same on both sides always say something.

    Args:
        steps: The steps of the entries' names.
        targets: The steps of the leaves' names; words that occur there are known too.
    """
    if {*steps} == {*targets}:
        return False
    if len(steps) > 2 and len({_NUMBER.sub("#", ".".join(path)) for path in steps}) == 1:
        return True
    known = {word for path in targets for word in meanings(path)[0]}
    return not any(
        is_known(step) or bool(known.intersection(name_of(step).words) and len(step) > 1)
        for path in steps
        for step in path
        if not step.isdigit()
    ) and not all(step.isdigit() for path in steps for step in path)


def in_sequence(target: Node, source: Node) -> tuple[Pair, ...]:
    """The longest common sequence of sizes; sure only of sizes that occur once."""
    targets = list(target.leaves())
    by_leaf = list(source.leaves())
    sources = sorted(range(len(by_leaf)), key=lambda place: by_leaf[place].item)
    sizes = [prod(node.shape) for node in targets], [prod(by_leaf[n].shape) for n in sources]
    counts = Counter(sizes[0]), Counter(sizes[1])
    pairs: list[Pair] = []
    for block in LCSseq.opcodes(sizes[0], sizes[1]):
        if block.tag != "equal":
            continue
        for offset in range(block.src_end - block.src_start):
            place = block.src_start + offset
            alone = counts[0][sizes[0][place]] == counts[1][sizes[0][place]] == 1
            how = "the only entry of this size" if alone else ORDER_ALONE
            pairs.append(
                Pair(place, sources[block.dest_start + offset], 1.0 if alone else 0.0, how)
            )
    return tuple(pairs)
