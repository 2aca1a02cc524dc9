"""Entries, and parts of entries, that no row uses: explained, accepted or in the way."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from s2p_tui.alignment.alignment import Alignment, Row, Rows
from s2p_tui.alignment.edits import AcceptUnused, apply
from s2p_tui.alignment.history import History
from s2p_tui.alignment.left_over import (
    LeftOver,
    grouped,
    left_over,
    matching,
    no_parameter,
    parts_unused,
)
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Concat, Expr, Permute, Split, Take

ENTRIES = StateDict((Entry("qkv", (12, 4), "float32"), Entry("w", (4,), "float32")))


def left(*sources: Expr) -> dict[str, str]:
    return parts_unused(Rows.of(map(Row, sources)), ENTRIES)


def part(start: int, stop: int, axis: int = 0) -> Expr:
    return Split(Take("qkv"), axis, start, stop)


def test_what_no_row_takes_is_named() -> None:
    assert left(part(0, 4), Permute(part(8, 12), (1, 0))) == {"qkv": "4:8 of axis 0"}
    assert left(part(4, 6)) == {"qkv": "0:4 and 6:12 of axis 0"}
    assert left(part(0, 1, axis=1)) == {"qkv": "1:4 of axis 1"}


def test_nothing_is_left_where_parts_make_the_whole_or_a_row_takes_it() -> None:
    assert left(part(4, 12), part(0, 5)) == {}
    assert left(part(0, 4), Take("qkv")) == {}
    assert left(Concat((part(0, 4), part(4, 12)), 0), Take("w")) == {}


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
        ("attn_mask", (8, 4), "float32"),
        ("blocks.0.ls1.gamma", (8,), "float32"),
        ("queue", (128, 65536), "float32"),
        ("pos_embed.pe", (1, 100, 8), "float32"),
    ],
)
def test_what_may_hold_a_parameter_is_in_the_way(
    key: str, shape: tuple[int, ...], dtype: str
) -> None:
    state_dict = StateDict((Entry(key, shape, dtype),))
    (one,) = left_over(state_dict, Alignment(Rows.of(()), (key,)))
    assert one.blocks
    assert one.key == key


def test_copies_of_used_entries_are_explained_and_of_unused_ones_are_not() -> None:
    tied = StateDict(
        (
            Entry("embed", (8, 4), "float32", "one"),
            Entry("head", (8, 4), "float32", "one"),
            Entry("other", (4,), "float32", "two"),
            Entry("again", (4,), "float32", "two"),
        )
    )
    alignment = Alignment(Rows.of([Row(Take("embed"))]), ("head", "other", "again"))
    found = {one.key: (one.blocks, one.why) for one in left_over(tied, alignment)}
    assert found["head"] == (False, "the same tensor as embed, which is used")
    assert found["other"][0]
    assert found["again"][0]


def test_accepting_is_an_edit_that_can_be_undone() -> None:
    before = Alignment(Rows.of([Row(part(0, 4))]), ("w",))
    assert blocking(before) == {"w", "qkv"}
    history = History()
    after, _ = history.make(before, AcceptUnused(("w", "qkv")))
    assert blocking(after) == set()
    assert next(one.why for one in left_over(ENTRIES, after)) == "accepted as unused"
    back, _ = history.undo(after)
    assert blocking(back) == {"w", "qkv"}
    again, _ = history.redo(back)
    assert again == after
    assert blocking(apply(again, AcceptUnused(("w",), accept=False))) == {"w"}
    assert apply(after, AcceptUnused(("w",))) is after


def blocking(alignment: Alignment) -> set[str]:
    return {one.key for one in left_over(ENTRIES, alignment) if one.blocks}


def named(keys: Iterable[str]) -> list[tuple[str, str]]:
    entries = [LeftOver(key, "no leaf takes it", blocks=True) for key in keys]
    groups = grouped(entries)
    for group in groups:
        assert set(matching([group.glob], group.members)) == {one.key for one in group.members}
    return [(group.name, group.glob) for group in groups]


def test_many_of_a_kind_are_one_line_and_one_pattern() -> None:
    gammas = [f"blocks.{n}.ls1.gamma" for n in range(12)]
    assert named([*gammas, "cls"]) == [
        ("blocks.{0…11}.ls1.gamma", "blocks.*.ls1.gamma"),
        ("cls", "cls"),
    ]
    assert named(["a.1.b2", "a.5.b2"]) == [("a.{1,5}.b2", "a.*.b2")]
    assert named(["odd[1]*?.w"]) == [("odd[1]*?.w", "odd[[]1][*][?].w")]


def test_a_pattern_names_keys_whole() -> None:
    entries = [LeftOver(key, "", blocks=True) for key in ("pooler.weight", "my.pooler.weight")]
    assert list(matching(["pooler.*"], entries)) == ["pooler.weight"]
    assert list(matching(["*pooler.*"], entries)) == ["pooler.weight", "my.pooler.weight"]
