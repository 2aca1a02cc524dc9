"""Networks of images: convolutions, their norms and pyramids, in PyTorch's layout and in Flax's."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from tests.networks.network import (
    Network,
    Scale,
    blocks,
    family,
    flipped_transposed,
    hwio,
    hwio_transposed,
    layer_of,
    network,
    parsed,
    same,
)

C = 8


@family(
    same="conv1 conv2 time_emb_proj norm1 norm2",
    other="conv_in conv_out time_mlp norm_in norm_out",
    lists="in_layers[0] out_layers[0] emb_layer norms[0] norms[1]",
)
def unet(n: Network, names: str) -> None:
    """Down, middle and up blocks, each with an embedding of the time."""
    conv1, conv2, time, norm1, norm2 = names.split()
    n.linear("time_embedding.linear_1", "time_embed.linear1", n.size(12), C)
    n.linear("time_embedding.linear_2", "time_embed.linear2", n.size(12), n.size(12))
    n.conv("conv_in", "conv_in", C, n.size(3))
    for side, to in (("down_blocks", "down"), ("mid_block", "mid"), ("up_blocks", "up")):
        for i in blocks(2):
            key, path = f"{side}.{i}.resnet", f"{to}[{i}].res"
            n.norm(f"{key}.norm1", f"{path}.{norm1}", C, "GroupNorm")
            n.conv(f"{key}.conv1", f"{path}.{conv1}", C, C)
            n.linear(f"{key}.time_emb_proj", f"{path}.{time}", C, n.size(12))
            n.norm(f"{key}.norm2", f"{path}.{norm2}", C, "GroupNorm")
            n.conv(f"{key}.conv2", f"{path}.{conv2}", C, C)
    n.norm("conv_norm_out", "norm_out", C, "GroupNorm")
    n.conv("conv_out", "conv_out", n.size(3), C)


@network
def unet_skips(n: Network) -> None:
    """Resampling convolutions and shortcuts of widths that differ."""
    widths = (n.size(4), C, n.size(12))
    for i, (inner, out) in enumerate(pairwise(widths)):
        n.conv(f"downs.{i}.block.proj", f"down[{i}].conv", out, inner)
        n.conv(f"downs.{i}.res_conv", f"down[{i}].shortcut", out, inner, 1)
        n.conv(f"downs.{i}.downsample", f"down[{i}].downsample", out, out, 4)
        n.conv_transpose(f"ups.{i}.upsample", f"up[{i}].upsample", inner, out)
        n.conv(f"ups.{i}.block.proj", f"up[{i}].conv", inner, inner)
        n.conv(f"ups.{i}.res_conv", f"up[{i}].shortcut", inner, inner, 1)


@family(model_and_state=2, own_statistics=1, without_state=0)
def residual(n: Network, kind: int) -> None:
    """A residual network with batch norms."""

    def norm(key: str, path: str) -> None:
        if kind == 2:
            n.state = True
            n.batch_norm(key, path, C)
            return
        mean, var = n.statistics(key, C)
        n.plain(f"{key}.weight", f"{path}.weight", C)
        n.plain(f"{key}.bias", f"{path}.bias", C)
        if kind == 1:
            n.leaf(f"{path}.running_mean", mean)
            n.leaf(f"{path}.running_var", var)

    n.conv("conv1", "conv1", C, n.size(3), bias=False)
    norm("bn1", "bn1")
    for i in blocks(2):
        for j in (1, 2):
            n.conv(f"layer1.{i}.conv{j}", f"layers[{i}].conv{j}", C, C, bias=False)
            norm(f"layer1.{i}.bn{j}", f"layers[{i}].bn{j}")
    n.conv("layer1.0.downsample.0", "layers[0].shortcut_conv", C, C, 1, bias=False)
    norm("layer1.0.downsample.1", "layers[0].shortcut_norm")
    n.linear("fc", "fc", n.size(5), C)


@family(same=("running_mean", "running_var", False), flax=("mean", "var", False))
def statistics(n: Network, names: tuple[str, str, bool]) -> None:
    """Running statistics as plain leaves, under Flax's names or PyTorch's."""
    n.containers = "dict"
    for i in blocks():
        n.hwio(f"convs.{i}", f"conv_{i}", C, C)
        mean, var = n.statistics(f"norms.{i}", C)
        n.leaf(f"norm_{i}.{names[0]}", mean)
        n.leaf(f"norm_{i}.{names[1]}", var)
        n.plain(f"norms.{i}.weight", f"norm_{i}.scale", C)
        n.plain(f"norms.{i}.bias", f"norm_{i}.bias", C)


@family(
    sigma=("running_var", "sigma", np.sqrt),
    std=("log_std", "std", np.exp),
    inverse=("running_var", "rstd", lambda a: 1 / np.sqrt(a)),
    log=("std", "log_std", lambda a: np.log(np.abs(a))),
    decay=("A_log", "A", lambda a: -np.exp(a)),
)
def function_of_an_entry(n: Network, setting: tuple[str, str, object]) -> None:
    """A leaf that holds a function of an entry, which no transform makes: any file is wrong."""
    key, leaf, _ = setting
    n.linear("net.0", "net.layers[0]", C, C)
    n.linear("net.2", "net.layers[1]", C, C)
    n.entry(f"net.{key}" if key == "running_var" else key, 5)
    n.unfed(leaf, 5)


@family(same="log_std", policy="log_std")
def log_std(n: Network, leaf: str) -> None:
    n.linear("actor.0", "actor[0]", C, n.size(6))
    n.linear("actor.2", "actor[1]", n.size(3), C)
    n.plain("actor_log_std" if leaf == "policy" else "log_std", leaf, n.size(3))


@family(
    ascending=((3, 4, 5), (3, 4, 5)),
    descending=((5, 4, 3), (5, 4, 3)),
    strides=((8, 16, 32), (8, 16, 32)),
    resolutions=((64, 32, 16), (64, 32, 16)),
)
def pyramid(n: Network, numbers: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """Levels by numbers that are no indices, in a list in the order in which they are declared."""
    n.unshown = True
    for place, number in enumerate(numbers[0]):
        n.conv(f"lateral_p{number}", f"lateral[{place}]", C, C, 1)
        n.conv(f"output_p{number}", f"output[{place}]", C, C)
    n.linear("head", "head", n.size(5), C)


@network
def pyramid_named(n: Network) -> None:
    for number in (5, 4, 3):
        n.conv(f"lateral_p{number}", f"lateral.p{number}", C, C, 1)
        n.conv(f"output_p{number}", f"output.p{number}", C, C)


@network
def pyramid_of_widths(n: Network) -> None:
    """Descending levels whose sizes differ."""
    n.unshown = n.square
    for place, (number, width) in enumerate(((5, 12), (4, 10), (3, 6))):
        n.conv(f"lateral_p{number}", f"lateral[{place}]", C, n.size(width), 1)


@family(backwards=1, forwards=0)
def decoder_list(n: Network, backwards: int) -> None:
    """A mirrored decoder whose list starts at the end that the encoder ends with."""
    widths = (4, 6, 8, 12)  # of one size, a list turned round would be none to notice
    pairs = list(pairwise(widths))
    for i, (inner, out) in enumerate(pairs):
        n.conv(f"enc.{i}", f"encoder[{i}]", out, inner)
        place = len(pairs) - 1 - i if backwards else i
        n.conv(f"dec.{i}", f"decoder[{place}]", inner, out)


@family(hwio=0, nnx=1, hwio_square=2)
def flax_cnn(n: Network, kind: int) -> None:
    """Convolutions (h, w, in, out) and dense layers (in, out)."""
    n.containers = "nnx" if kind == 1 else "dict"
    width = C if kind == 2 else n.size(6)
    n.hwio("features.0", "Conv_0", width, C if kind == 2 else n.size(3))
    n.hwio("features.3", "Conv_1", C, width)
    n.dense("classifier", "Dense_0", n.size(5), C)


@family(flax=0, equinox=1, flax_square=2)
def transposed_convolution(n: Network, kind: int) -> None:
    if kind == 1:
        n.conv_transpose("up", "up", n.size(6), n.size(4), 3)
        return
    n.unshown = kind == 2 or n.square
    n.containers = "dict"
    inner, out = (C, C) if kind == 2 else (n.size(4), n.size(6))
    n.leaf("up.kernel", n.entry("up.weight", inner, out, 3, 3), hwio_transposed)
    n.plain("up.bias", "up.bias", out)


@network
def transposed_generator(n: Network) -> None:
    """Flax's kernels of transposed convolutions after a dense layer."""
    n.containers = "dict"
    n.dense("fc", "Dense_0", n.size(12), C)
    for i, (inner, out) in enumerate(((12, 6), (6, 3))):
        kernel = n.entry(f"deconv.{i}.weight", n.size(inner), n.size(out), 4, 4)
        n.leaf(f"ConvTranspose_{i}.kernel", kernel, hwio_transposed)
        n.plain(f"deconv.{i}.bias", f"ConvTranspose_{i}.bias", n.size(out))


@family(linear=0, kernel=1)
def flattened(n: Network, kind: int) -> None:
    """A dense layer after flattening (c, h, w), where the other side flattens (h, w, c)."""
    n.unshown = True
    n.containers = "dict"
    n.hwio("conv", "conv", 4, 3)

    def last(a: np.ndarray) -> np.ndarray:
        return a.reshape(-1, 4, 3, 3).transpose(0, 2, 3, 1).reshape(-1, 36)

    if kind:
        n.plain("fc.weight", "fc.kernel", 5, 36, make=lambda a: last(a).T)
        n.plain("fc.bias", "fc.bias", 5)
    else:
        # Nothing but the convolution's layout shows it, so the layer is refused or right.
        n.linear_of("fc", (n.entry("fc.weight", 5, 36), last), (n.entry("fc.bias", 5), same))


@family(flax=0, equinox=1, unfolded_first=2)
def patches(n: Network, kind: int) -> None:
    """A patch convolution as a dense layer on flattened patches."""
    n.unshown = True
    kernel = n.entry("patch_embed.proj.weight", C, 3, 4, 4)
    bias = n.entry("patch_embed.proj.bias", C)
    if kind == 1:
        n.linear_of(
            "patch_embed",
            (kernel, lambda a: a.transpose(0, 2, 3, 1).reshape(C, 48)),
            (bias, same),
        )
    else:
        n.containers = "dict"
        axes = (2, 3, 1, 0) if kind == 0 else (1, 2, 3, 0)
        n.leaf("patch_embed.kernel", kernel, lambda a: a.transpose(axes).reshape(48, C))
        n.leaf("patch_embed.bias", bias)
    n.plain("pos_embed", "pos_embed", 1, 5, C)


@family(squeezed=0, dense=1)
def pointwise(n: Network, kind: int) -> None:
    """A convolution of one pixel as a dense layer."""
    for i in blocks():
        weight = n.entry(f"blocks.{i}.pw.weight", n.size(12), C, 1, 1)
        bias = n.entry(f"blocks.{i}.pw.bias", n.size(12))
        if kind == 0:
            n.linear_of(f"blocks[{i}].pw", (weight, lambda a: a[:, :, 0, 0]), (bias, same))
        else:
            n.leaf(f"blocks[{i}].pw.kernel", weight, lambda a: a[:, :, 0, 0].T)
            n.leaf(f"blocks[{i}].pw.bias", bias)
        n.conv(f"blocks.{i}.dw", f"blocks[{i}].dw", C, C, 3, groups=C)


@family(gamma=1, lost=0)
def convnext(n: Network, kept: int) -> None:
    for i in blocks():
        key, path = f"stages.0.blocks.{i}", f"blocks[{i}]"
        n.conv(f"{key}.conv_dw", f"{path}.dwconv", C, C, 3, groups=C)
        n.norm(f"{key}.norm", f"{path}.norm", C)
        n.linear(f"{key}.mlp.fc1", f"{path}.pwconv1", n.size(12), C)
        n.linear(f"{key}.mlp.fc2", f"{path}.pwconv2", C, n.size(12))
        if kept:
            n.plain(f"{key}.gamma", f"{path}.gamma", C)
        else:
            n.lost(f"{key}.gamma", C)


@network
def torchvision_features(n: Network) -> None:
    """`features.0.0` for a stem, `features.1.0` for a stage's block."""
    n.conv("features.0.0", "features.layers[0].conv", C, n.size(3), 4)
    n.norm("features.0.1", "features.layers[0].norm", C)
    for i in blocks(2):
        n.conv(f"features.1.{i}.block.0", f"features.layers[1].layers[{i}].dw", C, C, 3)
        n.norm(f"features.1.{i}.block.2", f"features.layers[1].layers[{i}].norm", C)
        n.linear(f"features.1.{i}.block.3", f"features.layers[1].layers[{i}].up", n.size(12), C)
        n.linear(f"features.1.{i}.block.5", f"features.layers[1].layers[{i}].down", C, n.size(12))


@family(same="a_to_b b_to_a", short="ab ba")
def cycle(n: Network, names: str) -> None:
    """Two generators, from one domain to the other and back."""
    for key, path in zip(("G_A_to_B", "G_B_to_A"), names.split(), strict=True):
        for i in blocks(2):
            n.conv(f"{key}.{i}", f"{path}.layers[{i}]", C, C)


@network
def mask_of_bytes(n: Network) -> None:
    """A uint8 buffer that the pytree keeps as booleans."""
    n.linear("fc", "fc", C, n.size(6))
    n.buffer("mask", np.tril(np.ones((C, C), "uint8")))
    n._put(parsed("mask"), np.zeros((C, C), bool))
    n.feed("mask", "mask", lambda a: a.astype(bool))


@family(apart=0, list=1)
def squeeze_excite(n: Network, kind: int) -> None:
    """Two layers of a gate, in PyTorch 1x1 convolutions."""
    for i in blocks(2):
        key, path = f"blocks.{i}.se", f"blocks[{i}].se"
        names = ("layers[0]", "layers[1]") if kind else ("reduce", "expand")
        n.conv(f"{key}.conv_reduce", f"{path}.{names[0]}", n.size(4), C, 1)
        n.conv(f"{key}.conv_expand", f"{path}.{names[1]}", C, n.size(4), 1)
        n.conv(f"blocks.{i}.conv_pw", f"blocks[{i}].conv", C, C, 1)


@network
def own_scales(n: Network) -> None:
    """A user's own norm that only scales, in a class of its own."""
    for i in blocks():
        n.conv(f"stage.{i}.conv", f"stage[{i}].conv", C, C)
        key = n.entry(f"stage.{i}.norm.weight", C)
        n.layer(f"stage[{i}].norm", Scale(np.ones(C, "float32")), weight=(key, same))


@network
def convolutions_both_ways(n: Network) -> None:
    """A square transposed convolution beside square plain ones, in Equinox's layers."""
    n.conv("down", "down", C, C, 3)
    n.conv("mid", "mid", C, C, 3)
    layer = layer_of("ConvTranspose2d", C, C, 3)
    n.layer(
        "up",
        layer,
        weight=(n.entry("up.weight", C, C, 3, 3), flipped_transposed),
        bias=(n.entry("up.bias", C, neutral=0.0), lambda a: a.reshape(-1, 1, 1)),
    )


@network
def audio(n: Network) -> None:
    """One-dimensional convolutions, dilated, with residual and skip connections."""
    n.conv("input_conv", "start", C, n.size(2), 1, dims=1)
    for i in blocks(4):
        n.conv(f"residual_blocks.{i}.dilated", f"layers[{i}].dilated", 2 * C, C, 2, dims=1)
        n.conv(f"residual_blocks.{i}.res", f"layers[{i}].residual", C, C, 1, dims=1)
        n.conv(f"residual_blocks.{i}.skip", f"layers[{i}].skip", C, C, 1, dims=1)
    n.conv("end_conv_1", "end1", C, C, 1, dims=1)
    n.conv("end_conv_2", "end2", n.size(10), C, 1, dims=1)


def _kernel(kernel: np.ndarray) -> np.ndarray:
    return hwio(kernel)


@network
def haiku_names(n: Network) -> None:
    """Haiku's slashes and `w` and `b`."""
    n.containers = "dict"
    for i, (out, inner) in enumerate(((C, 3), (C, C))):
        kernel = n.entry(f"conv{i + 1}.weight", out, n.size(inner), 3, 3)
        n.leaf((f"net/~/conv_{i}", "w"), kernel, _kernel)
        n.leaf((f"net/~/conv_{i}", "b"), n.entry(f"conv{i + 1}.bias", out))
    n.leaf(("net/~/linear", "w"), n.entry("fc.weight", n.size(5), C), lambda a: a.T)
    n.leaf(("net/~/linear", "b"), n.entry("fc.bias", n.size(5)))
