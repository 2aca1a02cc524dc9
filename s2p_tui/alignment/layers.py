"""Leaves of one layer, and the module of the checkpoint that an entry comes from.

A layer's weight, bias and statistics belong together: what one module of the checkpoint has should
not be mixed with what another one has.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

ALONE = -1
"""The layer of leaves that no other leaf belongs to."""
_LAST = re.compile(r"\.?[^.\[\]]+(?:\[\d+\])?$|\['[^']*'\]$|\[\d+\]$")
_NAME = re.compile(r"\.?[^.\[\]]+")
_FIRST = re.compile(r"\.?[^.\[\]]+|\[[^\]]*\]")
_WEIGHTS = frozenset(
    ("weight", "kernel", "scale", "gamma", "w", "embedding", "negative_slope"),
)
_BIASES = frozenset(("bias", "beta", "b"))
_STATISTICS = frozenset(
    (
        *("mean", "running_mean", "moving_mean"),
        *("var", "running_var", "moving_var"),
        *("ema_state_index", "ema_first_time_index", "batch_state_index", "batch_counter"),
    )
)
_ROLES = _WEIGHTS | _BIASES | _STATISTICS
_RECURRENT = re.compile(r"_l\d+(?:_reverse)?$")


def is_statistic(path: str) -> bool:
    """Return True if a leaf is named as running statistics and their counters are."""
    return role_of(path) in _STATISTICS


def role_of(path: str) -> str:
    """Return the name of a leaf in its layer."""
    start, stop = _last(path)
    return _role(path[start:stop])


def _last(path: str) -> tuple[int, int]:
    """Return where the last step of a path begins and ends; nothing where it has none."""
    if "'" in path:
        match = _LAST.search(path)
        return match.span() if match else (0, 0)
    # 100,000 paths that are searched for their last step take 0.2 s, and most end with a name.
    before, _, name = path.rpartition(".")
    if name and "[" not in name and "]" not in name and "\n" not in name:
        return len(before), len(path)
    # No step but a quoted one goes across these.
    start = max(len(before), path.rfind("]", 0, -1) + 1)
    match = _NAME.fullmatch(path, start) or _LAST.search(path, start)
    return match.span() if match else (0, 0)


# Few steps are last ones of 100,000 paths.
@lru_cache(maxsize=4096)
def _role(step: str) -> str:
    return step.strip(".[]'").partition("[")[0]


@lru_cache(maxsize=4096)
def _place(step: str, owner: str | None) -> tuple[bool, bool, bool]:
    """Return if a leaf of that last step belongs to a layer, is a statistic, and is in a cell."""
    role = _role(step)
    is_flax = owner is not None and owner.startswith(("flax.nnx.", "flax.linen."))
    is_field = is_flax or (owner is not None and owner.startswith("equinox.nn."))
    is_in_cell = is_flax and owner is not None and owner.endswith("Cell")
    return bool(step) and (is_field or role in _ROLES), role in _STATISTICS, is_in_cell


def layers_of(leaves: Iterable[tuple[str, str | None]]) -> NDArray[np.int32]:
    """Return a number per leaf, equal for the leaves of one layer; `ALONE` for others.

    The fields of a layer of Equinox or Flax belong together, and elsewhere what is named as a
    weight, bias or statistic is. Statistics that are kept in a tree of their own, such as Equinox's
    state, belong to the layer of the same path in another tree if there is exactly one.

    Args:
        leaves: Key path and owner class of each.
    """
    parents: list[str | None] = []
    apart: list[int] = []
    plain: dict[tuple[str, str | None], tuple[bool, bool, bool]] = {}
    for index, (path, owner) in enumerate(leaves):
        # Most of 100,000 paths end with a name, of which there are few: half of the time is saved.
        before, _, name = path.rpartition(".")
        if (found := plain.get((name, owner))) is None or "'" in path:
            start, stop = _last(path)
            found = _place(path[start:stop], owner)
            if start == len(before) and "[" not in name and "'" not in path:
                plain[name, owner] = found
            before = path[:start]
        belongs, is_statistic, is_in_cell = found
        parent = before if belongs else None
        if parent and is_in_cell:
            # A cell holds its gates, or its two weights, in dense layers of their own.
            parent = parent[: _last(parent)[0]]
        parents.append(parent)
        if is_statistic:
            apart.append(index)
    is_apart = set(apart)
    below: defaultdict[str, set[str]] = defaultdict(set)
    for index, parent in enumerate(parents if apart else ()):
        if parent is not None and index not in is_apart:
            below[_below_root(parent)].add(parent)
    whole = {parent for found in below.values() for parent in found}
    for index in apart:
        parent = parents[index]
        if parent is not None and parent not in whole:
            found = below.get(_below_root(parent), set())
            parents[index] = next(iter(found)) if len(found) == 1 else parent
    counts = Counter(parents)
    known: dict[str, int] = {}
    numbers = [
        ALONE if parent is None or counts[parent] < 2 else known.setdefault(parent, len(known))
        for parent in parents
    ]
    return np.array(numbers, np.int32)


def _below_root(path: str) -> str:
    match = _FIRST.match(path)
    return path[match.end() :] if match else path


def module_of(key: str) -> str:
    """Return the module that an entry belongs to, as far as its key tells."""
    module, _, name = key.rpartition(".")
    if "parametrizations." in key:
        module = module.partition(".parametrizations.")[0]
        module = "" if module.startswith("parametrizations.") else module
    layer = _RECURRENT.search(name) if "_l" in name else None
    return module + layer.group() if layer else module
