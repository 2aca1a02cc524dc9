"""Every twin there and back: PyTorch to Equinox, trained there, and to PyTorch again."""

from __future__ import annotations

import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from s2p_tui import export
from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import SetRows
from s2p_tui.alignment.transform import (
    Scale,
    SpectralNorm,
    Sum,
    WeightNorm,
    keys_of,
    nodes_of,
)
from s2p_tui.cli import run
from s2p_tui.errors import AlignmentError
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.session.session import Session
from tests.models.twin import Truth, Twin, relative_error
from tests.models.twins import TWINS

pytestmark = pytest.mark.slow("compiles and runs every twin in both frameworks")
TOLD = [
    pytest.param((twin, truth), id=f"{twin.name}-also{number}" if number else twin.name)
    for twin in TWINS
    if twin.truth is not None
    for number, truth in enumerate((twin.truth, *twin.also))
]


@dataclass(frozen=True)
class Converted:
    """A twin, one of its truths, the model with the checkpoint's numbers, its files and mapping."""

    twin: Twin
    truth: Truth
    tree: Any
    folder: Path


# Of a module, so that both tests of a twin follow one another and it is converted once.
@pytest.fixture(scope="module", params=TOLD)
def converted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Converted:
    twin, truth = request.param
    folder = tmp_path_factory.mktemp("converted")
    torch.save(twin.checkpoint(twin.make_torch()), folder / "model.pt")
    shapes = twin.eqx_shapes()
    with twin.precision():
        save_skeleton(folder / "skeleton.eqx", twin.eqx_skeleton(truth))
    session = Session.open(folder / "model.pt", folder / "skeleton.eqx")
    rows = [
        Row(gap=True, by="user", trusted=True)
        if (source := truth[leaf.path]) is None
        else Row(source, by="user", trusted=True)
        for leaf in session.target.skeleton
    ]
    session.edit(SetRows(tuple(enumerate(rows))))
    session.allow_unused(None)
    session.convert(folder / "model.eqx", mapping=folder / "m.json")
    session.close()
    with twin.precision():
        tree = eqx.tree_deserialise_leaves(folder / "model.eqx", shapes)
    return Converted(twin, truth, tree, folder)


def exported(folder: Path, output: str) -> int:
    sides = ["--skeleton", str(folder / "skeleton.eqx"), "--mapping", str(folder / "m.json")]
    original = ["--checkpoint", str(folder / "model.pt")]
    return run(["export", str(folder / "model.eqx"), *sides, *original, "-o", str(folder / output)])


def test_there_and_back(converted: Converted) -> None:
    twin, truth, tree = converted.twin, converted.truth, converted.tree
    before = entries_in(twin)
    expected = twin.torch_forward(twin.make_torch())
    # What was rounded on the way there stays rounded.
    kept = set(before) - computed(truth) if significand(before, tree) >= SINGLE else set()
    for name in ("back.safetensors", "back.pt"):
        assert exported(converted.folder, name) == 0
        after = loaded(converted.folder / name)
        assert {k: (t.shape, t.dtype) for k, t in after.items()} == {
            k: (t.shape, t.dtype) for k, t in before.items()
        }
        for key in kept:
            assert same_bits(after[key], before[key]), key
        output = twin.torch_forward(filled(twin, after))
        assert relative_error(output, expected) <= tolerance(twin, before, tree)


def test_what_was_trained_comes_back_or_is_refused(converted: Converted) -> None:
    """All leaves change: what is written computes the same; what could not is refused by name."""
    twin, truth, tree = converted.twin, converted.truth, converted.tree
    before = entries_in(twin)
    random = np.random.default_rng(zlib.crc32(twin.name.encode()))
    with twin.precision():
        trained = jax.tree.map(lambda leaf: shaken(leaf, random), tree)
    found, refused = attempted(trained, converted.folder)
    if not refused:
        output = twin.torch_forward(filled(twin, found))
        expected = twin.eqx_forward(trained)
        assert relative_error(output, expected) <= tolerance(twin, before, tree)
    assert refused <= {*truth, *before}
    assert bool(refused) == (twin.name in NO_WAY_BACK)


NO_WAY_BACK = frozenset(
    (
        # Norms of their own beside a weight that PyTorch's norms are folded into.
        "weight_norm_conv_transpose_other_axis",
        # One slope per layer in PyTorch, one per neuron here.
        "mlp_prelu",
        # Two leaves that PyTorch ties.
        *("gpt2_untied", "untied", "untied_one_key"),
    )
)
"""Twins of which some numbers have no entry once they were trained on their own."""
SINGLE = 24
"""Bits of a float32's significand."""
_BITS = {"bfloat16": 8, "float16": 11, "float32": SINGLE, "float64": 53}


def attempted(tree: Any, folder: Path) -> tuple[dict[str, torch.Tensor], set[str]]:
    """The exported entries, or the names that an export was refused for."""
    try:
        # Gaps go nowhere, and are named in a warning.
        with warnings.catch_warnings(action="ignore"):
            return export(tree, folder / "m.json", folder / "model.pt"), set()
    except AlignmentError as error:
        return {}, {where for where, _ in error.problems}


def computed(truth: Truth) -> set[str]:
    """Entries that rows do not only move about."""
    found: set[str] = set()
    for expr in truth.values():
        if expr is not None and any(
            isinstance(node, Sum | Scale | WeightNorm | SpectralNorm) for node in nodes_of(expr)
        ):
            found |= set(keys_of(expr))
    return found


def significand(entries: dict[str, torch.Tensor], tree: Any) -> int:
    """Bits of the shortest significand on either side; one less of single beside double."""
    dtypes = {str(t.dtype).removeprefix("torch.") for t in entries.values()}
    dtypes |= {str(leaf.dtype) for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf)}
    found = {_BITS[dtype] for dtype in dtypes if dtype in _BITS}
    return min(found, default=SINGLE) - (len(found) > 1)


def tolerance(twin: Twin, entries: dict[str, torch.Tensor], tree: Any) -> float:
    return max(twin.tolerance, 4 * 2.0 ** -significand(entries, tree))


def shaken(leaf: Any, random: np.random.Generator) -> Any:
    """A leaf as training may leave it."""
    if not eqx.is_inexact_array(leaf):
        return leaf
    factors = 1 + 0.1 * random.random(leaf.shape)
    return jnp.asarray(np.asarray(leaf).astype(np.float64) * factors, leaf.dtype)


def entries_in(twin: Twin) -> dict[str, torch.Tensor]:
    """The state dict in what a twin saves."""
    return state_dict_in(twin.checkpoint(twin.make_torch()))


def state_dict_in(saved: Any) -> dict[str, torch.Tensor]:
    if isinstance(saved, nn.Module):
        return dict(saved.state_dict())
    tensors = {k: v for k, v in saved.items() if isinstance(v, torch.Tensor)}
    nested = (value for value in saved.values() if isinstance(value, dict))
    return tensors or next(filter(None, map(state_dict_in, nested)))


def loaded(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".pt":
        return torch.load(path, weights_only=True)
    return safetensors.torch.load_file(path)


def same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    mine, theirs = (tensor.contiguous().numpy().tobytes() for tensor in (first, second))
    return mine == theirs


def filled(twin: Twin, entries: dict[str, torch.Tensor]) -> nn.Module:
    """The twin's module with exported entries; what its checkpoint lacks as it is."""
    module = twin.make_torch()
    own = module.state_dict()
    assert set(entries) == set(entries_in(twin))
    # Checkpoints of wrapped modules have a prefix.
    prefixes = (k.removesuffix(name) for k in entries for name in own if k.endswith(name))
    prefix = "" if any(key in own for key in entries) else next(prefixes)
    named = {key.removeprefix(prefix): tensor for key, tensor in entries.items()}
    used = {key: tensor for key, tensor in named.items() if key in own}
    assert len(used) >= len(own) - 2
    module.load_state_dict(own | used, strict=True)
    return module.eval()
