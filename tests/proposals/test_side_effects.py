"""What a partial acceptance does to other rows and to the bench: the same as making the edit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from s2p_tui.alignment.alignment import EMPTY, Alignment, Row
from s2p_tui.alignment.edits import apply
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.transform import Concat, Constant, Expr, Split, Take
from s2p_tui.proposals.proposal import proposed, same_source

COUNT = 5
SKELETON = Skeleton(tuple(Leaf(f".{n}", (4, 4), "float32") for n in range(COUNT)))
KEYS = "abcde"


def _part(key: str, number: int) -> Expr:
    return Split(Take(key), 0, 4 * number, 4 * number + 4)


sources = st.one_of(
    st.sampled_from(KEYS).map(Take),
    st.builds(_part, st.sampled_from("ab"), st.integers(0, 1)),
    st.permutations(KEYS).map(lambda keys: Concat((Take(keys[0]), Take(keys[1])), 0)),
    st.just(Constant(1.0, (4, 4))),
)
rows = st.one_of(
    sources.map(lambda source: Row(source, by="matcher")),
    st.just(EMPTY),
    st.just(Row(gap=True)),
)
many_rows = st.lists(rows, min_size=COUNT, max_size=COUNT).map(tuple)


def with_bench(contents: tuple[Row, ...]) -> Alignment:
    used = {key for row in contents for key in row.keys}
    return Alignment.of(contents, tuple(key for key in KEYS if key not in used))


@given(many_rows, many_rows)
def test_accepting_all_of_an_opinion_on_every_row_makes_it_so(
    old: tuple[Row, ...], wanted: tuple[Row, ...]
) -> None:
    before = with_bench(old)
    proposal = proposed("matcher", before, enumerate(wanted), SKELETON, {})
    after = apply(before, proposal.accepted({change.index for change in proposal.changes}))
    assert all(same_source(*pair) for pair in zip(after.rows, wanted, strict=True))
    assert sorted(after.bench) == sorted(with_bench(wanted).bench)


def test_tied_weights_stay_where_the_proposer_has_them_twice() -> None:
    tied = Row(Take("a"), by="matcher")
    before = with_bench((tied, Row(Take("b")), EMPTY, EMPTY, EMPTY))
    proposal = proposed("matcher", before, [(0, tied), (1, tied)], SKELETON, {})
    assert [change.index for change in proposal.changes] == [1]
    after = apply(before, proposal.accepted({1}))
    assert [row.source for row in after.rows[:2]] == [Take("a"), Take("a")]
    assert after.bench == ("c", "d", "e", "b")


def test_rows_that_share_with_rows_that_stay_stay_too() -> None:
    joined = Row(Concat((Take("d"), Take("a")), 0), by="matcher")
    tied = Row(Take("a"), by="matcher")
    before = with_bench((EMPTY, joined, tied, EMPTY, EMPTY))
    wanted = (Row(Take("d"), by="matcher"), *before.rows[1:])
    proposal = proposed("matcher", before, enumerate(wanted), SKELETON, {})
    after = apply(before, proposal.accepted({0}))
    assert all(same_source(*pair) for pair in zip(after.rows, wanted, strict=True))
