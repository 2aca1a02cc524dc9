"""What the matcher leaves behind."""

from __future__ import annotations

import gc

import pytest

from s2p_tui.alignment.evidence import Suggestion, Suggestions
from s2p_tui.alignment.proof import UNPROVEN, Answer, proven_by
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Permute, Take
from s2p_tui.proposals.matcher import match

PROVEN = proven_by(Answer.CHOSEN)
_LAYERS = 50


@pytest.mark.slow("matches large models and collects garbage")
def test_no_garbage_is_left_for_the_collector() -> None:
    names = [(n, part) for n in range(_LAYERS) for part in ("weight", "bias")]
    state_dict = StateDict(tuple(Entry(f"h.{n}.{part}", (2,), "float32") for n, part in names))
    skeleton = Skeleton(tuple(Leaf(f".h[{n}].{part}", (2,), "float32") for n, part in names))
    match(state_dict, skeleton)
    gc.collect()
    gc.disable()
    try:
        match(state_dict, skeleton)
        assert gc.collect() < _LAYERS
    finally:
        gc.enable()


def test_suggestions_are_what_they_were_made_of() -> None:
    made = (
        Suggestion(Take("a"), PROVEN, "the names agree best", True),
        Suggestion(Permute(Take("b"), (1, 0)), UNPROVEN, "its layer turns it"),
        Suggestion(None, PROVEN, "a Python scalar is never in a state dict"),
    )
    found = Suggestions(made)
    assert tuple(found) == made
    assert found[-1] == made[-1]
    assert list(found[:2]) == list(made[:2])
    assert len(found) == 3
    assert found == Suggestions(found)
    assert found != Suggestions(made[:2])
