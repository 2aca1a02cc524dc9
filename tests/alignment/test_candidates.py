"""Candidates: the likeliest first, found by part of a name, and no more than can be looked at."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from s2p_tui.alignment.candidates import MOST, Pool, Tier, spoken

NAMES = (
    "embed.weight",
    "layers.0.q.weight",
    "layers.0.k.weight",
    "layers.1.q.weight",
    "layers.1.q.bias",
    "layers.1.qkv.weight",
    "head.weight",
)
SHAPES = ((10, 4), (4, 6), (6, 4), (4, 6), (4,), (12, 6), (2, 12))
POOL = Pool(NAMES, SHAPES, whole=True)


def ranked(name: str, shape: tuple[int, ...], query: str = "", first: tuple[int, ...] = ()):
    return [(NAMES[c.index], c.tier) for c in POOL.ranked(name, shape, query, first)]


def test_same_shape_by_name_then_same_size_then_parts_then_the_rest() -> None:
    assert ranked(".layers[1].q.weight", (4, 6)) == [
        ("layers.1.q.weight", Tier.SAME_SHAPE),
        ("layers.0.q.weight", Tier.SAME_SHAPE),
        ("layers.0.k.weight", Tier.SAME_SIZE),
        ("head.weight", Tier.SAME_SIZE),
        ("layers.1.qkv.weight", Tier.PARTS),
        ("layers.1.q.bias", Tier.OTHER),
        ("embed.weight", Tier.OTHER),
    ]


def test_what_is_suggested_comes_first_and_once() -> None:
    found = ranked(".layers[1].q.weight", (4, 6), first=(6,))
    assert found[0] == ("head.weight", Tier.SUGGESTED)
    assert [name for name, _ in found].count("head.weight") == 1
    assert len(found) == len(NAMES)


def test_a_query_keeps_names_that_have_all_its_words() -> None:
    assert [name for name, _ in ranked(".x", (4, 6), "q WEI")] == [
        "layers.0.q.weight",
        "layers.1.q.weight",
        "layers.1.qkv.weight",
    ]
    assert [name for name, _ in ranked(".x", (4, 6), ".layers[0]", first=(6,))] == [
        "layers.0.q.weight",
        "layers.0.k.weight",
    ]


def test_a_query_with_a_slip_finds_what_is_meant() -> None:
    found = ranked(".x", (4, 6), "layers.1.qvk.wieght")
    assert found[0][0] in ("layers.1.q.weight", "layers.1.qkv.weight")
    assert "embed.weight" not in [name for name, _ in found]
    assert ranked(".x", (4, 6), "zzzzzzzz") == []


def test_leaves_take_parts_of_an_entry() -> None:
    leaves = Pool([".q", ".k", ".other"], [(4, 6), (6, 4), (72, 6)], whole=False)
    tiers = {c.index: c.tier for c in leaves.ranked("qkv", (12, 6))}
    assert tiers == {0: Tier.PARTS, 1: Tier.PARTS, 2: Tier.OTHER}


def test_keys_and_paths_are_spoken_alike() -> None:
    assert spoken(".layers[3].Attn['q'].weight") == "layers.3.attn.q.weight"
    assert spoken("['params']['h_0']") == "params.h_0"


@given(
    st.lists(
        st.tuples(st.text("ab.01", min_size=1, max_size=6), st.sampled_from([(2,), (4,), (2, 2)])),
        max_size=20,
    ),
    st.text("ab.01 ", max_size=5),
)
def test_nothing_is_listed_twice_and_without_a_query_nothing_is_missing(
    items: list[tuple[str, tuple[int, ...]]], query: str
) -> None:
    pool = Pool([name for name, _ in items], [shape for _, shape in items], whole=True)
    found = pool.ranked(".a[0].b", (2, 2), query)
    places = [candidate.index for candidate in found]
    assert len(places) == len(set(places))
    if not spoken(query).split():
        assert sorted(places) == list(range(len(items)))
    tiers = [candidate.tier for candidate in found]
    assert tiers == sorted(tiers)


def test_of_very_many_no_more_are_listed_than_one_would_look_through() -> None:
    names = [f"layers.{n}.w" for n in range(5_000)]
    pool = Pool(names, [(2, 2)] * 5_000, whole=True)
    found = pool.ranked(".layers[4321].w", (2, 2))
    assert len(found) == MOST
    assert names[found[0].index] == "layers.4321.w"
    assert len(pool.ranked(".x", (2, 2), "layers")) == MOST
