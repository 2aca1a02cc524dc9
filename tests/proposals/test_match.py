"""What `match` proposes, and what it leaves in doubt."""

from __future__ import annotations

import pytest

from s2p_tui.alignment.transform import Shape, Take
from tests.proposals.matched import Tensors, certain, keys, matched


def test_roles_renamed_in_every_block_are_told_apart_and_sure_where_sizes_are() -> None:
    entries: Tensors = [
        (f"layers.{n}.{name}.weight", shape)
        for n in range(3)
        for name, shape in (("fc1", (16, 8)), ("fc2", (8, 16)), ("gate", (4, 8)))
    ]
    leaves: Tensors = [
        (f".blocks[{n}].{name}.weight", shape)
        for n in range(3)
        for name, shape in (("router", (4, 8)), ("expand", (16, 8)), ("contract", (8, 16)))
    ]
    evidence = matched(entries, leaves)
    expected = [f"layers.{n}.{name}.weight" for n in range(3) for name in ("gate", "fc1", "fc2")]
    assert keys(evidence) == expected
    assert certain(evidence) == [True, False, False] * 3


@pytest.mark.parametrize("template", [".layer{}.norm.weight", ".trunk.block_{}.norm.weight"])
def test_blocks_numbered_from_one_follow_those_numbered_from_zero(template: str) -> None:
    entries: Tensors = [(f"blocks.{n}.norm.weight", (8,)) for n in range(12)]
    leaves: Tensors = [(template.format(n + 1), (8,)) for n in range(12)]
    evidence = matched(entries, leaves)
    assert keys(evidence) == [key for key, _ in entries]


def test_flat_names_meet_nested_ones() -> None:
    entries: Tensors = [
        (f"stages.{n}.{m}.{kind}", shape)
        for n, size in enumerate((8, 16))
        for m in range(2)
        for kind, shape in (("conv.weight", (size, 8, 3, 3)), ("norm.weight", (size,)))
    ]
    leaves: Tensors = [
        (f".layers[{2 * n + m}].{kind}", shape)
        for n, size in enumerate((8, 16))
        for m in range(2)
        for kind, shape in (("conv.weight", (size, 8, 3, 3)), ("norm.weight", (size,)))
    ]
    evidence = matched(entries, leaves)
    assert keys(evidence) == [key for key, _ in entries]


def test_a_bias_only_the_leaves_have_takes_no_other() -> None:
    entries: Tensors = [
        (f"layers.{n}.{key}", shape)
        for n in range(3)
        for key, shape in (
            ("query.weight", (8, 8)), ("query.bias", (8,)), ("key.weight", (8, 8)),
            ("value.weight", (8, 8)), ("value.bias", (8,)),
        )
    ]  # fmt: skip
    leaves: Tensors = [
        (f".layers[{n}].{name}.{kind}", shape)
        for n in range(3)
        for name in ("query", "key", "value")
        for kind, shape in (("weight", (8, 8)), ("bias", (8,)))
    ]
    evidence = matched(entries, leaves, dict.fromkeys((p for p, _ in leaves), "equinox.nn.Linear"))
    expected = [
        "" if (name, kind) == ("key", "bias") else f"layers.{n}.{name}.{kind}"
        for n in range(3)
        for name in ("query", "key", "value")
        for kind in ("weight", "bias")
    ]
    assert keys(evidence) == expected


def test_equal_rivals_are_in_doubt() -> None:
    entries: Tensors = [("a.left.weight", (8, 4)), ("a.right.weight", (8, 4))]
    leaves: Tensors = [(".b.upper.weight", (8, 4)), (".b.lower.weight", (8, 4))]
    assert not any(certain(matched(entries, leaves)))


def test_a_square_weight_no_other_weight_speaks_for_is_in_doubt() -> None:
    evidence = matched([("proj.weight", (8, 8))], [("['proj']['kernel']", (8, 8))])
    assert keys(evidence) == ["proj.weight"]
    assert certain(evidence) == [False]


def test_a_square_dense_layer_named_like_an_embedding_is_no_table() -> None:
    evidence = matched(
        [("decoder_embed.weight", (8, 8)), ("head.weight", (4, 8))],
        [("['decoder_embed']['kernel']", (8, 8)), ("['head']['kernel']", (8, 4))],
    )
    assert evidence.suggestions[0].source != Take("decoder_embed.weight")


def test_a_weight_of_one_row_says_nothing_of_square_ones() -> None:
    evidence = matched(
        [("head.dense.weight", (8, 8)), ("head.score.weight", (1, 8))],
        [("['head']['dense']['kernel']", (8, 8)), ("['head']['score']['kernel']", (8, 1))],
    )
    assert certain(evidence) == [False, True]


def test_a_head_is_not_fed_by_the_embedding_of_its_size() -> None:
    entries: Tensors = [("model.embed_tokens.weight", (50, 8)), ("lm_head.weight", (50, 8))]
    entries[1:1] = [(f"model.layers.{n}.mlp.weight", (16, 8)) for n in range(3)]
    leaves: Tensors = [
        ("['decoder']['logits_dense']['kernel']", (8, 50)),
        *((f"['decoder']['layers_{n}']['mlp']['kernel']", (8, 16)) for n in range(3)),
        ("['token_embedder']['embedding']", (50, 8)),
    ]
    found = keys(matched(entries, leaves))
    assert (found[0], found[-1]) == ("lm_head.weight", "model.embed_tokens.weight")


def test_an_encoder_is_not_taken_for_a_decoder_that_has_lost_its_tables() -> None:
    norm: Tensors = [("norm.weight", (8,)), ("fc.weight", (16, 8))]
    attention: Tensors = [(f"{name}.weight", (8, 8)) for name in ("q", "k", "v", "o")]

    def side(name: str, parts: Tensors, start: str, number: str) -> Tensors:
        return [
            (f"{start}{name}.layers{number.format(n)}.{key}", shape)
            for n in range(3)
            for key, shape in parts
        ]

    own = [(f"self_attn.{key}", shape) for key, shape in attention] + norm
    cross = [(f"cross_attn.{key}", shape) for key, shape in attention] + own
    entries: Tensors = [
        ("encoder.embed.weight", (50, 8)), *side("encoder", own, "", ".{}"),
        ("decoder.embed.weight", (50, 8)), *side("decoder", cross, "", ".{}"),
    ]  # fmt: skip
    leaves = side("decoder", cross, ".", "[{}]") + side("encoder", own, ".", "[{}]")
    found = keys(matched(entries, leaves))
    assert found == [path[1:].replace("[", ".").replace("]", "") for path, _ in leaves]


def test_names_that_say_nothing_leave_sizes_in_their_order() -> None:
    shapes: list[Shape] = [(8, 4), (8,), (16, 8), (16,), (8, 16), (8,), (3, 8), (3,)]
    entries: Tensors = [(f"w{n}", shape) for n, shape in enumerate(shapes)]
    leaves: Tensors = [(f".layer{n}.weight", shape) for n, shape in enumerate(shapes)]
    evidence = matched(entries, leaves)
    assert keys(evidence) == [key for key, _ in entries]
    assert not any(
        sure for (_, s), sure in zip(leaves, certain(evidence), strict=True) if s == (8,)
    )


def test_what_is_left_over_says_why() -> None:
    evidence = matched(
        [("norm.weight", (8,)), ("norm.num_batches_tracked", ()), ("rope.inv_freq", (4,))],
        [(".norm.weight", (8,)), (".extra", (5,))],
    )
    assert set(evidence.left_over) == {"norm.num_batches_tracked", "rope.inv_freq"}
    assert all(evidence.left_over.values())
    assert evidence.suggestions[1].source is None
    assert evidence.suggestions[1].reason


@pytest.mark.parametrize("name", ["aux", "probe", "memory", "last"])
def test_the_last_of_a_list_does_not_fill_another_layer_for_its_size(name: str) -> None:
    sizes = {"0.linear": (8, 2), "1.linear": (8, 8), "2.linear": (8, 8), "3": (3, 8)}
    paths = {".layers[0]": (8, 2), ".layers[1]": (8, 8), ".layers[2]": (8, 8), f".{name}": (3, 8)}
    entries: Tensors = [
        (f"net.{key}.{role}", size)
        for key, shape in sizes.items()
        for role, size in (("weight", shape), ("bias", shape[:1]))
    ]
    leaves: Tensors = [
        (f"{path}.{role}", size)
        for path, shape in paths.items()
        for role, size in (("weight", shape), ("bias", shape[:1]))
    ]
    found = matched(entries, leaves, {path: "equinox.nn.Linear" for path, _ in leaves})
    assert certain(found)[-2:] == [False, False]
