"""Checkpoints some of whose weights hold the input axis first, and fused ones of equal axes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from s2p_tui.alignment.evidence import Evidence
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Expr, Permute, Shape, Split, Take
from s2p_tui.proposals.matcher import match

Shapes = Mapping[str, Shape]
LINEAR = "equinox.nn.Linear"
D = 12


def matched(entries: Shapes, leaves: Shapes, owner: str | None = LINEAR) -> Evidence:
    return match(
        StateDict(tuple(Entry(key, shape, "float32") for key, shape in entries.items())),
        Skeleton(
            tuple(Leaf(path, shape, "float32", owner=owner) for path, shape in leaves.items())
        ),
    )


def found(entries: Shapes, leaves: Shapes, owner: str | None = LINEAR) -> dict[str, Expr | None]:
    """What certainly goes into each leaf; None where nothing does."""
    evidence = matched(entries, leaves, owner)
    return {
        path: one.source if one.certain else None
        for path, one in zip(leaves, evidence.suggestions, strict=True)
    }


def turned(expr: Expr) -> Permute:
    return Permute(expr, (1, 0))


def gpt2(layers: int, before: str = "") -> tuple[dict[str, Shape], dict[str, Shape]]:
    entries: dict[str, Shape] = {}
    leaves: dict[str, Shape] = {}
    for n in range(layers):
        entries |= {
            f"{before}h.{n}.attn.c_attn.weight": (D, 3 * D),
            f"{before}h.{n}.attn.c_proj.weight": (D, D),
            f"{before}h.{n}.mlp.c_fc.weight": (D, 4 * D),
            f"{before}h.{n}.mlp.c_proj.weight": (4 * D, D),
        }
        leaves |= {f".{before}h[{n}].attn.{p}_proj.weight": (D, D) for p in "qkvo"}
        leaves |= {
            f".{before}h[{n}].mlp.c_fc.weight": (4 * D, D),
            f".{before}h[{n}].mlp.c_proj.weight": (D, 4 * D),
        }
    return entries, leaves


@pytest.mark.parametrize("layers", [1, 2, 12])
@pytest.mark.parametrize("heads", [0, 1])
def test_input_first_weights_are_turned_and_their_neighbours_are_not(
    layers: int, heads: int
) -> None:
    entries, leaves = gpt2(layers)
    entries |= {"lm_head.weight": (50, D), **({"v_head.weight": (D, D)} if heads else {})}
    leaves |= {".lm_head.weight": (50, D), **({".v_head.weight": (D, D)} if heads else {})}
    sources = found(entries, leaves)
    for n in range(layers):
        fused = Take(f"h.{n}.attn.c_attn.weight")
        for place, part in enumerate("qkv"):
            expected = turned(Split(fused, 1, place * D, (place + 1) * D))
            assert sources[f".h[{n}].attn.{part}_proj.weight"] == expected
        assert sources[f".h[{n}].attn.o_proj.weight"] == turned(Take(f"h.{n}.attn.c_proj.weight"))
    if heads:
        assert sources[".v_head.weight"] == Take("v_head.weight")


def test_an_encoder_of_the_other_layout_does_not_speak_for_the_decoder() -> None:
    entries, leaves = gpt2(3, "decoder.")
    for n in range(12):
        for name, shape in (("query", (D, D)), ("out", (D, D)), ("fc1", (4 * D, D))):
            entries[f"encoder.layer.{n}.{name}.weight"] = shape
            leaves[f".encoder.layer[{n}].{name}.weight"] = shape
    sources = found(entries, leaves)
    query = Split(Take("decoder.h.1.attn.c_attn.weight"), 1, 0, D)
    assert sources[".decoder.h[1].attn.q_proj.weight"] == turned(query)
    assert sources[".encoder.layer[1].query.weight"] == Take("encoder.layer.1.query.weight")


@pytest.mark.parametrize("name", ["kernel", "w"])
def test_a_square_weight_of_an_input_first_name_is_doubtful_where_nothing_shows_it(
    name: str,
) -> None:
    entries = {f"lin{n}.{name}": (D, D) for n in (1, 2)}
    assert found(entries, {f".lin{n}.weight": (D, D) for n in (1, 2)}) == {
        ".lin1.weight": None,
        ".lin2.weight": None,
    }
    conv = {"conv.kernel": (3, 3, 3, 3)}
    assert found(conv, {".conv.weight": (3, 3, 3, 3)}, "equinox.nn.Conv2d") == {
        ".conv.weight": None
    }


@pytest.mark.parametrize("others", [1, 30])
@pytest.mark.parametrize("owner", [LINEAR, "mine.Dense", None])
def test_a_square_weight_is_doubtful_where_one_of_its_kind_goes_the_other_way(
    owner: str | None, others: int
) -> None:
    entries = {"a.weight": (D, D), "c.weight": (5, D)}
    leaves = {".a.weight": (D, D), ".c.weight": (D, 5)}
    entries |= {f"b{n}.weight": (8, D) for n in range(others)}
    leaves |= {f".b{n}.weight": (8, D) for n in range(others)}
    sources = found(entries, leaves, owner)
    assert sources[".a.weight"] is None
    assert sources[".b0.weight"] == Take("b0.weight")


def test_fused_experts_are_split_along_the_axis_that_gives_the_leaves() -> None:
    entries = {"experts.gate_up_proj": (8, 8, 6), "experts.down_proj": (8, 6, 4)}
    leaves = {
        ".experts.gate_proj": (8, 4, 6),
        ".experts.up_proj": (8, 4, 6),
        ".experts.down_proj": (8, 6, 4),
    }
    sources = found(entries, leaves, None)
    assert sources[".experts.gate_proj"] == Split(Take("experts.gate_up_proj"), 1, 0, 4)
    assert sources[".experts.up_proj"] == Split(Take("experts.gate_up_proj"), 1, 4, 8)


@pytest.mark.parametrize("square", [True, False])
def test_a_fused_kernel_is_split_along_its_output_axis(square: bool) -> None:
    width, inner = (8, 4) if square else (8, 5)
    entries = {
        "mlp.gate_up_proj.kernel": (width, 2 * inner),
        "mlp.down_proj.kernel": (inner, width),
    }
    leaves = {
        ".mlp.gate_proj.weight": (inner, width),
        ".mlp.up_proj.weight": (inner, width),
        ".mlp.down_proj.weight": (width, inner),
    }
    fused = Take("mlp.gate_up_proj.kernel")
    sources = found(entries, leaves)
    assert sources[".mlp.gate_proj.weight"] == turned(Split(fused, 1, 0, inner))
    assert sources[".mlp.up_proj.weight"] == turned(Split(fused, 1, inner, 2 * inner))


def test_a_fused_linear_of_gpt2s_name_is_split_as_its_shape_says() -> None:
    leaves = {f".attn.{part}_proj.weight": (D, D) for part in "qkv"}
    sources = found({"attn.c_attn.weight": (3 * D, D)}, leaves)
    assert sources[".attn.k_proj.weight"] == Split(Take("attn.c_attn.weight"), 0, D, 2 * D)


@pytest.mark.parametrize("name", ["running_std", "log_var"])
def test_what_is_made_of_a_variance_is_none(name: str) -> None:
    sources = found(
        {"norm.mean": (4,), f"norm.{name}": (4,)}, {".norm.mean": (4,), ".norm.var": (4,)}, None
    )
    assert sources[".norm.var"] is None
