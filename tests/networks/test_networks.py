"""Variants of networks: none is converted wrongly, and what names and sizes settle is converted."""

from __future__ import annotations

import random
import zlib

import pytest

from tests.networks import NETWORKS
from tests.networks.judge import judged
from tests.networks.variants import Variant, variants

_OF_EACH = 6
"""Variants of a network that are tried here; `python -m tests.networks` tries all of them."""

SETTLED = (
    "encoder_named_by_place",
    "fused_apart_gqa",
    "fused_apart_gqa_short",
    "bidirectional_lists",
    "same_names_similar",
    "same_names_norms",
    "same_names_ways",
    "plain_names_whole",
    "plain_names_square",
    "flat_dict",
    "tuple_of_models_list_first",
    "beside_attention_bias_table_kept",
    "own_lstm_same",
    "own_lstm_torch",
    "glu_without_others_alone",
    "glu_fused_up_gate",
    "glu_put_together_up_gate",
    "glu_timm",
    "experts_stacked",
    "bias_of_zeros_second",
    "mask_of_bytes",
    "encoder_decoder_torch",
    "two_streams_words",
    "siamese_sources",
    "t5_encoder",
    "unembedding_apart",
)
"""Networks that names and sizes settle in ways that are easily overlooked."""


def _sample(name: str) -> list[Variant]:
    """The network as it is, and others chosen the same way each time."""
    first, *others = variants(name)
    chance = random.Random(zlib.crc32(name.encode()))
    return [first, *chance.sample(others, min(_OF_EACH - 1, len(others)))]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.slow("converts many variants of many networks")
def test_no_variant_is_silently_wrong(name: str) -> None:
    results = [judged(variant) for variant in _sample(name)]
    wrong = [f"{r.outcome}, {r.variant}: {r.detail}" for r in results if r.is_wrong]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", SETTLED)
def test_what_names_and_sizes_settle_is_converted(name: str) -> None:
    found = judged(next(variants(name)))
    assert found.outcome == "right", found.detail


def test_parts_of_one_entry_are_no_stack_of_a_list() -> None:
    without = (v for v in variants("reordered_parts_up_gate") if v.name == "without block blocks.0")
    assert judged(next(without)).outcome == "refused rightly"


@pytest.mark.slow("makes every variant of every network")
def test_there_are_enough_of_them() -> None:
    assert len(NETWORKS) >= 100
    few = {name for name in NETWORKS if len(list(variants(name))) < 20}
    assert few == set()


def test_variants_are_the_same_each_time() -> None:
    name = "encoder_decoder_torch"
    once, again = ([(v.name, list(v.entries)) for v in variants(name)] for _ in range(2))
    assert once == again
