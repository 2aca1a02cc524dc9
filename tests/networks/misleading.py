"""Networks whose names lead to the wrong entry wherever a piece of evidence is taken too far."""

from __future__ import annotations

import numpy as np

from tests.networks.network import Network, between, blocks, family, network, same

D = 8


@family(
    gap=((1, 2, 77), ("fc",), "net"),
    late=((2, 3, 4), ("fc",), "net"),
    one_in_between=((0, 2, 3), ("fc",), "net"),
    two_layers=((1, 2, 77), ("fc", "proj"), "layers"),
)
def shifted_list(n: Network, setting: tuple[tuple[int, ...], tuple[str, ...], str]) -> None:
    """One member is lost and another one is there, so that places in the list say nothing."""
    numbers, layers, name = setting
    n.unshown = True
    for place, number in enumerate(numbers):
        for layer in layers:
            n.linear(f"{name}.{number}.{layer}", f"{name}[{place}].{layer}", D, D)


@family(one=(2,), two=(3, 2))
def counted_from_one(n: Network, counts: tuple[int, ...]) -> None:
    """Lists, and lists in lists, that the checkpoint counts from 1."""
    for i in blocks(counts[0]):
        if len(counts) == 1:
            n.linear(f"net.{i + 1}.fc", f"net[{i}].fc", D, D)
        else:
            for j in blocks(counts[1]):
                n.linear(f"net.{i + 1}.sub.{j + 1}.fc", f"net[{i}].sub[{j}].fc", D, D)


@family(apart=0, with_norm=1, one=2)
def third_leads_back(n: Network, kind: int) -> None:
    """A gated layer of which `w1` is the gate, `w2` leads up and `w3` back."""
    wide = n.size(12)
    n.unshown = True
    for i in blocks(1 if kind == 2 else 3):
        for name, leaf, out, inner in (
            ("w1", "gate", wide, D),
            ("w2", "up", wide, D),
            ("w3", "down", D, wide),
        ):
            n.linear(f"layers.{i}.mlp.{name}", f"layers[{i}].mlp.{leaf}", out, inner, bias=False)
        if kind == 1:
            n.norm(f"layers.{i}.norm", f"layers[{i}].norm", D, "RMSNorm")


@family(alone=0, with_norm=1, one=2)
def second_leads_back(n: Network, kind: int) -> None:
    """A gated layer in a list, named `w1 w2 w3` as Llama's are; sizes show that it is."""
    wide = n.size(12)
    n.unshown = n.square
    for i in blocks(1 if kind == 2 else 3):
        for name, leaf, out, inner in (
            ("w1", "gate_proj", wide, D),
            ("w2", "down_proj", D, wide),
            ("w3", "up_proj", wide, D),
        ):
            n.linear(f"layers.{i}.ff.{name}", f"layers[{i}].mlp.{leaf}", out, inner, bias=False)
        if kind == 1:
            n.norm(f"layers.{i}.norm", f"layers[{i}].norm", D, "RMSNorm")


@family(inv_freq="rotary.inv_freq", mask="causal_mask", ids="position_ids")
def bias_beside_buffer(n: Network, buffer: str) -> None:
    """The layer has a bias under another name, and a buffer has its size too."""
    n.unshown = True
    for i in blocks():
        n.linear_of(
            f"layers[{i}].attn.proj",
            (n.entry(f"layers.{i}.attn.proj.weight", D, D), same),
            (n.entry(f"layers.{i}.attn.offset_of_proj", D), same),
        )
        n.buffer(f"layers.{i}.attn.{buffer}", np.arange(D, dtype="float32"))


@family(
    other=("mlp_norm post_norm", "attention_norm post_norm"),
    sandwich=("post_attention_norm post_mlp_norm", "attention_norm post_attention_norm"),
    around=("pre_norm attention_norm", "attention_norm mlp_norm"),
)
def norms_of_other_places(n: Network, names: tuple[str, str]) -> None:
    """As many norms on both sides, of which one is around something else."""
    of, to = (each.split() for each in names)
    n.unshown = True
    for i in blocks():
        n.linear(f"layers.{i}.attn.proj", f"layers[{i}].attn.proj", D, D)
        for name, leaf in zip(of, reversed(to), strict=True):
            n.norm(f"layers.{i}.{name}", f"layers[{i}].{leaf}", D)


@family(
    llama=("input_layernorm post_attention_layernorm", "attention_norm ffn_norm"),
    back=("attention_norm ffn_norm", "input_layernorm post_attention_layernorm"),
    one=("input_layernorm post_attention_layernorm", "attention_norm mlp_norm"),
)
def norms_by_place(n: Network, names: tuple[str, str]) -> None:
    """Norms that share more words with the other one of their block; fields in another order."""
    of, to = (each.split() for each in names)
    for i in blocks(1 if n.name.endswith("one") else 3):
        key, path = f"model.layers.{i}", f"layers[{i}]"
        for name, leaf in reversed([*zip(of, to, strict=True)]):
            n.norm(f"{key}.{name}", f"{path}.{leaf}", D, "RMSNorm")
        n.linear(f"{key}.self_attn.o_proj", f"{path}.attention.wo", D, D, bias=False)
        n.linear(f"{key}.mlp.up_proj", f"{path}.feed_forward.w_in", n.size(12), D, bias=False)


@family(
    proj=(("attn.proj", "mlp.out"), ("attn.out", "mlp.proj")),
    dense=(("self.dense", "other.fc"), ("self.fc", "other.dense")),
    skip=(("a.skip", "b.residual"), ("a.residual", "b.skip")),
)
def names_of_the_other(n: Network, names: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
    """Layers with the very name of the other module's, and the other way round."""
    for i in blocks():
        for key, path in zip(*names, strict=True):
            n.linear(f"blocks.{i}.{key}", f"blocks[{i}].{path}", D, D)


@family(
    back=("G_A_to_B G_B_to_A", "b_to_a a_to_b"),
    half=("net_xy net_yx", "yx xy"),
    four=("img_proj img_mlp txt_proj txt_mlp", "text_mlp text_proj image_mlp image_proj"),
)
def words_in_another_order(n: Network, names: tuple[str, str]) -> None:
    """Fields in the reverse order of entries that share all their words with several."""
    of, to = (each.split() for each in names)
    n.unshown = n.name.endswith("half")
    for key, path in zip(of, reversed(to), strict=True):
        n.linear(f"{key}.fc", f"{path}.fc", D, D)


@family(
    gap=("conv1_1 conv1_3 conv2_1 conv2_2", "convs[0] convs[1] convs[2] convs[3]"),
    towers=("fc1 fc3 fc2 fc4", "towers[0][0] towers[0][1] towers[1][0] towers[1][1]"),
    late=("layer2 layer3 layer4 layer5", "parts[0][0] parts[0][1] parts[1][0] parts[1][1]"),
)
def lists_in_lists(n: Network, names: tuple[str, str]) -> None:
    """Members that one side counts through; nothing shows that these are the other side's."""
    of, to = (each.split() for each in names)
    n.unshown = True
    for key, path in zip(of, to, strict=True):
        n.linear(key, path, D, D)


@family(
    late=("conv2 conv3", "conv_out conv_in"),
    far=("conv1 conv4", "conv_in conv_out"),
    three=("conv1 conv2 conv3", "conv_in conv_mid conv_out"),
)
def entrances(n: Network, names: tuple[str, str]) -> None:
    """Layers called in and out that need not be the first and the second."""
    of, to = (each.split() for each in names)
    n.unshown = True
    for i in blocks():
        for key, path in zip(of, to, strict=True):
            n.conv(f"blocks.{i}.{key}", f"blocks[{i}].{path}", D, D)


@family(before=1, after=0, both=2)
def table_of_biases(n: Network, kind: int) -> None:
    """A table whose name ends as a bias, beside tables of its size."""
    rows = n.size(10)
    for name in ("user", "item"):
        if kind != 1:
            n.plain(f"{name}_weight.weight", f"{name}_weight", rows, 1)
        n.plain(f"{name}_bias.weight", f"{name}_bias", rows, 1)
        if kind:
            n.plain(f"{name}_scale.weight", f"{name}_scale", rows, 1)


@family(online=0, kept=1, ema=2)
def two_of_one_model(n: Network, kind: int) -> None:
    """A model and its average, one of which is called `model`."""
    n.unshown = kind == 0
    other = "ema" if kind == 2 else "net"
    for name in ("model", other):
        leaf = {"model": "online", other: "target"}[name] if kind == 0 else name
        n.linear(f"{name}.fc", f"{leaf}.fc", D, D)
        n.linear(f"{name}.proj", f"{leaf}.proj", D, D)


@family(rows=1, parts=0)
def parts_of_other_sizes(n: Network, kind: int) -> None:
    """Queries, keys and values of unlike widths beside a projection of the size of one of them."""
    for i in blocks():
        weight = n.entry(f"blocks.{i}.attn.qkv.weight", D + 8, D)
        for name, start, stop in (("q", 0, D), ("k", D, D + 4), ("v", D + 4, D + 8)):
            rows = between(start, stop)
            n.linear_of(f"blocks[{i}].attn.{name}_proj", (weight, rows))
        n.linear(f"blocks.{i}.attn.proj", f"blocks[{i}].attn.o_proj", D, D, bias=False)
        if kind:
            n.linear(f"blocks.{i}.attn.gate", f"blocks[{i}].attn.gate_proj", D, D, bias=False)


@network
def output_of_other_heads(n: Network) -> None:
    """Attention whose output is (heads, width, out), and a dense layer called so elsewhere."""
    for name in "qkv":
        key = n.entry(f"attn.{name}_proj.weight", D, D)
        n.leaf(f"attn.{name}_proj.kernel", key, lambda a: a.reshape(2, 4, D).transpose(2, 0, 1))
    key = n.entry("attn.o_proj.weight", D, D)
    n.leaf("attn.o_proj.kernel", key, lambda a: a.reshape(D, 2, 4).transpose(1, 2, 0))
