"""Models as people name them: converted they compute what PyTorch does; changed, or not at all."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
import torch

from s2p_tui.converter import convert_tree
from s2p_tui.errors import AlignmentError
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.session.session import Session
from tests.models.pairs import Order, Pair, pairs
from tests.models.twin import relative_error

SETTLED, UNCLEAR = pairs(), pairs("unclear")
# Some modules of these have no word in common with their partners.
BY_SIZE = pairs("by_size")
_BY_SIZE = re.compile(r"nothing in common but their size|may be a function of")
Tensors = dict[str, torch.Tensor]
_KEPT = re.compile(r"weight|bias|(running|in_proj|out_proj|num_batches|weight|bias)_.*")


def _id(pair: Pair) -> str:
    return pair.name


@pytest.mark.parametrize("pair", SETTLED + BY_SIZE, ids=_id)
@pytest.mark.slow("compiles and runs every layer of every pair")
def test_every_layer_computes_what_its_twin_does(pair: Pair, tmp_path: Path) -> None:
    torch.save(pair.state_dict(), tmp_path / "model.pt")
    model = pair.model()
    save_skeleton(tmp_path / "skeleton.eqx", model)
    # Its online and target encoders are copies, of which either could be meant.
    key = "." if pair.name == "siamese_byol" else None
    session = Session.open(tmp_path / "model.pt", tmp_path / "skeleton.eqx", key=key)
    problems = [why for _, why in session.problems()]
    if pair in BY_SIZE:
        assert problems
        assert all(_BY_SIZE.search(why) for why in problems)
        session.trust(None)
    else:
        assert problems == []
    session.convert(tmp_path / "out.eqx")
    session.close()
    converted = eqx.tree_deserialise_leaves(tmp_path / "out.eqx", model)
    outputs = zip(pair.eqx_outputs(converted), pair.torch_outputs(), strict=True)
    for layer, (found, expected) in zip(pair.layers, outputs, strict=True):
        assert relative_error(found, expected) < 1e-5, layer


@pytest.mark.parametrize("pair", UNCLEAR, ids=_id)
@pytest.mark.slow("makes models in both frameworks")
def test_what_names_do_not_settle_is_left_to_the_user(pair: Pair) -> None:
    with pytest.raises(AlignmentError):
        convert_tree(pair.state_dict(), pair.model())


def _nonsense(word: str, only: str = "") -> str:
    """A word that says nothing; another than the one to replace, if there is one, as it is."""
    if only not in ("", word):
        return word
    chance = random.Random(zlib.crc32(word.encode()))
    return "".join(chance.choice("bdfgjklmnprstvz") + chance.choice("aiou") for _ in range(3))


def _renamed(entries: Tensors, rename: Callable[[str], str]) -> Tensors:
    """The entries with other words in their names; numbers and parameters keep theirs."""
    return {
        ".".join(
            step
            if _KEPT.fullmatch(step)
            else re.sub("[A-Za-z]+", lambda found: rename(found[0]), step)
            for step in key.split(".")
        ): tensor
        for key, tensor in entries.items()
    }


def _changed(entries: Tensors, chance: random.Random) -> Iterator[tuple[str, Tensors]]:
    yield "as it is", entries
    yield "reversed", dict(reversed(entries.items()))
    yield "renamed", _renamed(entries, _nonsense)
    words = sorted({word for key in entries for word in re.findall("[A-Za-z]+", key)})
    for word in chance.sample(words, min(len(words), 3)):
        yield f"{word} renamed", _renamed(entries, partial(_nonsense, only=word))
    for gone in chance.sample(sorted(entries), min(len(entries), 3)):
        yield f"{gone} missing", {key: v for key, v in entries.items() if key != gone}
    layer = chance.choice(sorted({key.rpartition(".")[0] for key in entries if "." in key} or {""}))
    more = {key: v + 1 for key, v in entries.items() if key.startswith(f"{layer}.")}
    yield (
        f"{layer} twice",
        {key.replace(layer, f"{layer}_old", 1): v for key, v in more.items()} | (entries),
    )


_ORDERS: dict[str, Order] = {"": list, "reversed": lambda names: names[::-1]}


@pytest.mark.parametrize("pair", SETTLED + BY_SIZE + UNCLEAR, ids=_id)
@pytest.mark.slow("converts every pair several times")
def test_changed_it_is_right_or_refused(pair: Pair) -> None:
    expected = pair.torch_outputs()
    entries = pair.state_dict()
    found: dict[str, list[str]] = {}
    for order, arranged in _ORDERS.items():
        model = pair.model(arranged)
        for change, tensors in _changed(entries, random.Random(order)):
            try:
                converted = convert_tree(tensors, model)
            except AlignmentError:
                continue
            wrong = _wrong(pair, converted, expected, change)
            if wrong:
                found[f"{change}, fields {order}"] = wrong
    assert found == {}


def _wrong(pair: Pair, converted: Any, expected: list[np.ndarray], change: str) -> list[str]:
    """The layers that compute something else; one whose bias is gone has none on either side."""
    gone = change.removesuffix(".bias missing") if change.endswith(".bias missing") else None
    outputs = pair.eqx_outputs(converted)
    return [
        layer.entry
        for layer, output, wanted in zip(pair.layers, outputs, expected, strict=True)
        if layer.entry != gone and not relative_error(output, wanted) < 1e-5
    ]


@pytest.mark.slow("makes models in both frameworks")
def test_a_wrong_layer_is_found() -> None:
    pair = next(pair for pair in SETTLED if pair.name == "pointnet")
    model = pair.model()
    numbers = [np.random.default_rng(0).normal(size=leaf.shape) for leaf in jax.tree.leaves(model)]
    other = jax.tree.unflatten(jax.tree.structure(model), map(jax.numpy.asarray, numbers))
    assert _wrong(pair, other, pair.torch_outputs(), "") == [layer.entry for layer in pair.layers]
