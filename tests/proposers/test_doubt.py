"""What the matcher cannot settle is doubtful, and what it knows is held against a wrong row."""

from __future__ import annotations

from s2p_tui.core.alignment import Row
from s2p_tui.core.evidence import weigh
from s2p_tui.core.fit import Fit
from s2p_tui.core.pytree import Leaf, Skeleton
from s2p_tui.core.state_dict import Entry, StateDict
from s2p_tui.core.transform import Take
from s2p_tui.proposers.matcher import match


def test_a_swap_against_the_names_is_doubted_though_the_layout_is_unsettled() -> None:
    keys = [f"enc.layers.{n}.proj.weight" for n in (0, 1)]
    entries = StateDict(tuple(Entry(key, (8, 8), "float32") for key in keys))
    paths = [f".enc.layers[{n}].proj.weight" for n in (0, 1)]
    leaves = Skeleton(tuple(Leaf(path, (8, 8), "float32") for path in paths))
    evidence = match(entries, leaves)
    assert not any(suggestion.certain for suggestion in evidence.suggestions)
    for place, key in enumerate(reversed(keys)):
        verdict = weigh(place, Row(Take(key), by="user"), entries, leaves, evidence)
        assert (verdict.fit, verdict.blocks) == (Fit.DOUBTFUL, True)
        assert keys[place] in verdict.why
