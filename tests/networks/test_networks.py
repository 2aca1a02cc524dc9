"""No variant of a network is converted wrongly without a word; a sample of those there are."""

from __future__ import annotations

import random
import zlib

import pytest

from tests.networks import NETWORKS
from tests.networks.judge import judged
from tests.networks.variants import Variant, variants

_OF_EACH = 8
"""Variants of a network that are tried here; `python -m tests.networks` tries all of them."""


def _sample(name: str) -> list[Variant]:
    """The network as it is, and others chosen the same way each time."""
    first, *others = variants(name)
    chance = random.Random(zlib.crc32(name.encode()))
    return [first, *chance.sample(others, min(_OF_EACH - 1, len(others)))]


@pytest.mark.parametrize("name", NETWORKS)
def test_no_variant_is_silently_wrong(name: str) -> None:
    results = [judged(variant) for variant in _sample(name)]
    wrong = [f"{r.outcome}, {r.variant}: {r.detail}" for r in results if r.is_wrong]
    assert not wrong, "\n".join(wrong)


def test_there_are_enough_of_them() -> None:
    assert len(NETWORKS) >= 100
    few = {name for name in NETWORKS if len(list(variants(name))) < 20}
    assert few == set()


def test_variants_are_the_same_each_time() -> None:
    name = "encoder_decoder_torch"
    once, again = ([(v.name, list(v.entries)) for v in variants(name)] for _ in range(2))
    assert once == again
