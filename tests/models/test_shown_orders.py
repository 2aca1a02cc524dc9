"""Orders that names and sizes show: rows are certain and right, and wait where one more fits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax import lax

from s2p_tui import convert_tree
from tests.models.test_unshown_orders import KEY, Tensors, module, refusal
from tests.proposals.test_positive_answers import doubted

SIZES = (3, 6, 6, 6, 2)


class Dense(torch.nn.Module):
    """Dense layers of which the last one stands beside the list of the others."""

    def __init__(self, last: str, sizes: Sequence[int] = SIZES) -> None:
        super().__init__()
        layers = [torch.nn.Linear(*both) for both in pairwise(sizes)]
        self.hidden = torch.nn.ModuleList(layers[:-1])
        self.last = last
        self.add_module(last, layers[-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.hidden:
            x = torch.relu(layer(x))
        return self.get_submodule(self.last)(x)


def mlp(sizes: Sequence[int] = SIZES) -> eqx.nn.MLP:
    return eqx.nn.MLP(sizes[0], sizes[-1], sizes[1], len(sizes) - 2, key=KEY)


@pytest.mark.parametrize("last", ["out", "output_layer", "final", "head"])
@pytest.mark.slow("makes models in both frameworks")
def test_the_layer_after_a_list_is_the_last_one_of_an_mlp(last: str) -> None:
    theirs, x = Dense(last), torch.randn(3)
    made = convert_tree(theirs.state_dict(), module("Net", mlp=mlp()))
    assert np.allclose(made.mlp(jnp.asarray(x.numpy())), theirs(x).detach(), atol=1e-6)


def shapes(form: str, last: str, sizes: Sequence[int] = SIZES) -> dict[str, tuple[int, ...]]:
    """Weights of dense layers in a list, and of the one after it."""
    count = len(sizes) - 2
    names = [*(form.format(n) for n in range(count)), last.format(count)]
    both = zip(names, zip(sizes[1:], sizes[:-1], strict=True), strict=True)
    return {f"{name}.weight": shape for name, shape in both}


LISTED = shapes(".layers[{}]", ".layers[{}]")


def test_a_list_may_be_parted_from_its_last_layer() -> None:
    entries, leaves = shapes("mlp.layers.{}", "mlp.layers.{}"), shapes(".hidden[{}]", ".out")
    for side in (entries, leaves):
        side |= {key.replace("weight", "bias"): shape[:1] for key, shape in side.items()}
    assert not doubted(entries, leaves)


@pytest.mark.parametrize("lost", ["hidden.1.weight", "hidden.2.weight"])
def test_a_list_without_a_member_is_not_ended_by_another_layer(lost: str) -> None:
    entries = shapes("hidden.{}", "out")
    del entries[lost]
    assert ".layers[2].weight" in doubted(entries, LISTED)


def test_another_layer_of_that_size_may_be_the_last_one() -> None:
    entries = shapes("hidden.{}", "out") | {"aux.weight": (2, 6)}
    assert ".layers[3].weight" in doubted(entries, LISTED)


@pytest.mark.parametrize(
    ("entries", "leaves"),
    [
        (shapes("hidden.{}", "out", (3, 6, 6, 6, 6)), None),
        (shapes("hidden.{}", "probe"), LISTED),
        (shapes("hidden.{}", "out", (3, 6, 6, 5, 6)), None),
    ],
)
def test_names_or_sizes_may_not_show_the_last_layer(entries: Any, leaves: Any) -> None:
    sizes = [(entries["hidden.0.weight"][1]), *(shape[0] for shape in entries.values())]
    leaves = leaves or shapes(".layers[{}]", ".layers[{}]", sizes)
    found = doubted(entries, leaves)
    assert (".layers[3].weight" in found) is (sizes != [3, 6, 6, 5, 6])


PAIRS = [
    ("mu_logvar", ("mu", "logvar")),
    ("logvar_mu", ("mu", "logvar")),
    ("mean_log_std", ("log_std", "mean")),
    ("mu_logvar", ("fc_mean", "fc_logvar")),
    ("up_gate", ("gate", "up")),
    ("gate_up_proj", ("up", "gate")),
]


def two(name: str, width: int = 8) -> Tensors:
    return {f"{name}.weight": torch.randn(12, width), f"{name}.bias": torch.randn(12)}


def fields(names: Sequence[str], width: int = 8) -> Any:
    return module("Net", **{name: eqx.nn.Linear(width, 6, key=KEY) for name in names})


@pytest.mark.parametrize(("fused", "names"), PAIRS)
def test_a_layer_named_by_two_is_parted_in_that_order(fused: str, names: Sequence[str]) -> None:
    tensors = two(fused)
    made = convert_tree(tensors, fields(names))
    first = "gate" if fused.startswith("gate") else fused.partition("_")[0].replace("mu", "m")
    for name in names:
        is_first = first[:1] in name.removeprefix("fc_")[:1]
        half = slice(0, 6) if is_first else slice(6, 12)
        assert np.array_equal(getattr(made, name).weight, tensors[f"{fused}.weight"][half])
        assert np.array_equal(getattr(made, name).bias, tensors[f"{fused}.bias"][half])


@pytest.mark.parametrize(
    "names", [("mu", "std"), ("mu", "log_std"), ("mu", "var"), ("fc21", "fc22")]
)
def test_parts_are_no_functions_of_what_the_name_says(names: Sequence[str]) -> None:
    assert "4 of 4 rows" in refusal(two("mu_logvar"), fields(names))


@pytest.mark.parametrize("name", ["scale_shift", "shift_scale", "key_value"])
def test_a_name_of_two_may_say_no_order(name: str) -> None:
    tensors, names = two(name), name.split("_")
    assert "4 of 4 rows" in refusal(tensors, fields(names))
    made = convert_tree(tensors, fields(names), trust=True)
    for number, one in enumerate(names):
        half = tensors[f"{name}.weight"][6 * number : 6 * number + 6]
        assert np.array_equal(getattr(made, one).weight, half)


class Up(eqx.Module):
    """A transposed convolution that keeps PyTorch's kernel."""

    weight: jax.Array
    bias: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        axes = ("NCHW", "OIHW", "NCHW")
        made = lax.conv_transpose(
            x[None], self.weight, (1, 1), "VALID", dimension_numbers=axes, transpose_kernel=True
        )
        return made[0] + self.bias[:, None, None]


@pytest.mark.parametrize(("size", "out", "window"), [(3, 5, 3), (4, 8, 4)])
@pytest.mark.slow("makes models in both frameworks")
def test_the_axes_of_a_window_stay_together(size: int, out: int, window: int) -> None:
    theirs = torch.nn.ConvTranspose2d(size, out, window)
    like = module("Net", up=Up(jnp.zeros((size, out, window, window)), jnp.zeros(out)))
    made = convert_tree({f"up.{k}": v for k, v in theirs.state_dict().items()}, like)
    image = torch.randn(size, 6, 6)
    assert np.allclose(made.up(jnp.asarray(image.numpy())), theirs(image).detach(), atol=1e-4)


@pytest.mark.parametrize("shape", [(4, 4, 3, 3), (3, 3, 3, 3), (3, 1, 3, 3), (3, 7, 3)])
def test_kernels_may_have_another_order_of_their_sizes(shape: tuple[int, ...]) -> None:
    assert doubted({"up.weight": shape}, {".up.weight": shape}, "net.Up") == {".up.weight"}


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("layer_first", [True, False])
@pytest.mark.parametrize(("depth", "size"), [(2, 5), (3, 5), (3, 12)])
@pytest.mark.slow("makes models in both frameworks")
def test_lists_in_a_list_are_directions_and_layers(
    kind: str, layer_first: bool, depth: int, size: int
) -> None:
    theirs = getattr(torch.nn, kind)(size, 6, num_layers=depth, bidirectional=True)
    cell = getattr(eqx.nn, f"{kind}Cell")
    layers = [[cell(12 if n else size, 6, key=KEY) for _ in range(2)] for n in range(depth)]
    rnn = layers if layer_first else [*map(list, zip(*layers, strict=True))]
    made = convert_tree(
        {f"rnn.{k}": v for k, v in theirs.state_dict().items()}, module("Net", rnn=rnn)
    )
    for n in range(depth):
        for direction, suffix in enumerate(("", "_reverse")):
            weight = getattr(theirs, f"weight_hh_l{n}{suffix}").detach()
            ours = made.rnn[n][direction] if layer_first else made.rnn[direction][n]
            assert np.array_equal(ours.weight_hh, weight)


def test_two_layers_of_two_directions_of_one_size_may_be_nested_either_way() -> None:
    theirs = torch.nn.LSTM(12, 6, num_layers=2, bidirectional=True)
    rnn = [[eqx.nn.LSTMCell(12, 6, key=KEY) for _ in range(2)] for _ in range(2)]
    tensors = {f"rnn.{k}": v for k, v in theirs.state_dict().items()}
    assert "12 of 12 rows" in refusal(tensors, module("Net", rnn=rnn))


@pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
@pytest.mark.parametrize("shape", [(4, 4, 3, 3), (4, 4), (4, 4, 4)])
def test_a_dict_keeps_entries_under_their_own_names_as_they_are(
    prefix: str, shape: tuple[int, ...]
) -> None:
    tensors = {f"{prefix}{name}.weight": torch.randn(shape) for name in ("mix", "up")}
    made = convert_tree(tensors, {key: jnp.zeros(shape) for key in tensors})
    assert all(np.array_equal(made[key], tensor) for key, tensor in tensors.items())


def test_a_dict_that_turns_others_may_turn_this_one() -> None:
    tensors = {"conv.weight": torch.randn(5, 4, 3, 3), "up.weight": torch.randn(3, 3, 3, 3)}
    like = {"conv.weight": jnp.zeros((3, 3, 4, 5)), "up.weight": jnp.zeros((3, 3, 3, 3))}
    assert "['up.weight']" in refusal(tensors, like)


def kernels(shape: tuple[int, ...], other: tuple[int, ...]) -> tuple[Tensors, Any]:
    """Two kernels, the second one of a class's or dict's order of axes, as the others are."""
    tensors = {"stem.weight": torch.randn(5, 3, 3, 3), "deep.weight": torch.randn(7, 5, 3, 3)}
    return tensors, {"stem": jnp.zeros(shape), "deep": jnp.zeros(other)}


@pytest.mark.parametrize("form", ["class", "dict", "flat dict"])
def test_a_kernel_of_three_colours_goes_in_as_others_do(form: str) -> None:
    tensors, zeros = kernels((5, 3, 3, 3), (7, 3, 3, 5))
    one = {
        "class": lambda: module("Net", **{n: module("Conv", weight=z) for n, z in zeros.items()}),
        "dict": lambda: {name: {"weight": leaf} for name, leaf in zeros.items()},
        "flat dict": lambda: {f"{name}.weight": leaf for name, leaf in zeros.items()},
    }
    made = jax.tree_util.tree_leaves(convert_tree(tensors, one[form]()))
    leaves = {leaf.shape: np.asarray(leaf) for leaf in made}
    for name, zero in zeros.items():
        wanted = np.moveaxis(tensors[f"{name}.weight"].numpy(), 1, -1)
        assert np.array_equal(leaves[zero.shape], wanted)


@pytest.mark.parametrize("name", ["weight", "kernel", "w"])
def test_nothing_may_show_where_a_kernel_of_three_colours_has_them(name: str) -> None:
    entries, leaves = {"stem.weight": (5, 3, 3, 3)}, {f".stem.{name}": (5, 3, 3, 3)}
    assert doubted(entries, leaves, "net.Conv") == {*leaves}
    entries |= {"deep.weight": (7, 5, 3, 3)}
    assert not doubted(entries, leaves | {f".deep.{name}": (7, 5, 3, 3)}, "net.Conv")


@pytest.mark.parametrize("name", ["up_weight", "w", "kernel"])
def test_stacked_squares_of_ones_own_class_may_be_turned(name: str) -> None:
    entries, leaves = {f"experts.{name}": (4, 8, 8)}, {f".experts.{name}": (4, 8, 8)}
    assert doubted(entries, leaves, "net.Experts") == {*leaves}
    entries |= {f"others.{name}": (4, 8, 12)}
    assert not doubted(entries, leaves | {f".others.{name}": (4, 8, 12)}, "net.Experts")


def test_a_square_beside_a_stack_that_is_turned_may_be_turned() -> None:
    entries, leaves = {"e.up": (4, 12, 8), "e.mid": (4, 8, 8)}, {".e.up": (4, 8, 12)}
    assert ".e.mid" in doubted(entries, leaves | {".e.mid": (4, 8, 8)}, "net.Experts")
    assert not doubted(entries, {".e.up": (4, 12, 8), ".e.mid": (4, 8, 8)}, "net.Experts")
