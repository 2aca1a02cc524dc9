"""Pieces for leaves from the parts in which PyTorch's layers keep weights."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod

from msgspec import Struct

from s2p_tui.alignment.block_numbers import by_number
from s2p_tui.alignment.composites import Composite, composed, composites
from s2p_tui.alignment.flax_rules import FLAX_CELLS, gates_in
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import Broadcast, Expr, Shape, Take, shape_of
from s2p_tui.proposals.matcher.pieces import Piece, parts_named
from s2p_tui.proposals.matcher.templates import words_of
from s2p_tui.proposals.matcher.words import Steps, steps_of_key, steps_of_path

_CELLS = frozenset(("equinox.nn.LSTMCell", "equinox.nn.GRUCell"))
_RECURRENT = re.compile(r"((?:weight|bias)_[ih]h)_l(\d+)(_reverse)?")
_OF_CELL = re.compile(r"(weight_[ih]h)")
_CELL_LEAF = re.compile(r"(?:w|b|weight|bias)_[ih]h$")
_DIRECTIONS = frozenset(("forward", "backward"))
_WRAPPERS = {"weight norm": "equinox.nn.WeightNorm", "spectral norm": "equinox.nn.SpectralNorm"}
_PART_NAMES = frozenset(
    ("weight_g", "weight_v", "weight_orig", "weight_u", "original0", "original1")
)
"""Names of parts in modules that keep them as PyTorch does."""
_PART_STEPS = {
    "weight norm": ("magnitude", "weight"),
    "spectral norm": ("weight", "left", "right"),
}

_MODEL = re.compile(r"\[\d\]\.")
"""The beginning of a leaf's path in one of several models; those of state have a marker there."""
_WRAPPED = frozenset(("value", "raw_value"))
"""The name that `flax.nnx` variables give the array they hold."""


def steps_of_leaves(skeleton: Skeleton, indices: Sequence[int]) -> dict[int, Steps]:
    """The steps of leaves by index; the members of a list named for its parts go by their names."""
    paths = [skeleton[index].path for index in indices]
    several = _has_several_models(paths)
    steps = _without_wrappers(
        {index: _steps_of_leaf(skeleton[index], several) for index in indices}
    )
    lists: dict[Steps, set[str]] = defaultdict(set)
    for path in steps.values():
        for level in range(1, len(path)):
            if path[level].isdigit() and parts_named(path[level - 1]):
                lists[path[:level]].add(path[level])
    for index, path in steps.items() if lists else ():
        for level in range(1, len(path)):
            if (members := lists.get(path[:level])) is not None:
                parts = parts_named(path[level - 1])
                if members == {"0"}:
                    steps[index] = (*path[:level], *path[level + 1 :])
                elif members == {str(number) for number in range(len(parts))}:
                    part = parts[int(path[level])]
                    steps[index] = (*path[: level - 1], part, *path[level + 1 :])
                break
    return steps


def _has_several_models(paths: Sequence[str]) -> bool:
    """Return True if models are in a tuple; of `(model, state)` nothing is in both."""
    indexed = [path for path in paths if _MODEL.match(path)]
    return len({path[:3] for path in indexed}) > 1 and len({p[3:] for p in indexed}) < len(indexed)


def _without_wrappers(steps: dict[int, Steps]) -> dict[int, Steps]:
    """The steps without those of variables around single arrays, such as `flax.nnx.Param.value`.

    Of attention's `query`, `key` and `value` the last one has others beside it.
    """
    wrapped = {path[:-1] for path in steps.values() if path[-1] in _WRAPPED and len(path) > 1}
    if not wrapped:
        return steps
    beside: dict[Steps, set[str]] = defaultdict(set)
    for path in steps.values():
        for level in range(1, len(path)):
            if path[:level] in wrapped:
                beside[path[:level]].add(path[level])
    return {
        index: path[:-1] if path[:-1] in wrapped and len(beside[path[:-1]]) == 1 else path
        for index, path in steps.items()
    }


def _steps_of_leaf(leaf: Leaf, is_one_of_several: bool) -> Steps:
    """The steps of a leaf's key path, those of a normed layer as if it were a plain one."""
    steps = steps_of_path(leaf.path, is_one_of_several=is_one_of_several)
    match leaf.owner, steps:
        case "equinox.nn.WeightNorm", (*around, "g"):
            return (*around, "magnitude")
        case "equinox.nn.SpectralNorm", (*around, "uv_index", ("0" | "1") as number):
            return (*around, ("left", "right")[int(number)])
        case _, (*around, "layer", last) if "wrapper" in leaf.config:
            return (*around, last)
        case _ if (role := _flax_role(leaf)) and len(steps) > len(role):
            around = steps[:-2]
            # What `flax.nnx.RNN` calls the cell that it runs.
            return (*(around[:-1] if around[-1:] == ("cell",) else around), *role)
        case _:
            return steps


def _flax_role(leaf: Leaf) -> Steps:
    """Return the steps of a gate in a cell of Flax, as those of PyTorch's weights; of others none.

    The gate comes before what it holds, as a layer's name does.
    """
    # Asked of every leaf.
    gates = gates_in(leaf) if leaf.owner in FLAX_CELLS else None
    if gates is None:
        return ()
    return (gates.name, gates.role) if gates.name else (gates.role,)


class _Wanted(Struct, frozen=True):
    """Return the leaves that entries in parts are made for, each kind of leaf once."""

    owners: frozenset[str | None]
    names: frozenset[str]
    norms: tuple[Leaf, ...]
    cells: tuple[Leaf, ...]
    direction_first: bool
    by_number: Mapping[str, bool]
    """Recurrent layers whose directions lists count, and True for those of each layer in one."""


def _wanted(skeleton: Skeleton, state_dict: StateDict) -> _Wanted:
    norms: dict[tuple[object, ...], Leaf] = {}
    cells: dict[Steps, Leaf] = {}
    for leaf in skeleton:
        if leaf.owner == _WRAPPERS["weight norm"]:
            groups = leaf.config.get("layer_config", {}).get("groups")
            kind = (leaf.shape, leaf.config.get("axis"), leaf.config.get("layer"), groups)
            norms.setdefault(kind, leaf)
        elif leaf.owner in _CELLS or (leaf.owner in FLAX_CELLS and gates_in(leaf) is not None):
            cells.setdefault((leaf.owner or "", *_role(leaf)), leaf)
    names = frozenset(steps_of_path(leaf.path)[-1] for leaf in skeleton)
    owners = frozenset(leaf.owner for leaf in skeleton)
    return _Wanted(
        owners,
        names,
        tuple(norms.values()),
        tuple(cells.values()),
        _direction_first(skeleton),
        _counted_directions(skeleton, state_dict),
    )


def _role(leaf: Leaf) -> Steps:
    """Return the steps of a cell's leaf within the cell."""
    return _flax_role(leaf) or (leaf.path.rpartition(".")[2],)


def _direction_first(skeleton: Skeleton) -> bool:
    """Return True if the cells of each direction are a list, not those of each layer a pair."""
    for leaf in skeleton:
        steps = steps_of_path(leaf.path) if _is_cell(leaf) else ()
        for step, after in pairwise(steps):
            if _DIRECTIONS.intersection(words_of((step,))) and after.isdigit():
                return True
    return False


def _counted_directions(skeleton: Skeleton, state_dict: StateDict) -> dict[str, bool]:
    """Bidirectional layers whose cells are in a list of lists of one size alone.

    True for those of `[layer][direction]`, False for `[direction][layer]`. Of the two directions
    the forward one is the first, as in PyTorch. Nothing shows which list counts layers where both
    read inputs of one size.
    """
    layers: dict[str, dict[tuple[int, ...], Shape]] = defaultdict(dict)
    for entry in state_dict:
        match = _RECURRENT.fullmatch(steps_of_key(entry.key)[-1])
        if match is not None and match[1] == "weight_ih":
            start = entry.key.removesuffix(match[0])
            layers[start][int(match[2]), int(match[3] is not None)] = entry.shape
    layers = {start: cells for start, cells in layers.items() if (0, 1) in cells}
    lists: dict[Steps, dict[tuple[int, ...], Shape]] = defaultdict(dict)
    for leaf in skeleton if layers else ():
        *around, outer, inner, role = ("", "", *steps_of_path(leaf.path))
        if role in ("weight_ih", "w_ih") and outer.isdigit() and inner.isdigit():
            lists[tuple(around)][int(outer), int(inner)] = leaf.shape
    found: dict[str, bool] = {}
    for start, cells in layers.items():
        turned = {(direction, layer): shape for (layer, direction), shape in cells.items()}
        orders = {
            order for order in (True, False) if (cells if order else turned) in [*lists.values()]
        }
        if len(orders) == 1:
            found[start] = orders.pop()
    return found


def _is_cell(leaf: Leaf) -> bool:
    return (
        leaf.owner in _CELLS or leaf.owner in FLAX_CELLS or _CELL_LEAF.search(leaf.path) is not None
    )


def made_of_parts(state_dict: StateDict, skeleton: Skeleton) -> tuple[list[Piece], set[str]]:
    """Pieces made of several entries, or named otherwise; and the keys of the entries in them."""
    pieces: list[Piece] = []
    found = composites(state_dict)
    if found:
        wanted = _wanted(skeleton, state_dict)
        pieces = [piece for one in found for piece in _of_composite(one, state_dict, wanted)]
    covered = {key for piece in pieces if piece.composite for key in piece.composite.parts}
    if any(map(_is_cell, skeleton)):
        pieces += _of_cells(state_dict, covered, _wanted(skeleton, state_dict))
    pieces += _slopes(state_dict, skeleton)
    composites_used = (piece.composite for piece in pieces if piece.composite is not None)
    covered |= {key for composite in composites_used for key in composite.parts}
    return pieces, covered | {
        member.key for piece in pieces for member in piece.members if isinstance(member, Take)
    }


def _of_composite(composite: Composite, state_dict: StateDict, wanted: _Wanted) -> list[Piece]:
    if composite.kind == "recurrent biases":
        return _biases(composite, state_dict, wanted)
    layer = steps_of_key(composite.layer) if composite.layer else ()
    if _WRAPPERS[composite.kind] in wanted.owners:
        return [
            _piece(
                (*layer, step),
                _as_wanted(step, key, composite, state_dict, wanted),
                state_dict,
                composite,
            )
            for step, key in zip(_PART_STEPS[composite.kind], composite.parts, strict=True)
        ]
    own_names = {steps_of_key(key)[-1] for key in composite.parts} | _PART_NAMES
    if own_names & wanted.names:
        return []
    folded = composite.folded(state_dict, transposed=False)
    if folded is None:
        return []
    return [_piece((*layer, composite.name), folded, state_dict, composite)]


def _as_wanted(
    step: str, key: str, composite: Composite, state_dict: StateDict, wanted: _Wanted
) -> Expr:
    """A part as it is, or the norms along another axis where all `WeightNorm`s want these."""
    made = [(leaf, composed(leaf, composite, state_dict)) for leaf in wanted.norms]
    sizes = [(prod(leaf.shape), one) for leaf, one in made if one is not None]
    if step != "magnitude" or any(size == prod(state_dict.shape(key)) for size, _ in sizes):
        return Take(key)
    return next((one.expr for size, one in sizes if size == prod(one.shape)), Take(key))


def _piece(steps: Steps, expr: Expr, state_dict: StateDict, composite: Composite) -> Piece:
    shape = shape_of(expr, state_dict.shape)
    return Piece(steps, shape, (expr,), shape, composite)


def _biases(composite: Composite, state_dict: StateDict, wanted: _Wanted) -> list[Piece]:
    found: dict[Steps, Piece] = {}
    for leaf in wanted.cells:
        if (made := composed(leaf, composite, state_dict)) is not None:
            role = _role(leaf)
            steps = (*_cell(composite.parts[0], state_dict, wanted), *role)
            found.setdefault(role, _piece(steps, made.expr, state_dict, composite))
    return list(found.values())


def _of_cells(state_dict: StateDict, covered: set[str], wanted: _Wanted) -> list[Piece]:
    """The entries of recurrent layers, by layer and direction; of weights the gates, for Flax."""
    pieces: list[Piece] = []
    for entry in state_dict:
        last = steps_of_key(entry.key)[-1]
        match = _RECURRENT.fullmatch(last) or _OF_CELL.fullmatch(last)
        if match is None or entry.key in covered:
            continue
        cell = _cell(entry.key, state_dict, wanted)
        layer = entry.key.removesuffix(last)
        whole = Composite(
            "recurrent weight", layer, last[len(match[1]) :], (entry.key,), entry.shape
        )
        gates: dict[Steps, Piece] = {}
        for leaf in wanted.cells:
            if (made := composed(leaf, whole, state_dict)) is not None:
                role = _role(leaf)
                gates.setdefault(role, _piece((*cell, *role), made.expr, state_dict, whole))
        pieces += gates.values()
        if not gates and _RECURRENT.fullmatch(last):
            pieces.append(Piece((*cell, match[1]), entry.shape, (Take(entry.key),), entry.shape))
    return pieces


def _cell(key: str, state_dict: StateDict, wanted: _Wanted) -> Steps:
    """Return the layer and direction of a recurrent layer's entry, if there are several."""
    *around, last = steps_of_key(key)
    match = _RECURRENT.fullmatch(last)
    if match is None:
        return tuple(around)
    start = key.removesuffix(last)
    if (layer_first := wanted.by_number.get(start)) is not None:
        numbers = match[2], str(int(match[3] is not None))
        return (*around, *(numbers if layer_first else numbers[::-1]))
    deep = f"{start}weight_ih_l1" in state_dict
    both = f"{start}weight_ih_l0_reverse" in state_dict
    number = (match[2],) if deep else ()
    direction = ("backward" if match[3] else "forward",) if both else ()
    numbers = (*direction, *number) if wanted.direction_first else (*number, *direction)
    return (*around, *numbers)


def _slopes(state_dict: StateDict, skeleton: Skeleton) -> list[Piece]:
    """The slopes of PReLUs in sequence, as the MLP whose activation they are keeps them."""
    wanted: list[tuple[Leaf, Shape]] = [
        (leaf, leaf.shape)
        for leaf in skeleton
        if leaf.owner == "equinox.nn.PReLU" and len(leaf.shape) == 2
    ]
    if not wanted:
        return []
    lists: dict[Steps, list[str]] = defaultdict(list)
    for entry in state_dict:
        steps = steps_of_key(entry.key)
        numbered = len(steps) > 1 and steps[-1] == "weight" and steps[-2].isdigit()
        bias = f"{entry.key.removesuffix('weight')}bias"
        if numbered and len(entry.shape) == 1 and bias not in state_dict:
            lists[steps[:-2]].append(entry.key)
    pieces: list[Piece] = []
    for around, listed in lists.items():
        keys = by_number(listed)
        shape = next((shape for _, shape in wanted if _fit(keys, shape, state_dict)), None)
        if shape is not None:
            members = tuple(
                Take(key) if state_dict.shape(key) == shape[1:] else Broadcast(Take(key), shape[1:])
                for key in keys
            )
            steps = (*around, "activation", "negative_slope")
            pieces.append(Piece(steps, shape, members, shape[1:]))
    return pieces


def _fit(keys: Sequence[str], shape: Shape, state_dict: StateDict) -> bool:
    return len(keys) == shape[0] and all(state_dict.shape(key) in ((1,), shape[1:]) for key in keys)


def as_leaf_takes(leaf: Leaf, piece: Piece, state_dict: StateDict) -> Piece | None:
    """A piece as it is for that leaf; None if its layer has no use for it."""
    if piece.composite is None:
        return piece
    made = composed(leaf, piece.composite, state_dict)
    if made is None:
        return None
    return Piece(piece.steps, made.shape, (made.expr,), made.shape, piece.composite)
