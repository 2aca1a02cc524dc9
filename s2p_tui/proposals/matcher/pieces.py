"""Pieces that can fill a leaf: an entry, several stacked, or a part of a fused one; and which."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from functools import cache, lru_cache
from math import prod

from msgspec import Struct

from s2p_tui.alignment.composites import Composite
from s2p_tui.alignment.layer_rules import rule_applied, rule_for
from s2p_tui.alignment.layouts import Way, is_input_first, ways
from s2p_tui.alignment.skeleton import Skeleton
from s2p_tui.alignment.transform import (
    Concat,
    Expr,
    Permute,
    Shape,
    Split,
    Stack,
    Take,
    keys_of,
)
from s2p_tui.proposals.matcher.templates import words_of
from s2p_tui.proposals.matcher.tree import Node
from s2p_tui.proposals.matcher.words import FAINT, name_of, remembered

_MATRIX = 2
_PARTS = ("weight_g", "weight_v", "weight_u", "weight_orig", "bias_ih", "bias_hh", "in_proj_")
_OWN_PARTS = frozenset(("b_ih", "b_hh"))
_GRAPHS = frozenset(("gc", "gcn", "gcnconv", "gconv", "graph", "graphconv"))
"""Words of graph convolutions, of which some models keep the weight as (in, out)."""
_PARAMETERS = (("weight",), ("bias",), ("mean",), ("var",))
"""Meanings of the names of a layer's parameters and statistics."""
_FUSED: tuple[tuple[frozenset[str], tuple[str, ...]], ...] = (
    (
        frozenset(
            (
                *("qkv", "wqkv", "qkv_proj", "to_qkv", "query_key_value", "c_attn"),
                *("in_proj", "in_proj_weight", "in_proj_bias"),
            )
        ),
        ("query", "key", "value"),
    ),
    (frozenset(("kv", "wkv", "to_kv", "kv_proj")), ("key", "value")),
    (frozenset(("gate_up_proj", "gate_up")), ("gate_proj", "up_proj")),
    (frozenset(("up_gate_proj", "up_gate")), ("up_proj", "gate_proj")),
)
_MEANS, _SPREADS = "mu|mean|loc", "log_?var|log_?std|log_?sigma|std|sigma"
_TWO = tuple(
    re.compile(f"({first})_({second})")
    for first, second in (
        *((_MEANS, _SPREADS), (_SPREADS, _MEANS)),
        *(("scale", "shift"), ("shift", "scale"), ("key", "value")),
    )
)
"""Names of two layers in one, which are leaves of these names elsewhere."""
_WORD = re.compile(r"[./]")
_TOGETHER: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("qkv", ("query", "key", "value")),
    ("kv", ("key", "value")),
    ("gate_up", ("gate", "up")),
    ("gate", ("gate", "up")),
)


@remembered
def parts_named(step: str) -> tuple[str, ...]:
    """Return the parts of a module or tensor by its name: query, key and value of `qkv`."""
    step = step.lower()
    if found := next((parts for names, parts in _FUSED if step in names), ()):
        return found
    return _two(step)


def _two(step: str) -> tuple[str, ...]:
    """Return the two layers that a name says a layer is; of other names none."""
    if "_" not in step:
        return ()
    found = next((found for pattern in _TWO if (found := pattern.fullmatch(step.lower()))), None)
    return () if found is None else found.groups()


class Piece(Struct, frozen=True):
    """A tensor that could fill a leaf.

    Attributes:
        steps: The steps of the name it goes by.
        shape: Its shape; several members are on a new first axis.
        members: The expressions it is put together from; one if it is an entry or a part of one.
        member: The shape of each of them.
        composite: What its entries make together; what a leaf takes of it depends on its layer.
        otherwise: Of a part of a fused weight whose two axes are alike, what the part is if the
            input axis comes first; of the same shape as `member`.
    """

    steps: tuple[str, ...]
    shape: Shape
    members: tuple[Expr, ...]
    member: Shape
    composite: Composite | None = None
    otherwise: Expr | None = None

    @property
    def is_input_first(self) -> bool:
        """True if its name is of those whose weights mostly hold the input axis first."""
        return any(is_input_first(key) for expr in self.members for key in keys_of(expr))

    @property
    def may_be_input_first(self) -> bool:
        """True if it is called `w`, as Haiku's weights are, which hold the input axis first."""
        return any(_WORD.split(key)[-1] == "w" for expr in self.members for key in keys_of(expr))

    @property
    def is_bare(self) -> bool:
        """True if it is called as no layer of PyTorch's calls a weight: a user's own parameter.

        Also the matrix of a graph convolution, which is a layer of a user's own.
        """
        if self.composite is not None:
            return False
        keys = (_WORD.split(key) for expr in self.members for key in keys_of(expr))
        is_matrix = len(self.member) == _MATRIX
        return any("weight" not in k[-1] or (is_matrix and _is_of_graph(k[-2:-1])) for k in keys)

    def layouts(self, target: Shape) -> list[tuple[Expr, bool]]:
        """The expressions of the target's shape, the simplest first.

        With each: whether the output axis of the weight comes last in it.
        """
        count = len(self.members)
        if count == 1:
            found = ways(self.member, target)
            layouts = [(way.of(self.members[0], self.member), way.out_last) for way in found]
            if (other := self.otherwise) is not None:
                layouts += [(way.of(other, self.member), not way.out_last) for way in found]
            return layouts
        stacked: list[tuple[Expr, bool]] = []
        for axis, size in enumerate(target):
            rest = (*target[:axis], *target[axis + 1 :])
            if size == count:
                stacked += [
                    (Stack(self._each(way), axis), way.out_last) for way in ways(self.member, rest)
                ]
        for axis, size in enumerate(target if not stacked else ()):
            if size % count == 0:
                part = (*target[:axis], size // count, *target[axis + 1 :])
                stacked += [
                    (Concat(self._each(way), axis), way.out_last) for way in ways(self.member, part)
                ]
        return stacked

    def turns(self, target: Shape) -> frozenset[bool]:
        """Return True if the output axis comes last in the expressions of the target's shape."""
        if len(self.members) > 1:
            return frozenset(out_last for _, out_last in self.layouts(target))
        turns = _turns(self.member, target)
        return turns if self.otherwise is None else turns | {not turn for turn in turns}

    def _each(self, way: Way) -> tuple[Expr, ...]:
        return tuple(way.of(expr, self.member) for expr in self.members)


def _is_of_graph(module: Sequence[str]) -> bool:
    return bool(_GRAPHS.intersection(words_of(tuple(module))))


@lru_cache(maxsize=65536)
def _turns(member: Shape, target: Shape) -> frozenset[bool]:
    return frozenset(way.out_last for way in ways(member, target))


def entry_piece(key: str, steps: tuple[str, ...], shape: Shape) -> Piece:
    """An entry as it is."""
    return Piece(steps, shape, (Take(key),), shape)


def regrouped(
    pieces: Sequence[Piece], targets: Sequence[tuple[tuple[str, ...], Shape]]
) -> list[Piece]:
    """The pieces with fused ones parted and parts fused as the leaves want them.

    Args:
        pieces: One per entry.
        targets: Steps and shape of every leaf.
    """
    wanted = Counter(prod(shape) for _, shape in targets)
    result = _parted(list(pieces), wanted, targets)
    return _together(result, wanted, targets)


def _parted(
    pieces: list[Piece], wanted: Counter[int], targets: Sequence[tuple[tuple[str, ...], Shape]]
) -> list[Piece]:
    words: dict[str, set[Shape]] = defaultdict(set)
    for steps, shape in targets:
        wide = _wide(shape)
        for word in words_of(steps):
            words[word].add(wide)
    fused = _fused_leaves(targets)

    @cache
    def names() -> frozenset[tuple[str, ...]]:
        # Few checkpoints ask, and a tree may have 100,000.
        return frozenset(
            _telling(step) for step in {step for steps, _ in targets for step in steps}
        )

    result: list[Piece] = []
    for piece in pieces:
        parts = _parts_of(piece, words, names, fused, wanted)
        result.extend(parts or [piece])
    return result


def _fused_leaves(
    targets: Sequence[tuple[tuple[str, ...], Shape]],
) -> set[tuple[tuple[str, ...], int]]:
    """Of what parts, and of what size, leaves are that are fused themselves."""
    return {
        (parts, prod(shape))
        for steps, shape in targets
        for step in steps
        if (parts := parts_named(step))
    }


def _parts_of(
    piece: Piece,
    words: Mapping[str, set[Shape]],
    names: Callable[[], Collection[tuple[str, ...]]],
    whole: set[tuple[tuple[str, ...], int]],
    wanted: Counter[int],
) -> list[Piece]:
    for place, step in enumerate(piece.steps):
        parts = parts_named(step)
        if not parts or not piece.shape or (parts, prod(piece.shape)) in whole:
            continue
        roles = _roles(parts, words)
        if not roles or (_two(step) and not all(_telling(part) in names() for part in parts)):
            continue
        leaves = {shape for role in roles for shape in words[role]}
        axis = _fused_axis(piece, len(parts), leaves, wanted)
        tail = piece.steps[place + 1 :] or (("bias",) if step.endswith("bias") else ("weight",))
        if (sizes := _grouped_sizes(piece.shape, [words[role] for role in roles])) is not None:
            ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
            return [
                Piece(
                    (*piece.steps[:place], part, *tail),
                    shape := _with_size(piece.shape, 0, size),
                    (Split(piece.members[0], 0, end - size, end),),
                    shape,
                )
                for part, size, end in zip(parts, sizes, ends, strict=True)
            ]
        if axis is None:
            continue
        size = piece.shape[axis] // len(parts)
        shape = _with_size(piece.shape, axis, size)
        last = len(piece.shape) - 1
        alike = axis == last - 1 and piece.shape[axis] == piece.shape[last]
        swap = (*range(axis), last, axis)
        source = piece.members[0]
        return [
            Piece(
                (*piece.steps[:place], part, *tail),
                shape,
                (Split(source, axis, n * size, (n + 1) * size),),
                shape,
                otherwise=Permute(Split(source, last, n * size, (n + 1) * size), swap)
                if alike
                else None,
            )
            for n, part in enumerate(parts)
        ]
    return []


def _roles(parts: tuple[str, ...], words: Mapping[str, set[Shape]]) -> list[str]:
    """Return a word of each part that leaves have; none if some part has no leaf of its words."""
    roles: list[str] = []
    for part in parts:
        # That a gate is an MLP's, as `gate_proj` says, the name of its leaf may say or not.
        role = words_of((part,))[0]
        if role not in words:
            role, *more = _telling(part)
            if not words.keys() >= {role, *more}:
                return []
        roles.append(role)
    return roles


@remembered
def _telling(step: str) -> tuple[str, ...]:
    """The words of a name that say more than most do; all of them where none does."""
    words = words_of((step,))
    return tuple(word for word in words if word not in FAINT) or words


def _grouped_sizes(shape: Shape, leaves: Sequence[Collection[Shape]]) -> tuple[int, ...] | None:
    """The sizes of a query, key and value in one, if keys and values are of fewer heads.

    Args:
        shape: The shape of all of it, its parts along the first axis.
        leaves: The shapes, without 1-sized axes, of leaves of each part.
    """
    if len(leaves) != 3:
        return None
    sizes = [{leaf[0] for leaf in found if leaf[1:] == _wide(shape[1:])} for found in leaves]
    keys = sizes[1] & sizes[2]
    fitting = [(q, k, k) for q in sizes[0] for k in keys if q + 2 * k == shape[0] and k < q]
    return fitting[0] if len(fitting) == 1 else None


def _fused_axis(
    piece: Piece, count: int, leaves: Collection[Shape], wanted: Counter[int]
) -> int | None:
    """The axis along which a fused tensor holds so many parts; None if leaves take none such.

    The one whose parts are as the leaves are, or else as they are with the last two axes swapped.
    Parts of a matrix may take other layouts; of more axes, one is that of layers or experts.
    """
    axes = [axis for axis, size in enumerate(piece.shape) if size % count == 0]
    parts = {axis: _with_size(piece.shape, axis, piece.shape[axis] // count) for axis in axes}
    # The axis before the last is the output's where the input's is the last.
    axes.sort(key=lambda axis: (axis != max(0, len(piece.shape) - 2), axis))
    for axis in axes:
        if _wide(parts[axis]) in leaves:
            return axis
    for axis in axes:
        *head, first, last = (1, 1, *parts[axis])
        if _wide((*head, last, first)) in leaves:
            return axis
    if len(_wide(piece.shape)) > 2:
        return None
    return next((axis for axis in axes if wanted[prod(parts[axis])]), None)


def _with_size(shape: Shape, axis: int, size: int) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _wide(shape: Shape) -> Shape:
    return tuple(size for size in shape if size != 1)


def _together(
    pieces: list[Piece], wanted: Counter[int], targets: Sequence[tuple[tuple[str, ...], Shape]]
) -> list[Piece]:
    words = {word for steps, _ in targets for word in words_of(steps)}
    names = {step.lower() for steps, _ in targets for step in steps}
    for name, parts in _TOGETHER:
        if name not in words and not any(step.startswith(name) for step in names):
            continue
        if not _in_one(parts, targets, words):
            continue
        groups: dict[tuple[tuple[str, ...], ...], dict[str, Piece]] = defaultdict(dict)
        for piece in pieces:
            for place in range(len(piece.steps) - 1, -1, -1):
                if (found := _part_in(piece.steps[place], parts)) is not None:
                    word, rest = found
                    groups[piece.steps[:place], rest, piece.steps[place + 1 :]][word] = piece
                    break
        gone: set[int] = set()
        made: dict[int, Piece] = {}
        for (head, rest, tail), group in groups.items():
            if set(group) != set(parts):
                continue
            shapes = [group[part].shape for part in parts]
            if not wanted[sum(map(prod, shapes))]:
                continue
            members = tuple(group[part].members[0] for part in parts)
            steps = (*head, "_".join((name, *rest)), *tail)
            if len({*shapes}) == 1:
                fused = Piece(steps, (len(parts), *shapes[0]), members, shapes[0])
            elif shapes[0][:1] > shapes[1][:1] and len({*shapes[1:]}) == 1:
                # Several queries for each key and value.
                whole = (sum(shape[0] for shape in shapes), *shapes[0][1:])
                fused = Piece(steps, whole, (Concat(members, 0),), whole)
            else:
                continue
            made[id(group[parts[0]])] = fused
            gone |= {id(piece) for piece in group.values()}
        pieces = [
            made.get(id(piece), piece)
            for piece in pieces
            if id(piece) not in gone or id(piece) in made
        ]
    return pieces


@remembered
def _part_in(step: str, parts: tuple[str, ...]) -> tuple[str, tuple[str, ...]] | None:
    """Return the first of some words that is in a name, and its other words; None if none is."""
    found = words_of((step,))
    word = next((one for one in found if one in parts), None)
    if word is None:
        return None
    return word, tuple(other for other in found if other not in (word, *FAINT))


def _in_one(
    parts: tuple[str, ...], targets: Sequence[tuple[tuple[str, ...], Shape]], words: set[str]
) -> bool:
    """Return True if a part has no leaf of its own name, or shares one with others."""
    return not words.issuperset(parts) or any(
        {*parts} <= {*name_of(step).words} for steps, _ in targets for step in steps
    )


class Fits:
    """Tells if pieces can fill leaves: by their layers' rules, and by what entries hold.

    Args:
        skeleton: The leaves.
        pieces: The pieces.
        steps: Steps of the leaves that entries may feed, by index.
        useless: Steps of entries that hold no parameter.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        pieces: Sequence[Piece],
        steps: Mapping[int, tuple[str, ...]],
        useless: Collection[tuple[str, ...]],
    ) -> None:
        self._skeleton, self._pieces, self._steps = skeleton, pieces, steps
        self._useless = {n for n, piece in enumerate(pieces) if piece.steps in useless}

    def __call__(self, target: Node, source: Node) -> bool | None:
        """Return True if a source fills a target by its layer's rule; None without a rule."""
        leaf, piece = self._skeleton[target.item], self._pieces[source.item]
        member = piece.members[0]
        if rule_for(leaf) is None or len(piece.members) > 1:
            return None
        if piece.composite is not None and not isinstance(member, Take):
            return piece.shape == leaf.shape or None
        return rule_applied(leaf, member, piece.shape) is not None

    def turn(self, target: Node, source: Node) -> float:
        """Return 0 for a source of the very shape a layer keeps, 1 for it transposed, or else 2."""
        leaf, piece = self._skeleton[target.item], self._pieces[source.item]
        if leaf.owner != "equinox.nn.Linear" or not _is_weight_of_layer(piece):
            return 2
        if piece.shape == leaf.shape:
            return 0
        return 1 if piece.shape == leaf.shape[::-1] else 2

    def bars(self, target: Node, source: Node) -> bool:
        """Return True if an entry without a parameter would be a parameter of a layer."""
        if source.item not in self._useless:
            return False
        last = self._steps[target.item][-1]
        is_role = words_of((last,)) in _PARAMETERS
        return is_role and last != self._pieces[source.item].steps[-1]

    def kind_of_target(self, target: Node) -> Hashable:
        """Its shape and class; with a layer that has a rule of its own it is a kind of its own."""
        leaf = self._skeleton[target.item]
        is_linear = leaf.owner == "equinox.nn.Linear"
        last = self._steps[target.item][-1] if self._useless else ""
        rule = rule_for(leaf)
        if rule is None:
            return leaf.shape, is_linear, last
        # Those of Equinox's cells take composites, of which each leaf has another part.
        is_flax = (leaf.owner or "").startswith("flax.")
        kind = leaf.shape, leaf.owner, rule.role, id(leaf.config), last
        return kind if is_flax else target.item

    def kind_of_source(self, source: Node) -> Hashable:
        """The facts its layouts depend on."""
        piece = self._pieces[source.item]
        if piece.composite is not None or source.item in self._useless:
            return source.item
        kept = _is_weight_of_layer(piece), piece.is_input_first
        return piece.shape, piece.member, len(piece.members), piece.otherwise is None, *kept

    def turns(self, target: Node, source: Node) -> frozenset[bool]:
        """Return True if the output axis can come last in a leaf that takes the piece."""
        leaf, piece = self._skeleton[target.item], self._pieces[source.item]
        return piece.turns(leaf.shape)


def is_whole(piece: Piece) -> bool:
    """Return True if a piece is an entry as it is, under its own name."""
    member = piece.members[0]
    is_entry = len(piece.members) == 1 and isinstance(member, Take)
    return is_entry and piece.composite is None and not is_part(piece.steps)


def _is_weight_of_layer(piece: Piece) -> bool:
    """Return True for a matrix that a layer of PyTorch's may have, which is (out, in)."""
    is_named = piece.steps[-1:] == ("weight",) and len(piece.shape) == _MATRIX
    return is_named and is_whole(piece) and not piece.is_input_first


def is_part(steps: tuple[str, ...]) -> bool:
    """Return True if a tensor is one of several that a layer makes its weight from."""
    last = steps[-1]
    return "parametrizations" in steps or last.startswith(_PARTS) or last in _OWN_PARTS
