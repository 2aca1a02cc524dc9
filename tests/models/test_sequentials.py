"""Layers that a `Sequential` has only numbers for, in another order in one part of the model."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from torch import nn

from s2p_tui import convert_tree
from tests.models.test_unshown_orders import module

KEY = jax.random.key(0)
SIZES = (3, 5, 7, 9)

TORCH: dict[str, tuple[Callable[..., nn.Module], Callable[[int], nn.Module]]] = {
    "convolutions": (lambda i, o: nn.Conv2d(i, o, 2), nn.BatchNorm2d),
    "one axis": (lambda i, o: nn.Conv1d(i, o, 2), nn.LayerNorm),
    "dense": (nn.Linear, nn.LayerNorm),
}
JAX: dict[str, tuple[Callable[..., Any], Callable[[int], Any]]] = {
    "convolutions": (
        lambda i, o: eqx.nn.Conv2d(i, o, 2, key=KEY),
        lambda n: eqx.nn.BatchNorm(n, "batch", mode="batch"),
    ),
    "one axis": (lambda i, o: eqx.nn.Conv1d(i, o, 2, key=KEY), eqx.nn.LayerNorm),
    "dense": (lambda i, o: eqx.nn.Linear(i, o, key=KEY), eqx.nn.LayerNorm),
}


@pytest.mark.parametrize("kind", TORCH)
@pytest.mark.slow("makes models in both frameworks")
def test_a_stem_that_norms_behind_and_stages_that_norm_before(kind: str) -> None:
    """As in torchvision's ConvNeXt: `features.0.0` is a convolution, `features.2.0` a norm."""
    dense, norm = TORCH[kind]
    between = list(pairwise(SIZES[1:]))
    stem = nn.Sequential(dense(*SIZES[:2]), norm(SIZES[1]))
    parts = [stem, *(nn.Sequential(norm(i), dense(i, o)) for i, o in between)]
    tensors = {
        f"features.{key}": value for key, value in nn.Sequential(*parts).state_dict().items()
    }

    def made() -> Any:
        layer, scale = JAX[kind]
        first = module("Stem", conv=layer(*SIZES[:2]), norm=scale(SIZES[1]))
        rest = [module("Down", norm=scale(i), conv=layer(i, o)) for i, o in between]
        return module("Net", features=module("Parts", layers=[first, *rest]))

    filled, _ = convert_tree(tensors, eqx.nn.make_with_state(made)())
    for number, part in enumerate(filled.features.layers):
        places = {"conv": int(number > 0), "norm": int(number == 0)}
        for name, place in places.items():
            expected = tensors[f"features.{number}.{place}.weight"]
            assert np.array_equal(getattr(part, name).weight, expected), (number, name)
