"""Networks whose shapes leave more than one order of axes, parts or elements."""

from __future__ import annotations

import numpy as np

from tests.networks.network import (
    Array,
    Entry,
    Make,
    Network,
    OutIn,
    OutInBias,
    blocks,
    family,
    hwio,
    hwio_transposed,
    network,
    same,
)
from tests.networks.vision import C


def _halves(array: Array) -> Array:
    return np.concatenate(np.split(array, 2)[::-1])


def _kqv(array: Array) -> Array:
    query, key, value = np.split(array, 3)
    return np.concatenate((key, query, value))


@family(
    kqv=("attn.qkv", "attn.kqv", 3, _kqv),
    gate_up=("mlp.gate_up_proj", "mlp.up_gate_proj", 2, _halves),
    up_gate=("mlp.up_gate", "mlp.gate_up", 2, _halves),
    kv=("attn.to_kv", "attn.to_vk", 2, _halves),
    scale_shift=("film.scale_shift", "film.shift_scale", 2, _halves),
    moments=("enc.mean_logvar", "enc.logvar_mean", 2, _halves),
    w13=("mlp.w13", "mlp.w31", 2, _halves),
)
def reordered_parts(n: Network, setting: tuple[str, str, int, Make]) -> None:
    """A fused layer in a fused one that names the parts in another order."""
    key, path, count, make = setting
    n.unshown = True
    for i in blocks():
        weight = n.entry(f"blocks.{i}.{key}.weight", count * C, C)
        bias = n.entry(f"blocks.{i}.{key}.bias", count * C)
        n.linear_of(f"blocks[{i}].{path}", (weight, make), (bias, make))
        n.linear(f"blocks.{i}.out", f"blocks[{i}].out", C, n.size(12))


def _decoder_input(array: Array) -> Array:
    """Outputs (c, h, w) as (h, w, c)."""
    return np.moveaxis(array.reshape(C, 2, 2, *array.shape[1:]), 0, 2).reshape(array.shape)


def _encoder_output(array: Array) -> Array:
    return _decoder_input(array.T)


@family(whole=0, decoder=1, flat=2)
def autoencoder(n: Network, kind: int) -> None:
    """Channels last: what the encoder flattens and the decoder makes is in another order."""
    n.unshown = True
    n.containers = "dict"
    names = (
        ("mu", "dec_in", "", "")
        if kind == 2
        else ("encoder.mu", "decoder.fc", "encoder.", "decoder.")
    )
    if kind != 1:
        n.hwio(f"{names[2]}conv", f"{names[2]}conv", C, 3)
        n.leaf(f"{names[0]}.kernel", n.entry(f"{names[0]}.weight", 5, 4 * C), _encoder_output)
        n.plain(f"{names[0]}.bias", f"{names[0]}.bias", 5)
    weight = n.entry(f"{names[1]}.weight", 4 * C, 5)
    n.leaf(f"{names[1]}.kernel", weight, lambda a: _decoder_input(a).T)
    n.plain(f"{names[1]}.bias", f"{names[1]}.bias", 4 * C, make=_decoder_input)
    n.hwio(f"{names[3]}conv_out", f"{names[3]}conv_out", 3, C)


@network
def norm_of_flattened(n: Network) -> None:
    """A norm between the flattened image and the dense layer."""
    n.unshown = True
    n.containers = "dict"
    n.hwio("conv", "conv", C, 3)
    for last, name in (("weight", "scale"), ("bias", "bias")):
        n.plain(f"bn.{last}", f"bn.{name}", 4 * C, make=_decoder_input)
    n.leaf("fc.kernel", n.entry("fc.weight", 5, 4 * C), _encoder_output)
    n.plain("fc.bias", "fc.bias", 5)


@network
def norm_of_image(n: Network) -> None:
    """A norm with a number for each element of an image."""
    n.unshown = True
    n.containers = "dict"
    n.hwio("conv", "conv", C, 3)
    for last, name in (("weight", "scale"), ("bias", "bias")):
        n.plain(f"ln.{last}", f"ln.{name}", C, 5, 5, make=lambda a: np.moveaxis(a, 0, -1))


@family(up="up", deconv="deconv", decoder="dec1", numbered="layer2", haiku="haiku")
def transposed_among_convolutions(n: Network, name: str) -> None:
    """Flax's square kernel of a transposed convolution beside convolutions that are not square."""
    n.unshown = True
    n.containers = "dict"
    n.hwio("conv1", "conv1", C, 3)
    if name == "haiku":
        # Haiku's transposed convolutions hold (h, w, out, in).
        n.leaf(
            "up.kernel",
            n.entry("up.weight", C, 6, 2, 2),
            lambda a: np.flip(a, (2, 3)).transpose(2, 3, 1, 0),
        )
        n.plain("up.bias", "up.bias", 6)
    else:
        n.leaf(f"{name}.kernel", n.entry(f"{name}.weight", C, C, 2, 2), hwio_transposed)
        n.plain(f"{name}.bias", f"{name}.bias", C)
    n.hwio("conv2", "conv2", 3, 6 if name == "haiku" else C)


@family(own=0, kernel=1)
def bilinear(n: Network, kind: int) -> None:
    """PyTorch's (out, first, second) as (first, second, out)."""
    n.unshown = True
    weight = n.entry("pair.weight", 5, C, C)

    def last(a: Array) -> Array:
        return a.transpose(1, 2, 0)

    if kind:
        n.containers = "dict"
        n.leaf("pair.kernel", weight, last)
        n.plain("pair.bias", "pair.bias", 5)
    else:
        made = OutInBias(n.random((C, C, 5)), n.random((5,)))
        n.layer("pair", made, weight=(weight, last), bias=(n.entry("pair.bias", 5), same))


@family(alone=0, among=1)
def own_image_convolution(n: Network, kind: int) -> None:
    """A user's own convolution (h, w, in, out) with as wide a window as there are colours."""
    n.unshown = not kind
    for i, (out, inner) in enumerate(((C, 3), (6, C), (5, 6))[: 3 if kind else 1]):
        key = n.entry(f"convs.{i}.weight", out, inner, 3, 3)
        made = OutIn(n.random((3, 3, inner, out)))
        n.layer(f"convs[{i}]", made, weight=(key, hwio))


@family(outer=(6, C), inner=(C, 6))
def modulation(n: Network, shape: tuple[int, int]) -> None:
    """Six chunks of one layer's output on an axis of their own, the first or the last one."""
    n.unshown = True
    for i in blocks():
        made = (lambda a: a.reshape(6, C)) if shape[0] == 6 else (lambda a: a.reshape(6, C).T)
        n.leaf(f"blocks[{i}].ada.table", n.entry(f"blocks.{i}.ada.bias", 6 * C), made)
        n.linear(f"blocks.{i}.fc", f"blocks[{i}].fc", 5, C)


@network
def columns_in_turns(n: Network) -> None:
    """Gates and the other halves of all experts column by column in turns."""
    n.unshown = True
    both = n.entry("mlp.experts.gate_up_proj", 4, C, 12)
    for number, name in enumerate(("gate", "up")):
        n.leaf(f"mlp.{name}", both, lambda a, number=number: a[..., number::2])
    halves = n.entry("mlp.experts.gate_up_proj_bias", 4, 12)
    for number, name in enumerate(("gate_bias", "up_bias")):
        n.leaf(f"mlp.{name}", halves, lambda a, number=number: a[..., number::2])
    n.plain("mlp.experts.down_proj", "mlp.down", 4, 6, C)
    n.linear("mlp.router", "mlp.router", 4, C, bias=False)


@family(raw="raw_lengthscale", unconstrained="unconstrained_lengthscale")
def before_its_function(n: Network, name: str) -> None:
    """A number that PyTorch keeps before a function that makes it positive."""
    n.unshown = True
    key = n.entry(f"kernel.{name}", C)
    n.leaf("kernel.lengthscale", key, lambda a: np.log1p(np.exp(a)))
    n.linear("fc", "fc", C, 5)


@family(weights="fc.mask", elsewhere="masks.fc.mask", channels="fc.channel_mask")
def pruned(n: Network, name: str) -> None:
    """A mask that says which of a layer's weights are 0."""
    shape = (C,) if "channel" in name else (C, 6)
    n.entries[name] = Entry(n.random(shape) > 0)
    n.linear("fc", "fc", C, 6)


@family(sizes=(16, 32, 64), gaps=(1, 2, 4))
def stacked_by_name(n: Network, numbers: tuple[int, ...]) -> None:
    """Layers named by sizes, on one axis from the largest to the smallest."""
    n.unshown = True
    keys = [n.entry(f"heads.{number}.weight", C, 5) for number in numbers]
    n.leaf("heads.weight", keys, lambda *arrays: np.stack(arrays[::-1]))
