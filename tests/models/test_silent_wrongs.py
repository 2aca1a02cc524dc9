"""Every twin in orders and under names that mislead: what is converted is right, or is refused."""

from __future__ import annotations

import random
import string
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import equinox as eqx
import pytest
import torch

from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.session.session import Session
from tests.models.twin import Twin, relative_error
from tests.models.twins import TWINS

Tensors = dict[str, torch.Tensor]
SEEING = [twin for twin in TWINS if not twin.blind]


def _swapped(tensors: Tensors, chance: random.Random) -> list[tuple[str, torch.Tensor]]:
    """The entries with two of one shape in each other's place, under their own names."""
    entries = list(tensors.items())
    places: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, (_, tensor) in enumerate(entries):
        places[tuple(tensor.shape)].append(place)
    rivals = [group for group in places.values() if len(group) > 1]
    if rivals:
        first, second = chance.sample(chance.choice(rivals), 2)
        entries[first], entries[second] = entries[second], entries[first]
    return entries


def misleading(tensors: Tensors) -> Iterator[tuple[str, Tensors]]:
    """The same tensors in other orders, and under names that say less and less."""
    chance = random.Random(0)
    values = list(tensors.values())
    swapped = [tensor for _, tensor in _swapped(tensors, chance)]
    letters = "".join(chance.sample(string.ascii_lowercase, 26))
    words = ["".join(chance.choices(string.ascii_lowercase, k=5)) for _ in values]
    yield "as it is", tensors
    yield "reversed", dict(reversed(tensors.items()))
    yield "swapped", dict(_swapped(tensors, chance))
    yield "numbered", {f"w{n}": tensor for n, tensor in enumerate(values)}
    yield "numbered in reverse", {f"w{n}": tensor for n, tensor in enumerate(reversed(values))}
    yield "numbered and swapped", {f"p.{n}": tensor for n, tensor in enumerate(swapped)}
    yield (
        "random words",
        {f"{word}{n}": v for n, (word, v) in enumerate(zip(words, values, strict=True))},
    )
    yield (
        "letters",
        {letters[n] if n < len(letters) else f"x{n}": tensor for n, tensor in enumerate(swapped)},
    )


@pytest.mark.parametrize("twin", SEEING, ids=lambda twin: twin.name)
@pytest.mark.slow("converts every twin sixteen times")
def test_no_order_and_no_names_make_a_wrong_file(twin: Twin, tmp_path: Path) -> None:
    module = twin.make_torch()
    tensors = twin.checkpoint(module)
    if not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        tensors = module.state_dict()
    with twin.precision():
        save_skeleton(tmp_path / "skeleton.eqx", twin.make_eqx())
        shapes = twin.eqx_shapes()
        wanted = twin.torch_forward(module)
    arrangements: tuple[Literal["auto", "order"], ...] = ("auto", "order")
    wrong: list[str] = []
    for name, variant in misleading(dict(tensors)):
        torch.save(variant, tmp_path / "model.pt")
        for arrange in arrangements:
            session = Session.open(
                tmp_path / "model.pt", tmp_path / "skeleton.eqx", arrange=arrange
            )
            if not session.blocking:
                session.convert(tmp_path / "out.eqx")
                with twin.precision():
                    converted = eqx.tree_deserialise_leaves(tmp_path / "out.eqx", shapes)
                    found = twin.eqx_forward(converted)
                if not relative_error(found, wanted) <= twin.tolerance:
                    wrong.append(f"{name}, arranged by {arrange}")
            session.close()
    assert wrong == []


DOUBTED = {
    "conv_hwio_square": "a square kernel whose orientation nothing shows",
    "attention_biases_lost": "the biases of the checkpoint have no leaf",
    "untied_one_key": "one table in the checkpoint for two leaves",
    "conv_norm_folded": "a batch norm folded into a convolution needs its epsilon",
    "mlp_scan_no_bias": "weights of one shape, named by numbers alone, in one stack",
    "experts_apart": "`w1` and `w2` fit either layer of an expert, turned or not",
}


@pytest.mark.parametrize("twin", SEEING, ids=lambda twin: twin.name)
@pytest.mark.slow("makes every twin in both frameworks")
def test_a_twin_is_settled_unless_it_cannot_be(twin: Twin, tmp_path: Path) -> None:
    """So that refusing everything is no way to pass the test above."""
    torch.save(twin.checkpoint(twin.make_torch()), tmp_path / "model.pt")
    with twin.precision():
        save_skeleton(tmp_path / "skeleton.eqx", twin.make_eqx())
    session = Session.open(tmp_path / "model.pt", tmp_path / "skeleton.eqx")
    blocking = list(session.problems())
    session.close()
    assert bool(blocking) == (twin.name in DOUBTED), blocking
