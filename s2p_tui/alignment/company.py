"""Doubts that other rows give rise to: siblings of one layer, and parts of one entry.

Two rules, whoever chose a row: the leaves of one layer come from one module of the checkpoint, and
an entry of which a row takes a slice is used up by slices.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from s2p_tui.alignment.alignment import Rows
from s2p_tui.alignment.layers import ALONE, module_of
from s2p_tui.alignment.numbering import GAP, Flags, Numbers, are_in
from s2p_tui.alignment.skeleton import Skeleton
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import Expr, Split, Take, keys_of, nodes_of, operands, shape_of

Modules = tuple[str, ...]
_NO_MODULE = -1


def modules_of(source: Expr) -> Modules:
    """Return the modules that a source reads, each once."""
    return tuple(dict.fromkeys(module_of(key) for key in keys_of(source)))


class Company:
    """Doubts about the rows of one pair that come from other rows.

    Args:
        state_dict: The entries.
        skeleton: The leaves.
    """

    def __init__(self, state_dict: StateDict, skeleton: Skeleton) -> None:
        self._state_dict, self._skeleton = state_dict, skeleton
        layers = skeleton.layers
        together = np.flatnonzero(layers != ALONE)
        self._members = together[np.argsort(layers[together], kind="stable")]
        self._sorted = layers[self._members]
        self._layer_of = layers
        # Names of modules are not kept: those of 100,000 take more memory than all arrays.
        known: dict[str, int] = {}
        modules = (known.setdefault(module_of(e.key), len(known)) for e in state_dict)
        self._modules = np.fromiter(modules, np.int32, len(state_dict))
        self._module_count = len(known)
        self._several: dict[tuple[int, ...], int] = {}
        self._made_modules = np.empty(0, np.int32)
        self._slices = np.empty(0, np.bool_)
        self._seen: tuple[bytes, Flags] = (b"", np.empty(0, np.bool_))

    def _module(self, source: Expr) -> int:
        """Return the number of the module that a source reads, or of the several that it reads."""
        entries = map(self._state_dict.position, keys_of(source))
        modules = tuple(dict.fromkeys(int(self._modules[entry]) for entry in entries))
        if len(modules) > 1:
            return self._several.setdefault(modules, self._module_count + len(self._several))
        return modules[0] if modules else _NO_MODULE

    def _learn(self) -> None:
        new = self._state_dict.numbering.expressions[len(self._slices) :]
        if new:
            modules = [self._module(source) for source in new]
            self._made_modules = np.append(self._made_modules, np.array(modules, np.int32))
            self._slices = np.append(self._slices, [_has_slice(source) for source in new])

    def doubted(self, rows: Rows) -> tuple[Flags, Flags]:
        """Return which rows have siblings from other modules, and which leave a part unused."""
        self._learn()
        return self._mixed(rows.sources), self._left_over(rows.sources)

    def _mixed(self, sources: Numbers) -> Flags:
        found = np.zeros(len(sources), np.bool_)
        if not len(self._members):
            return found
        taken = sources[self._members]
        modules = np.full(len(taken), _NO_MODULE, np.int32)
        whole, made = taken >= 0, taken < GAP
        modules[whole] = self._modules[taken[whole]]
        if made.any():
            modules[made] = self._made_modules[-3 - taken[made]]
        known = modules != _NO_MODULE
        layers = self._sorted
        if not known.all():
            modules, layers = modules[known], layers[known]
        # Where neighbours within a layer have one module each, all of the layer have.
        differ = (modules[1:] != modules[:-1]) & (layers[1:] == layers[:-1])
        if differ.any():
            found[self._members] = are_in(self._sorted, layers[1:][differ]) & known
        return found

    def _left_over(self, sources: Numbers) -> Flags:
        """Return the rows that take a slice of an entry of which no row takes the rest."""
        made = sources < GAP
        if not self._slices.any() or not made.any():
            return np.zeros(len(sources), np.bool_)
        present = np.zeros(len(self._slices), np.bool_)
        present[-3 - sources[made]] = True
        sliced = np.flatnonzero(present & self._slices)
        numbering = self._state_dict.numbering
        entries = numbering.read_by((-3 - sliced).astype(np.int32))
        whole = entries[are_in(entries, sources[sources >= 0])]
        sharing = (-3 - numbering.reading(entries)).astype(np.int32)
        sharing = sharing[sharing >= 0]
        sharing = sharing[present[sharing]]
        key = sharing.tobytes() + b"|" + whole.tobytes()
        if self._seen[0] != key:
            self._seen = key, self._wasteful(sharing, whole)
        found = np.zeros(len(sources), np.bool_)
        found[made] = self._seen[1][-3 - sources[made]]
        return found

    def _wasteful(self, sharing: Numbers, whole: Numbers) -> Flags:
        """Return which expressions take slices of entries that are not used up."""
        numbering = self._state_dict.numbering
        numbers: list[int] = sharing.tolist()
        chosen = [numbering.expressions[number] for number in numbers]
        covered = covered_keys(chosen, self._state_dict)
        covered |= {key for number in whole.tolist() for key in numbering.keys_of(number)}
        found = np.zeros(len(self._slices), np.bool_)
        for number, source in zip(numbers, chosen, strict=True):
            found[number] = self._slices[number] and not covered.issuperset(keys_of(source))
        return found

    def why(self, index: int, rows: Rows, *, is_named: bool) -> str:
        """Return why other rows speak against a row; empty if none does.

        Args:
            index: The row.
            rows: All rows.
            is_named: True if names say that it takes what it should.
        """
        source = rows[index].source
        if source is None:
            return ""
        mixed = "" if is_named else self._other_module(index, source, rows)
        return "; ".join(filter(None, (mixed, self._unused_part(source, rows))))

    def _other_module(self, index: int, source: Expr, rows: Rows) -> str:
        mine, layer = modules_of(source), self._layer_of[index]
        if not mine or layer == ALONE:
            return ""
        for other in self.siblings(index):
            theirs = rows[other].source
            if theirs is not None and (modules := modules_of(theirs)) and modules != mine:
                name = self._skeleton[other].path
                return f"{name} of the same layer takes {keys_of(theirs)[0]} of another module"
        return ""

    def siblings(self, index: int) -> list[int]:
        """Return the other leaves of a leaf's layer."""
        layer = self._layer_of[index]
        if layer == ALONE:
            return []
        start, stop = np.searchsorted(self._sorted, [layer, layer + 1])
        return [other for other in self._members[start:stop].tolist() if other != index]

    def _unused_part(self, source: Expr, rows: Rows) -> str:
        if not _has_slice(source):
            return ""
        numbering = rows.numbering
        sharing = rows.taking(map(numbering.entry, keys_of(source)))
        sources = [row for index in sharing if (row := rows[index].source) is not None]
        covered = covered_keys(sources, self._state_dict)
        left = [key for key in keys_of(source) if key not in covered]
        return f"no row takes the rest of {left[0]}" if left else ""


def _has_slice(source: Expr) -> bool:
    return any(isinstance(node, Split) for node in nodes_of(source))


def covered_keys(sources: Iterable[Expr], state_dict: StateDict) -> set[str]:
    """Return the entries of which some sources together read every element.

    Slices count together where they are slices of the same along one axis.
    """
    covered: set[Expr] = set()
    parts: defaultdict[tuple[Expr, int], list[tuple[int, int]]] = defaultdict(list)
    waiting = list(sources)
    while waiting:
        node = waiting.pop()
        if node in covered:
            continue
        covered.add(node)
        if not isinstance(node, Split):
            waiting += operands(node)
            continue
        taken = parts[node.of, node.axis]
        taken.append((node.start, node.stop))
        if _unite(taken) >= shape_of(node.of, state_dict.shape)[node.axis]:
            waiting.append(node.of)
    return {node.key for node in covered if isinstance(node, Take)}


def _unite(ranges: list[tuple[int, int]]) -> int:
    """Return how far the ranges reach from 0 without a hole."""
    reach = 0
    for start, stop in sorted(ranges):
        if start > reach:
            break
        reach = max(reach, stop)
    return reach
