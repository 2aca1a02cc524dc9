"""Cuts that cover a leaf, and requests that cover what is wanted."""

from __future__ import annotations

from itertools import pairwise, product
from math import prod
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from s2p_tui.conversion.sources import axes_in_order, regions_along
from s2p_tui.formats.base import Region
from s2p_tui.formats.remote.ranges import joined


@given(
    st.lists(st.integers(0, 6), max_size=4).map(tuple),
    st.integers(1, 200),
    st.randoms(use_true_random=False),
)
def test_regions_along_axes_cover_the_shape_once(
    shape: tuple[int, ...], limit: int, random: Any
) -> None:
    order = list(range(len(shape)))
    random.shuffle(order)
    seen = np.zeros(shape, int)
    for region in regions_along(shape, order, limit):
        assert prod(stop - start for start, stop in region) <= limit
        seen[tuple(slice(*bounds) for bounds in region)] += 1
    assert (seen == 1).all()


def test_the_cheapest_order_is_chosen() -> None:
    strides = (1, 100, 10_000)

    def asked(region: Region) -> list[tuple[int, int]]:
        places = product(*(range(*bounds) for bounds in region))
        starts = (sum(i * s for i, s in zip(place, strides, strict=True)) for place in places)
        return joined((start, start + 1) for start in starts)

    assert axes_in_order((100, 100, 100), 5000, asked)[0] == 0


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**6)), max_size=60))
def test_requests_cover_what_is_wanted_and_little_else(drawn: list[tuple[int, int]]) -> None:
    spans = [(start, start + length) for start, length in drawn]
    found = joined(spans)
    assert found == sorted(found)
    assert all(first[1] < second[0] for first, second in pairwise(found))
    for start, stop in spans:
        assert start == stop or any(low <= start and stop <= high for low, high in found)
    wanted = sum(stop - start for start, stop in joined_exactly(spans))
    assert sum(stop - start for start, stop in found) <= 1.04 * wanted or len(found) <= 60


def joined_exactly(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return joined(spans, widest=-1)
