"""Ports of other libraries come out right, in any order of entries, and never wrongly sure."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmarks.alignment import nameless, prediction, propose, score
from tests.benchmarks.alignment_pairs import Pair
from tests.proposers.ports import ports

PORTS = ports()
_EACH = pytest.mark.parametrize("pair", PORTS, ids=lambda pair: pair.id)


@_EACH
def test_every_row_is_right(pair: Pair) -> None:
    found = score(pair, *propose(pair))
    assert (found.exact, found.asserted_wrong) == (found.rows, 0)


@_EACH
def test_most_rows_are_vouched_for(pair: Pair) -> None:
    found = score(pair, *propose(pair))
    assert found.doubtful <= 0.4 * found.rows


@_EACH
def test_without_names_nothing_wrong_is_vouched_for(pair: Pair) -> None:
    found = score(nameless(pair), *propose(nameless(pair)))
    assert found.asserted_wrong == 0


@_EACH
def test_the_same_input_gives_the_same_proposal(pair: Pair) -> None:
    assert prediction(pair, propose(pair)[0]) == prediction(pair, propose(pair)[0])


@settings(deadline=None, max_examples=40)
@given(pair=st.sampled_from(PORTS), seed=st.integers(0, 10**6))
def test_the_order_of_entries_changes_no_row(pair: Pair, seed: int) -> None:
    source = list(pair.source)
    random.Random(seed).shuffle(source)
    changed = replace(pair, source=tuple(source))
    found = score(changed, *propose(changed))
    assert (found.exact, found.asserted_wrong) == (found.rows, 0)
