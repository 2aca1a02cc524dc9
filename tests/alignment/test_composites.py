"""Tensors in several entries: found, judged, offered."""

from __future__ import annotations

from typing import Any

import pytest

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.choices import choices
from s2p_tui.alignment.composites import composite_of, composites
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.judge import judge
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import (
    Concat,
    Constant,
    Expr,
    Flip,
    Norm,
    Permute,
    Shape,
    SpectralNorm,
    Split,
    Sum,
    Take,
    WeightNorm,
)


def state_dict(**shapes: Shape) -> StateDict:
    keys = {name.replace("__", "."): shape for name, shape in shapes.items()}
    return StateDict(tuple(Entry(key, shape, "float32") for key, shape in keys.items()))


def leaf(path: str, shape: Shape, owner_name: str, **config: Any) -> Leaf:
    return Leaf(path, shape, "float32", owner=f"equinox.nn.{owner_name}", config=config)


def fit(target: Leaf, source: Expr, entries: StateDict) -> tuple[Fit, str]:
    verdict = judge(target, Row(source, by="user"), entries)
    return verdict.fit, verdict.why


OLD = state_dict(up__weight_g=(3, 1), up__weight_v=(3, 4), up__bias=(3,))
NEW = state_dict(
    conv__parametrizations__weight__original=(4, 4, 3),
    conv__parametrizations__weight__0___u=(4,),
    conv__parametrizations__weight__0___v=(12,),
)
LSTM = state_dict(weight_ih_l0=(8, 3), weight_hh_l0=(8, 2), bias_ih_l0=(8,), bias_hh_l0=(8,))
GRU = state_dict(weight_ih=(6, 3), weight_hh=(6, 2), bias_ih=(6,), bias_hh=(6,))


@pytest.mark.parametrize(
    ("entries", "kind", "parts", "shape"),
    [
        (OLD, "weight norm", ("up.weight_g", "up.weight_v"), (3, 4)),
        (
            NEW,
            "spectral norm",
            tuple(f"conv.parametrizations.weight.{end}" for end in ("original", "0._u", "0._v")),
            (4, 4, 3),
        ),
        (LSTM, "recurrent biases", ("bias_ih_l0", "bias_hh_l0"), (8,)),
    ],
)
def test_parts_find_each_other(
    entries: StateDict, kind: str, parts: tuple[str, ...], shape: Shape
) -> None:
    (found,) = composites(entries)
    assert (found.kind, found.parts, found.shape) == (kind, parts, shape)
    assert all(composite_of(part, entries) == found for part in parts)


@pytest.mark.parametrize(
    "entries",
    [
        state_dict(weight_v=(3, 4)),
        state_dict(weight_g=(2, 1), weight_v=(3, 4)),
        state_dict(weight_orig=(3, 4), weight_u=(3,), weight_v=(5,)),
        state_dict(bias_ih=(6,), bias_hh=(6,)),
        state_dict(bias_ih=(6,), bias_hh=(5,), weight_hh=(6, 2)),
        state_dict(m__g=(3,), m__v=(3,)),
    ],
)
def test_what_does_not_fit_together_is_no_composite(entries: StateDict) -> None:
    assert composites(entries) == ()


WEIGHT = leaf(".up.weight", (3, 4), "Linear")
FOLD = WeightNorm((Take("up.weight_g"), Take("up.weight_v")))


def test_a_direction_alone_is_doubtful_where_the_weight_belongs() -> None:
    found, why = fit(WEIGHT, Take("up.weight_v"), OLD)
    assert found is Fit.DOUBTFUL
    assert why == ("up.weight_v is only a part of what belongs here, together with up.weight_g")
    assert fit(WEIGHT, FOLD, OLD) == (Fit.TRANSFORMED, "fold the weight norm")
    turned = leaf(".up.weight", (4, 3), "Linear")
    assert fit(turned, Permute(FOLD, (1, 0)), OLD)[0] is Fit.TRANSFORMED
    assert fit(turned, Permute(Take("up.weight_v"), (1, 0)), OLD)[0] is Fit.DOUBTFUL


def test_a_weight_norm_of_equinox_takes_the_parts() -> None:
    within = leaf(
        ".up.layer.weight", (3, 4), "Linear", wrapper="equinox.nn.WeightNorm", wrapper_axis=0
    )
    around = leaf(".up.g", (3, 1), "WeightNorm", axis=0, layer="equinox.nn.Linear")
    assert fit(within, Take("up.weight_v"), OLD) == (Fit.EXACT, "")
    assert fit(around, Take("up.weight_g"), OLD) == (Fit.EXACT, "")


def test_norms_along_another_axis_are_taken_anew() -> None:
    square = state_dict(weight_g=(1, 4), weight_v=(4, 4))
    around = leaf(".g", (4, 1), "WeightNorm", axis=0, layer="equinox.nn.Linear")
    within = leaf(
        ".layer.weight", (4, 4), "Linear", wrapper="equinox.nn.WeightNorm", wrapper_axis=0
    )
    fold = WeightNorm((Take("weight_g"), Take("weight_v")))
    assert fit(around, Take("weight_g"), square)[0] is Fit.DOUBTFUL
    assert fit(around, Norm(fold, (1,)), square)[0] is Fit.TRANSFORMED
    assert fit(within, Take("weight_v"), square)[0] is Fit.DOUBTFUL
    assert fit(within, fold, square)[0] is Fit.TRANSFORMED


def test_the_axis_of_a_square_spectral_norm_is_the_layers() -> None:
    of = tuple(map(Take, composites(NEW)[0].parts))
    conv = leaf(".conv.weight", (4, 4, 3), "Conv1d")
    turned = leaf(".conv.weight", (4, 4, 3), "ConvTranspose1d", groups=1, num_spatial_dims=1)
    assert fit(conv, SpectralNorm(of, 0), NEW)[0] is Fit.TRANSFORMED
    assert fit(conv, SpectralNorm(of, 1), NEW)[0] is Fit.DOUBTFUL
    other_way = Permute(Flip(SpectralNorm(of, 1), (2,)), (1, 0, 2))
    assert fit(turned, other_way, NEW)[0] is Fit.TRANSFORMED
    assert fit(turned, SpectralNorm(of, 1), NEW)[0] is Fit.DOUBTFUL
    wrong_axis = Permute(Flip(SpectralNorm(of, 0), (2,)), (1, 0, 2))
    assert fit(turned, wrong_axis, NEW)[0] is Fit.DOUBTFUL


def test_an_lstms_bias_is_the_sum_of_two() -> None:
    bias = leaf(".cell.bias", (8,), "LSTMCell")
    ours, theirs = Take("bias_ih_l0"), Take("bias_hh_l0")
    for right in (Sum((ours, theirs)), Sum((theirs, ours))):
        assert fit(bias, right, LSTM)[0] is Fit.TRANSFORMED
    for wrong in (ours, theirs, Sum((ours, ours))):
        assert fit(bias, wrong, LSTM)[0] is Fit.DOUBTFUL


def test_a_grus_biases_are_not_just_the_sum() -> None:
    bias, rest = leaf(".bias", (6,), "GRUCell"), leaf(".bias_n", (2,), "GRUCell")
    ours, theirs = Take("bias_ih"), Take("bias_hh")
    right = Sum((ours, Concat((Split(theirs, 0, 0, 4), Constant(0.0, (2,))), 0)))
    assert fit(bias, right, GRU)[0] is Fit.TRANSFORMED
    assert fit(bias, Sum((ours, theirs)), GRU)[0] is Fit.DOUBTFUL
    assert fit(rest, Split(theirs, 0, 4, 6), GRU)[0] is Fit.TRANSFORMED
    assert fit(rest, Split(theirs, 0, 0, 2), GRU)[0] is Fit.DOUBTFUL
    assert fit(rest, Split(ours, 0, 4, 6), GRU)[0] is Fit.DOUBTFUL


def test_a_cell_of_ones_own_keeps_two_biases() -> None:
    own = Leaf(".cell.bias_ih", (8,), "float32", owner="mine.Cell")
    assert fit(own, Take("bias_ih_l0"), LSTM) == (Fit.EXACT, "")


@pytest.mark.parametrize("name", ["weight_v", "v", "original1"])
def test_a_weight_norm_of_ones_own_keeps_its_parts(name: str) -> None:
    own = Leaf(f".up.{name}", (3, 4), "float32", owner="mine.Normed")
    assert fit(own, Take("up.weight_v"), OLD) == (Fit.EXACT, "")


def test_the_fold_is_offered_first_whatever_part_is_at_hand() -> None:
    for keys in (["up.weight_v"], ["up.weight_g", "up.weight_v"]):
        first, *_ = choices(WEIGHT, keys, OLD)
        assert (first.expr, first.doubtful) == (FOLD, False)
    assert choices(WEIGHT, ["up.weight_v"], OLD)[0].words == (
        "with up.weight_g: fold the weight norm"
    )
    bias = leaf(".bias", (6,), "GRUCell")
    first, *_ = choices(bias, ["bias_hh"], GRU)
    assert not first.doubtful
    assert first.words.startswith("with bias_ih: ")
