"""More networks as people publish them, under the names of their papers and of their ports."""

from __future__ import annotations

from tests.networks.network import (
    InOut,
    Network,
    OutIn,
    blocks,
    family,
    network,
    turned,
)

D = 8


@family(
    same="norm1 conv1 time_emb_proj norm2 conv2 conv_shortcut",
    own="norm_in conv_in time_proj norm_out conv_out skip",
    numbered="norms[0] convs[0] time norms[1] convs[1] residual",
)
def diffusers_resnet(n: Network, names: str) -> None:
    norm1, conv1, time, norm2, conv2, skip = names.split()
    wide = n.size(12)
    for i in blocks(2):
        inner = n.size(4) if i == 0 else D
        key, path = f"down_blocks.0.resnets.{i}", f"down[{i}]"
        n.norm(f"{key}.norm1", f"{path}.{norm1}", inner, "GroupNorm")
        n.conv(f"{key}.conv1", f"{path}.{conv1}", D, inner)
        n.linear(f"{key}.time_emb_proj", f"{path}.{time}", D, wide)
        n.norm(f"{key}.norm2", f"{path}.{norm2}", D, "GroupNorm")
        n.conv(f"{key}.conv2", f"{path}.{conv2}", D, D)
        if i == 0:
            n.conv(f"{key}.conv_shortcut", f"{path}.{skip}", D, inner, 1)


@family(diffusers="to_q to_k to_v to_out.0", own="query key value out")
def cross_attention(n: Network, names: str) -> None:
    """Attention of an image to itself, then to a text of another width."""
    for i in blocks(2):
        for number, attention in enumerate(("self_attn", "cross_attn"), 1):
            inner = D if number == 1 else n.size(6)
            key, path = f"blocks.{i}.attn{number}", f"blocks[{i}].{attention}"
            first, *others = zip(
                ("to_q", "to_k", "to_v", "to_out.0"), names.replace(".0", "").split(), strict=True
            )
            n.linear(f"{key}.{first[0]}", f"{path}.{first[1]}", D, D, bias=False)
            for name, leaf in others[:-1]:
                n.linear(f"{key}.{name}", f"{path}.{leaf}", D, inner, bias=False)
            n.linear(f"{key}.{others[-1][0]}", f"{path}.{others[-1][1]}", D, D)
        n.norm(f"blocks.{i}.norm1", f"blocks[{i}].norm1", D)
        n.norm(f"blocks.{i}.norm2", f"blocks[{i}].norm2", D)


@family(openai=0, short=1)
def whisper(n: Network, kind: int) -> None:
    """The key's projection has no bias; two attentions in the decoder."""
    for side in ("encoder", "decoder"):
        for i in blocks(2):
            key, path = f"{side}.blocks.{i}", f"{side}.blocks[{i}]"
            for attention in ("attn", "cross_attn")[: 1 + (side == "decoder")]:
                leaf = {"attn": "self_attn", "cross_attn": "cross_attn"}[attention]
                for name in ("query", "key", "value", "out"):
                    to = name[0] if kind else name
                    n.linear(
                        f"{key}.{attention}.{name}", f"{path}.{leaf}.{to}", D, D, bias=name != "key"
                    )
                n.norm(f"{key}.{attention}_ln", f"{path}.{leaf}_norm", D)
            n.linear(f"{key}.mlp.0", f"{path}.mlp.up", n.size(12), D)
            n.linear(f"{key}.mlp.2", f"{path}.mlp.down", D, n.size(12))
            n.norm(f"{key}.mlp_ln", f"{path}.mlp_norm", D)
        n.norm(f"{side}.{'ln_post' if side == 'encoder' else 'ln'}", f"{side}.norm", D)


@family(same=0, own=1)
def clip(n: Network, kind: int) -> None:
    """Two towers and their projections, which are plain arrays, (width, joint)."""
    for tower in ("visual", "text"):
        for i in blocks(2):
            key, path = f"{tower}.blocks.{i}", f"{tower}.blocks[{i}]"
            n.linear(f"{key}.fc1", f"{path}.fc1", n.size(12), D)
            n.linear(f"{key}.fc2", f"{path}.fc2", D, n.size(12))
            n.norm(f"{key}.ln", f"{path}.norm", D)
    n.plain("visual.proj", "visual.proj", D, n.size(5))
    n.plain("text_projection", "text.proj" if kind else "text_projection", D, n.size(5))
    n.plain("logit_scale", "logit_scale")


@family(short="q k v out up down norm1 norm2", long="wq wk wv wo w_in w_out attn_norm mlp_norm")
def bert(n: Network, names: str) -> None:
    q, k, v, out, up, down, norm1, norm2 = names.split()
    n.embed("bert.embeddings.word_embeddings", "token_embed", n.size(20), D)
    n.embed("bert.embeddings.position_embeddings", "pos_embed", n.size(16), D)
    n.embed("bert.embeddings.token_type_embeddings", "type_embed", 2, D)
    n.norm("bert.embeddings.LayerNorm", "embed_norm", D)
    for i in blocks(2):
        key, path = f"bert.encoder.layer.{i}", f"layers[{i}]"
        for name, leaf in zip(("query", "key", "value"), (q, k, v), strict=True):
            n.linear(f"{key}.attention.self.{name}", f"{path}.attn.{leaf}", D, D)
        n.linear(f"{key}.attention.output.dense", f"{path}.attn.{out}", D, D)
        n.norm(f"{key}.attention.output.LayerNorm", f"{path}.{norm1}", D)
        n.linear(f"{key}.intermediate.dense", f"{path}.mlp.{up}", n.size(12), D)
        n.linear(f"{key}.output.dense", f"{path}.mlp.{down}", D, n.size(12))
        n.norm(f"{key}.output.LayerNorm", f"{path}.{norm2}", D)


@family(mixtral=("block_sparse_moe.gate", "router"), deepseek=("mlp.gate", "gate"))
def router_with_bias(n: Network, names: tuple[str, str]) -> None:
    """The router has a correction of its own beside its weight."""
    for i in blocks(2):
        key, path = f"layers.{i}.{names[0]}", f"layers[{i}].moe.{names[1]}"
        n.plain(f"{key}.weight", f"{path}.weight", 4, D)
        n.plain(f"{key}.e_score_correction_bias", f"{path}.correction_bias", 4)
        for e in blocks(4):
            expert = f"layers.{i}.experts.{e}"
            n.linear(f"{expert}.w1", f"layers[{i}].moe.experts[{e}].w1", n.size(12), D, bias=False)
            n.linear(f"{expert}.w2", f"layers[{i}].moe.experts[{e}].w2", D, n.size(12), bias=False)
            n.linear(f"{expert}.w3", f"layers[{i}].moe.experts[{e}].w3", n.size(12), D, bias=False)


@family(retnet="q_proj k_proj v_proj g_proj out_proj", short="q k v g o")
def retention(n: Network, names: str) -> None:
    for i in blocks(2):
        key, path = f"layers.{i}.retention", f"layers[{i}].ret"
        of = ("q_proj", "k_proj", "v_proj", "g_proj", "out_proj")
        for name, leaf in zip(of, names.split(), strict=True):
            n.linear(f"{key}.{name}", f"{path}.{leaf}", D, D, bias=False)
        n.norm(f"{key}.group_norm", f"{path}.norm", D, "RMSNorm")
        n.linear(f"layers.{i}.ffn.fc1", f"layers[{i}].ffn.fc1", n.size(12), D)
        n.linear(f"layers.{i}.ffn.fc2", f"layers[{i}].ffn.fc2", D, n.size(12))


@network
def pointnet(n: Network) -> None:
    """A net for the input's transform and one for the features'."""
    for net, leaf, inner in (("stn", "input_transform", 3), ("fstn", "feature_transform", D)):
        for number, (out, size) in enumerate(((D, inner), (n.size(12), D)), 1):
            n.conv(f"feat.{net}.conv{number}", f"{leaf}.convs[{number - 1}]", out, size, 1, dims=1)
        n.linear(f"feat.{net}.fc1", f"{leaf}.fc1", D, n.size(12))
        n.linear(f"feat.{net}.fc2", f"{leaf}.fc2", inner * inner, D)
    n.linear("fc3", "head", n.size(5), D)


@family(same="zero_convs", own="zeros", control="controlnet_down_blocks")
def control_net(n: Network, leaf: str) -> None:
    n.conv("conv_in", "conv_in", D, n.size(3))
    n.conv("input_hint_block.0", "hint[0]", D, n.size(3))
    n.conv("input_hint_block.2", "hint[1]", D, D)
    for i in blocks():
        n.conv(f"down_blocks.{i}.conv", f"down[{i}].conv", D, D)
        n.conv(f"zero_convs.{i}", f"{leaf}[{i}]", D, D, 1)
    n.conv("mid_block_zero_conv" if leaf == "zeros" else "middle_block_out", "mid_zero", D, D, 1)


@family(same="projector predictor", moco="proj_head pred_head")
def siamese_heads(n: Network, names: str) -> None:
    for side in ("online", "target"):
        n.linear(f"{side}.backbone.fc1", f"{side}.backbone.fc1", D, n.size(6))
        n.linear(f"{side}.backbone.fc2", f"{side}.backbone.fc2", D, D)
    for name, leaf in zip(("projector", "predictor"), names.split(), strict=True):
        n.linear(f"{name}.0", f"{leaf}.layers[0]", n.size(12), D)
        n.linear(f"{name}.3", f"{leaf}.layers[1]", D, n.size(12))


@family(kaldi="tdnn{}.kernel", lists="frames[{}]")
def speaker(n: Network, leaf: str) -> None:
    """Frames, then statistics of them, then segments: `fc6`, `fc7` are no indices."""
    n.unshown = leaf.startswith("frames")
    for i in range(1, 5):
        path = leaf.replace("{}", str(i if not n.unshown else i - 1))
        n.conv(f"tdnn{i}.kernel", path, D, n.size(6) if i == 1 else D, 3, dims=1)
    n.linear("fc6", "segment6", D, 2 * D)
    n.linear("fc7", "segment7", D, D)


@family(same="lin_l lin_r", own="neighbours root", words="lin_neigh lin_self")
def graph_sage(n: Network, names: str) -> None:
    left, right = names.split()
    n.unshown = names != "lin_l lin_r"
    for i in blocks():
        n.linear(f"convs.{i}.lin_l", f"convs[{i}].{left}", D, D)
        n.linear(f"convs.{i}.lin_r", f"convs[{i}].{right}", D, D, bias=False)
    n.linear("lin", "out", n.size(3), D)


@family(words="encoder latent decoder", ring="enc_to_lat lat_to_dec dec_to_enc")
def chain(n: Network, names: str) -> None:
    first, second, third = names.split()
    for name, leaf in (("a_to_b", first), ("b_to_c", second), ("c_to_a", third)):
        n.unshown = True
        n.linear(name, leaf, D, D)


@family(square=8, wide=12)
def own_attention(n: Network, wide: int) -> None:
    """A user's own (in, out) layers; those of another class are (out, in)."""
    n.unshown = wide == D
    for i in blocks(2):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            n.own(InOut, f"layers.{i}.attn.{name}", f"layers[{i}].attn.{name}", D, D)
        n.own(InOut, f"layers.{i}.mlp.up", f"layers[{i}].mlp.up", n.size(wide), D)
        n.own(InOut, f"layers.{i}.mlp.down", f"layers[{i}].mlp.down", D, n.size(wide))
        n.own(OutIn, f"layers.{i}.mix", f"layers[{i}].mix", D, D)
    n.own(OutIn, "head", "head", n.size(5), D)
    n.unshown |= n.square


@family(same="ff1 self_attn conv_module ff2", own="ffn_in mhsa conv ffn_out")
def conformer(n: Network, names: str) -> None:
    first, attention, conv, second = names.split()
    n.unshown = names.startswith("ffn_in")
    for i in blocks(2):
        key, path = f"encoder.layers.{i}", f"layers[{i}]"
        for name, leaf in (("ff1", first), ("ff2", second)):
            n.norm(f"{key}.{name}.norm", f"{path}.{leaf}.norm", D)
            n.linear(f"{key}.{name}.w_1", f"{path}.{leaf}.w_1", n.size(12), D)
            n.linear(f"{key}.{name}.w_2", f"{path}.{leaf}.w_2", D, n.size(12))
        for name in "qkv":
            n.linear(f"{key}.self_attn.linear_{name}", f"{path}.{attention}.{name}", D, D)
        n.linear(f"{key}.self_attn.linear_out", f"{path}.{attention}.out", D, D)
        n.plain(f"{key}.self_attn.pos_bias_u", f"{path}.{attention}.pos_bias_u", 2, 4)
        n.plain(f"{key}.self_attn.pos_bias_v", f"{path}.{attention}.pos_bias_v", 2, 4)
        n.conv(f"{key}.conv_module.depthwise_conv", f"{path}.{conv}.depthwise", D, D, dims=1)
        n.norm(f"{key}.norm_final", f"{path}.norm_final", D)


@family(same="advantage value", short="adv val", streams="a_stream v_stream")
def dueling(n: Network, names: str) -> None:
    advantage, value = names.split()
    n.linear("features.0", "features[0]", D, n.size(6))
    n.linear("features.2", "features[1]", D, D)
    n.linear("advantage.0", f"{advantage}.hidden", D, D)
    n.linear("advantage.2", f"{advantage}.out", n.size(4), D)
    n.linear("value.0", f"{value}.hidden", D, D)
    n.linear("value.2", f"{value}.out", 1, D)


@family(same="mu logvar", log="mean log_var", greek="loc scale_log")
def heads_of_one_size(n: Network, names: str) -> None:
    """Two heads of one size, whose names say what they are."""
    mean, deviation = names.split()
    n.unshown = names.startswith("loc")
    n.linear("encoder.0", "encoder[0]", D, n.size(6))
    n.linear("encoder.2", "encoder[1]", D, D)
    n.linear("fc_mu", f"fc_{mean}", D, D)
    n.linear("fc_logvar", f"fc_{deviation}", D, D)
    n.linear("decoder.0", "decoder[0]", D, D)
    n.linear("decoder.2", "decoder[1]", n.size(6), D)


@family(same="r_w_bias r_r_bias", content="content_bias position_bias")
def transformer_xl(n: Network, names: str) -> None:
    """Two biases of one size, which letters alone tell apart."""
    content, position = names.split()
    n.unshown = names.startswith("content")
    for i in blocks(2):
        key, path = f"layers.{i}.dec_attn", f"layers[{i}].attn"
        n.linear(f"{key}.qkv_net", f"{path}.qkv", 3 * D, D, bias=False)
        n.linear(f"{key}.r_net", f"{path}.r", D, D, bias=False)
        n.linear(f"{key}.o_net", f"{path}.o", D, D, bias=False)
        n.plain(f"{key}.r_w_bias", f"{path}.{content}", 2, 4)
        n.plain(f"{key}.r_r_bias", f"{path}.{position}", 2, 4)
        n.norm(f"{key}.layer_norm", f"{path}.norm", D)


@family(own="stem", fc="conv1")
def torchvision_resnet(n: Network, stem: str) -> None:
    """`layer1.0.downsample.0` into stages with blocks and shortcuts."""
    n.conv("conv1", f"{stem}.conv" if stem == "stem" else stem, D, n.size(3), bias=False)
    for stage in (1, 2):
        for i in blocks(2):
            out = D if stage == 1 else n.size(12)
            inner = D if stage == 1 or i == 0 else out
            key, path = f"layer{stage}.{i}", f"stages[{stage - 1}].blocks[{i}]"
            n.conv(f"{key}.conv1", f"{path}.conv1", out, inner, bias=False)
            n.conv(f"{key}.conv2", f"{path}.conv2", out, out, bias=False)
            n.norm(f"{key}.gn1", f"{path}.norm1", out, "GroupNorm")
            n.norm(f"{key}.gn2", f"{path}.norm2", out, "GroupNorm")
            if i == 0 and stage == 2:
                n.conv(f"{key}.downsample.0", f"{path}.shortcut", out, inner, 1, bias=False)
    n.linear("fc", "head", n.size(5), n.size(12))


@family(dense="Dense_{}", numbers="layers_{}")
def flax_compact(n: Network, form: str) -> None:
    """A dictionary as Flax's compact modules name it."""
    n.containers = "dict"
    sizes = (n.size(6), D, n.size(12), n.size(3))
    for i in blocks():
        n.dense(f"net.{2 * i}", f"params.{form.format(i)}", sizes[i + 1], sizes[i])


@family(same="H T", own="transform gate")
def highway(n: Network, names: str) -> None:
    first, second = names.split()
    n.unshown = names == "transform gate"
    for i in blocks():
        n.linear(f"layers.{i}.H", f"layers[{i}].{first}", D, D)
        n.linear(f"layers.{i}.T", f"layers[{i}].{second}", D, D)


@family(merged=0, kept=1)
def low_rank(n: Network, kept: int) -> None:
    """Adapters, which a port keeps under names of its own or merges."""
    n.refused = not kept
    for i in blocks(2):
        n.linear(f"layers.{i}.q_proj", f"layers[{i}].q_proj", D, D, bias=False)
        for letter, shape in (("A", (2, D)), ("B", (D, 2))):
            key = f"layers.{i}.q_proj.lora_{letter}.weight"
            if kept:
                n.plain(key, f"layers[{i}].q_lora.{letter.lower()}", *shape)
            else:
                n.lost(key, *shape)


@family(same=0, turned=1)
def tied_projection(n: Network, kind: int) -> None:
    """A plain square array beside layers; some ports keep it the other way round."""
    n.unshown = True
    n.linear("encoder.fc1", "encoder.fc1", D, n.size(6))
    n.linear("encoder.fc2", "encoder.fc2", D, D)
    n.plain("proj", "projection", D, D, make=turned if kind else lambda array: array)
