"""Weights that more than one reading fits: rows wait, and what sizes or names settle is right."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.utils import parametrizations, spectral_norm

from s2p_tui import S2PError, convert_tree
from tests.models.test_unshown_orders import KEY, Tensors, linear, module, refusal


def trained(layer: torch.nn.Module, size: tuple[int, ...]) -> torch.nn.Module:
    for _ in range(3):
        layer(torch.randn(2, *size))
    return layer.eval()


@pytest.mark.parametrize("norm", [spectral_norm, parametrizations.spectral_norm])
@pytest.mark.slow("makes models in both frameworks")
def test_the_vectors_of_a_spectral_norm_show_its_axis(norm: Any) -> None:
    torch.manual_seed(0)
    for size in (6, 16):
        like = module("Net", lin=eqx.nn.Linear(size, size, key=KEY))
        usual = trained(norm(torch.nn.Linear(size, size)), (size,))
        made = convert_tree({f"lin.{k}": v for k, v in usual.state_dict().items()}, like)
        wide = torch.randn(size)
        assert np.allclose(made.lin(wide.numpy()), usual(wide).detach(), atol=1e-5)
        other = trained(norm(torch.nn.Linear(size, size), dim=1), (size,))
        tensors = {f"lin.{key}": value for key, value in other.state_dict().items()}
        with pytest.raises(S2PError, match="along axis 1"):
            convert_tree(tensors, like)


@pytest.mark.slow("makes models in both frameworks")
def test_the_vectors_of_a_square_kernel_show_its_axis_too() -> None:
    torch.manual_seed(0)
    like = module("Net", conv=eqx.nn.Conv2d(4, 4, 3, key=KEY))
    other = trained(spectral_norm(torch.nn.Conv2d(4, 4, 3), dim=1), (4, 5, 5))
    with pytest.raises(S2PError, match="along axis 1"):
        convert_tree({f"conv.{k}": v for k, v in other.state_dict().items()}, like)
    untrained = spectral_norm(torch.nn.Conv2d(4, 4, 3)).eval()
    made = convert_tree({f"conv.{k}": v for k, v in untrained.state_dict().items()}, like)
    image = torch.randn(1, 4, 5, 5)
    assert np.allclose(made.conv(image[0].numpy()), untrained(image)[0].detach(), atol=1e-4)


class Conv(eqx.Module):
    """A convolution of a user's own, of images whose channels may be last."""

    weight: Any
    bias: Any


def images(window: int, dense: tuple[int, int]) -> tuple[Tensors, Any]:
    tensors = {
        "conv1.weight": torch.randn(4, 3, window, window),
        "conv1.bias": torch.randn(4),
        "conv2.weight": torch.randn(6, 4, window, window),
        "conv2.bias": torch.randn(6),
        "fc1.weight": torch.randn(*dense),
        "fc2.weight": torch.randn(5, dense[0]),
    }
    like = module(
        "Net",
        conv1=Conv(jnp.zeros((4, 3, window, window)), jnp.zeros(4)),
        conv2=Conv(jnp.zeros((6, 4, window, window)), jnp.zeros(6)),
        fc1=linear(*dense),
        fc2=linear(5, dense[0]),
    )
    return tensors, like


@pytest.mark.parametrize("window", [3, 5])
@pytest.mark.parametrize("dense", [(10, 24), (12, 54)])
def test_a_class_of_ones_own_may_have_channels_last(window: int, dense: tuple[int, int]) -> None:
    tensors, like = images(window, dense)
    said = refusal(tensors, like)
    assert "1 of 6 rows does not line up" in said
    assert "its input may be a flattened image" in said


def test_pooled_channels_are_no_image() -> None:
    assert convert_tree(*images(3, (10, 6))) is not None


@pytest.mark.parametrize(
    ("entry", "leaf"),
    [
        ("vq.embeddings", "vq.embeddings"),
        ("quantize.embedding.weight", "quantizer.embedding"),
        ("codebook.weight", "codebook.table"),
    ],
)
@pytest.mark.slow("makes models in both frameworks")
def test_codes_may_be_rows_or_columns(entry: str, leaf: str) -> None:
    name, last = leaf.split(".")

    def net(shape: tuple[int, int]) -> Any:
        table = module("Codebook", **{last: jnp.zeros(shape)})
        return module("Net", enc=linear(16, 6), **{name: table})

    tensors = {"enc.weight": torch.randn(16, 6), entry: torch.randn(16, 16)}
    assert "a square codebook" in refusal(tensors, net((16, 16)))
    wide = tensors | {entry: torch.randn(12, 16)}
    assert np.array_equal(_leaf(convert_tree(wide, net((12, 16))), leaf), wide[entry])
    assert np.array_equal(_leaf(convert_tree(wide, net((16, 12))), leaf), wide[entry].T)
    table = module("Net", enc=linear(16, 6), **{name: eqx.nn.Embedding(16, 16, key=KEY)})
    as_layer = {"enc.weight": tensors["enc.weight"], f"{name}.weight": tensors[entry]}
    assert convert_tree(as_layer, table) is not None


def _leaf(tree: Any, path: str) -> Any:
    for step in path.split("."):
        tree = getattr(tree, step)
    return tree


@pytest.mark.parametrize("name", ["gc", "gcn", "graph_conv"])
@pytest.mark.slow("makes models in both frameworks")
def test_a_graph_convolution_may_hold_the_input_axis_first(name: str) -> None:
    def net(inner: int) -> tuple[Tensors, Any]:
        sizes = {"embed": (8, 6), f"{name}1": (8, inner), f"{name}2": (8, 8), "fc": (3, 8)}
        tensors = {f"{one}.weight": torch.randn(size) for one, size in sizes.items()}
        for one in (f"{name}1", f"{name}2"):
            tensors[f"{one}.weight"] = tensors[f"{one}.weight"].T.contiguous()
        return tensors, module("Net", **{one: linear(*size) for one, size in sizes.items()})

    said = refusal(*net(8))
    assert "2 of 4 rows" in said
    assert "may hold the input axis first" in said
    tensors, like = net(5)
    made = convert_tree(tensors, like)
    assert np.array_equal(getattr(made, f"{name}2").weight, tensors[f"{name}2.weight"].T)


@pytest.mark.parametrize(
    ("fused", "out", "certain"),
    [
        ("to_qkv", "to_out", False),
        ("c_attn", "o", False),
        ("c_attn", "c_proj", True),
    ],
)
def test_queries_may_be_kept_in_groups(fused: str, out: str, certain: bool) -> None:
    tensors = {f"{fused}.weight": torch.randn(16, 8), f"{out}.weight": torch.randn(8, 8)}
    parts = {"q": linear(8, 8), "k": linear(4, 8), "v": linear(4, 8), out: linear(8, 8)}
    like = module("Attention", **parts)
    if not certain:
        assert "heads may alternate" in refusal(tensors, like)
    else:
        made = convert_tree(tensors, like)
        assert np.array_equal(made.k.weight, tensors[f"{fused}.weight"][8:12])


@pytest.mark.parametrize(("query", "certain"), [("to_q", True), ("q", False), ("wq", False)])
def test_keys_and_values_may_alternate(query: str, certain: bool) -> None:
    sizes = {query: (8, 8), "to_kv": (16, 8), "o": (8, 8)}
    tensors = {f"{name}.weight": torch.randn(size) for name, size in sizes.items()}
    like = module("Attention", **{name: linear() for name in (query, "k", "v", "o")})
    if not certain:
        assert "heads may alternate" in refusal(tensors, like)
    else:
        made = convert_tree(tensors, like)
        assert np.array_equal(made.v.weight, tensors["to_kv.weight"][8:])


def backbone() -> tuple[Tensors, dict[str, Any]]:
    """Enough under the same names that one name more or less is an exception."""
    names = ("stem", "q", "k", "v", "o", "fc1", "fc2")
    tensors = {f"{name}.weight": torch.randn(8, 8) for name in names}
    return tensors, {name: linear() for name in names}


@pytest.mark.parametrize(
    ("entry", "leaf"),
    [
        ("aux_head", "head"),
        ("classifier", "auxiliary_classifier"),
        ("head", "head_dist"),
        ("seg_head", "cls_head"),
        ("bbox_head", "segmentation_head"),
        ("AuxLogits", "logits"),
    ],
)
def test_another_head_is_not_the_one_wanted(entry: str, leaf: str) -> None:
    tensors, fields = backbone()
    said = refusal(
        tensors | {f"{entry}.weight": torch.randn(8, 8)},
        module("Net", **fields, **{leaf: linear()}),
    )
    assert "1 of 8 rows does not line up" in said
    assert f"{entry}.weight: " in said


@pytest.mark.parametrize(
    ("entry", "leaf"), [("lm_head", "head"), ("classifier", "cls_head"), ("fc", "head")]
)
def test_a_head_under_another_name_is_the_same(entry: str, leaf: str) -> None:
    tensors, fields = backbone()
    weight = torch.randn(5, 8)
    made = convert_tree(
        tensors | {f"{entry}.weight": weight}, module("Net", **fields, **{leaf: linear(5, 8)})
    )
    assert np.array_equal(getattr(made, leaf).weight, weight)


@pytest.mark.parametrize(
    ("entry", "leaf"),
    [
        ("layernorm_embedding", "final_layer_norm"),
        ("ln_f", "embed_ln"),
        ("LayerNormFinal", "emb_norm"),
    ],
)
def test_a_norm_at_one_end_is_not_the_one_at_the_other(entry: str, leaf: str) -> None:
    tensors, fields = backbone()
    tensors |= {f"{entry}.{role}": torch.randn(8) for role in ("weight", "bias")}
    like = module("Net", **fields, **{leaf: eqx.nn.LayerNorm(8)})
    assert "2 of 9 rows" in refusal(tensors, like)


@pytest.mark.parametrize(
    ("entry", "leaf"), [("l.{:02d}", "l"), ("layer{:03d}", "layers"), ("lin{}", "lins")]
)
def test_numbers_of_one_list_are_its_places(entry: str, leaf: str) -> None:
    tensors = {f"{entry.format(n)}.weight": torch.randn(8, 8) for n in range(12)}
    made = convert_tree(tensors, module("Net", **{leaf: [linear() for _ in range(12)]}))
    for n, layer in enumerate(getattr(made, leaf)):
        assert np.array_equal(layer.weight, tensors[f"{entry.format(n)}.weight"])
    nameless = {f"w{n}": tensor for n, tensor in enumerate(tensors.values())}
    assert "12 of 12 rows" in refusal(nameless, module("Net", stages=[linear() for _ in range(12)]))


@pytest.mark.parametrize(
    "names", [("fw", "bw"), ("fwd", "bwd"), ("forward_cells", "backward_cells")]
)
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.slow("makes models in both frameworks")
def test_directions_of_a_recurrent_layer_may_be_lists(names: tuple[str, str], depth: int) -> None:
    theirs = torch.nn.LSTM(5, 6, num_layers=depth, bidirectional=True)
    cells = [[eqx.nn.LSTMCell(12 if n else 5, 6, key=KEY) for n in range(depth)] for _ in names]
    like = module("Net", lstm=module("Lstm", **dict(zip(names, cells, strict=True))))
    made = convert_tree({f"lstm.{k}": v for k, v in theirs.state_dict().items()}, like)
    for n in range(depth):
        for name, suffix in zip(names, ("", "_reverse"), strict=True):
            weight = getattr(theirs, f"weight_hh_l{n}{suffix}").detach()
            assert np.array_equal(getattr(made.lstm, name)[n].weight_hh, weight)


@pytest.mark.parametrize(
    ("entry", "leaf"),
    [
        ("quantize.embedding.weight", "codebook"),
        ("quantizer.embedding.weight", "vq.codebook"),
        ("vq.codebook.weight", "quantizer.embedding"),
    ],
)
def test_a_codebook_is_the_table_of_its_quantiser(entry: str, leaf: str) -> None:
    tensors = {"enc.weight": torch.randn(8, 5), "dec.weight": torch.randn(5, 8)}
    tensors[entry] = torch.randn(16, 8)
    *around, last = leaf.split(".")
    table = {last: jnp.zeros((16, 8))}
    fields = {around[0]: module("Quantizer", **table)} if around else table
    made = convert_tree(tensors, module("Net", enc=linear(8, 5), dec=linear(5, 8), **fields))
    assert np.array_equal(_leaf(made, leaf), tensors[entry])


@pytest.mark.slow("makes models in both frameworks")
def test_a_norm_in_a_list_may_have_its_layers_name() -> None:
    stack = torch.nn.Sequential(
        torch.nn.Conv1d(16, 32, 3),
        torch.nn.GroupNorm(4, 32),
        torch.nn.LeakyReLU(),
        torch.nn.Conv1d(32, 32, 3),
    )
    like = module(
        "Net",
        stem1=eqx.nn.Conv1d(16, 32, 3, key=KEY),
        stem_norm=eqx.nn.GroupNorm(4, 32),
        stem2=eqx.nn.Conv1d(32, 32, 3, key=KEY),
    )
    made = convert_tree({f"input_stack.{k}": v for k, v in stack.state_dict().items()}, like)
    assert np.array_equal(made.stem_norm.weight, stack[1].weight.detach())


@pytest.mark.parametrize("name", ["qkv", "qkv_proj", "wqkv"])
def test_fewer_keys_than_queries_go_into_one_in_an_order_to_look_at(name: str) -> None:
    sizes = {"q_proj": (8, 8), "k_proj": (4, 8), "v_proj": (4, 8), "o_proj": (8, 8)}
    tensors = {f"attn.{one}.weight": torch.randn(size) for one, size in sizes.items()}
    attn = module("Attention", **{name: linear(16, 8), "o_proj": linear()})
    like = module("Block", attn=attn)
    assert "1 of 2 rows" in refusal(tensors, like)
    made = convert_tree(tensors, like, trust=[f".attn.{name}.weight"])
    parts = [tensors[f"attn.{one}_proj.weight"] for one in "qkv"]
    assert np.array_equal(getattr(made.attn, name).weight, torch.cat(parts))
