"""Outcomes of converting variants, counted."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from s2p_tui import convert_tree
from s2p_tui.errors import S2PError
from tests.networks.network import Array, Network, Path, leaves_of
from tests.networks.variants import Variant, variants

Outcome = Literal[
    "right", "neutral", "refused", "refused rightly", "wrong", "lost", "unfilled", "failed"
]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
WRONG = ("wrong", "lost", "unfilled", "failed")


@dataclass(frozen=True)
class Result:
    """What became of a variant.

    Attributes:
        outcome: "right": all leaves have their numbers. "neutral": so have all but some that got
            what has no effect, as the entry for them is missing. "refused": although there is a
            right answer; "refused rightly": there is none, or nothing shows it. "wrong": a leaf
            got other numbers. "lost": a parameter was left out without a word. "unfilled": a leaf
            kept the skeleton's numbers without a word. "failed": an error that is none of the
            package's.
        detail: The leaves or entries that it is about, or the reason for a refusal.
    """

    network: str
    kind: str
    variant: str
    outcome: Outcome
    detail: str = ""

    @property
    def is_wrong(self) -> bool:
        return self.outcome in WRONG


def judged(variant: Variant) -> Result:
    """Convert a variant as a user would who trusts nothing unseen, and compare every leaf."""
    network = variant.network

    def result(outcome: Outcome, detail: str = "") -> Result:
        return Result(network.name, variant.kind, variant.name, outcome, detail)

    pytree = _pytree(variant)
    wanted, neutral, unmade = _wanted(variant)
    possible = not (variant.lost or variant.gone or unmade or network.refused or network.unshown)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = convert_tree(variant.entries, pytree, dtype=variant.dtype)
    except S2PError as error:
        return result("refused" if possible else "refused rightly", str(error)[:400])
    except Exception as error:
        return result("failed", repr(error)[:400])
    leaves = leaves_of(found)
    other = [path for path, array in wanted.items() if not _equal(leaves[path], array, variant)]
    if other:
        return result("wrong", ", ".join(map(_text, other)))
    before = leaves_of(pytree)
    unmade = [path for path in unmade if not _is_there_again(leaves[path], path, variant)]
    changed = [path for path in unmade if not _equal(leaves[path], before[path], variant)]
    if changed:
        return result("wrong", ", ".join(map(_text, changed)))
    if unmade:
        return result("unfilled", ", ".join(map(_text, unmade)))
    if variant.lost:
        return result("lost", ", ".join(variant.lost))
    if network.refused:
        return result("wrong", "numbers that the dtype asked for does not hold")
    return result("neutral" if neutral else "right")


def _pytree(variant: Variant) -> Any:
    seed = variant.leaf_order
    chance = random.Random(seed) if seed is not None and seed >= 0 else None
    network = variant.network
    if variant.unfilled:
        name, shape = variant.unfilled
        network = _copy(network)
        network.unfed(name, *shape)
    return network.pytree(chance, backwards=seed == -1)


def _copy(network: Network) -> Network:
    return replace(network, sources=dict(network.sources), _tree=dict(network._tree))


def _wanted(variant: Variant) -> tuple[dict[Path, Array], bool, list[Path]]:
    """The right arrays; whether some stand in for missing ones; and leaves that nothing makes."""
    first = variant.network.entries
    kept = {key: entry.array for key, entry in first.items() if key not in variant.gone}
    layers = {key.rpartition(".")[0] for key in kept}
    replaced = {
        key: np.full_like(first[key].array, first[key].neutral)
        for key in variant.gone
        if first[key].neutral is not None and key.rpartition(".")[0] in layers
    }
    wanted: dict[Path, Array] = {}
    unmade: list[Path] = [(variant.unfilled[0],)] if variant.unfilled else []
    neutral = False
    for path, source in variant.network.sources.items():
        if source is None or not all(key in kept or key in replaced for key in source.keys):
            # A Python scalar without an entry keeps its value, as a dropout's rate does.
            if source is None or path not in variant.network.scalars:
                unmade.append(path)
        else:
            neutral |= not all(key in kept for key in source.keys)
            wanted[path] = source.array(kept | replaced)
    return wanted, neutral, unmade


def _is_there_again(found: Any, path: Path, variant: Variant) -> bool:
    """Whether a leaf got the numbers of a missing entry, from a tied one."""
    source = variant.network.sources.get(path)
    arrays = {key: entry.array for key, entry in variant.network.entries.items()}
    return source is not None and _equal(found, source.array(arrays), variant)


def _equal(found: Any, wanted: Any, variant: Variant) -> bool:
    found, wanted = np.asarray(found), np.asarray(wanted)
    half = variant.kind == "dtype" or variant.dtype is not None
    tolerance = 2e-3 if half else 1e-5
    return found.shape == wanted.shape and bool(
        np.allclose(found.astype("f8"), wanted.astype("f8"), atol=tolerance, rtol=tolerance)
    )


def _text(path: Path) -> str:
    return ".".join(map(str, path))


def results(names: Iterator[str] | list[str], only: Any = None) -> Iterator[Result]:
    for name in names:
        for variant in variants(name):
            if only is None or only(variant):
                yield judged(variant)
