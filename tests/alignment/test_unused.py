"""Entries that no row uses: explained, accepted or in the way."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from s2p_tui.alignment.alignment import Alignment, Row
from s2p_tui.alignment.edits import AcceptUnused, Edit, PlaceFromBench, SendToBench, apply
from s2p_tui.alignment.globs import matching
from s2p_tui.alignment.history import History
from s2p_tui.alignment.left_over import LeftOver, UnusedEntries, grouped, no_parameter
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Take

ENTRIES = StateDict(tuple(Entry(key, (4,), "float32") for key in "uvw"))


def unused(state_dict: StateDict, *bench: str, rows: Iterable[str] = ()) -> dict[str, LeftOver]:
    """The accounts of benched entries, by key."""
    taken = [Row(Take(key)) for key in rows]
    alignment = Alignment.of(taken, bench, state_dict.numbering)
    return {one.key: one for one in UnusedEntries(state_dict, alignment)}


@pytest.mark.parametrize(
    ("key", "shape", "dtype"),
    [
        ("bn.num_batches_tracked", (), "int64"),
        ("embeddings.position_ids", (1, 512), "int64"),
        ("embeddings.token_type_ids", (1, 512), "int64"),
        ("layers.3.self_attn.rotary_emb.inv_freq", (32,), "float32"),
        ("layers.3.self_attn.rotary_emb.cos_cached", (1, 1, 2048, 64), "float32"),
        ("freqs_cis", (2048, 32), "complex64"),
        ("h.0.attn.bias", (1, 1, 1024, 1024), "float32"),
        ("h.0.attn.bias", (1, 1, 1024, 1024), "uint8"),
        ("h.0.attn.masked_bias", (), "float32"),
        ("blocks.1.attn_mask", (64, 49, 49), "float32"),
        ("blocks.1.causal_mask", (1, 1, 16, 16), "bool"),
        ("layers.0.relative_position_index", (49, 49), "int64"),
        ("layers.0.relative_coords_table", (1, 15, 15, 2), "float32"),
        ("optimizer.state.0.step", (), "float32"),
        ("state.weight.exp_avg_sq", (4, 4), "float32"),
        ("fc.extra", (0,), "float32"),
    ],
)
def test_what_holds_no_parameter_needs_nobody_to_accept_it(
    key: str, shape: tuple[int, ...], dtype: str
) -> None:
    assert no_parameter(Entry(key, shape, dtype))


@pytest.mark.parametrize(
    ("key", "shape", "dtype"),
    [
        ("bn.num_batches_tracked", (3,), "int64"),
        ("counter", (), "float32"),
        ("embeddings.position_ids", (512, 64), "float32"),
        ("rotary_emb.inv_freq", (32, 4), "float32"),
        ("attn.bias", (64,), "float32"),
        ("attn.bias", (1, 12, 49, 49), "float32"),
        ("attn.relative_position_bias_table", (169, 3), "float32"),
        ("mask_token", (1, 1, 8), "float32"),
        ("fc.weight_mask", (8, 8), "bool"),
        ("fc.mask", (8, 8), "float32"),
        ("fc.mask", (8, 4), "bool"),
        ("fc.channel_mask", (8,), "bool"),
        ("attn.head_mask", (8,), "uint8"),
        ("attn_mask", (8, 4), "float32"),
        ("blocks.0.ls1.gamma", (8,), "float32"),
        ("queue", (128, 65536), "float32"),
        ("pos_embed.pe", (1, 100, 8), "float32"),
    ],
)
def test_what_may_hold_a_parameter_is_in_the_way(
    key: str, shape: tuple[int, ...], dtype: str
) -> None:
    one = unused(StateDict((Entry(key, shape, dtype),)), key)[key]
    assert one.blocks


@pytest.mark.parametrize(("key", "blocks"), [("masks.fc.mask", True), ("attn.tril", False)])
def test_a_mask_of_the_shape_of_a_weight_may_be_a_part_of_it(key: str, blocks: bool) -> None:
    state_dict = StateDict((Entry("fc.weight", (8, 8), "float32"), Entry(key, (8, 8), "bool")))
    assert unused(state_dict, key, rows=("fc.weight",))[key].blocks == blocks
    other = StateDict((Entry("fc.weight", (8, 4), "float32"), Entry(key, (8, 8), "bool")))
    assert not unused(other, key, rows=("fc.weight",))[key].blocks


def test_statistics_without_a_leaf_are_named_as_such() -> None:
    state_dict = StateDict((Entry("bn.running_var", (4,), "float32"),))
    assert "running statistic" in unused(state_dict, "bn.running_var")["bn.running_var"].why


def test_copies_of_used_entries_are_explained_and_of_unused_ones_are_not() -> None:
    tied = StateDict(
        (
            Entry("embed", (8, 4), "float32", "one"),
            Entry("head", (8, 4), "float32", "one"),
            Entry("other", (4,), "float32", "two"),
            Entry("again", (4,), "float32", "two"),
            Entry("alone", (4,), "float32"),
        )
    )
    found = unused(tied, "head", "other", "again", "alone", rows=("embed",))
    assert found["head"].why == "the same tensor as embed, which is used"
    assert not found["head"].blocks
    assert all(found[key].blocks for key in ("other", "again", "alone"))


def blocking(alignment: Alignment) -> set[str]:
    return {one.key for one in UnusedEntries(ENTRIES, alignment).blocking_entries()}


def test_accepting_is_an_edit_that_can_be_undone() -> None:
    before = Alignment.of([Row(Take("u"))], ("v", "w"), ENTRIES.numbering)
    assert blocking(before) == {"v", "w"}
    history = History()
    after, _ = history.make(before, AcceptUnused(("v", "w")))
    assert blocking(after) == set()
    assert [one.why for one in UnusedEntries(ENTRIES, after)] == ["accepted as unused"] * 2
    back, _ = history.undo(after)
    assert back == before
    assert blocking(back) == {"v", "w"}
    again, _ = history.redo(back)
    assert again == after
    assert blocking(apply(again, AcceptUnused(("v",), accept=False))) == {"v"}
    assert apply(after, AcceptUnused(("v",))) is after
    assert apply(after, AcceptUnused(("u",))) is after


def test_an_accepted_entry_that_comes_back_to_the_bench_has_to_be_accepted_again() -> None:
    start = Alignment.of([Row(Take("u"))], ("v", "w"), ENTRIES.numbering)
    accepted = apply(start, AcceptUnused(("v", "w")))
    placed = apply(accepted, PlaceFromBench("v", 0, shift=False))
    assert placed.accepted == {"w"}
    assert blocking(placed) == {"u"}
    assert blocking(apply(placed, SendToBench((0,)))) == {"u", "v"}


edits: st.SearchStrategy[Edit] = st.one_of(
    st.builds(AcceptUnused, st.lists(st.sampled_from("uvw")).map(tuple), st.booleans()),
    st.builds(SendToBench, st.lists(st.integers(0, 1), max_size=2).map(tuple)),
    st.builds(PlaceFromBench, st.sampled_from("uvw"), st.integers(0, 1), st.booleans()),
)


@given(st.lists(edits, max_size=12))
def test_what_was_found_before_is_as_good_as_new(todo: list[Edit]) -> None:
    alignment = Alignment.of([Row(Take("u")), Row(Take("v"))], ("w",), ENTRIES.numbering)
    kept = UnusedEntries(ENTRIES, alignment)
    for edit in todo:
        if isinstance(edit, PlaceFromBench) and edit.key not in alignment.bench:
            continue
        alignment = apply(alignment, edit)
        kept.changed(alignment)
        fresh = UnusedEntries(ENTRIES, alignment)
        assert list(kept) == list(fresh)
        assert kept.blocking_entries() == fresh.blocking_entries()
        assert alignment.accepted <= set(alignment.bench)


def named(keys: list[str]) -> list[tuple[str, str]]:
    entries = [LeftOver(key, "no leaf takes it", blocks=True) for key in keys]
    groups = grouped(entries)
    for group in groups:
        members = [one.key for one in group.members]
        assert matching([group.glob], keys) == members
    return [(group.name, group.glob) for group in groups]


def test_many_of_a_kind_are_one_line_and_one_pattern() -> None:
    gammas = [f"blocks.{n}.ls1.gamma" for n in range(12)]
    assert named([*gammas, "cls"]) == [
        ("blocks.{0…11}.ls1.gamma", "blocks.*.ls1.gamma"),
        ("cls", "cls"),
    ]
    assert named(["a.1.b2", "a.5.b2"]) == [("a.{1,5}.b2", "a.*.b2")]
    assert named(["odd[1]*?.w"]) == [("odd[1]*?.w", "odd[[]1][*][?].w")]


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, unique=True))
@example(["0", "#"])
def test_every_pattern_names_its_group_and_can_be_typed(keys: list[str]) -> None:
    groups = grouped(LeftOver(key, "", blocks=True) for key in keys)
    assert sorted(one.key for group in groups for one in group.members) == sorted(keys)
    for group in groups:
        assert group.glob.isprintable()
        assert all(fnmatchcase(one.key, group.glob) for one in group.members)


def test_modules_left_over_as_a_whole_are_one_line_and_one_pattern() -> None:
    keys = ["fc.weight", "fc.bias", "pooler.weight", "pooler.bias", "cls"]
    keys += [f"h.{n}.{key}" for n in range(3) for key in ("w", "adapter.a", "adapter.b.c")]
    left = [key for key in keys if key not in ("fc.weight", *(f"h.{n}.w" for n in range(3)))]
    groups = grouped((LeftOver(key, "no leaf takes it", blocks=True) for key in left), keys)
    assert [(group.name, group.glob, len(group.members)) for group in groups] == [
        ("fc.bias", "fc.bias", 1),
        ("pooler.*", "pooler.*", 2),
        ("cls", "cls", 1),
        ("h.{0…2}.adapter.*", "h.*.adapter.*", 6),
    ]
    for group in groups:
        assert matching([group.glob], left) == [one.key for one in group.members]


def test_modules_left_over_for_several_reasons_are_taken_apart() -> None:
    entries = [LeftOver("bn.weight", "one", blocks=True), LeftOver("bn.mean", "other", blocks=True)]
    assert [group.glob for group in grouped(entries, ["bn.weight", "bn.mean"])] == [
        "bn.weight",
        "bn.mean",
    ]


def test_a_pattern_names_keys_whole() -> None:
    keys = ["pooler.weight", "my.pooler.weight"]
    assert matching(["pooler.*"], keys) == ["pooler.weight"]
    assert matching(["*pooler.*"], keys) == keys
    assert matching(["my.pooler.weight", "nothing"], keys) == keys[1:]
