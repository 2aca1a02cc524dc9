"""Every twin, from file to file, with the sources its truth names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from s2p_tui.formats.pytree.factory import call_factory
from s2p_tui.formats.pytree.skeleton import save_skeleton, target_of
from s2p_tui.session.session import Session
from tests.models.arranging import arrange
from tests.models.twin import Truth, Twin, relative_error, unused_by
from tests.models.twins import BY_NAME, TWINS

TINY = 64
"""Bytes of a chunk so small that even these models are streamed piece by piece."""

TOLD = [
    pytest.param(twin, truth, id=f"{twin.name}-also{number}" if number else twin.name)
    for twin in TWINS
    if twin.truth is not None
    for number, truth in enumerate((twin.truth, *twin.also))
]
UNTOLD = [pytest.param(twin, id=twin.name) for twin in TWINS if twin.truth is None]


def _opened(twin: Twin, tree: Any, folder: Path) -> Session:
    torch.save(twin.checkpoint(twin.make_torch()), folder / "model.pt")
    with twin.precision():
        save_skeleton(folder / "skeleton.eqx", tree)
    return Session.open(folder / "model.pt", folder / "skeleton.eqx")


def _loaded(twin: Twin, shapes: Any, path: Path) -> Any:
    with twin.precision():
        return eqx.tree_deserialise_leaves(path, shapes)


def _scrambled(tree: Any) -> Any:
    """The same structure with other numbers."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: (
            jnp.asarray((1.5 + rng.random(leaf.shape)).astype(leaf.dtype))
            if eqx.is_inexact_array(leaf)
            else leaf
        ),
        tree,
    )


@pytest.mark.parametrize(("twin", "truth"), TOLD)
@pytest.mark.slow("compiles and runs every twin in both frameworks")
def test_the_converted_file_computes_what_torch_does(
    twin: Twin, truth: Truth, tmp_path: Path
) -> None:
    shapes = twin.eqx_shapes()
    session = _opened(twin, twin.eqx_skeleton(truth), tmp_path)
    arrange(session, truth)
    assert list(session.problems()) == []
    first = truth is twin.truth
    bench = unused_by(truth, {entry.key: entry for entry in session.checkpoint.state_dict})
    assert set(session.alignment.bench) == (twin.unused if first else bench)

    session.allow_unused(session.alignment.bench)
    session.convert(tmp_path / "out.eqx", chunk_bytes=TINY)
    session.convert(tmp_path / "whole.eqx")
    assert (tmp_path / "out.eqx").read_bytes() == (tmp_path / "whole.eqx").read_bytes()
    converted = _loaded(twin, shapes, tmp_path / "out.eqx")
    session.close()

    module = twin.make_torch()
    expected = twin.torch_forward(module)
    with twin.precision():
        other = _scrambled(converted)
    assert relative_error(twin.eqx_forward(other), expected) > 20 * twin.tolerance
    assert relative_error(twin.eqx_forward(converted), expected) <= twin.tolerance
    if first and twin.train is not None:
        found, wanted = twin.eqx_train_step(converted), twin.torch_train_step(module)
        assert relative_error(found, wanted) <= twin.tolerance


@pytest.mark.parametrize("twin", UNTOLD)
def test_leaves_folded_by_hand_compute_what_torch_does(twin: Twin) -> None:
    assert twin.needs
    assert twin.fold is not None
    module = twin.make_torch()
    arrays = {key: tensor.numpy() for key, tensor in module.state_dict().items()}
    leaves = twin.fold(arrays)
    tree = twin.make_eqx()
    assert set(leaves) == {leaf.path for leaf in target_of(tree, twin.name).skeleton}

    def filled(path: Any, leaf: Any) -> Any:
        if not eqx.is_array(leaf):
            return leaf
        folded = jnp.asarray(leaves[jax.tree_util.keystr(path)], leaf.dtype)
        return folded.reshape(leaf.shape)

    folded = jax.tree_util.tree_map_with_path(filled, tree)
    assert relative_error(twin.eqx_forward(folded), twin.torch_forward(module)) <= twin.tolerance


def test_names_are_importable_factories() -> None:
    assert len(BY_NAME) == len(TWINS)
    made = call_factory("tests.models.twins:linear")
    assert eqx.tree_equal(made, BY_NAME["linear"].make_eqx())
