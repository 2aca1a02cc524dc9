"""Blocks side by side: an entry that is called otherwise than those of the others is doubtful."""

from __future__ import annotations

import pytest

from tests.proposals.test_positive_answers import doubted

KERNEL, SIZE = (8, 8), (8,)
Shapes = dict[str, tuple[int, ...]]


def blocks(conv: str, norm: str, scale: str, first: int) -> Shapes:
    """Two blocks of three layers and their norms."""
    found: Shapes = {}
    for block in range(2):
        for layer in range(first, first + 3):
            found[conv.format(block, layer)] = KERNEL
            found[norm.format(block, layer) + scale] = SIZE
            found[norm.format(block, layer) + "bias"] = SIZE
    return found


def entries() -> Shapes:
    return blocks("layer1.{}.conv{}.weight", "layer1.{}.bn{}.", "weight", 1)


LISTED = blocks(".blocks[{}].convs[{}].weight", ".blocks[{}].norms[{}].", "scale", 0)


def layers(form: str) -> Shapes:
    """Four layers with a weight norm of their own."""
    parts = {"weight_g": (8, 1), "weight_v": (8, 8), "bias": SIZE}
    return {f"{form.format(n)}.{name}": shape for n in range(4) for name, shape in parts.items()}


def exchanged(shapes: Shapes, old: str, new: str) -> Shapes:
    return {new if key == old else key: shape for key, shape in shapes.items()}


def test_blocks_that_are_called_alike_are_certain() -> None:
    assert not doubted(entries(), LISTED)
    assert not doubted(layers("lin{}"), layers(".lin[{}]"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("layer1.1.conv2.weight", "layer1.1.shortcut.weight"),
        ("layer1.1.conv2.weight", "layer1.1.proj.weight"),
        ("layer1.1.conv2.weight", "layer1.1.norm3.weight"),
        ("layer1.0.conv3.weight", "layer1.0.shortcut.weight"),
        ("layer1.1.conv1.weight", "ema.layer1.1.conv1.weight"),
        ("layer1.0.conv2.weight", "layer1.0.conv22.weight"),
    ],
)
def test_one_layer_of_another_name_may_be_another_layer(old: str, new: str) -> None:
    assert doubted(exchanged(entries(), old, new), LISTED)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("lin2.bias", "codebook.bias"),
        ("lin3.weight_g", "lin32.weight_g"),
        ("lin3.weight_g", "queue.weight_g"),
        ("lin1.weight_v", "ema.weight_v"),
    ],
)
def test_parts_of_a_weight_are_of_one_layer(old: str, new: str) -> None:
    assert doubted(exchanged(layers("lin{}"), old, new), layers(".lin[{}]"))


@pytest.mark.parametrize("name", ["codebook.bias", "codebook.weight_v", "lin.codebook"])
def test_parts_of_a_single_weight_are_of_one_layer_too(name: str) -> None:
    parts = {"lin.weight_g": (8, 1), "lin.weight_v": (8, 8), "lin.bias": SIZE, "head.weight": SIZE}
    old = "lin.bias" if name.endswith("bias") else "lin.weight_v"
    leaves = {f".{key}": shape for key, shape in parts.items()}
    assert not doubted(parts, leaves)
    assert doubted(exchanged(parts, old, name), leaves)


@pytest.mark.parametrize("name", ["scale", "alpha", "gamma"])
def test_layers_of_a_list_call_their_weights_alike(name: str) -> None:
    numbers = (0, 2, 5, 7)
    theirs = {f"features.{n}.weight": KERNEL for n in numbers}
    ours = {f".convs[{n}].weight": KERNEL for n in range(len(numbers))}
    theirs |= {f"features.{n}.bias": SIZE for n in numbers}
    ours |= {f".convs[{n}].bias": SIZE for n in range(len(numbers))}
    assert not doubted(theirs, ours)
    assert doubted(exchanged(theirs, "features.5.weight", f"features.5.{name}"), ours)


def test_layers_without_parameters_count_in_a_sequence() -> None:
    """A block with a layer of no parameters more has other numbers, and its names are the same."""
    theirs: Shapes = {}
    ours: Shapes = {}
    for block, places in enumerate(((0, 1, 3), (0, 2, 5))):
        for n, place in enumerate(places):
            for role, shape in (("weight", KERNEL), ("bias", SIZE)):
                theirs[f"blocks.{block}.net.{place}.{role}"] = shape
                ours[f".blocks[{block}].layers[{n}].{role}"] = shape
    assert not doubted(theirs, ours)


EDGES = [(i, j) for i in range(3) for j in range(3) if i != j]
"""From each of three branches to each other one."""


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("fuse_layers.{0}.{1}", ".fuse.from_{1}_to_{0}"),
        ("fuse_layers.{0}.{1}", ".fuse.from_{0}_to_{1}"),
        ("fuse_layers.{0}.{1}", ".fuse.branch{0}_from_{1}"),
        ("edges.{0}_to_{1}", ".edges.to{1}_from{0}"),
        ("edges.from{0}to{1}", ".edges[{0}][{1}]"),
    ],
)
def test_numbers_may_be_of_the_end_that_a_layer_leads_to(theirs: str, ours: str) -> None:
    both: list[Shapes] = [{"stem.weight": SIZE}, {".stem.weight": SIZE}]
    for form, shapes in zip((theirs, ours), both, strict=True):
        if "[" not in form:
            shapes |= {f"{form.format(*edge)}.weight": (8, 8) for edge in EDGES}
        else:
            edges = [(i, j - (j > i)) for i, j in EDGES]
            shapes |= {f"{form.format(*edge)}.weight": (8, 8) for edge in edges}
    assert doubted(both[0], both[1])


def test_numbers_of_the_same_ends_are_certain() -> None:
    for form in ("from{0}_to{1}", "{0}_to_{1}", "{0}_from_{1}"):
        theirs = {f"edges.{form.format(*edge)}.weight": (8, 8) for edge in EDGES}
        ours = {f".links.{form.format(*edge)}.weight": (8, 8) for edge in EDGES}
        assert not doubted(theirs | {"stem.weight": SIZE}, ours | {".stem.weight": SIZE})
