"""Names and classes that say different things of the same numbers: such rows wait for the user."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from s2p_tui import convert_tree
from tests.models.test_unshown_orders import KEY, Tensors, attention, linear, module, refusal


def of(**sizes: tuple[int, ...]) -> Tensors:
    return {f"{name.replace('__', '.')}.weight": torch.randn(s) for name, s in sizes.items()}


@pytest.mark.parametrize(
    ("first", "second", "one"),
    [
        ("convs1", "convs2", "convs"),
        ("attn_norms", "ff_norms", "norms"),
        ("blocks_a", "blocks_b", "blocks"),
    ],
)
def test_two_lists_may_be_in_turns_in_one(first: str, second: str, one: str) -> None:
    lists = {name: nn.ModuleList(nn.Linear(4, 4) for _ in range(3)) for name in (first, second)}
    tensors = nn.ModuleDict({"stem": nn.Linear(3, 4), "body": nn.ModuleDict(lists)}).state_dict()
    layers = [eqx.nn.Linear(4, 4, key=KEY) for _ in range(6)]
    like = module("Net", stem=eqx.nn.Linear(3, 4, key=KEY), body=module("Body", **{one: layers}))
    said = refusal(tensors, like)
    assert "12 of 14 rows" in said
    assert "in turns" in said


def test_one_list_may_be_two_in_turns() -> None:
    listed = [nn.Linear(4, 4, bias=False) for _ in range(4)]
    tensors = nn.ModuleDict({"stem": nn.Linear(3, 4), "convs": nn.ModuleList(listed)}).state_dict()
    two = {f"convs{n}": [linear(4, 4) for _ in range(2)] for n in (1, 2)}
    said = refusal(tensors, module("Net", stem=eqx.nn.Linear(3, 4, key=KEY), **two))
    assert "4 of 6 rows" in said


@pytest.mark.parametrize("first", ["conv1_{}", "c1_{}"])
def test_lists_in_names_may_be_in_turns_too(first: str) -> None:
    names = [first.replace("1", lists).format(n) for lists in "12" for n in range(3)]
    tensors = of(stem=(4, 3), **dict.fromkeys(names, (4, 4)))
    like = module("Net", stem=linear(4, 3), convs=[linear(4, 4) for _ in range(6)])
    assert "6 of 7 rows" in refusal(tensors, like)


@pytest.mark.parametrize(("count", "certain"), [(2, False), (3, True)])
def test_layers_of_two_lists_may_be_in_every_block(count: int, certain: bool) -> None:
    lists = {n: nn.ModuleList(nn.Linear(4, 4) for _ in range(count)) for n in ("convs1", "convs2")}
    tensors = nn.ModuleDict({"stem": nn.Linear(3, 4)} | lists).state_dict()
    block = lambda: module("Block", convs=[eqx.nn.Linear(4, 4, key=KEY) for _ in range(count)])  # noqa: E731
    like = module("Net", stem=eqx.nn.Linear(3, 4, key=KEY), blocks=[block(), block()])
    if certain:
        assert convert_tree(tensors, like) is not None
    else:
        assert "8 of 10 rows" in refusal(tensors, like)


def test_stages_and_layers_of_other_sizes_are_in_one_list_as_they_run() -> None:
    stages = nn.ModuleDict(
        {f"layer{n}": nn.ModuleList(nn.Linear(2 * n, 2 * n) for _ in range(2)) for n in (1, 2)}
    )
    tensors = stages.state_dict()
    like = module("Net", layers=[eqx.nn.Linear(n, n, key=KEY) for n in (2, 2, 4, 4)])
    made = convert_tree(tensors, like)
    assert np.array_equal(made.layers[3].weight, tensors["layer2.1.weight"])


@pytest.mark.parametrize(
    "beside", ["rel_pos.relative_position_bias_table", "rel_pos.mlp.fc1.weight"]
)
def test_a_module_of_relative_positions_shows_heads_outermost(beside: str) -> None:
    tensors = of(attn__qkv=(24, 8), attn__proj=(8, 8), fc1=(16, 8))
    parts = {name: linear() for name in ("q", "k", "v", "proj")}

    def net(**more: Any) -> Any:
        return module("Net", attn=module("Attention", **parts, **more), fc1=linear(16))

    made = convert_tree(tensors, net())
    assert np.array_equal(made.attn.k.weight, tensors["attn.qkv.weight"][8:16])
    value: Any = np.zeros((9, 2))
    for step in reversed(beside.split(".")):
        value = module("Rel", **{step: value})
    more = {f"attn.{beside}": torch.randn(9, 2)}
    assert "heads may alternate" in refusal(tensors | more, net(rel_pos=value.rel_pos))


@pytest.mark.parametrize("fused", ["qkv", "kv"])
def test_parts_go_into_an_own_weight_in_an_order_of_its_own(fused: str) -> None:
    parts = fused.removeprefix("qkv") or "qkv"
    tensors = of(proj=(8, 8), **dict.fromkeys("qkv", (8, 8)))
    alone = {part: linear() for part in "qkv" if part not in parts}
    like = module("Net", proj=linear(), **alone, **{fused: linear(8 * len(parts))})
    assert "heads may alternate" in refusal(tensors, like)


@pytest.mark.parametrize("cell", [eqx.nn.LSTMCell, eqx.nn.GRUCell])
def test_gates_of_an_own_cell_have_an_order_of_their_own(cell: Any) -> None:
    like = module("Net", cell=cell(3, 4, use_bias=False, key=KEY), out=linear(2, 4))
    wide = like.cell.weight_hh.shape
    for name in ("weight_{}", "{}", "linear_{}"):
        inner, outer = (f"cell__{name.format(one)}" for one in ("ih", "hh"))
        tensors = of(**{inner: (wide[0], 3), outer: wide, "out": (2, 4)})
        assert "2 of 3 rows" in refusal(tensors, like)
    theirs = {"cell.weight_ih": torch.randn(wide[0], 3), "cell.weight_hh": torch.randn(wide)}
    assert convert_tree(theirs | of(out=(2, 4)), like) is not None


class OneHot(nnx.Module):
    def __init__(self, **sizes: tuple[int, int]) -> None:
        for name, (size, out) in sizes.items():
            setattr(self, name, nnx.Linear(size, out, use_bias=False, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("name", ["embed", "tok_embed", "embedding"])
def test_a_layer_holds_a_tables_transpose(name: str) -> None:
    tensors = of(**{name: (4, 4), "out": (3, 4)})
    for like in (
        module("Net", **{name: linear(4, 4), "out": linear(3, 4)}),
        OneHot(**{name: (4, 4), "out": (4, 3)}),
    ):
        assert "a table" in refusal(tensors, like)
    table = module("Net", **{name: eqx.nn.Embedding(4, 4, key=KEY), "out": linear(3, 4)})
    assert convert_tree(tensors, table) is not None
    biased = module("Net", **{name: eqx.nn.Linear(4, 4, key=KEY), "out": linear(3, 4)})
    assert convert_tree(tensors | {f"{name}.bias": torch.randn(4)}, biased) is not None


def test_a_table_holds_a_layers_transpose() -> None:
    tensors = of(fc=(4, 4), out=(3, 4))
    like = module("Net", fc=eqx.nn.Embedding(4, 4, key=KEY), out=linear(3, 4))
    assert "a layer's weight" in refusal(tensors, like)


class Images(nnx.Module):
    def __init__(self, *convolutions: tuple[int, int], **layers: Any) -> None:
        for n, (size, out) in enumerate(convolutions, 1):
            setattr(self, f"conv{n}", nnx.Conv(size, out, (3, 3), rngs=nnx.Rngs(0)))
        for name, layer in layers.items():
            setattr(self, name, layer)


def convolutions(*sizes: tuple[int, int]) -> Tensors:
    layers = {f"conv{n}": nn.Conv2d(*size, 3) for n, size in enumerate(sizes, 1)}
    return nn.ModuleDict(layers).state_dict()


def dense(size: int, out: int) -> nnx.Linear:
    return nnx.Linear(size, out, use_bias=False, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(("size", "certain"), [(36, False), (4, True)])
@pytest.mark.slow("makes models in both frameworks")
def test_a_recurrent_layer_may_read_a_flattened_image(size: int, certain: bool) -> None:
    cell = nnx.OptimizedLSTMCell(size, 5, rngs=nnx.Rngs(0))
    lstm = {f"lstm.{key}": value for key, value in nn.LSTM(size, 5).state_dict().items()}
    tensors = convolutions((3, 4)) | lstm | of(fc=(2, 5))
    like = Images((3, 4), lstm=cell, fc=dense(5, 2))
    if certain:
        assert convert_tree(tensors, like) is not None
    else:
        assert "a flattened image" in refusal(tensors, like)


@pytest.mark.parametrize(("size", "certain"), [(39, False), (7, True)])
def test_a_layer_may_read_more_beside_a_flattened_image(size: int, certain: bool) -> None:
    tensors = convolutions((3, 4)) | of(fc1=(5, size), fc2=(2, 5))
    like = Images((3, 4), fc1=dense(size, 5), fc2=dense(5, 2))
    if certain:
        assert convert_tree(tensors, like) is not None
    else:
        assert "a part of its input may be a flattened image" in refusal(tensors, like)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        (((3, 16), (4, 3)), "shuffled into more pixels"),
        (((3, 8), (8, 12)), "shuffled into more pixels"),
        (((3, 4), (16, 3)), "of several pixels"),
        (((3, 8), (8, 5)), ""),
    ],
)
@pytest.mark.slow("makes models in both frameworks")
def test_pixels_may_be_shuffled(sizes: tuple[tuple[int, int], ...], said: str) -> None:
    tensors, like = convolutions(*sizes), Images(*sizes)
    if said:
        assert said in refusal(tensors, like)
    else:
        assert convert_tree(tensors, like) is not None


_LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj")


@pytest.mark.parametrize(
    ("beside", "certain"),
    [
        (("mlp.fc_in.weight",), False),
        (("input_layernorm.weight",), False),
        (("input_layernorm.weight", "post_attention_layernorm.weight"), True),
    ],
)
def test_other_models_turn_pairs_too(beside: tuple[str, ...], certain: bool) -> None:
    tensors = of(**{f"self_attn__{name}": (8, 8) for name in _LLAMA})
    layers: dict[str, Any] = {}
    for key in beside:
        tensors[key] = torch.randn((16, 8) if "mlp" in key else (8,))
        name = key.partition(".")[0]
        norm = eqx.nn.RMSNorm(8, use_bias=False)
        layers[name] = module("MLP", fc_in=linear(16)) if "mlp" in key else norm
    rope = eqx.nn.RotaryPositionalEmbedding(4)
    like = module("Net", self_attn=attention(_LLAMA, rope=rope), **layers)
    if certain:
        assert convert_tree(tensors, like) is not None
    else:
        assert "may turn pairs" in refusal(tensors, like)


@pytest.mark.parametrize(("name", "certain"), [("pre_feedforward", False), ("pre_mlp", True)])
def test_norms_may_hold_their_scale_less_one(name: str, certain: bool) -> None:
    names = ("input_layernorm", f"{name}_layernorm", "norm")
    tensors = of(**dict.fromkeys(names, (8,)))
    layers = {one: eqx.nn.RMSNorm(8, use_bias=False) for one in names}
    assert convert_tree(tensors, module("Net", **layers)) is not None
    tensors |= of(q_proj=(8, 8), gate_proj=(16, 8))
    like = module("Net", **layers, q_proj=linear(), gate_proj=linear(16))
    if certain:
        assert convert_tree(tensors, like) is not None
    else:
        said = refusal(tensors, like)
        assert "3 of 5 rows" in said
        assert "less one" in said


@pytest.mark.parametrize(
    ("entry", "leaf"),
    [
        ("unit_offset_scale", "scale"),
        ("timescale", "time_rate"),
        ("rel_width", "width"),
        ("mean_width", "width"),
    ],
)
def test_a_number_may_be_a_function_of_another(entry: str, leaf: str) -> None:
    tensors = {entry: torch.randn(6)} | of(fc=(6, 4), out=(3, 6))
    like = module("Net", fc=linear(6, 4), **{leaf: np.zeros(6)}, out=linear(3, 6))
    assert entry in refusal(tensors, like)


def test_a_stack_of_a_checkpoint_that_is_a_list_is_proposed() -> None:
    tensors = nn.Sequential(*(nn.Linear(4, 6) for _ in range(3))).state_dict()
    like = module("Net", weight=np.zeros((3, 6, 4)), bias=np.zeros((3, 6)))
    assert np.array_equal(convert_tree(tensors, like).bias[2], tensors["2.bias"])


def test_a_list_that_begins_late_names_the_number_that_may_be_missing() -> None:
    layers = {str(n): nn.Linear(4, 4) for n in (12, 15)}
    tensors = nn.ModuleDict({"norms": nn.ModuleDict(layers)}).state_dict()
    like = module("Net", norms=[eqx.nn.Linear(4, 4, key=KEY) for _ in range(2)])
    said = refusal(tensors, like)
    assert "members of norms are numbered 12 and on" in said
    assert "none with the number 9 is missing" in said


@pytest.mark.parametrize(
    ("entries", "leaves"),
    [
        (("encoder_q.fc", "encoder_k.fc"), ("encoder", "momentum_encoder")),
        (("policy_x", "policy_y"), ("old_policy", "policy")),
        (("net_i", "net_j"), ("net", "averaged_net")),
    ],
)
@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_bias_shows_no_model_of_two(
    entries: tuple[str, str], leaves: tuple[str, str], missing: int
) -> None:
    layers = {f"{e}.{n}.weight": (4, 4) for e in entries for n in range(2)}
    biases = {f"{e}.{n}.bias": (4,) for e in entries for n in range(2)}
    del biases[f"{entries[missing]}.1.bias"]
    tensors = {key: torch.randn(size) for key, size in (layers | biases).items()}
    lists = {leaf: [eqx.nn.Linear(4, 4, key=KEY) for _ in range(2)] for leaf in leaves}
    refusal(tensors, module("Net", **lists))
