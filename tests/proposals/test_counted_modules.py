"""Modules told by numbers, letters and completeness: what these show, and what they do not."""

from __future__ import annotations

import pytest

from s2p_tui.alignment.transform import Shape
from tests.proposals.matched import Tensors, certain, keys, matched

LINEAR = "equinox.nn.Linear"
OWN = "tests.Own"


def layers(names: str, first: Shape = (8, 8), *, of: str = "{}") -> Tensors:
    """Dense layers of one width, one after the other; the first one may take something else."""
    widths = [first, *[(8, 8)] * (len(names.split()) - 1)]
    return [
        (of.format(f"{name}.{role}"), shape)
        for name, weight in zip(names.split(), widths, strict=True)
        for role, shape in (("weight", weight), ("bias", weight[:1]))
    ]


def without(tensors: Tensors, *names: str) -> Tensors:
    assert {*names} <= {name for name, _ in tensors}
    return [(name, shape) for name, shape in tensors if name not in names]


def pairs(entries: Tensors, leaves: Tensors, owner: str = LINEAR) -> dict[str, str] | None:
    """What the leaves take, by their paths; None where any is in doubt."""
    found = matched(entries, leaves, dict.fromkeys((path for path, _ in leaves), owner))
    if not all(certain(found)):
        return None
    return dict(zip((path for path, _ in leaves), keys(found), strict=True))


@pytest.mark.parametrize(
    ("names", "paths", "gone"),
    [
        ("fc1 fc2 fc3", "layers[0].fc layers[1].fc out", "fc2"),
        ("l1 l2 l3", "hidden[0] hidden[1] head", "l2"),
        ("net.0 net.2 net.4", "layers[0].lin layers[1].lin final", "net.2"),
        ("linear linear_1 linear_2", "layers[0] layers[1] out", "linear"),
    ],
)
@pytest.mark.parametrize("backwards", [False, True])
def test_a_layer_without_its_bias_is_not_told_from_others_by_that(
    names: str, paths: str, gone: str, backwards: bool
) -> None:
    leaves = layers(paths, (8, 6), of=".{}")
    entries = without(layers(names, (8, 6)), f"{gone}.bias")
    assert pairs(entries, leaves[::-1] if backwards else leaves) is None


def test_the_last_layer_may_have_no_bias() -> None:
    leaves = layers("layers[0] layers[1] out", (8, 6), of=".{}")
    found = pairs(without(layers("fc1 fc2 fc3", (8, 6)), "fc3.bias"), leaves)
    assert found is not None
    assert (found[".out.weight"], found[".out.bias"]) == ("fc3.weight", "")
    found = pairs(
        without(layers("net.0 net.1 net.2"), "net.1.bias"), layers("l.0 l.1 l.2", of=".{}")
    )
    assert found is None or found[".l.1.weight"] == "net.1.weight"


@pytest.mark.parametrize("gone", ["dec2", "dec1"])
def test_levels_fall_also_where_one_lacks_its_bias(gone: str) -> None:
    entries = layers("enc1 enc2 dec2 dec1")
    leaves = layers("encoder[0] encoder[1] decoder[0] decoder[1]", of=".{}")
    assert pairs(entries, leaves) is None
    assert pairs(without(entries, f"{gone}.bias"), leaves) is None


@pytest.mark.parametrize(
    ("names", "paths"),
    [
        ("a b c", "first second last"),
        ("x a c", "stem second third"),
        ("a b c d", "l4 l3 l2 l1"),
    ],
)
@pytest.mark.parametrize("backwards", [False, True])
def test_letters_count_as_the_alphabet_does(names: str, paths: str, backwards: bool) -> None:
    entries, leaves = layers(names, (8, 6)), layers(paths, (8, 6), of=".{}")
    found = pairs(entries, leaves[::-1] if backwards else leaves)
    truth = dict(zip((path for path, _ in leaves), (key for key, _ in entries), strict=True))
    assert found is None or found == truth


@pytest.mark.parametrize(
    "names",
    [
        ("layer_norms_{1}.{0}", "layers[{0}].norm{1}"),
        ("stage_convs_{1}.{0}", "stages[{0}].conv{1}"),
        ("block_heads{1}.{0}", "blocks[{0}].head{1}"),
        ("norms.{1}.{0}", "blocks[{0}].norm{1}"),
    ],
)
@pytest.mark.parametrize("count", [2, 3])
def test_a_list_without_a_name_may_count_what_any_list_does(
    names: tuple[str, str], count: int
) -> None:
    sides = [
        [(form.format(i, j) + ".weight", (8,)) for i in range(count) for j in (1, 2)]
        for form in (names[0], f".{names[1]}")
    ]
    found = pairs(*sides, owner="equinox.nn.LayerNorm")
    truth = dict(zip((path for path, _ in sides[1]), (key for key, _ in sides[0]), strict=True))
    assert found is None or found == truth


@pytest.mark.parametrize(
    "names",
    [
        ("layer{1}.{0}.norm", "stages[{1}].blocks[{0}].norm"),
        ("q{1}_target.{0}", "target_q{1}.layers[{0}]"),
        ("gcl_{1}.edge_mlp.{0}", "layers[{1}].edge_mlp[{0}]"),
        ("gcl_{1}.edge_mlp.{0}", "layers[{1}].phi[{0}]"),
        ("stack_{1}.fcs.{0}", "blocks[{1}].layers[{0}]"),
    ],
)
def test_lists_in_the_members_of_another_list_are_in_its_members(names: tuple[str, str]) -> None:
    entries, leaves = (
        layers(" ".join(form.format(i, j) for j in (0, 1) for i in (0, 1)))
        for form in (names[0], f".{names[1]}")
    )
    truth = {path: key for (key, _), (path, _) in zip(entries, leaves, strict=True)}
    assert pairs(entries, leaves) == truth


def graph(name: str, inner: str) -> Tensors:
    return [
        (f"{name}{n}.{role}", shape)
        for n in (1, 2)
        for role, shape in ((f"{inner}weight", (8, 5 + n)), ("bias", (8,)))
    ]


@pytest.mark.parametrize("owner", [OWN, LINEAR])
def test_a_layer_may_add_its_bias_to_the_layer_in_it(owner: str) -> None:
    found = pairs(graph("conv", "lin."), graph(".conv", ""), owner)
    assert found is not None
    assert found[".conv2.weight"] == "conv2.lin.weight"
    assert found[".conv2.bias"] == "conv2.bias"
    # In a module that is no plain layer another one may be meant.
    assert pairs(graph("conv", "gate."), graph(".conv", ""), owner) is None


@pytest.mark.parametrize("stray", ["queue.bias", "memory.bias", "codebook.bias"])
@pytest.mark.parametrize("count", [2, 3])
def test_what_is_outside_fills_no_leaf_of_a_block(stray: str, count: int) -> None:
    roles: Tensors = [("att_src", (1, 2, 4)), ("att_dst", (1, 2, 4)), ("bias", (8,))]
    entries = [(f"convs.{n}.{role}", shape) for n in range(count) for role, shape in roles]
    leaves = [(f".layers[{n}].{role}", shape) for n in range(count) for role, shape in roles]
    assert pairs(entries, leaves, OWN) is not None
    less = without(entries, "convs.0.bias")
    assert pairs([*less, (stray, (8,))], leaves, OWN) is None
    assert pairs([(stray, (8,)), *less], leaves, OWN) is None


def conv1d(*names: str) -> Tensors:
    shapes = {"weight": (8, 8), "bias": (8,)}
    return [(f"{name}.{role}", shape) for name in names for role, shape in shapes.items()]


@pytest.mark.parametrize("other", ["zorba", "dense", "proj"])
def test_a_layer_among_those_of_gpt_2_may_hold_the_input_axis_first_too(other: str) -> None:
    wide: Tensors = [(f"h.{n}.attn.c_attn.weight", (8, 24)) for n in (0, 1)]
    fused: Tensors = [(f".blocks[{n}].attn.qkv.weight", (24, 8)) for n in (0, 1)]
    entries = conv1d("h.0.mlp.c_proj", f"h.1.mlp.{other}")
    leaves = conv1d(".blocks[0].mlp.proj", ".blocks[1].mlp.proj")
    assert pairs(wide + entries, fused + leaves) is None
    # Beside all others of its block, in every block.
    entries = conv1d(f"h.0.mlp.{other}", f"h.1.mlp.{other}")
    assert pairs(wide + entries, fused + leaves) is None
    # A head is another kind of layer.
    entries = conv1d("h.0.mlp.c_proj", "h.1.mlp.c_proj", "head")
    leaves = [*conv1d(".blocks[0].mlp.proj", ".blocks[1].mlp.proj"), *conv1d(".head")]
    assert pairs(wide + entries, fused + leaves) is not None
