"""Networks of fields that the other families leave out: points, sound, graphs and tables."""

from __future__ import annotations

import numpy as np

from tests.networks.network import InOut, Network, blocks, family, same, turned

D = 8


@family(same="attn probe", own="pool.attention pool.query")
def map_head(n: Network, names: str) -> None:
    """A vision transformer that a learned query pools by attention, as SigLIP's does."""
    attention, probe = names.split()
    for i in blocks(2):
        key, path = f"blocks.{i}", f"blocks[{i}]"
        n.norm(f"{key}.norm1", f"{path}.norm1", D)
        n.linear(f"{key}.attn.qkv", f"{path}.attn.qkv", 3 * D, D)
        n.linear(f"{key}.attn.proj", f"{path}.attn.proj", D, D)
    n.plain("head.probe", f"head.{probe.removeprefix('pool.')}", 1, 1, D)
    for name in ("q", "k", "v", "proj"):
        leaf = f"head.{attention.removeprefix('pool.')}.{name}"
        n.linear(f"head.attention.{name}", leaf, D, D)
    n.norm("head.layernorm", "head.norm", D)
    n.linear("head.mlp.fc1", "head.mlp.fc1", n.size(12), D)
    n.linear("head.mlp.fc2", "head.mlp.fc2", D, n.size(12))


@family(same="cross self_attends", own="encode process")
def perceiver(n: Network, names: str) -> None:
    """Latents that read an input of another width, then attend to themselves."""
    cross, process = names.split()
    n.plain("latents", "latents", n.size(6), D)
    parts = [("cross_attend", cross, n.size(12))]
    parts += [(f"self_attends.{i}", f"{process}[{i}]", D) for i in blocks(2)]
    for key, path, width in parts:
        n.norm(f"{key}.norm_q", f"{path}.norm_q", D)
        n.norm(f"{key}.norm_kv", f"{path}.norm_kv", width)
        n.linear(f"{key}.to_q", f"{path}.to_q", D, D, bias=False)
        n.linear(f"{key}.to_k", f"{path}.to_k", D, width, bias=False)
        n.linear(f"{key}.to_v", f"{path}.to_v", D, width, bias=False)
        n.linear(f"{key}.to_out", f"{path}.to_out", D, D)
    n.linear("to_logits", "head", n.size(5), D)


@family(kept="embed cluster_size embed_avg", codebook="codebook counts sums")
def averaged_codebook(n: Network, names: str) -> None:
    """Codes that are running averages, with what they are averaged from."""
    codes, counts, sums = names.split()
    n.unshown = names.startswith("codebook") or n.square
    n.conv("enc.0", "enc[0]", D, n.size(3))
    n.conv("enc.2", "enc[1]", D, D)
    n.plain("quantize.embed", f"quantize.{codes}", n.size(16), D)
    n.plain("quantize.cluster_size", f"quantize.{counts}", n.size(16))
    n.plain("quantize.embed_avg", f"quantize.{sums}", n.size(16), D)
    n.conv("dec.0", "dec[0]", D, D)
    n.conv("dec.2", "dec[1]", n.size(3), D)


@family(same="filter.{} short_filter", own="long.layers[{}] short")
def hyena(n: Network, names: str) -> None:
    """Long convolutions whose filters a small network makes."""
    layers, short = names.split()
    layers = layers.replace("filter.{}", "filter[{}]")
    for i in blocks(2):
        key, path = f"layers.{i}.mixer", f"layers[{i}].mixer"
        n.linear(f"{key}.in_proj", f"{path}.in_proj", 3 * D, D)
        n.linear(f"{key}.out_proj", f"{path}.out_proj", D, D)
        n.conv(f"{key}.short_filter", f"{path}.{short}", 3 * D, 3 * D, dims=1, groups=3 * D)
        sizes = (n.size(3), n.size(6), n.size(6), D)
        for j in blocks():
            leaf = f"{path}.{layers.format(j)}"
            n.linear(f"{key}.filter.{2 * j}", leaf, sizes[j + 1], sizes[j])
        n.plain(f"{key}.filter_bias", f"{path}.bias", D)
        n.norm(f"layers.{i}.norm", f"layers[{i}].norm", D)


@family(same="input_transform feature_transform", short="stn fstn")
def transform_nets(n: Network, names: str) -> None:
    """PointNet with a network each that lays points, then features, in a common frame."""
    first, second = names.split()
    n.unshown = n.square
    for key, path, size in (("stn", first, 3), ("fstn", second, 6)):
        size = n.size(size)
        n.conv(f"{key}.conv1", f"{path}.conv1", D, size, 1, dims=1)
        n.conv(f"{key}.conv2", f"{path}.conv2", n.size(12), D, 1, dims=1)
        n.linear(f"{key}.fc1", f"{path}.fc1", D, n.size(12))
        n.linear(f"{key}.fc2", f"{path}.fc2", size * size, D)
    n.conv("conv1", "conv1", n.size(6), n.size(3), 1, dims=1)
    n.conv("conv2", "conv2", n.size(12), n.size(6), 1, dims=1)
    n.linear("fc", "fc", n.size(5), n.size(12))


@family(lists="filters gates residuals skips", blocks="filter gate residual skip")
def wavenet(n: Network, names: str) -> None:
    """Dilated convolutions in lists, which a port keeps so or layer by layer."""
    leaves = names.split()
    n.unshown = leaves[0] == "filter"
    keys = ("filter_convs", "gate_convs", "residual_convs", "skip_convs")
    n.conv("start_conv", "start", D, n.size(3), 1, dims=1)
    for key, leaf, window in zip(keys, leaves, (2, 2, 1, 1), strict=True):
        for i in blocks():
            path = f"layers[{i}].{leaf}" if n.unshown else f"{leaf}[{i}]"
            n.conv(f"{key}.{i}", path, D, D, window, dims=1)
    n.conv("end_conv_1", "end1", n.size(12), D, 1, dims=1)
    n.conv("end_conv_2", "end2", n.size(5), n.size(12), 1, dims=1)


@family(same="lin_l lin_r lin_edge", own="source target edge")
def edge_attention(n: Network, names: str) -> None:
    """Attention over a graph's edges, which have features of their own."""
    left, right, edge = names.split()
    n.unshown = names.startswith("source")
    for i in blocks(2):
        key, path = f"convs.{i}", f"convs[{i}]"
        inner = n.size(6) if i == 0 else D
        n.plain(f"{key}.att", f"{path}.att", 1, 2, 4)
        n.linear(f"{key}.lin_l", f"{path}.{left}", D, inner)
        n.linear(f"{key}.lin_r", f"{path}.{right}", D, inner)
        n.linear(f"{key}.lin_edge", f"{path}.{edge}", D, n.size(3), bias=False)
        n.plain(f"{key}.bias", f"{path}.bias", D)
    n.linear("out", "out", n.size(5), D)


@family(own=0, linear=1)
def graph_network(n: Network, kind: int) -> None:
    """Kipf's convolutions, whose weights are (in, out), between layers of PyTorch's."""
    n.unshown = True
    n.linear("embed", "embed", D, n.size(6))
    sizes = (D, D, n.size(12))
    for i in blocks(2):
        key, path = f"gc{i + 1}", f"gc{i + 1}"
        if kind:
            n.conv1d_gpt(key, path, sizes[i + 1], sizes[i])
        else:
            weight = n.entry(f"{key}.weight", sizes[i], sizes[i + 1])
            n.layer(path, InOut(n.random((sizes[i], sizes[i + 1]))), weight=(weight, same))
    n.linear("fc", "fc", n.size(3), sizes[-1])


@family(same="bot_l top_l emb_l", own="bottom top tables")
def dlrm(n: Network, names: str) -> None:
    """Facebook's recommender: tables of one size, and a network below and above them."""
    bottom, top, tables = names.split()
    rows = (n.size(20), n.size(20), n.size(16))
    for i in blocks():
        n.embed(f"emb_l.{i}", f"{tables}[{i}]", rows[i], D)
    sizes = (n.size(6), n.size(12), D)
    for i in blocks(2):
        n.linear(f"bot_l.{2 * i}", f"{bottom}[{i}]", sizes[i + 1], sizes[i])
    sizes = (n.size(14), n.size(12), 1)
    for i in blocks(2):
        n.linear(f"top_l.{2 * i}", f"{top}[{i}]", sizes[i + 1], sizes[i])


@family(same="pts_linears views_linears feature_linear alpha_linear", own="xyz views feature alpha")
def nerf_with_skip(n: Network, names: str) -> None:
    """The layer after the skip takes the input once more."""
    points, views, feature, alpha = names.split()
    position, direction = n.size(6), n.size(3)
    inner = (position, D, D, D + position, D, D)
    for i, size in enumerate(inner):
        n.linear(f"pts_linears.{i}", f"{points}[{i}]", D, size)
    n.linear("views_linears.0", f"{views}[0]", n.size(4), D + direction)
    n.linear("feature_linear", feature, D, D)
    n.linear("alpha_linear", alpha, 1, D)
    n.linear("rgb_linear", "rgb", n.size(3), n.size(4))


@family(same="token_mix channel_mix", jax="token_mixing channel_mixing")
def mixer(n: Network, names: str) -> None:
    """Dense layers over tokens, then over channels."""
    tokens, channels = names.split()
    n.conv("stem.proj", "stem.proj", D, n.size(3), 4)
    for i in blocks(2):
        key, path = f"blocks.{i}", f"blocks[{i}]"
        for number, (name, leaf, size) in enumerate(
            (("mlp_tokens", tokens, n.size(9)), ("mlp_channels", channels, D)), 1
        ):
            n.norm(f"{key}.norm{number}", f"{path}.norm{number}", D)
            n.linear(f"{key}.{name}.fc1", f"{path}.{leaf}.fc1", n.size(12), size)
            n.linear(f"{key}.{name}.fc2", f"{path}.{leaf}.fc2", size, n.size(12))
    n.norm("norm", "norm", D)
    n.linear("head", "head", n.size(5), D)


@family(same="gamma beta", own="scale shift")
def response_norm(n: Network, names: str) -> None:
    """ConvNeXt's second version: a norm of the responses, of its own parameters."""
    gamma, beta = names.split()
    n.unshown = names == "scale shift"
    for i in blocks(2):
        key, path = f"stages.0.blocks.{i}", f"stages[0].blocks[{i}]"
        n.conv(f"{key}.dwconv", f"{path}.dwconv", D, D, 7, groups=D)
        n.norm(f"{key}.norm", f"{path}.norm", D)
        n.linear(f"{key}.pwconv1", f"{path}.pwconv1", n.size(12), D)
        reshaped = lambda array: np.asarray(array).reshape(-1)  # noqa: E731
        n.plain(f"{key}.grn.gamma", f"{path}.grn.{gamma}", 1, 1, 1, n.size(12), make=reshaped)
        n.plain(f"{key}.grn.beta", f"{path}.grn.{beta}", 1, 1, 1, n.size(12), make=reshaped)
        n.linear(f"{key}.pwconv2", f"{path}.pwconv2", D, n.size(12))


@family(segmentation="decode_head auxiliary_head", short="head aux_head", one="decode_head")
def two_decoders(n: Network, names: str) -> None:
    """An auxiliary head beside the one that counts, of the same sizes; a port may leave it out."""
    leaves = names.split()
    n.refused = len(leaves) == 1
    for i in blocks():
        n.conv(f"backbone.{i}", f"backbone[{i}]", D, n.size(3) if i == 0 else D)
    for key, leaf in zip(("decode_head", "auxiliary_head"), (*leaves, ""), strict=False):
        for name, out, window in (("convs.0", D, 3), ("conv_seg", n.size(5), 1)):
            path = name.replace("convs.0", "convs[0]")
            if leaf:
                n.conv(f"{key}.{name}", f"{leaf}.{path}", out, D, window)
            else:
                n.lost(f"{key}.{name}.weight", out, D, window, window)
                n.lost(f"{key}.{name}.bias", out)


@family(own=turned, same=same)
def square_codes(n: Network, make: object) -> None:
    """A codebook with as many codes as they are wide: rows here, columns there."""
    n.unshown = True
    n.linear("enc", "enc", D, n.size(6))
    n.plain("vq.codebook.weight", "vq.codebook", D, D, make=make)
    n.linear("dec", "dec", n.size(6), D)
