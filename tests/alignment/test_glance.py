"""A glance at a row says what weighing it says, its reason aside."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from s2p_tui.alignment.alignment import EMPTY, Author, Row, Rows
from s2p_tui.alignment.evidence import Evidence, Suggestion, Suggestions, weigh
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Expr, Permute, Take
from s2p_tui.alignment.verdicts import glance

KEYS = ("h.1.m.a", "h.2.m.a", "square", "half", "layer.weight_g", "layer.weight_v")
SHAPES = ((2, 3), (2, 3), (3, 3), (2, 3), (2, 1), (2, 3))
ENTRIES = StateDict(
    tuple(
        Entry(key, shape, "float16" if key == "half" else "float32")
        for key, shape in zip(KEYS, SHAPES, strict=True)
    )
)
LEAVES = (
    Leaf(".mine", (2, 3), "float32"),
    Leaf(".linear.weight", (2, 3), "float32", owner="equinox.nn.Linear"),
    Leaf(".square", (3, 3), "float32"),
    Leaf(".cell.bias", (2, 3), "float32", owner="equinox.nn.LSTMCell"),
    Leaf(".bn.batch_counter", (2, 3), "float32", owner="equinox.nn.BatchNorm"),
)
SOURCES: tuple[Expr | None, ...] = (None, *map(Take, KEYS), Permute(Take("square"), (1, 0)))


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.path)
@pytest.mark.parametrize("by", get_args(Author))
def test_a_glance_says_what_weighing_says(leaf: Leaf, by: Author) -> None:
    skeleton = Skeleton((leaf, Leaf(".other", (2, 3), "float32")))
    seen = 0
    for source, wanted, certain, placed, numbered, elsewhere, trusted, fixed in product(
        SOURCES,
        SOURCES,
        *[(False, True)] * 3,
        (None, Take(KEYS[0]), Take("half")),
        *[(False, True)] * 2,
    ):
        row = Row(source, gap=source is None and placed, by=by, trusted=trusted, fixed=fixed)
        here = Suggestion(wanted, certain, "so", placed, numbered)
        evidence = Evidence(Suggestions((here, Suggestion(elsewhere, True, "there"))), {})
        rows = Rows.of((row, EMPTY))
        for known in (evidence, None):
            glanced = glance(0, rows, ENTRIES, skeleton, known)
            if glanced is not None:
                weighed = weigh(0, row, ENTRIES, skeleton, known)
                assert (glanced.fit, glanced.blocks) == (weighed.fit, weighed.blocks), (row, known)
                seen += 1
    assert seen or leaf.owner in ("equinox.nn.LSTMCell", "equinox.nn.BatchNorm")
