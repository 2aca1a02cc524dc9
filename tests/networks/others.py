"""Networks of control, generation, sequences and time; and what users write themselves."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from tests.networks.network import (
    Affine,
    Dense,
    InOut,
    InOutBias,
    Network,
    OutIn,
    OutInBias,
    Source,
    between,
    blocks,
    family,
    layer_of,
    network,
    parsed,
    same,
)

D = 8


def layers(n: Network, key: str, path: str, sizes: tuple[int, ...], step: int = 2) -> None:
    """A `Sequential` of dense layers into a list."""
    for i, (inner, out) in enumerate(pairwise(sizes)):
        n.linear(f"{key}.{i * step}", f"{path}[{i}]", out, inner)


@family(
    same=("q1", "q2", "q1", "q2"),
    numbered=("critic_1", "critic_2", "critics[0]", "critics[1]"),
    qf=("qf1", "qf2", "critics[0]", "critics[1]"),
    words=("critic.Q1", "critic.Q2", "first", "second"),
    targets=("critic", "critic_target", "critic", "target_critic"),
)
def twin_critics(n: Network, names: tuple[str, str, str, str]) -> None:
    sizes = (n.size(6), D, D, n.size(1))
    layers(n, names[0], f"{names[2]}.layers", sizes)
    layers(n, names[1], f"{names[3]}.layers", sizes)
    layers(n, "actor", "actor.layers", (n.size(5), D, n.size(2)))


@family(words=("policy_net", "value_net"), same=("actor", "critic"), short=("pi", "vf"))
def actor_critic(n: Network, names: tuple[str, str]) -> None:
    layers(n, names[0], "actor.layers", (n.size(6), D, D, n.size(3)))
    layers(n, names[1], "critic.layers", (n.size(6), D, D, 1))
    n.plain("log_std", "log_std", n.size(3))


@family(named=0, short=1)
def gan(n: Network, kind: int) -> None:
    key, other = ("netG", "netD") if kind else ("generator", "discriminator")
    n.linear(f"{key}.fc", "generator.fc", D, n.size(5))
    for i in blocks(2):
        n.conv_transpose(f"{key}.deconv.{i}", f"generator.up[{i}]", D, D)
        n.conv(f"{other}.conv.{i}", f"discriminator.down[{i}]", D, D, 2)
    n.linear(f"{other}.fc", "discriminator.fc", 1, D)


@family(lists=0, apart=1)
def flow(n: Network, kind: int) -> None:
    """Coupling layers with a net for the scale and one for the shift."""
    for i in blocks(4):
        for name, leaf in (("s_net", "scale"), ("t_net", "shift")):
            path = f"{leaf}[{i}]" if kind == 0 else f"couplings[{i}].{leaf}"
            layers(n, f"flows.{i}.{name}", f"{path}.layers", (n.size(4), D, n.size(4)))


@network
def flow_normalised(n: Network) -> None:
    for i in blocks():
        n.plain(f"flows.{i}.actnorm.loc", f"flows[{i}].actnorm.loc", D)
        n.plain(f"flows.{i}.actnorm.log_scale", f"flows[{i}].actnorm.log_scale", D)
        n.plain(f"flows.{i}.inv_conv.weight", f"flows[{i}].inv_conv.weight", D, D)
        layers(n, f"flows.{i}.net", f"flows[{i}].net", (n.size(4), D, D))


@family(kept=1, without_d=0)
def mamba(n: Network, kind: int) -> None:
    wide, state = n.size(12), n.size(4)
    for i in blocks():
        key, path = f"backbone.layers.{i}.mixer", f"layers[{i}].mixer"
        n.norm(f"backbone.layers.{i}.norm", f"layers[{i}].norm", D, "RMSNorm")
        n.linear(f"{key}.in_proj", f"{path}.in_proj", 2 * wide, D, bias=False)
        n.conv(f"{key}.conv1d", f"{path}.conv1d", wide, wide, 4, dims=1, groups=wide)
        n.linear(f"{key}.x_proj", f"{path}.x_proj", 2 + 2 * state, wide, bias=False)
        n.linear(f"{key}.dt_proj", f"{path}.dt_proj", wide, 2)
        n.plain(f"{key}.A_log", f"{path}.A_log", wide, state)
        if kind:
            n.plain(f"{key}.D", f"{path}.D", wide)
        else:
            n.lost(f"{key}.D", wide)
        n.linear(f"{key}.out_proj", f"{path}.out_proj", D, wide, bias=False)
    n.norm("backbone.norm_f", "norm_f", D, "RMSNorm")


@family(lost=0, kept=1)
def recurrent_lru(n: Network, kept: int) -> None:
    for i in blocks():
        for name in ("nu_log", "theta_log", "gamma_log"):
            if kept or name != "gamma_log":
                n.plain(f"layers.{i}.{name}", f"layers[{i}].{name}", D)
            else:
                n.lost(f"layers.{i}.{name}", D)
        n.plain(f"layers.{i}.B_re", f"layers[{i}].B_re", D, n.size(6))
        n.plain(f"layers.{i}.C_re", f"layers[{i}].C_re", n.size(6), D)


@family(lists=0, named=1)
def bidirectional(n: Network, kind: int) -> None:
    """Two layers of an LSTM in both directions."""
    width = 4
    for number in (0, 1):
        inner = n.size(6) if number == 0 else 2 * width
        for ending, leaf in (("", "fwd"), ("_reverse", "bwd")):
            end = f"l{number}{ending}"
            keys = {
                name: n.entry(f"lstm.{name}_{end}", *shape)
                for name, shape in (
                    ("weight_ih", (4 * width, inner)),
                    ("weight_hh", (4 * width, width)),
                    ("bias_ih", (4 * width,)),
                    ("bias_hh", (4 * width,)),
                )
            }
            path = f"{leaf}[{number}]" if kind == 0 else f"layers[{number}].{leaf}"
            n.layer(
                path,
                layer_of("LSTMCell", inner, width),
                weight_ih=(keys["weight_ih"], same),
                weight_hh=(keys["weight_hh"], same),
                bias=((keys["bias_ih"], keys["bias_hh"]), lambda a, b: a + b),
            )


@family(same="w_ih w_hh b_ih b_hh", torch="weight_ih weight_hh bias_ih bias_hh")
def own_lstm(n: Network, names: str) -> None:
    """A cell of a user's own, with PyTorch's two biases."""
    width, inner = 4, n.size(6)
    shapes = ((4 * width, inner), (4 * width, width), (4 * width,), (4 * width,))
    torch = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    for number in (0, 1):
        for name, leaf, shape in zip(torch, names.split(), shapes, strict=True):
            size = shape if number == 0 or name != "weight_ih" else (4 * width, width)
            n.plain(f"lstm.{name}_l{number}", f"cells[{number}].{leaf}", *size)
    n.linear("fc", "fc", n.size(3), width)


@network
def gru_cells(n: Network) -> None:
    width, inner = 4, n.size(6)
    for number in (0, 1):
        size = inner if number == 0 else width
        end = f"l{number}"
        ih, hh = n.entry(f"gru.weight_ih_{end}", 12, size), n.entry(f"gru.weight_hh_{end}", 12, 4)
        biases = n.entry(f"gru.bias_ih_{end}", 12), n.entry(f"gru.bias_hh_{end}", 12)
        n.layer(
            f"cells[{number}]",
            layer_of("GRUCell", size, width),
            weight_ih=(ih, same),
            weight_hh=(hh, same),
            bias=(biases, lambda a, b: a + np.concatenate([b[:8], np.zeros(4, "float32")])),
            bias_n=(biases[1], between(8, 12)),
        )


# A user's own classes


@family(
    out_in=(OutIn, OutIn, False),
    in_out=(InOut, InOut, False),
    mixed=(InOut, OutIn, False),
    out_in_square=(OutIn, OutIn, True),
    in_out_square=(InOut, InOut, True),
    mixed_square=(InOut, OutIn, True),
    with_bias=(InOutBias, OutInBias, False),
    with_bias_square=(InOutBias, OutInBias, True),
    short_names=(Affine, Affine, False),
    short_names_square=(Affine, Affine, True),
    kernels=(Dense, Dense, False),
    kernels_square=(Dense, Dense, True),
)
def own_class(n: Network, setting: tuple[type, type, bool]) -> None:
    """Weights stored either way; whether a square one is turned shows where others are not."""
    one, other, square = setting
    n.unshown = square or n.square
    for i in blocks(2):
        n.own(one, f"net.{i}.proj", f"net[{i}].proj", D, D if square else n.size(6))
        n.own(other, f"net.{i}.mix", f"net[{i}].mix", D if square else n.size(5), D)
    n.linear("head", "head", 3, D)


@family(shown_by_siblings=InOut, shown_out_in=OutIn)
def own_square_among_others(n: Network, cls: type) -> None:
    """Square weights of a class whose other weights show how it stores them."""
    n.unshown = n.square
    n.own(cls, "stem", "stem", D, n.size(5))
    for i in blocks():
        n.own(cls, f"blocks.{i}.proj", f"blocks[{i}].proj", D, D)
        n.linear(f"blocks.{i}.fc", f"blocks[{i}].fc", n.size(12), D)
    n.own(cls, "head", "head", n.size(3), D)


@family(
    embed=("token_embed", InOut),
    pos=("pos_proj", InOut),
    norm=("norm_proj", InOut),
    embed_dense=("embed", InOutBias),
)
def own_class_by_word(n: Network, setting: tuple[str, type]) -> None:
    """A user's (in, out) layer whose name has a word of tables or norms."""
    n.unshown = n.square
    name, cls = setting
    n.own(cls, name, name, D, D)
    n.own(cls, "mix", "mix", D, n.size(5))
    n.own(cls, "head", "head", n.size(3), D)


@network
def votes_across_classes(n: Network) -> None:
    n.unshown = True
    n.own(InOut, "proj", "proj", D, D)
    n.linear("head", "head", 3, D)


@family(whole=0, square=1)
def plain_names(n: Network, square: int) -> None:
    """Leaves under the entries' own full names and shapes."""
    n.containers = "dict"
    for name in ("alpha", "beta_matrix", "mixing", "table"):
        n.plain(name, name, D, D if square else n.size(5))
    n.plain("offset", "offset", D)


@network
def flat_dict(n: Network) -> None:
    """A dictionary with whole keys of a state dict, and nothing in between."""
    n.containers = "dict"
    for i in blocks():
        for name, shape in (("weight", (D, D)), ("bias", (D,))):
            key = n.entry(f"layers.{i}.{name}", *shape)
            n.leaf((key,), key)


# Names and numbers


@family(
    similar="linear fc dense",
    norms="norm ln layer_norm",
    ways="skip residual shortcut",
    gates="gate up down",
)
def same_names(n: Network, names: str) -> None:
    """Words that mean the same elsewhere, each under its own name on both sides."""
    for i in blocks(2):
        for name in names.split():
            if "norm" in names:
                n.norm(f"block.{i}.{name}", f"block[{i}].{name}", D)
            else:
                n.linear(f"block.{i}.{name}", f"block[{i}].{name}", D, D)


@family(letters="ab_cd cd_ef ef_ab", words="user_item item_tag tag_user")
def ring(n: Network, names: str) -> None:
    """Every leaf has both words of an entry, the other way round, and one of two more."""
    for name in names.split():
        n.linear(name, f"net.{'_'.join(reversed(name.split('_')))}", D, D)


@family(first=0, last=-1)
def ring_of_halves(n: Network, which: int) -> None:
    """Every leaf has a word of two entries alike, so that nothing tells which it is."""
    n.unshown = True
    for name in ("left_top", "top_right", "right_left"):
        n.linear(name, name.split("_")[which], D, D)


@network
def ring_of_parts(n: Network) -> None:
    """The words of each name are told apart by their order alone."""
    for name, leaf in (("q_k", "qk"), ("k_v", "kv"), ("v_q", "vq")):
        n.linear(f"mix.{name}", f"mix.{leaf}_proj", D, D)


@network
def fc_list(n: Network) -> None:
    """`fc1, fc2, fc` into a list."""
    n.unshown = True
    n.linear("fc1", "layers[0]", D, D)
    n.linear("fc2", "layers[1]", D, D)
    n.linear("fc", "layers[2]", D, D)


@family(first=0, middle=1)
def one_without_bias(n: Network, which: int) -> None:
    """One member of a list has no bias."""
    for i in blocks(4):
        n.linear(f"net.{2 * i}", f"layers[{i}]", D, D, bias=i != which)


@network
def norms_of_members(n: Network) -> None:
    """Lists of layers and norms against norms of a list's members."""
    for i in blocks():
        n.linear(f"layers.{i}", f"blocks[{i}].linear", D, D)
        n.norm(f"norms.{i}", f"blocks[{i}].norm", D)


@network
def members_of_norms(n: Network) -> None:
    for i in blocks():
        n.linear(f"blocks.{i}.linear", f"layers[{i}]", D, D)
        n.norm(f"blocks.{i}.norm", f"norms[{i}]", D)


@family(list_first=0, names=1, dict=2)
def tuple_of_models(n: Network, kind: int) -> None:
    """Several models in one pytree."""
    n.tuples = kind == 0
    n.containers = "dict" if kind == 2 else "module"
    for i in blocks():
        place = f"[{i}]" if kind == 0 else f"model{i}"
        key = f"{i}" if kind == 0 else f"model{i}"
        for name in ("fc1", "fc2"):
            if kind == 2:
                n.dense(f"{key}.{name}", f"{place}.{name}", n.size(6), D)
            else:
                n.linear(f"{key}.{name}", f"{place}.{name}", n.size(6), D)


@family(entry=1, none=0)
def scalar(n: Network, has_entry: int) -> None:
    """A Python float, with an entry of its name or without."""
    n.linear("visual.proj", "visual.proj", D, n.size(6))
    n.linear("text.proj", "text.proj", D, n.size(6))
    if has_entry:
        n.entry("logit_scale")
    n.scalar("logit_scale", 2.66, "logit_scale" if has_entry else None)


@network
def scalar_array(n: Network) -> None:
    n.linear("visual.proj", "visual.proj", D, n.size(6))
    n.linear("text.proj", "text.proj", D, n.size(6))
    n.plain("logit_scale", "logit_scale", 1, make=lambda a: a.reshape(()))


@network
def towers(n: Network) -> None:
    """A vision and a text tower of one form."""
    for tower, leaf in (("visual.transformer", "vision"), ("transformer", "text")):
        for i in blocks(2):
            n.norm(f"{tower}.resblocks.{i}.ln_1", f"{leaf}.blocks[{i}].norm1", D)
            n.linear(f"{tower}.resblocks.{i}.mlp.c_fc", f"{leaf}.blocks[{i}].fc1", n.size(12), D)
            n.linear(f"{tower}.resblocks.{i}.mlp.c_proj", f"{leaf}.blocks[{i}].fc2", D, n.size(12))


@family(rotary=0, positions=1)
def bias_or_buffer(n: Network, kind: int) -> None:
    """Layers without biases in the checkpoint, which have them in Equinox, and a buffer."""
    for i in blocks(2):
        key = n.entry(f"layers.{i}.attn.proj.weight", D, D)
        n.layer(f"layers[{i}].attn.proj", layer_of("Linear", D, D), weight=(key, same))
        n.sources[parsed(f"layers[{i}].attn.proj.bias")] = Source((), lambda: np.zeros(D))
        if kind == 0:
            n.buffer(f"layers.{i}.attn.rotary_emb.inv_freq", n.random((D,)))
        else:
            n.buffer(f"layers.{i}.attn.position_ids", np.arange(D))


@family(of_large=1e6, of_small=1.0)
def half_precision(n: Network, value: float) -> None:
    """Numbers beyond what the dtype asked for holds."""
    n.dtype = "float16"
    n.refused = value > 65504
    for i in blocks(2):
        n.linear(f"net.{i}", f"net[{i}]", D, n.size(6) if i == 0 else D)
    n.entries["net.0.weight"].array[0, 0] = value


@network
def left_over(n: Network) -> None:
    for i in blocks():
        n.linear(f"blocks.{i}.fc", f"blocks[{i}].fc", D, D)
        n.lost(f"blocks.{i}.ls1.gamma", D)


@family(mlp=(1, 2, 3), vae=(0, 0, 1))
def variational(n: Network, heads: tuple[int, ...]) -> None:
    """Heads of one shape for a mean and a logarithm of a variance."""
    n.linear("encoder.0", "encoder.layers[0]", D, n.size(10))
    of = ("fc_mu", "fc_logvar") if heads[0] else ("mean_head", "log_var_head")
    n.linear(of[0], "mean", n.size(4), D)
    n.linear(of[1], "log_var", n.size(4), D)
    n.linear("decoder.0", "decoder.layers[0]", D, n.size(4))
    n.linear("decoder.2", "decoder.layers[1]", n.size(10), D)


@network
def siren(n: Network) -> None:
    for i in blocks(4):
        n.linear(f"net.{i}.linear", f"layers[{i}]", D, n.size(2) if i == 0 else D)
    n.linear("final", "out", 1, D)


@network
def nerf(n: Network) -> None:
    """Numbered names, with a wider layer where the input comes in again."""
    for i in range(1, 6):
        inner = n.size(6) if i == 1 else D + n.size(6) if i == 4 else D
        n.linear(f"pts_linears.{i - 1}", f"trunk[{i - 1}]", D, inner)
    n.linear("feature_linear", "feature", D, D)
    n.linear("alpha_linear", "sigma", 1, D)
    n.linear("rgb_linear", "rgb", 3, D)


@family(convs=("lin_l", "lin_r"), gat=("lin_src", "lin_dst"))
def graph(n: Network, names: tuple[str, str]) -> None:
    for i in blocks():
        n.linear(f"convs.{i}.{names[0]}", f"convs[{i}].neighbour", D, D)
        n.linear(f"convs.{i}.{names[1]}", f"convs[{i}].self_loop", D, D, bias=False)
        n.plain(f"convs.{i}.att", f"convs[{i}].att", 1, 2, 4)


@network
def recommender(n: Network) -> None:
    n.embed("user_embedding", "users", n.size(10), D)
    n.embed("item_embedding", "items", n.size(10), D)
    n.plain("user_bias.weight", "user_bias", n.size(10), 1)
    n.plain("item_bias.weight", "item_bias", n.size(10), 1)
    layers(n, "mlp", "mlp", (2 * D, D, 1))


@network
def hypernetwork(n: Network) -> None:
    for name in ("gamma", "beta"):
        n.linear(f"film.{name}_net", f"film.{name}", D, n.size(5))
        n.linear(f"film.{name}_net2", f"film.{name}2", D, D)


@network
def bilinear(n: Network) -> None:
    """Own three-axis weights of equal sizes under their own names."""
    n.plain("bilinear.weight", "bilinear.weight", 4, D, D)
    n.plain("bilinear.bias", "bilinear.bias", 4)
    n.plain("core", "core", D, D, D)


@family(turned=1, plain=0)
def flax_mlp(n: Network, kind: int) -> None:
    """Nested dictionaries of kernels, square or not."""
    n.unshown = bool(kind) or n.square
    n.containers = "dict"
    sizes = (D, D, D, D) if kind else (D, n.size(12), n.size(12), 3)
    for i, (inner, out) in enumerate(pairwise(sizes)):
        n.dense(f"layers.{i}", f"params.Dense_{i}", out, inner)


@network
def nnx_mlp(n: Network) -> None:
    n.containers = "nnx"
    for i, (inner, out) in enumerate(((D, 12), (12, 5))):
        n.dense(f"layers.{i}", f"layers[{i}]", n.size(out), n.size(inner))
    n.scale_norm("norm", "norm", D)


@network
def siblings_of_one_size(n: Network) -> None:
    """A key and a value memory, and a table of each, told apart by their names."""
    for name in ("key_memory", "value_memory", "read_table", "write_table"):
        n.plain(f"memory.{name}", f"memory.{name}", n.size(6), D)
    n.linear("controller", "controller", D, D)
    n.plain("memory.usage", "memory.usage", n.size(6))
