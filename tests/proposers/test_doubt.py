"""What the matcher cannot settle is doubtful, and what it knows is held against a wrong row."""

from __future__ import annotations

import pytest

from s2p_tui.core.evidence import weigh
from s2p_tui.core.pytree import Leaf, Skeleton
from s2p_tui.core.rows import Row
from s2p_tui.core.state_dict import Entry, StateDict
from s2p_tui.core.transform import Split, Take
from s2p_tui.core.verdict import Fit
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


@pytest.mark.parametrize(
    ("fused", "contiguous"), [("qkv", True), ("query_key_value", False), ("wqkv", False)]
)
def test_a_third_of_a_fused_weight_is_doubted_where_heads_may_alternate(
    fused: str, contiguous: bool
) -> None:
    entries = StateDict(
        tuple(Entry(f"h.{n}.attn.{fused}.weight", (96, 24), "float32") for n in range(3))
    )
    leaves = Skeleton(
        tuple(
            Leaf(f".h[{n}].attn.{part}.weight", (32, 24), "float32")
            for n in range(3)
            for part in ("q_proj", "k_proj", "v_proj")
        )
    )
    found = match(entries, leaves).suggestions
    assert [suggestion.source for suggestion in found] == [
        Split(Take(entry.key), 0, start, start + 32) for entry in entries for start in (0, 32, 64)
    ]
    assert [suggestion.certain for suggestion in found] == [contiguous] * 9


def test_two_modules_that_only_order_tells_apart_are_both_doubtful() -> None:
    keys = [f"{name}.{n}.weight" for name in ("policy", "value_net") for n in (0, 2)]
    entries = StateDict(tuple(Entry(key, (8, 4), "float32") for key in keys))
    paths = [f".{name}.layers[{n}].weight" for name in ("left", "right") for n in (0, 1)]
    leaves = Skeleton(tuple(Leaf(path, (8, 4), "float32") for path in paths))
    evidence = match(entries, leaves)
    assert not any(suggestion.certain for suggestion in evidence.suggestions)


def test_an_entry_of_the_decoder_is_not_certain_in_the_encoder() -> None:
    entries = StateDict((Entry("decoder.embed_positions.weight", (8, 4), "float32"),))
    leaves = Skeleton((Leaf(".encoder.embed_positions.weight", (8, 4), "float32"),))
    (suggestion,) = match(entries, leaves).suggestions
    assert not suggestion.certain
