"""A model under its own names: an entry that is called otherwise than its leaf may be another."""

from __future__ import annotations

import pytest

from tests.proposals.test_positive_answers import doubted

KERNEL, SIZE = (8, 8), (8,)
Shapes = dict[str, tuple[int, ...]]
LAYERS = ("stem.conv", "stem.norm", "blocks.{}.conv1", "blocks.{}.conv2", "blocks.{}.norm1")
LAST = {"norm.weight": SIZE, "norm.bias": SIZE, "head.weight": (10, 8), "mask_token": (1, 8)}


def entries() -> Shapes:
    found: Shapes = {}
    for form in LAYERS:
        for layer in dict.fromkeys(form.format(n) for n in range(3)):
            found[f"{layer}.weight"] = SIZE if "norm" in layer else KERNEL
            found[f"{layer}.bias"] = SIZE
    return found | LAST


def leaves() -> Shapes:
    found: Shapes = {}
    for key, shape in entries().items():
        path = f".{key}"
        for n in range(3):
            path = path.replace(f".{n}.", f"[{n}].")
        found[path] = shape
    return found


def exchanged(old: str, new: str) -> Shapes:
    """The entries, those that begin with a name under another, as if others were there instead."""
    return {
        new + key.removeprefix(old) if key.startswith(old) else key: shape
        for key, shape in entries().items()
    }


def test_the_same_names_are_certain() -> None:
    assert not doubted(entries(), leaves())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("head", "head2"),
        ("head", "adapter.head"),
        ("head", "cross_attn.head"),
        ("mask_token", "memory.mask_token"),
        ("mask_token", "mask_token_ema"),
        ("stem.conv", "stem.queue"),
        ("stem.conv", "stem.conv.memory"),
        ("norm", "aux.norm"),
        ("norm", "norm3"),
        ("blocks.1.conv2", "blocks.1.conv2_lora"),
        ("blocks.1.conv2", "blocks.11.conv2"),
        ("blocks.2.norm1", "blocks.7.norm1"),
        ("blocks.1.conv1.weight", "blocks.4.conv1.weight"),
        ("head.weight", "head.scale"),
        ("stem.conv.weight", "stem.conv.gamma"),
    ],
)
def test_one_layer_of_another_name_may_be_another(old: str, new: str) -> None:
    assert doubted(exchanged(old, new), leaves())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("head", "classifier"),
        ("head", "lm_head"),
        ("norm", "norm_f"),
        ("norm", "final_norm"),
        ("norm", "norm_out"),
        ("stem.conv", "stem.conv1"),
    ],
)
def test_a_last_or_first_layer_has_many_names(old: str, new: str) -> None:
    assert not doubted(exchanged(old, new), leaves())


def test_a_port_may_leave_a_word_out_everywhere() -> None:
    wrapped = {f"backbone.{key}": shape for key, shape in entries().items()}
    assert not doubted(wrapped, leaves())
    assert not doubted(exchanged("stem", "stem.patch"), leaves())


@pytest.mark.parametrize("number", ["02", "7", "22"])
@pytest.mark.parametrize("member", [0, 1, 2])
def test_a_member_of_a_list_takes_from_one_member(member: int, number: str) -> None:
    layers = {"block.0": "dwconv", "block.2": "norm", "block.3": "pwconv1", "block.5": "pwconv2"}
    weights = {"dwconv": (8, 1, 7, 7), "norm": SIZE, "pwconv1": (32, 8), "pwconv2": (8, 32)}
    keys: Shapes = {}
    paths: Shapes = {}
    for n in range(3):
        keys[f"features.1.{n}.layer_scale"] = (8, 1, 1)
        paths[f".features.layers[1].layers[{n}].layer_scale"] = (8, 1, 1)
        for key, name in layers.items():
            for role, shape in (("weight", weights[name]), ("bias", weights[name][:1])):
                keys[f"features.1.{n}.{key}.{role}"] = shape
                paths[f".features.layers[1].layers[{n}].{name}.{role}"] = shape
    old, new = f"1.{member}.layer_scale", f"1.{number}.layer_scale"
    moved = {key.replace(old, new): shape for key, shape in keys.items()}
    assert not doubted(keys, paths, None)
    assert doubted(moved, paths, None)
