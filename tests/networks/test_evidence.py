"""Networks without a piece of their evidence: each row is then doubtful, or still right."""

from __future__ import annotations

import dataclasses
import random
import re
import zlib
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest

from s2p_tui.alignment.judge import landing
from s2p_tui.formats.memory import checkpoint_in_memory
from s2p_tui.session.opening import target_in_memory
from s2p_tui.session.session import Session
from tests.helpers.exprs import by_numpy
from tests.networks.network import Array, Network, Path, built, steps_of

_OF_A_KIND = 3
"""Pieces of evidence of one kind that are removed from a network, one at a time."""

NETWORKS = (
    "encoder_decoder_torch",
    "vision_transformer_with_leaf",
    "unet_same",
    "flax_cnn_hwio",
    "own_class_mixed",
    "glu_timm",
    "bidirectional_lists",
    "twin_critics_targets",
    "experts_stacked",
    "fused_apart_gqa",
)


def without_classes(node: Any) -> Any:
    """The pytree with its modules as dictionaries of their fields that hold arrays."""
    if isinstance(node, eqx.Module):
        fields = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
        return {name: without_classes(one) for name, one in fields.items() if _holds_arrays(one)}
    if isinstance(node, dict):
        return {name: without_classes(one) for name, one in node.items()}
    return type(node)(map(without_classes, node)) if isinstance(node, list | tuple) else node


def _holds_arrays(node: Any) -> bool:
    return bool(jax.tree_util.tree_leaves(eqx.filter(node, eqx.is_array)))


def less_evident(network: Network, chance: random.Random) -> Iterator[tuple[str, dict[str, str]]]:
    """What is removed, and the names that the entries left have then."""
    keys = list(network.entries)
    yield "order", dict(zip(*[chance.sample(keys, len(keys))] * 2, strict=True))
    words = sorted({step for key in keys for step in key.split(".") if not step.isdigit()})
    for word in chance.sample(words, min(_OF_A_KIND, len(words))):
        pattern = re.compile(rf"(?<![^.]){re.escape(word)}(?![^.])")
        names = {key: pattern.sub("zorba", key) for key in keys}
        if len({*names.values()}) == len(names):
            yield f"the word {word}", names
    for key in chance.sample(keys, min(_OF_A_KIND, len(keys))):
        yield f"the entry {key}", {other: other for other in keys if other != key}
        module = key.rpartition(".")[0]
        if others := {other: other for other in keys if other.rpartition(".")[0] != module}:
            yield f"the module {module}", others


@pytest.mark.slow("matches each network a dozen times")
@pytest.mark.parametrize("name", NETWORKS)
def test_without_a_piece_of_evidence_a_row_is_doubtful_or_right(name: str) -> None:
    network = built(name)
    pytree = network.pytree()
    everything = {key: key for key in network.entries}
    assert not list(wrong(network, pytree, everything)), "all evidence is there"
    found = [
        f"without classes: {path}" for path in wrong(network, without_classes(pytree), everything)
    ]
    for what, names in less_evident(network, random.Random(zlib.crc32(name.encode()))):
        found += [f"without {what}: {path}" for path in wrong(network, pytree, names)]
    assert not found, "\n".join(found)


def wrong(network: Network, pytree: Any, names: dict[str, str]) -> Iterator[str]:
    """Key paths of rows that are certain and get other numbers than they should."""
    arrays = {name: network.entries[key].array for key, name in names.items()}
    target = target_in_memory(pytree)
    leaves = jax.tree_util.tree_flatten_with_path(pytree)[0]
    steps = {jax.tree_util.keystr(keys): steps_of(keys) for keys, _ in leaves}
    session = Session.between(checkpoint_in_memory(arrays), target)
    state_dict = session.checkpoint.state_dict
    for leaf, one in zip(target.skeleton, session.evidence.suggestions, strict=True):
        source = one.source
        if not one.certain or source is None:
            continue
        made = by_numpy(landing(source, leaf, state_dict), arrays)
        wanted = _wanted(network, steps[leaf.path], names, made)
        if (
            wanted is None
            or made.shape != wanted.shape
            or not np.allclose(made, wanted, 1e-5, 1e-5)
        ):
            yield leaf.path


def _wanted(network: Network, path: Path, names: dict[str, str], made: Array) -> Array | None:
    """The array a leaf should hold; None if the entries for it are gone, and are not neutral."""
    source = network.sources.get(path)
    if source is None:
        return None
    if all(key in names for key in source.keys):
        return source.array({key: entry.array for key, entry in network.entries.items()})
    neutral = {network.entries[key].neutral for key in source.keys if key not in names}
    return np.full_like(made, *neutral) if len(neutral) == 1 and neutral != {None} else None
