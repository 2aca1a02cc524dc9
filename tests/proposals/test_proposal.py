"""Proposals: only what differs, in hunks, accepted in part as one edit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from s2p_tui.alignment.alignment import Alignment, Row
from s2p_tui.alignment.edits import apply
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.transform import Take
from s2p_tui.proposals.proposal import Confidence, block_of, proposed, same_source

PATHS = (
    ".embed.weight",
    ".layers[0].q.weight",
    ".layers[0].k.weight",
    ".layers[1].q.weight",
    ".layers[1].k.weight",
    ".head.weight",
)
SKELETON = Skeleton(tuple(Leaf(path, (4, 4), "float32") for path in PATHS))
KEYS = tuple("abcdef")
STRAIGHT = Alignment.of(tuple(Row(Take(key)) for key in KEYS))
orders = st.permutations(KEYS).map(
    lambda keys: tuple(Row(Take(key), by="matcher", why=f"it is {key}") for key in keys)
)


@given(orders)
def test_a_proposal_is_what_differs_and_accepting_all_of_it_makes_it_so(
    wanted: tuple[Row, ...],
) -> None:
    found = proposed("matcher", STRAIGHT, enumerate(wanted), SKELETON, {})
    places = {change.index for change in found.changes}
    assert places == {n for n, row in enumerate(wanted) if row.keys != (KEYS[n],)}
    made = apply(STRAIGHT, found.accepted(places))
    assert all(same_source(*pair) for pair in zip(made.rows, wanted, strict=True))
    assert made.bench == ()


@given(orders, st.sets(st.integers(0, 5)))
def test_accepting_a_part_keeps_every_entry_once(wanted: tuple[Row, ...], places: set[int]) -> None:
    found = proposed("matcher", STRAIGHT, enumerate(wanted), SKELETON, {})
    made = apply(STRAIGHT, found.accepted(places))
    assert sorted([*made.bench, *(key for row in made.rows for key in row.keys)]) == sorted(KEYS)
    for place in places:
        assert same_source(made.rows[place], wanted[place])


def test_hunks_are_blocks_and_as_sure_as_their_worst_row() -> None:
    rows = tuple(Row(Take(key), by="claude", why="why") for key in "acbedf")
    found = proposed("claude", STRAIGHT, enumerate(rows), SKELETON, {1: Confidence.CERTAIN})
    assert [hunk.title for hunk in found.hunks] == [".layers[0]", ".layers[1]"]
    assert [hunk.confidence for hunk in found.hunks] == [Confidence.UNSURE, Confidence.UNSURE]
    assert [hunk.reason for hunk in found.hunks] == ["why", "why"]


def test_blocks_of_leaves() -> None:
    assert block_of(".layers[3].attn.weight") == ".layers[3]"
    assert block_of(".a[1].b[2].weight") == ".a[1].b[2]"
    assert block_of("['params']['block']['0']['kernel']") == "['params']['block']['0']"
    assert block_of(".head.weight") == ".head"
    assert block_of("[7]") == "[7]"
    assert block_of("[0].stem.weight") == "[0].stem"
    assert block_of("[0].layers[3].attn.weight") == "[0].layers[3]"
    assert block_of("[1].bn.batch_state_index[0]") == "[1].bn"
