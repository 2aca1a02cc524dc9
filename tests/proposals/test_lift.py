"""Block lift: the arrangement of one block applied to its siblings, or a reason why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2p_tui.alignment.alignment import EMPTY, Alignment, Row, in_order
from s2p_tui.alignment.edits import SetRows, apply
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Concat, Expr, Permute, Reshape, Split, Take
from s2p_tui.proposals.lift import blocks_at, lift
from s2p_tui.proposals.proposal import Confidence, Proposal

Shape = tuple[int, ...]


def entries(shapes: Mapping[str, Shape]) -> StateDict:
    return StateDict(tuple(Entry(key, shape, "float32") for key, shape in shapes.items()))


def leaves(shapes: Mapping[str, Shape]) -> Skeleton:
    return Skeleton(tuple(Leaf(path, shape, "float32") for path, shape in shapes.items()))


def nothing(skeleton: Skeleton) -> tuple[Row, ...]:
    return tuple(EMPTY for _ in skeleton)


def lifted(
    state_dict: StateDict, skeleton: Skeleton, done: Mapping[str, Row | Expr], level: int = 0
) -> Proposal:
    """The proposal after some rows were filled, from the block of the first of them."""
    contents = {
        skeleton.index(path): row if isinstance(row, Row) else Row(row, by="user")
        for path, row in done.items()
    }
    blank = Alignment.of(nothing(skeleton), tuple(entry.key for entry in state_dict))
    alignment = apply(blank, SetRows(tuple(contents.items())))
    place = next(iter(contents))
    block = blocks_at(skeleton, place)[level]
    return lift(state_dict, skeleton, alignment, block)


def made(proposal: Proposal, skeleton: Skeleton) -> dict[str, Expr | None]:
    return {skeleton[change.index].path: change.new.source for change in proposal.changes}


WEIGHT, BIAS = (4, 6), (4,)


@given(
    st.integers(2, 12),
    st.integers(0, 1),
    st.data(),
    st.sampled_from(["h.{}.", "model.2.layers.{}.self.", "l{}."]),
)
def test_a_lift_arranges_every_sibling_alike_whatever_the_numbering(
    count: int, first: int, data: st.DataObject, form: str
) -> None:
    mine = data.draw(st.integers(0, count - 1))
    numbers = range(count)
    keys = {n: form.format(n + first) for n in numbers}
    state_dict = entries(
        {f"{keys[n]}{name}": shape for n in numbers for name, shape in (("w", WEIGHT), ("b", BIAS))}
    )
    skeleton = leaves(
        {
            f".layers[{n}].{name}": shape
            for n in numbers
            for name, shape in (("bias", BIAS), ("weight", (6, 4)))
        }
    )
    proposal = lifted(
        state_dict,
        skeleton,
        {
            f".layers[{mine}].weight": Permute(Take(f"{keys[mine]}w"), (1, 0)),
            f".layers[{mine}].bias": Take(f"{keys[mine]}b"),
        },
    )
    others = [n for n in numbers if n != mine]
    assert made(proposal, skeleton) == {
        **{f".layers[{n}].weight": Permute(Take(f"{keys[n]}w"), (1, 0)) for n in others},
        **{f".layers[{n}].bias": Take(f"{keys[n]}b") for n in others},
    }
    assert proposal.notes == (f"{count - 1} of {count - 1} agree with .layers[{mine}]",)
    assert proposal.by == "user"
    assert {change.new.by for change in proposal.changes} == {"user"}
    assert {hunk.title for hunk in proposal.hunks} == {f".layers[{n}]" for n in others}


def experts(layers: int, count: int) -> tuple[StateDict, Skeleton]:
    pairs = [(layer, expert) for layer in range(layers) for expert in range(count)]
    return (
        entries({f"layers.{a}.experts.{b}.w": WEIGHT for a, b in pairs}),
        leaves({f".layers[{a}].experts[{b}].weight": WEIGHT for a, b in pairs}),
    )


@pytest.mark.parametrize(("layers", "count"), [(3, 5), (5, 3), (4, 4)])
def test_of_two_numbers_the_blocks_own_is_counted_on(layers: int, count: int) -> None:
    state_dict, skeleton = experts(layers, count)
    done = {".layers[2].experts[2].weight": Take("layers.2.experts.2.w")}
    inner = lifted(state_dict, skeleton, done)
    assert made(inner, skeleton) == {
        f".layers[2].experts[{b}].weight": Take(f"layers.2.experts.{b}.w")
        for b in range(count)
        if b != 2
    }
    outer = lifted(state_dict, skeleton, done, level=1)
    assert made(outer, skeleton) == {
        f".layers[{a}].experts[2].weight": Take(f"layers.{a}.experts.2.w")
        for a in range(layers)
        if a != 2
    }


def test_a_block_that_differs_is_named_and_left() -> None:
    state_dict = entries({f"h.{n}.w": (3, 3) if n == 3 else WEIGHT for n in range(5)})
    skeleton = leaves({f".h[{n}].w": WEIGHT for n in range(6)})
    proposal = lifted(state_dict, skeleton, {".h[0].w": Take("h.0.w")})
    assert set(made(proposal, skeleton)) == {".h[1].w", ".h[2].w", ".h[4].w"}
    assert proposal.notes == (
        "3 of 5 agree with .h[0], .h[3] differs: h.3.w is 3×3 for 4×6, h.0.w is 4×6",
        ".h[5] differs: there is no h.5.w for .h[5].w",
    )


def test_a_wider_sibling_that_fits_as_well_is_no_different() -> None:
    state_dict = entries({f"h.{n}.w": (4 + n, 6) for n in range(3)})
    skeleton = leaves({f".h[{n}].w": (4 + n, 6) for n in range(3)})
    proposal = lifted(state_dict, skeleton, {".h[0].w": Take("h.0.w")})
    assert set(made(proposal, skeleton)) == {".h[1].w", ".h[2].w"}


def test_gaps_are_lifted_and_fixed_rows_are_not() -> None:
    state_dict = entries({f"h.{n}.w": WEIGHT for n in range(2)})
    skeleton = Skeleton(
        tuple(
            leaf
            for n in range(2)
            for leaf in (
                Leaf(f".h[{n}].w", WEIGHT, "float32"),
                Leaf(f".h[{n}].extra", BIAS, "float32"),
                Leaf(f".h[{n}].p", (), "float64", kind="scalar"),
            )
        )
    )
    straight = in_order(state_dict, skeleton)
    alignment = apply(straight, SetRows(((1, Row(gap=True, by="user")),)))
    proposal = lift(state_dict, skeleton, alignment, blocks_at(skeleton, 1)[0])
    changes = list(proposal.changes)
    assert [change.index for change in changes] == [3, 4]
    assert changes[1].new.gap


def test_stacked_sources_and_shared_entries_are_left_alone() -> None:
    stacked = {"blocks.w": (4, 4, 6), "shared": BIAS}
    state_dict = entries(stacked | {f"h.{n}.v": WEIGHT for n in range(4)})
    skeleton = leaves(
        {
            f".h[{n}].{name}": shape
            for n in range(4)
            for name, shape in (("w", WEIGHT), ("b", BIAS), ("v", WEIGHT))
        }
    )
    proposal = lifted(
        state_dict,
        skeleton,
        {
            ".h[1].w": Reshape(Split(Take("blocks.w"), 0, 1, 2), WEIGHT),
            ".h[1].b": Take("shared"),
            ".h[1].v": Take("h.1.v"),
        },
    )
    assert set(made(proposal, skeleton)) == {".h[0].v", ".h[2].v", ".h[3].v"}
    assert proposal.notes[1:] == (
        ".h[1].w is left alone: no other block has a counterpart of blocks.w",
        ".h[1].b is left alone: no other block has a counterpart of shared",
    )


def test_several_entries_of_one_row_go_together() -> None:
    state_dict = entries({f"h.{n}.{name}": WEIGHT for n in range(3) for name in "qkv"})
    skeleton = leaves({f".h[{n}].qkv": (12, 6) for n in range(3)})

    def joined(n: int) -> Expr:
        return Concat(tuple(Take(f"h.{n}.{name}") for name in "qkv"), 0)

    proposal = lifted(state_dict, skeleton, {".h[0].qkv": joined(0)})
    assert made(proposal, skeleton) == {".h[1].qkv": joined(1), ".h[2].qkv": joined(2)}


def test_zero_padded_numbers() -> None:
    state_dict = entries({f"h_{n:02}/w": WEIGHT for n in range(12)})
    skeleton = leaves({f".h[{n}].w": WEIGHT for n in range(12)})
    for mine in (3, 11):
        proposal = lifted(state_dict, skeleton, {f".h[{mine}].w": Take(f"h_{mine:02}/w")})
        assert made(proposal, skeleton) == {
            f".h[{n}].w": Take(f"h_{n:02}/w") for n in range(12) if n != mine
        }


def test_blocks_with_siblings_innermost_first() -> None:
    paths = (".a[0].b[0].w", ".a[0].b[1].w", ".a[1].b[0].w", ".a[1].c[0].w", ".head.w")
    skeleton = leaves(dict.fromkeys(paths, BIAS))
    assert [block.prefix for block in blocks_at(skeleton, 0)] == [".a[0].b[0]", ".a[0]"]
    assert [block.prefix for block in blocks_at(skeleton, 3)] == [".a[1]"]
    assert blocks_at(skeleton, 4) == ()
    keyed = leaves({"['params']['h_0']['w']": BIAS, "['params']['h_1']['w']": BIAS})
    assert [block.prefix for block in blocks_at(keyed, 1)] == ["['params']['h_1']"]
    plain = leaves({f"[{n}]": BIAS for n in range(3)})
    assert blocks_at(plain, 0) == ()


def test_what_nothing_speaks_against_is_certain() -> None:
    state_dict, skeleton = experts(2, 3)
    proposal = lifted(
        state_dict, skeleton, {".layers[0].experts[0].weight": Take("layers.0.experts.0.w")}
    )
    assert {change.confidence for change in proposal.changes} == {Confidence.CERTAIN}
    assert not any(change.objection for change in proposal.changes)


@given(st.integers(1, 4), st.data())
def test_lifting_twice_changes_nothing_more(count: int, data: st.DataObject) -> None:
    state_dict, skeleton = experts(count + 1, count + 1)
    orders = data.draw(st.permutations(range(len(skeleton))))
    keys = [state_dict.entries[n].key for n in orders]
    alignment = Alignment.of(tuple(Row(Take(key)) for key in keys))
    place = data.draw(st.integers(0, len(skeleton) - 1))
    block = blocks_at(skeleton, place)[data.draw(st.integers(0, 1))]
    first = lift(state_dict, skeleton, alignment, block)
    after = apply(alignment, first.accepted({change.index for change in first.changes}))
    used = [key for row in after.rows for key in row.keys]
    assert sorted([*used, *after.bench]) == sorted(keys)
    if all(after.rows[n] == alignment.rows[n] for n in _inside(skeleton, block.prefix)):
        again = lift(state_dict, skeleton, after, block)
        assert not again.hunks


def _inside(skeleton: Skeleton, prefix: str) -> Sequence[int]:
    return [n for n, leaf in enumerate(skeleton) if leaf.path.startswith(prefix)]


def test_a_block_that_would_take_an_entry_twice_is_left() -> None:
    state_dict = entries({f"h.{n}.w": WEIGHT for n in range(4)})
    skeleton = leaves({f".h[{n}].{name}": WEIGHT for n in range(3) for name in "wv"})
    done = {".h[0].w": Take("h.0.w"), ".h[0].v": Take("h.1.w")}
    proposal = lifted(state_dict, skeleton, done)
    assert set(made(proposal, skeleton)) == {".h[2].w", ".h[2].v"}
    assert proposal.notes == ("1 of 2 agree with .h[0], .h[1] differs: h.1.w would be taken twice",)
