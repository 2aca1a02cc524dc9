"""Transformers: their blocks, attention and feed-forward layers under many names."""

from __future__ import annotations

import numpy as np

from tests.networks.network import (
    HEADS,
    InOut,
    LayerScale,
    Network,
    between,
    blocks,
    concatenated,
    family,
    layer_of,
    network,
    part,
    same,
    stacked,
    turned,
)

D = 8


def feed_forward(n: Network, key: str, path: str, names: str, to: str) -> None:
    """Two dense layers by their names, such as `fc1 fc2`."""
    wide = n.size(12)
    (up, down), (leaf_up, leaf_down) = names.split(), to.split()
    n.linear(f"{key}.{up}", f"{path}.{leaf_up}", wide, D)
    n.linear(f"{key}.{down}", f"{path}.{leaf_down}", D, wide)


def attention(n: Network, key: str, path: str, names: str, to: str, *, bias: bool = True) -> None:
    """Four square dense layers by their names: query, key, value, output."""
    for name, leaf in zip(names.split(), to.split(), strict=True):
        n.linear(f"{key}.{name}", f"{path}.{leaf}", D, D, bias=bias)


_QKVO = "q_proj k_proj v_proj o_proj"


@family(
    same=("attn mlp norm1 norm2", _QKVO, "fc1 fc2", "attn mlp norm1 norm2", _QKVO, "fc1 fc2"),
    gpt=(
        "attn mlp ln_1 ln_2",
        _QKVO,
        "c_fc c_proj",
        "attention feed_forward norm1 norm2",
        "query key value output",
        "linear1 linear2",
    ),
    torch_like=(
        "self_attn ff norm1 norm2",
        "q k v out",
        "linear1 linear2",
        "attn mlp ln1 ln2",
        "wq wk wv wo",
        "up down",
    ),
    lists=(
        "attn mlp norm1 norm2",
        "to_q to_k to_v to_out",
        "0 2",
        "attn mlp norm1 norm2",
        "q k v o",
        "layers[0] layers[1]",
    ),
    named_by_place=(
        "attention mlp input_layernorm post_attention_layernorm",
        "q_proj k_proj v_proj dense",
        "dense_h_to_4h dense_4h_to_h",
        "attn mlp attention_norm ffn_norm",
        "wq wk wv wo",
        "fc1 fc2",
    ),
    bert=(
        "attention intermediate attention.LayerNorm output.LayerNorm",
        "self.query self.key self.value output.dense",
        "dense x",
        "attn ffn attn_norm ffn_norm",
        "q k v o",
        "fc1 fc2",
    ),
    short=("a m n1 n2", "q k v o", "a b", "attn mlp norm1 norm2", "q k v o", "fc1 fc2"),
)
def encoder(n: Network, names: tuple[str, ...]) -> None:
    of, attn, mlp, to, leaf_attn, leaf_mlp = names
    keys, paths = of.split(), to.split()
    n.embed("embed", "embed", n.size(10), D)
    for i in blocks():
        key, path = f"layers.{i}", f"blocks[{i}]"
        n.norm(f"{key}.{keys[2]}", f"{path}.{paths[2]}", D)
        attention(n, f"{key}.{keys[0]}", f"{path}.{paths[0]}", attn, leaf_attn)
        n.norm(f"{key}.{keys[3]}", f"{path}.{paths[3]}", D)
        feed_forward(n, f"{key}.{keys[1]}", f"{path}.{paths[1]}", mlp, leaf_mlp)
    n.norm("norm_f", "norm", D)
    n.linear("head", "head", n.size(5), D)


_GEMMA = (
    "input_layernorm post_attention_layernorm pre_feedforward_layernorm post_feedforward_layernorm"
)


@family(
    same=_GEMMA,
    short="pre_attn_norm post_attn_norm pre_ffn_norm post_ffn_norm",
    pre_post="attn_pre_norm attn_post_norm mlp_pre_norm mlp_post_norm",
    numbered="norm1 norm2 norm3 norm4",
    list="norms[0] norms[1] norms[2] norms[3]",
)
def four_norms(n: Network, to: str) -> None:
    for i in blocks():
        for name, leaf in zip(_GEMMA.split(), to.split(), strict=True):
            n.norm(f"model.layers.{i}.{name}", f"layers[{i}].{leaf}", D, "RMSNorm")
        attention(
            n, f"model.layers.{i}.self_attn", f"layers[{i}].attn", _QKVO, "q k v o", bias=False
        )
        key, path = f"model.layers.{i}.mlp", f"layers[{i}].mlp"
        wide = n.size(12)
        n.linear(f"{key}.gate_proj", f"{path}.gate", wide, D, bias=False)
        n.linear(f"{key}.up_proj", f"{path}.up", wide, D, bias=False)
        n.linear(f"{key}.down_proj", f"{path}.down", D, wide, bias=False)
    n.norm("model.norm", "norm", D, "RMSNorm")


@family(
    layer_scale=("ls1.gamma", (D,), ""),
    layer_scale_kept=("ls1.gamma", (D,), "ls1.gamma"),
    layer_scale_renamed=("ls1.gamma", (D,), "scale1"),
    gamma_1=("gamma_1", (D,), "gamma_1"),
    gate=("attn.gate", (HEADS,), ""),
    gate_kept=("attn.gate", (HEADS,), "attn.gate"),
    sinks=("attn.sinks", (HEADS,), ""),
    sinks_kept=("attn.sinks", (HEADS,), "attn.sinks"),
    bias_table=("attn.relative_position_bias_table", (9, HEADS), ""),
    bias_table_kept=("attn.relative_position_bias_table", (9, HEADS), "attn.rel_bias"),
    rel_pos=("attn.rel_pos_h", (5, 4), ""),
    temperature=("attn.temperature", (HEADS, 1, 1), "attn.temperature"),
    logit_scale_lost=("attn.logit_scale", (HEADS, 1, 1), ""),
    adapter=("adapter.down.weight", (2, D), ""),
    token=("prompt", (3, D), ""),
)
def beside_attention(n: Network, setting: tuple[str, tuple[int, ...], str]) -> None:
    """A parameter beside the layers of each block, which the pytree has a leaf for or not."""
    name, shape, leaf = setting
    for i in blocks():
        key, path = f"blocks.{i}", f"blocks[{i}]"
        n.norm(f"{key}.norm1", f"{path}.norm1", D)
        attention(n, f"{key}.attn", f"{path}.attn", _QKVO, "q k v o")
        if leaf:
            n.plain(f"{key}.{name}", f"{path}.{leaf}", *shape)
        else:
            n.lost(f"{key}.{name}", *shape)
        feed_forward(n, f"{key}.mlp", f"{path}.mlp", "fc1 fc2", "fc1 fc2")


@family(
    final_norm="norm.weight",
    last_block="blocks.3.norm1.weight",
    stem="stem.weight",
    token="cls_token",
    head_bias="head.bias",
    post="proj_bias",
)
def without_a_leaf(n: Network, name: str) -> None:
    """A parameter outside or at the end of the blocks, without a leaf."""
    for i in blocks():
        n.norm(f"blocks.{i}.norm1", f"blocks[{i}].norm1", D)
        n.linear(f"blocks.{i}.fc", f"blocks[{i}].fc", D, D)
    n.linear("head", "head", n.size(5), D, bias=False)
    n.lost(name, *((5,) if name == "head.bias" else (D,)))


@family(
    kept=(3, ("q_proj", "k_proj", "v_proj"), (D, D, D)),
    gqa=(3, ("q_proj", "k_proj", "v_proj"), (D, 4, 4)),
    gqa_short=(3, ("wq", "wk", "wv"), (D, 4, 4)),
    kv=(2, ("k_proj", "v_proj"), (D, D)),
)
def fused_apart(n: Network, setting: tuple[int, tuple[str, ...], tuple[int, ...]]) -> None:
    """One weight for queries, keys and values, which the pytree has apart."""
    count, names, sizes = setting
    fused = "qkv" if count == 3 else "kv"
    for i in blocks():
        weight = n.entry(f"blocks.{i}.attn.{fused}.weight", sum(sizes), D)
        bias = n.entry(f"blocks.{i}.attn.{fused}.bias", sum(sizes), neutral=0.0)
        start = 0
        for name, size in zip(names, sizes, strict=True):
            rows = between(start, start + size)
            n.linear_of(f"blocks[{i}].attn.{name}", (weight, rows), (bias, rows))
            start += size
        if count == 2:
            n.linear(f"blocks.{i}.attn.q", f"blocks[{i}].attn.q_proj", D, D)
        n.linear(f"blocks.{i}.attn.proj", f"blocks[{i}].attn.o_proj", D, D)


@family(
    same=("attn.qkv", "attn.qkv"),
    renamed=("attn.c_attn", "attn.qkv"),
    in_proj=("self_attn.in_proj", "attn.qkv"),
)
def fused_whole(n: Network, names: tuple[str, str]) -> None:
    of, to = names
    for i in blocks():
        n.linear(f"blocks.{i}.{of}", f"blocks[{i}].{to}", 3 * D, D)
        n.linear(f"blocks.{i}.attn.proj", f"blocks[{i}].attn.proj", D, D)


@network
def fused_from_parts(n: Network) -> None:
    for i in blocks():
        names = [f"blocks.{i}.attn.{name}_proj" for name in "qkv"]
        weights = [n.entry(f"{name}.weight", D, D) for name in names]
        biases = [n.entry(f"{name}.bias", D) for name in names]
        n.linear_of(f"blocks[{i}].attn.qkv", (weights, concatenated()), (biases, concatenated()))
        n.linear(f"blocks.{i}.attn.out_proj", f"blocks[{i}].attn.out", D, D)


_HEADED = {
    "width_heads_3": lambda a: a.reshape(3, HEADS, 4, D).transpose(3, 1, 0, 2),
    "3_width_heads": lambda a: a.reshape(3, HEADS, 4, D).transpose(0, 3, 1, 2),
    "width_3_heads": lambda a: a.reshape(3, HEADS, 4, D).transpose(3, 0, 1, 2),
    "3_heads_width": lambda a: a.reshape(3, HEADS, 4, D),
}


@family(**_HEADED)
def fused_by_heads(n: Network, make: object) -> None:
    """One weight for queries, keys and values in a leaf of four axes."""
    n.unshown = True
    n.containers = "dict"
    for i in blocks():
        n.plain(f"blocks.{i}.attn.qkv.weight", f"blocks[{i}].attn.qkv.kernel", 3 * D, D, make=make)
        n.leaf(
            f"blocks[{i}].attn.out.kernel",
            n.entry(f"blocks.{i}.attn.proj.weight", D, D),
            lambda a: a.reshape(D, HEADS, 4).transpose(1, 2, 0),
        )


@family(dict="dict", nnx="nnx")
def by_heads(n: Network, containers: str) -> None:
    """Flax's attention: kernels (width, heads, head) and (heads, head, width)."""
    n.containers = containers
    for i in blocks():
        for name, leaf in zip("qkv", ("query", "key", "value"), strict=True):
            key = f"layers.{i}.attn.{name}_proj"
            path = f"layers[{i}].attn.{leaf}"
            n.plain(
                f"{key}.weight",
                f"{path}.kernel",
                D,
                D,
                make=lambda a: a.T.reshape(D, HEADS, 4),
            )
            n.plain(f"{key}.bias", f"{path}.bias", D, make=lambda a: a.reshape(HEADS, 4))
        key = f"layers.{i}.attn.o_proj"
        n.plain(
            f"{key}.weight",
            f"layers[{i}].attn.out.kernel",
            D,
            D,
            make=lambda a: a.T.reshape(HEADS, 4, D),
        )
        n.plain(f"{key}.bias", f"layers[{i}].attn.out.bias", D)
        n.scale_norm(f"layers.{i}.norm", f"layers[{i}].norm", D)


@network
def nnx_values(n: Network) -> None:
    """Square projections in variables whose key paths end in `.value`."""
    n.containers = "nnx"
    for name in "qkv":
        n.plain(
            f"{name}_proj.weight",
            f"{name}_proj.kernel",
            D,
            D,
            make=lambda a: a.T.reshape(D, HEADS, 4),
        )
    n.plain("o_proj.weight", "o_proj.kernel", D, D, make=lambda a: a.T.reshape(HEADS, 4, D))


@family(layers=3, as_many_as_heads=HEADS, of_width=D)
def scanned(n: Network, count: int) -> None:
    """Blocks stacked on a first axis."""
    wide = n.size(12)
    for name, out, inner in (
        *((name, D, D) for name in ("attn.q", "attn.k", "attn.v", "attn.o")),
        ("mlp.fc1", wide, D),
        ("mlp.fc2", D, wide),
    ):
        weights = [n.entry(f"layers.{i}.{name}.weight", out, inner) for i in blocks(count)]
        n.leaf(f"blocks.{name}.weight", weights, stacked())
        biases = [n.entry(f"layers.{i}.{name}.bias", out) for i in blocks(count)]
        n.leaf(f"blocks.{name}.bias", biases, stacked())


@family(layers=3, as_many_as_heads=HEADS, as_many_as_head=4)
def scanned_by_heads(n: Network, count: int) -> None:
    """Flax's attention scanned: kernels (layers, width, heads, head)."""
    n.containers = "dict"
    for name, leaf in zip("qkv", ("query", "key", "value"), strict=True):
        weights = [n.entry(f"layers.{i}.attn.{name}_proj.weight", D, D) for i in blocks(count)]
        n.leaf(f"layers.attn.{leaf}.kernel", weights, stacked(lambda a: a.T.reshape(D, HEADS, 4)))
    weights = [n.entry(f"layers.{i}.attn.o_proj.weight", D, D) for i in blocks(count)]
    n.leaf("layers.attn.out.kernel", weights, stacked(lambda a: a.T.reshape(HEADS, 4, D)))
    scales = [n.entry(f"layers.{i}.norm.weight", D) for i in blocks(count)]
    n.leaf("layers.norm.scale", scales, stacked())


@family(apart=0, tied=1, left_out=2)
def language_model(n: Network, kind: int) -> None:
    """An output layer of its own, tied to the embedding, or tied and left out of the checkpoint."""
    rows = n.size(10)
    table = n.embed("model.embed_tokens", "embed", rows, D)
    for i in blocks():
        n.norm(f"model.layers.{i}.input_layernorm", f"layers[{i}].attn_norm", D, "RMSNorm")
        attention(
            n, f"model.layers.{i}.self_attn", f"layers[{i}].attn", _QKVO, "wq wk wv wo", bias=False
        )
    n.norm("model.norm", "norm", D, "RMSNorm")
    if kind == 0:
        n.linear("lm_head", "lm_head", rows, D, bias=False)
    elif kind == 1:
        n.tie("lm_head.weight", table)
        n.linear_of("lm_head", ("lm_head.weight", same))
    else:
        n.layer("lm_head", layer_of("Linear", D, rows, use_bias=False))
        n.sources["lm_head", "weight"] = None


@family(gpt2=1, without_bias=0)
def gpt2(n: Network, bias: int) -> None:
    """Weights (in, out) in the checkpoint."""
    n.embed("wte", "wte", n.size(10), D)
    n.plain("wpe.weight", "wpe", 6, D)
    for i in blocks():
        n.norm(f"h.{i}.ln_1", f"blocks[{i}].ln_1", D)
        weight = n.entry(f"h.{i}.attn.c_attn.weight", D, 3 * D)
        offset = n.entry(f"h.{i}.attn.c_attn.bias", 3 * D)
        if bias:
            n.linear_of(f"blocks[{i}].attn.c_attn", (weight, turned), (offset, same))
        else:
            for number, name in enumerate("qkv"):
                n.linear_of(
                    f"blocks[{i}].attn.{name}_proj",
                    (weight, part(number, 3, 1, turned)),
                    (offset, part(number, 3)),
                )
        n.conv1d_gpt(f"h.{i}.attn.c_proj", f"blocks[{i}].attn.c_proj", D, D)
        n.norm(f"h.{i}.ln_2", f"blocks[{i}].ln_2", D)
        n.conv1d_gpt(f"h.{i}.mlp.c_fc", f"blocks[{i}].mlp.c_fc", n.size(12), D)
        n.conv1d_gpt(f"h.{i}.mlp.c_proj", f"blocks[{i}].mlp.c_proj", D, n.size(12))
    n.norm("ln_f", "ln_f", D)


def _decoder(n: Network, key: str, path: str, crossed: str, leaf: str) -> None:
    for i in blocks(2):
        attention(n, f"{key}.{i}.self_attn", f"{path}[{i}].self_attn", _QKVO, "q k v o")
        n.norm(f"{key}.{i}.norm1", f"{path}[{i}].norm1", D)
        attention(n, f"{key}.{i}.{crossed}", f"{path}[{i}].{leaf}", _QKVO, "q k v o")
        n.norm(f"{key}.{i}.norm2", f"{path}[{i}].norm2", D)
        feed_forward(n, f"{key}.{i}", f"{path}[{i}].mlp", "linear1 linear2", "fc1 fc2")
        n.norm(f"{key}.{i}.norm3", f"{path}[{i}].norm3", D)


def _encoder(n: Network, key: str, path: str) -> None:
    for i in blocks(2):
        attention(n, f"{key}.{i}.self_attn", f"{path}[{i}].self_attn", _QKVO, "q k v o")
        n.norm(f"{key}.{i}.norm1", f"{path}[{i}].norm1", D)
        feed_forward(n, f"{key}.{i}", f"{path}[{i}].mlp", "linear1 linear2", "fc1 fc2")
        n.norm(f"{key}.{i}.norm2", f"{path}[{i}].norm2", D)


@family(
    torch=("encoder.layers", "decoder.layers", "multihead_attn", "cross_attn"),
    same=("encoder.layers", "decoder.layers", "cross_attn", "cross_attn"),
    short=("enc", "dec", "encoder_attn", "cross"),
)
def encoder_decoder(n: Network, names: tuple[str, str, str, str]) -> None:
    encoder_key, decoder_key, crossed, leaf = names
    n.embed("src_embed", "source_embed", n.size(10), D)
    n.embed("tgt_embed", "target_embed", n.size(10), D)
    _encoder(n, encoder_key, "encoder.layers")
    _decoder(n, decoder_key, "decoder.layers", crossed, leaf)
    n.linear("generator", "out", n.size(10), D)


@family(own=0, mlp_lists=1)
def detr(n: Network, kind: int) -> None:
    n.conv("input_proj", "input_proj", D, n.size(6), 1)
    _encoder(n, "transformer.encoder.layers", "encoder")
    _decoder(n, "transformer.decoder.layers", "decoder", "multihead_attn", "cross_attn")
    n.norm("transformer.decoder.norm", "decoder_norm", D)
    n.plain("query_embed.weight", "queries", 7, D)
    n.linear("class_embed", "class_head", n.size(5), D)
    for j, out in enumerate((D, D, 4)):
        to = f"box_head.layers[{j}]" if kind else f"bbox_embed.layers[{j}]"
        n.linear(f"bbox_embed.layers.{j}", to, out, D)


@family(mha=1, split=0)
def torch_attention(n: Network, whole: int) -> None:
    """`nn.MultiheadAttention`, into Equinox's or into layers."""
    for i in blocks():
        key, path = f"layers.{i}.self_attn", f"layers[{i}].attn"
        weight = n.entry(f"{key}.in_proj_weight", 3 * D, D)
        bias = n.entry(f"{key}.in_proj_bias", 3 * D)
        out = n.entry(f"{key}.out_proj.weight", D, D), n.entry(f"{key}.out_proj.bias", D)
        names = ("query_proj", "key_proj", "value_proj") if whole else ("q", "k", "v")
        if whole:
            options = dict.fromkeys(
                (f"use_{name}_bias" for name in ("query", "key", "value", "output")), True
            )
            layer = layer_of("MultiheadAttention", HEADS, D, **options)
            n.layer(path, layer)
            for number, name in enumerate(names):
                n.feed(f"{path}.{name}.weight", weight, part(number, 3))
                n.feed(f"{path}.{name}.bias", bias, part(number, 3))
            n.feed(f"{path}.output_proj.weight", out[0])
            n.feed(f"{path}.output_proj.bias", out[1])
        else:
            for number, name in enumerate(names):
                parts = part(number, 3)
                n.linear_of(f"{path}.{name}", (weight, parts), (bias, parts))
            n.linear_of(f"{path}.out", (out[0], same), (out[1], same))
        n.norm(f"layers.{i}.norm1", f"layers[{i}].norm1", D)


@family(peft=0, dora=1, kohya=2, torchtune=3, litgpt=4, kept=5)
def adapters(n: Network, kind: int) -> None:
    """Low-rank updates that were not merged; without leaves but in the last."""
    for i in blocks(2):
        for name in ("q_proj", "v_proj"):
            key, path = f"layers.{i}.attn.{name}", f"layers[{i}].attn.{name}"
            if kind in (0, 1):
                n.linear_of(path, (n.entry(f"{key}.base_layer.weight", D, D), same))
                n.lost(f"{key}.lora_A.default.weight", 2, D)
                n.lost(f"{key}.lora_B.default.weight", D, 2)
                if kind == 1:
                    n.lost(f"{key}.lora_magnitude_vector.default.weight", D)
            elif kind == 2:
                n.linear(key, path, D, D, bias=False)
                flat = f"lora_unet_layers_{i}_attn_{name}"
                n.lost(f"{flat}.lora_down.weight", 2, D)
                n.lost(f"{flat}.lora_up.weight", D, 2)
                n.buffer(f"{flat}.alpha", np.asarray(2.0, "float32"))
            elif kind == 3:
                n.linear(key, path, D, D, bias=False)
                n.lost(f"{key}.lora_a.weight", 2, D)
                n.lost(f"{key}.lora_b.weight", D, 2)
            elif kind == 4:
                n.linear_of(path, (n.entry(f"{key}.linear.weight", D, D), same))
                n.lost(f"{key}.lora_A", 2, D)
                n.lost(f"{key}.lora_B", D, 2)
            else:
                n.linear(key, path, D, D, bias=False)
                n.plain(f"{key}.lora_A.weight", f"{path}_lora.a", 2, D)
                n.plain(f"{key}.lora_B.weight", f"{path}_lora.b", D, 2)
    if kind == 0:
        n.linear_of("head", (n.entry("head.base_layer.weight", 5, D), same))
        n.lost("head.lora_A.default.weight", 2, D)
        n.lost("head.lora_B.default.weight", 5, 2)
    else:
        n.linear("head", "head", 5, D)


@family(with_leaf=1, without_leaf=0)
def vision_transformer(n: Network, scaled: int) -> None:
    n.plain("cls_token", "cls_token", 1, 1, D)
    n.plain("pos_embed", "pos_embed", 1, 5, D)
    n.conv("patch_embed.proj", "patch_embed", D, 3, 4)
    for i in blocks():
        key, path = f"blocks.{i}", f"blocks[{i}]"
        n.norm(f"{key}.norm1", f"{path}.norm1", D)
        n.linear(f"{key}.attn.qkv", f"{path}.attn.qkv", 3 * D, D)
        n.linear(f"{key}.attn.proj", f"{path}.attn.proj", D, D)
        n.norm(f"{key}.norm2", f"{path}.norm2", D)
        feed_forward(n, f"{key}.mlp", f"{path}.mlp", "fc1 fc2", "fc1 fc2")
        for name in ("ls1", "ls2"):
            if scaled:
                gamma = n.entry(f"{key}.{name}.gamma", D)
                n.layer(f"{path}.{name}", LayerScale(n.random((D,))), gamma=(gamma, same))
            else:
                n.lost(f"{key}.{name}.gamma", D)
    n.norm("norm", "norm", D)
    n.linear("head", "head", n.size(5), D)


@family(pooler_missing=0, both=1)
def pooler(n: Network, kind: int) -> None:
    """A head's dense layer beside, or instead of, a pooler's."""
    n.embed("embeddings.word_embeddings", "embed", n.size(10), D)
    n.linear("encoder.layer.0.output.dense", "layers[0].dense", D, D)
    n.linear("lm_head.dense", "lm_head.dense", D, D) if kind else n.lost(
        "lm_head.dense.weight", D, D
    )
    if kind:
        n.linear("pooler.dense", "pooler.dense", D, D)
    else:
        n.lost("lm_head.dense.bias", D)
        n.layer("pooler.dense", layer_of("Linear", D, D))
        n.sources["pooler", "dense", "weight"] = n.sources["pooler", "dense", "bias"] = None


@network
def own_projections(n: Network) -> None:
    """A user's square (in, out) weights beside Equinox's layers, which are (out, in)."""
    for i in blocks():
        for name in ("q", "k", "v", "o"):
            n.own(InOut, f"layers.{i}.attn.{name}", f"layers[{i}].attn.{name}", D, D)
        feed_forward(n, f"layers.{i}.mlp", f"layers[{i}].mlp", "fc1 fc2", "fc1 fc2")
    n.linear("head", "head", 5, D)


@family(pre=("pre", "post"), in_out=("in", "out"))
def paired_words(n: Network, names: tuple[str, str]) -> None:
    """Two layers of one shape whose names differ in one word."""
    one, other = names
    for i in blocks():
        n.linear(f"layers.{i}.{one}_proj", f"blocks[{i}].proj_{one}", D, D)
        n.linear(f"layers.{i}.{other}_proj", f"blocks[{i}].proj_{other}", D, D)
