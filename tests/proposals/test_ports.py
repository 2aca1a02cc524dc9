"""Ports of other libraries come out right, in any order of entries, and never wrongly sure."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmarks.alignment import nameless, prediction, propose, score
from tests.benchmarks.alignment_pairs import Pair
from tests.proposals.ports import lacking, ports, renamed, unclear_ports

PORTS = ports()
UNCLEAR = unclear_ports()
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
@pytest.mark.slow("matches dozens of models in random orders")
def test_the_order_of_entries_changes_no_row(pair: Pair, seed: int) -> None:
    source = list(pair.source)
    random.Random(seed).shuffle(source)
    changed = replace(pair, source=tuple(source))
    found = score(changed, *propose(changed))
    assert (found.exact, found.asserted_wrong) == (found.rows, 0)


@pytest.mark.parametrize("pair", UNCLEAR, ids=lambda pair: pair.id)
def test_what_order_alone_settles_is_proposed_in_that_order(pair: Pair) -> None:
    found = score(pair, *propose(pair))
    assert (found.exact, found.asserted_wrong) == (found.rows, 0)


@settings(deadline=None, max_examples=30)
@given(pair=st.sampled_from(UNCLEAR), seed=st.integers(0, 10**6))
@pytest.mark.slow("matches dozens of models in random orders")
def test_what_order_alone_settles_is_vouched_for_in_no_order(pair: Pair, seed: int) -> None:
    source = list(pair.source)
    random.Random(seed).shuffle(source)
    changed = replace(pair, source=tuple(source))
    assert score(changed, *propose(changed)).asserted_wrong == 0


@_EACH
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.slow("matches every model without each of four entries")
def test_of_a_missing_entry_no_other_takes_the_place(pair: Pair, seed: int) -> None:
    gone = random.Random(seed).sample([tensor.name for tensor in pair.source], 1)
    changed = lacking(pair, gone)
    assert score(changed, *propose(changed)).asserted_wrong == 0


@_EACH
def test_of_several_missing_entries_no_others_take_the_place(pair: Pair) -> None:
    gone = random.Random(0).sample([tensor.name for tensor in pair.source], len(pair.source) // 8)
    changed = lacking(pair, gone)
    assert score(changed, *propose(changed)).asserted_wrong == 0


@_EACH
def test_blocks_may_be_numbered_from_one(pair: Pair) -> None:
    names = {t.name: re.sub(r"\.(\d+)\.", _next, t.name, count=1) for t in pair.source}
    changed = renamed(pair, names)
    found = score(changed, *propose(changed))
    assert (found.exact, found.asserted_wrong) == (found.rows, 0)


def _next(match: re.Match[str]) -> str:
    return f".{int(match[1]) + 1}."
