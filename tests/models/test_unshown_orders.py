"""Orders that names and sizes do not show: rows wait for the user, and what names show is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from s2p_tui import AlignmentError, convert_tree
from s2p_tui.alignment.choices import choices
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry, StateDict

KEY = jax.random.PRNGKey(0)
WIDTH = 8
Tensors = dict[str, torch.Tensor]


def module(name: str, **fields: Any) -> Any:
    """An Equinox module with these fields."""
    made = type(name, (eqx.Module,), {"__annotations__": dict.fromkeys(fields, Any)})
    return made(**fields)


def linear(out: int = WIDTH, size: int = WIDTH) -> eqx.nn.Linear:
    return eqx.nn.Linear(size, out, use_bias=False, key=KEY)


def refusal(tensors: Tensors, like: Any) -> str:
    with pytest.raises(AlignmentError) as error:
        convert_tree(tensors, like)
    return str(error.value)


def nested(outer: str, inner: str, count: int, each: int) -> torch.nn.Module:
    lists = torch.nn.ModuleList
    heads = (lists(torch.nn.Linear(4, 4) for _ in range(each)) for _ in range(count))
    return torch.nn.ModuleDict({outer: lists(torch.nn.ModuleDict({inner: one}) for one in heads)})


def made_nested(outer: str, inner: str, count: int, each: int) -> Any:
    def of(name: str, make: Callable[[], Any], size: int) -> Any:
        return module(name.title(), **{name: [make() for _ in range(size)]})

    layer = lambda: eqx.nn.Linear(4, 4, key=KEY)  # noqa: E731
    return of(outer, lambda: of(inner, layer, each), count)


@pytest.mark.parametrize("sizes", [(3, 3), (3, 2)])
@pytest.mark.parametrize(
    ("outer", "inner"), [("layers", "heads"), ("agents", "layers"), ("stages", "blocks")]
)
def test_numbers_go_to_the_lists_of_their_names(
    outer: str, inner: str, sizes: tuple[int, int]
) -> None:
    checkpoint = nested(outer, inner, *sizes)
    made = convert_tree(checkpoint.state_dict(), made_nested(inner, outer, *sizes[::-1]))
    for i in range(sizes[0]):
        for j in range(sizes[1]):
            ours = getattr(getattr(made, inner)[j], outer)[i].weight
            theirs = checkpoint.get_submodule(f"{outer}.{i}.{inner}.{j}").weight
            assert np.array_equal(ours, theirs.detach())


@pytest.mark.parametrize(
    ("torch_names", "names"),
    [(("layers", "heads"), ("branches", "stages")), (("levels", "anchors"), ("anchors", "scales"))],
)
def test_lists_that_may_be_nested_the_other_way_round_are_doubtful(
    torch_names: tuple[str, str], names: tuple[str, str]
) -> None:
    tensors = nested(*torch_names, 3, 3).state_dict()
    assert "by its name may be that of" in refusal(tensors, made_nested(*names, 3, 3))
    straight = convert_tree(
        nested("layers", "blocks", 3, 3).state_dict(), made_nested("stages", "layers", 3, 3)
    )
    assert straight is not None


@pytest.mark.parametrize(
    "keys", [("32", "16", "8"), ("10", "2"), ("2021", "2020", "2019"), ("3", "2", "1")]
)
def test_keys_that_are_numbers_are_no_places(keys: Sequence[str]) -> None:
    heads = torch.nn.ModuleDict({key: torch.nn.Linear(4, 4) for key in keys})
    like = module("Net", heads=[eqx.nn.Linear(4, 4, key=KEY) for _ in keys])
    tensors = {f"heads.{key}": value for key, value in heads.state_dict().items()}
    assert f"{2 * len(keys)} of {2 * len(keys)} rows do not line up" in refusal(tensors, like)


@pytest.mark.parametrize("places", [(0, 2, 4), (0, 3, 6, 8, 10), (2, 0, 1)])
def test_layers_of_a_sequence_keep_their_places(places: Sequence[int]) -> None:
    tensors = {
        f"net.{place}.{role}": torch.randn(shape)
        for place in places
        for role, shape in (("weight", (4, 4)), ("bias", (4,)))
    }
    layers = [eqx.nn.Linear(4, 4, key=KEY) for _ in places]
    made = convert_tree(tensors, module("Net", layers=layers))
    for place, layer in zip(sorted(places), made.layers, strict=True):
        assert np.array_equal(layer.weight, tensors[f"net.{place}.weight"])


@pytest.mark.slow("makes models in both frameworks")
def test_convolutions_may_keep_queries_keys_and_values_head_by_head() -> None:
    tensors = {
        "attn.qkv.weight": torch.randn(3 * WIDTH, WIDTH, 1),
        "attn.qkv.bias": torch.randn(3 * WIDTH),
        "attn.proj.weight": torch.randn(WIDTH, WIDTH, 1),
    }

    def conv(out: int = WIDTH, *, bias: bool = True) -> eqx.nn.Conv1d:
        return eqx.nn.Conv1d(WIDTH, out, 1, use_bias=bias, key=KEY)

    proj = conv(bias=False)
    apart = module("Attention", q=conv(), k=conv(), v=conv(), proj=proj)
    said = refusal(tensors, module("Block", attn=apart))
    assert "6 of 7 rows" in said
    assert "heads may alternate" in said
    same = module("Block", attn=module("Attention", qkv=conv(3 * WIDTH), proj=proj))
    assert convert_tree(tensors, same) is not None
    renamed = module("Attention", to_qkv=conv(3 * WIDTH), proj=proj)
    assert "2 of 3 rows" in refusal(tensors, module("Block", attn=renamed))
    entry = StateDict((Entry("attn.qkv.weight", (3 * WIDTH, WIDTH, 1), "float32"),))
    leaf = Leaf(".attn.q.weight", (WIDTH, WIDTH), "float32")
    offered = choices(leaf, ["attn.qkv.weight"], entry)
    assert any("part 1 of 3 in each of 2 heads" in choice.words for choice in offered)


@pytest.mark.parametrize("name", ["query_key_value", "wqkv", "qkv_proj"])
def test_fused_leaves_may_be_kept_head_by_head(name: str) -> None:
    tensors = torch.nn.MultiheadAttention(WIDTH, 2, bias=False).state_dict()
    like = module("Attention", **{name: linear(3 * WIDTH), "out_proj": linear()})
    assert "heads may alternate" in refusal(tensors, like)


META, HUGGING_FACE = ("wq", "wk", "wv", "wo"), ("q_proj", "k_proj", "v_proj", "o_proj")


def attention(names: Sequence[str], **more: Any) -> Any:
    return module("Attention", **{name: linear() for name in names}, **more)


def test_rotary_embeddings_may_turn_pairs() -> None:
    rope = eqx.nn.RotaryPositionalEmbedding(4)
    meta = {f"{name}.weight": torch.randn(WIDTH, WIDTH) for name in META}
    theirs = {f"{name}.weight": torch.randn(WIDTH, WIDTH) for name in HUGGING_FACE}
    said = refusal(meta, attention(HUGGING_FACE, rope=rope))
    assert "2 of 4 rows" in said
    assert "may turn pairs" in said
    assert "2 of 4 rows" in refusal(meta | {"freqs_cis": torch.ones(4)}, attention(META, rope=rope))
    assert convert_tree(theirs, attention(HUGGING_FACE, rope=rope)) is not None
    assert convert_tree(meta, attention(META, rope=rope)) is not None
    assert convert_tree(meta, attention(HUGGING_FACE)) is not None
    entry = StateDict((Entry("wq.weight", (16, 16), "float32"),))
    leaf = Leaf(".q_proj.weight", (16, 16), "float32")
    offered = choices(leaf, ["wq.weight"], entry)
    assert any("pairs of each of 2 heads to halves on axis 0" in one.words for one in offered)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("logits", "probs"), ("freq", "period"), ("log_lambda", "lmbda"), ("temp_c", "temp_k")],
)
def test_parameters_of_unlike_names_are_no_pair_for_their_size(theirs: str, ours: str) -> None:
    said = refusal({theirs: torch.ones(3)}, module("Model", **{ours: jnp.zeros(3)}))
    assert theirs in said


def test_numbered_norms_run_as_the_block_does() -> None:
    def block(parts: Sequence[str]) -> tuple[Tensors, Any]:
        tensors: Tensors = {}
        fields: dict[str, Any] = {}
        for number, part in enumerate(parts, 1):
            tensors[f"{part}.weight"] = torch.randn(WIDTH, WIDTH)
            tensors |= {f"norm{number}.{role}": torch.randn(WIDTH) for role in ("weight", "bias")}
            fields |= {part: linear(), f"{part}_norm": eqx.nn.LayerNorm(WIDTH)}
        return tensors, module("Block", **fields)

    usual, like = block(("self_attn", "cross_attn", "ffn"))
    made = convert_tree(usual, like)
    assert np.array_equal(made.cross_attn_norm.weight, usual["norm2.weight"])
    assert "in another order" in refusal(*block(("cross_attn", "self_attn", "ffn")))
    assert "in another order" in refusal(*block(("ffn", "self_attn")))
