"""Networks whose lists are numbered otherwise, and whose words are shared or in another order."""

from __future__ import annotations

import numpy as np

from tests.networks.network import (
    Network,
    Source,
    blocks,
    family,
    layer_of,
    network,
    parsed,
    same,
    turned,
)

D = 8


@family(gaps=(1, 21, 22), hundreds=(0, 3, 100), backwards_in_file=(22, 21, 1))
def sequential(n: Network, numbers: tuple[int, ...]) -> None:
    """Members of a `Sequential`, some without parameters between; falling, they may be names."""
    n.unshown = numbers[0] > numbers[-1]
    for number in numbers:
        n.linear(f"net.{number}", f"layers[{sorted(numbers).index(number)}]", D, D)


@family(first=0, second=1, last=3)
def bias_of_zeros(n: Network, which: int) -> None:
    """One member of a list without a bias, which Equinox's layer has."""
    for i in blocks(4):
        if i == which:
            key = n.entry(f"net.{i}.weight", D, D)
            n.layer(f"layers[{i}]", layer_of("Linear", D, D), weight=(key, same))
            n.sources[parsed(f"layers[{i}].bias")] = Source((), lambda: np.zeros(D))
        else:
            n.linear(f"net.{i}", f"layers[{i}]", D, D)


@family(sorted="age city sex", unsorted="age sex city", modules="hip knee ankle")
def named_heads(n: Network, names: str) -> None:
    """Numbered heads on one side, named ones on the other: nothing tells which is which."""
    n.unshown = True
    n.containers = "module" if "hip" in names else "dict"
    n.plain("stem", "stem", D, n.size(5))
    for i, name in enumerate(names.split()):
        n.plain(f"heads.{i}.weight", f"heads.{name}.weight", 3, D)
        n.plain(f"heads.{i}.bias", f"heads.{name}.bias", 3)


@family(inside="attn.{0}_{1}", stream_first="{0}.{1}", words="{1}_{0}")
def two_streams(n: Network, form: str) -> None:
    """Layers of an image and a text stream, the words in another order."""
    long = {"img": "image", "txt": "text"}
    for i in blocks(2):
        for stream in ("img", "txt"):
            for part in ("qkv", "proj", "mlp"):
                out = 3 * D if part == "qkv" else D
                leaf = form.format(long[stream], part)
                n.linear(f"double_blocks.{i}.{stream}_{part}", f"blocks[{i}].{leaf}", out, D)


@family(
    byol=("online_encoder target_encoder", "online target"),
    dino=("student teacher", "student teacher"),
    shifted=("online_target momentum_online", "online momentum"),
    sources=("source_encoder target_encoder", "encoder_src encoder_tgt"),
)
def siamese(n: Network, names: tuple[str, str]) -> None:
    of, to = (each.split() for each in names)
    for key, path in zip(of, to, strict=True):
        for i in blocks(2):
            n.linear(f"{key}.net.{i}", f"{path}.layers[{i}]", D, D)
    n.linear("predictor", "predictor", D, D)


@family(encoder=0, decoder=1)
def t5(n: Network, decoder: int) -> None:
    """Sublayers by numbers."""
    for i in blocks(2):
        key, path = f"decoder.block.{i}.layer", f"blocks[{i}]"
        attentions = (("0.SelfAttention", "self_attn"), ("1.EncDecAttention", "cross_attn"))
        for name, leaf in attentions[: 1 + decoder]:
            for weight in "qkvo":
                n.linear(f"{key}.{name}.{weight}", f"{path}.{leaf}.{weight}", D, D, bias=False)
        norms = ("self_attn_norm", "cross_attn_norm")[: 1 + decoder]
        for number, leaf in enumerate((*norms, "mlp_norm")):
            n.norm(f"{key}.{number}.layer_norm", f"{path}.{leaf}", D, "RMSNorm")
        last = 1 + decoder
        wide = n.size(12)
        n.linear(f"{key}.{last}.DenseReluDense.wi", f"{path}.mlp.up", wide, D, bias=False)
        n.linear(f"{key}.{last}.DenseReluDense.wo", f"{path}.mlp.down", D, wide, bias=False)


@family(underscores="time_mix_{}", dots="mix.{}")
def rwkv(n: Network, form: str) -> None:
    """Vectors that only one letter tells apart."""
    for i in blocks(2):
        key, path = f"blocks.{i}.att", f"blocks[{i}].time_mix"
        for letter in "kvr":
            n.plain(f"{key}.time_mix_{letter}", f"{path}.{form.format(letter)}", D)
        n.plain(f"{key}.time_decay", f"{path}.decay", D)
        n.plain(f"{key}.time_first", f"{path}.first", D)
        for name in ("key", "value", "receptance", "output"):
            n.linear(f"{key}.{name}", f"{path}.{name}", D, D, bias=False)


@family(lists=0, stages=1)
def vgg(n: Network, kind: int) -> None:
    """`conv1_1, conv1_2, conv2_1, conv2_2`."""
    for i in blocks(2):
        for j in blocks(2):
            path = f"blocks[{i}].convs[{j}]" if kind else f"convs[{2 * i + j}]"
            n.conv(f"conv{i + 1}_{j + 1}", path, D, D)


@family(list=0, numbered=1, two_lists=2)
def stages(n: Network, kind: int) -> None:
    """`layer1 … layer4` into a list."""
    for i in blocks(4):
        path = (f"stages[{i}]", f"stage{i}", f"stages[{i // 2}].parts[{i % 2}]")[kind]
        for j in blocks(2):
            n.conv(f"layer{i + 1}.{j}.conv1", f"{path}.blocks[{j}].conv1", D, D)
            n.conv(f"layer{i + 1}.{j}.conv2", f"{path}.blocks[{j}].conv2", D, D)


@network
def unet_named(n: Network) -> None:
    """`inc, down1, down2, up1, up2, outc` with pairs of convolutions by number."""
    names = (("inc", "stem"), ("down1", "down[0]"), ("down2", "down[1]"))
    for key, path in (*names, ("up1", "up[0]"), ("up2", "up[1]")):
        for number, (conv, norm) in enumerate(((0, 1), (3, 4))):
            n.conv(f"{key}.double_conv.{conv}", f"{path}.convs[{number}]", D, D, bias=False)
            n.norm(f"{key}.double_conv.{norm}", f"{path}.norms[{number}]", D, "GroupNorm")
    n.conv("outc.conv", "head", n.size(3), D, 1)


@family(lists=0, names=1)
def point_net(n: Network, named: int) -> None:
    """Norms numbered through over convolutions and dense layers."""
    for i in blocks(3):
        n.conv(f"conv{i + 1}", f"conv{i + 1}" if named else f"convs[{i}]", D, D, 1, dims=1)
    for i in blocks(2):
        n.linear(f"fc{i + 1}", f"fc{i + 1}" if named else f"fcs[{i}]", D, D)
    for i in blocks(5):
        to = f"bn{i + 1}" if named else (f"conv_norms[{i}]" if i < 3 else f"fc_norms[{i - 3}]")
        n.norm(f"bn{i + 1}", to, D)


@family(named=0, lists=1)
def operator_net(n: Network, kind: int) -> None:
    n.unshown = bool(kind)
    for name in ("branch", "trunk"):
        for i in blocks(3):
            path = f"{name}.layers[{i}]" if kind == 0 else f"nets[{name == 'trunk':d}][{i}]"
            n.linear(f"{name}_net.{i}", path, D, n.size(5) if i == 0 else D)


@family(apart=0, turned=1)
def unembedding(n: Network, kind: int) -> None:
    """A table in and a table out, the second one (width, rows) where it is turned."""
    rows = n.size(10)
    n.embed("W_E", "embed", rows, D)
    if kind:
        n.plain("W_U", "unembed", rows, D, make=turned)
    else:
        n.plain("W_U", "unembed", rows, D)
    n.norm("ln_final", "norm", D)


@network
def swin(n: Network) -> None:
    """Tables of relative positions, with the index that PyTorch keeps as a buffer."""
    for i in blocks():
        key, path = f"layers.0.blocks.{i}", f"stages[0].blocks[{i}]"
        n.norm(f"{key}.norm1", f"{path}.norm1", D)
        n.linear(f"{key}.attn.qkv", f"{path}.attn.qkv", 3 * D, D)
        n.linear(f"{key}.attn.proj", f"{path}.attn.proj", D, D)
        table = f"{key}.attn.relative_position_bias_table"
        n.plain(table, f"{path}.attn.relative_position_bias_table", 9, 2)
        index = np.arange(16).reshape(4, 4) % 9
        n.buffer(f"{key}.attn.relative_position_index", index)
    n.linear("layers.0.downsample.reduction", "stages[0].downsample.reduction", D, D, bias=False)
    n.norm("layers.0.downsample.norm", "stages[0].downsample.norm", D)


@family(kept="adaLN_modulation", renamed="modulation", norm="norm.linear")
def modulation(n: Network, leaf: str) -> None:
    for i in blocks():
        n.linear(f"blocks.{i}.attn.qkv", f"blocks[{i}].attn.qkv", 3 * D, D)
        n.linear(f"blocks.{i}.attn.proj", f"blocks[{i}].attn.proj", D, D)
        n.linear(f"blocks.{i}.adaLN_modulation.1", f"blocks[{i}].{leaf}", 6 * D, D)


@family(norms="q_norm k_norm", ln="ln_q ln_k", norm_first="norm_q norm_k")
def query_norms(n: Network, names: str) -> None:
    for i in blocks():
        for name, leaf in zip(("q", "k"), names.split(), strict=True):
            n.norm(f"layers.{i}.attn.{name}_norm", f"layers[{i}].attn.{leaf}", 4, "RMSNorm")
        for name in ("q", "k", "v"):
            n.linear(f"layers.{i}.attn.{name}_proj", f"layers[{i}].attn.{name}", D, D, bias=False)
        n.linear(f"layers.{i}.attn.o_proj", f"layers[{i}].attn.o", D, D, bias=False)


@family(gates="W_z W_r W_h", lists="W[0] W[1] W[2]")
def own_gru(n: Network, names: str) -> None:
    """A cell of a user's own with each gate apart."""
    n.unshown = "[" in names
    for gate, leaf in zip("zrh", names.split(), strict=True):
        n.plain(f"cell.W_{gate}", f"cell.{leaf}", D, n.size(5))
        n.plain(f"cell.U_{gate}", f"cell.{leaf.replace('W', 'U')}", D, D)
        n.plain(f"cell.b_{gate}", f"cell.{leaf.replace('W', 'b')}", D)
    n.linear("out", "out", 3, D)


@family(same=("quantize.embedding.weight", "codebook"), lists=("quantizers", "codebooks"))
def vector_quantised(n: Network, names: tuple[str, str]) -> None:
    n.conv("encoder.0", "encoder[0]", D, n.size(3))
    n.conv("pre_quant_conv", "pre_quant", D, D, 1)
    if names[0] == "quantizers":
        for i in blocks():
            n.plain(f"quantizers.{i}.codebook.weight", f"codebooks[{i}]", n.size(10), D)
    else:
        n.plain(*names, n.size(10), D)
    n.conv("post_quant_conv", "post_quant", D, D, 1)
    n.conv("decoder.0", "decoder[0]", n.size(3), D)
