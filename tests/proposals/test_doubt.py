"""What the matcher cannot settle is doubtful, and what it knows is held against a wrong row."""

from __future__ import annotations

import pytest

from s2p_tui.alignment.alignment import Row, Rows
from s2p_tui.alignment.edits import MoveBlock, OpenGap, Several, Swap, apply
from s2p_tui.alignment.evidence import Evidence, as_suggested, weigh
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.proof import Question
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Split, Take
from s2p_tui.proposals.matcher import match


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
    ("fused", "beside", "contiguous"),
    [
        ("qkv", ("proj.weight",), True),
        ("qkv", ("out.weight",), False),
        ("qkv", ("proj.weight", "attention_biases"), False),
        ("to_qkv", ("to_out.weight",), True),
        ("query_key_value", ("proj.weight",), False),
        ("wqkv", ("wo.weight",), False),
    ],
)
def test_a_third_of_a_fused_weight_is_doubted_where_heads_may_alternate(
    fused: str, beside: tuple[str, ...], contiguous: bool
) -> None:
    keys = [f"h.{n}.attn.{fused}.weight" for n in range(3)]
    others = [f"h.{n}.attn.{name}" for n in range(3) for name in beside]
    entries = StateDict(
        (
            *(Entry(key, (96, 24), "float32") for key in keys),
            *(Entry(key, (5, 7), "float32") for key in others),
        )
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
        Split(Take(key), 0, start, start + 32) for key in keys for start in (0, 32, 64)
    ]
    assert [Question.GROUPING not in one.proof.open for one in found] == [contiguous] * 9


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


@pytest.fixture(name="unsure")
def _unsure() -> tuple[StateDict, Skeleton, Evidence]:
    """Blocks whose two norms nothing tells apart."""
    entries = StateDict(
        tuple(
            Entry(f"model.layers.{n}.{norm}.weight", (8,), "float32")
            for n in range(4)
            for norm in ("input_layernorm", "post_attention_layernorm")
        )
    )
    leaves = Skeleton(
        tuple(
            Leaf(f".stack[{n}].{norm}.weight", (8,), "float32")
            for n in range(4)
            for norm in ("n1", "n2")
        )
    )
    evidence = match(entries, leaves)
    assert not any(one.certain or one.placed for one in evidence.suggestions)
    return entries, leaves, evidence


def _fits(rows: Rows, known: tuple[StateDict, Skeleton, Evidence]) -> list[Fit]:
    return [weigh(place, row, *known).fit for place, row in enumerate(rows)]


def test_what_a_gap_moves_into_another_numbered_block_is_doubtful(
    unsure: tuple[StateDict, Skeleton, Evidence],
) -> None:
    entries, leaves, evidence = unsure
    start = as_suggested(evidence, entries, leaves)
    shifted = apply(start, Several((OpenGap(2), OpenGap(3))))
    assert shifted.rows[4].keys == ("model.layers.1.input_layernorm.weight",)
    assert _fits(shifted.rows, unsure) == [*[Fit.DOUBTFUL] * 2, *[Fit.GAP] * 2, *[Fit.DOUBTFUL] * 4]
    why = weigh(4, shifted.rows[4], *unsure).why
    assert "model.layers.2.input_layernorm.weight may belong here" in why


def test_going_there_and_back_settles_nothing(
    unsure: tuple[StateDict, Skeleton, Evidence],
) -> None:
    entries, leaves, evidence = unsure
    start = as_suggested(evidence, entries, leaves)
    back = apply(apply(start, MoveBlock(0, 2, 2)), MoveBlock(2, 4, -2))
    assert [row.source for row in back.rows] == [row.source for row in start.rows]
    assert _fits(back.rows, unsure) == [Fit.DOUBTFUL] * 8


def test_what_is_chosen_or_moved_within_its_block_is_the_users_to_settle(
    unsure: tuple[StateDict, Skeleton, Evidence],
) -> None:
    entries, leaves, evidence = unsure
    start = as_suggested(evidence, entries, leaves)
    swapped = apply(start, Swap(2, 3)).rows
    assert _fits(swapped, unsure)[2:4] == [Fit.EXACT] * 2
    chosen = Row(Take("model.layers.3.input_layernorm.weight"), by="user")
    assert weigh(0, chosen, *unsure).fit is Fit.EXACT
