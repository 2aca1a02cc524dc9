"""What can fill a leaf: an entry as it is, or several stacked, or a part of a fused one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from s2p_tui.core.composites import Composite
from s2p_tui.core.transform import Concat, Expr, Shape, Split, Stack, Take, keys_of, nodes_of
from s2p_tui.core.ways import Way, ways
from s2p_tui.proposers.matcher.words import FAINT, meanings, name_of

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
)
_MAY_ALTERNATE = frozenset(("wqkv", "query_key_value"))
"""Fused weights that some models keep head by head, so that a third is not one of the parts."""
_TOGETHER: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("qkv", ("query", "key", "value")),
    ("kv", ("key", "value")),
    ("gate_up", ("gate", "up")),
    ("gate", ("gate", "up")),
)


def parts_named(step: str) -> tuple[str, ...]:
    """What a module or tensor of that name is made of: query, key and value of `qkv`."""
    return next((parts for names, parts in _FUSED if step.lower() in names), ())


def may_alternate(expr: Expr) -> bool:
    """Whether a part is taken of a fused weight of which it does not show how it is laid out."""
    return any(
        isinstance(node, Split) and _MAY_ALTERNATE.intersection(key.split("."))
        for node in nodes_of(expr)
        for key in keys_of(node)
    )


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor that could fill a leaf.

    Attributes:
        steps: The steps of the name it goes by.
        shape: Its shape; several members are on a new first axis.
        members: The expressions it is put together from; one if it is an entry or a part of one.
        member: The shape of each of them.
        composite: What its entries make together; what a leaf takes of it depends on its layer.
    """

    steps: tuple[str, ...]
    shape: Shape
    members: tuple[Expr, ...]
    member: Shape
    composite: Composite | None = None

    def layouts(self, target: Shape) -> list[tuple[Expr, bool]]:
        """The expressions of the target's shape, the simplest first.

        With each: whether the output axis of the weight comes last in it.
        """
        count = len(self.members)
        if count == 1:
            return [
                (way.of(self.members[0], self.member), way.out_last)
                for way in ways(self.member, target)
            ]
        found: list[tuple[Expr, bool]] = []
        for axis, size in enumerate(target):
            rest = (*target[:axis], *target[axis + 1 :])
            if size == count:
                found += [
                    (Stack(self._each(way), axis), way.out_last) for way in ways(self.member, rest)
                ]
        for axis, size in enumerate(target if not found else ()):
            if size % count == 0:
                part = (*target[:axis], size // count, *target[axis + 1 :])
                found += [
                    (Concat(self._each(way), axis), way.out_last) for way in ways(self.member, part)
                ]
        return found

    def _each(self, way: Way) -> tuple[Expr, ...]:
        return tuple(way.of(expr, self.member) for expr in self.members)


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
    words = {word for steps, _ in targets for word in meanings(steps)[0]}
    fused = _fused_leaves(targets)
    result: list[Piece] = []
    for piece in pieces:
        parts = _parts_of(piece, words, fused, wanted)
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
    words: set[str],
    whole: set[tuple[tuple[str, ...], int]],
    wanted: Counter[int],
) -> list[Piece]:
    for place, step in enumerate(piece.steps):
        for fused, parts in _FUSED:
            if step.lower() not in fused or not piece.shape or (parts, prod(piece.shape)) in whole:
                continue
            if not all(meanings((part,))[0][0] in words for part in parts):
                continue
            axis = 1 if step == "c_attn" and len(piece.shape) == 2 else 0
            size, rest = divmod(piece.shape[axis], len(parts))
            shape = (*piece.shape[:axis], size, *piece.shape[axis + 1 :])
            if rest or not wanted[prod(shape)]:
                continue
            tail = piece.steps[place + 1 :] or (("bias",) if step.endswith("bias") else ("weight",))
            return [
                Piece(
                    (*piece.steps[:place], part, *tail),
                    shape,
                    (Split(piece.members[0], axis, n * size, (n + 1) * size),),
                    shape,
                )
                for n, part in enumerate(parts)
            ]
    return []


def _together(
    pieces: list[Piece], wanted: Counter[int], targets: Sequence[tuple[tuple[str, ...], Shape]]
) -> list[Piece]:
    words = {word for steps, _ in targets for word in meanings(steps)[0]}
    names = {step.lower() for steps, _ in targets for step in steps}
    for name, parts in _TOGETHER:
        if name not in words and not any(step.startswith(name) for step in names):
            continue
        if not _in_one(parts, targets, words):
            continue
        groups: dict[tuple[tuple[str, ...], ...], dict[str, Piece]] = defaultdict(dict)
        for piece in pieces:
            for place in range(len(piece.steps) - 1, -1, -1):
                found = meanings((piece.steps[place],))[0]
                word = next((w for w in found if w in parts), None)
                if word is not None:
                    rest = tuple(other for other in found if other not in (word, *FAINT))
                    groups[piece.steps[:place], rest, piece.steps[place + 1 :]][word] = piece
                    break
        gone: set[int] = set()
        made: dict[int, Piece] = {}
        for (head, rest, tail), group in groups.items():
            shapes = {piece.shape for piece in group.values()}
            if set(group) != set(parts) or len(shapes) != 1:
                continue
            (shape,) = shapes
            if not wanted[prod(shape) * len(parts)]:
                continue
            members = tuple(group[part].members[0] for part in parts)
            step = "_".join((name, *rest))
            fused = Piece((*head, step, *tail), (len(parts), *shape), members, shape)
            made[id(group[parts[0]])] = fused
            gone |= {id(piece) for piece in group.values()}
        pieces = [
            made.get(id(piece), piece)
            for piece in pieces
            if id(piece) not in gone or id(piece) in made
        ]
    return pieces


def _in_one(
    parts: tuple[str, ...], targets: Sequence[tuple[tuple[str, ...], Shape]], words: set[str]
) -> bool:
    """Whether the leaves have no name for one of the parts, or a name for several at once."""
    return not words.issuperset(parts) or any(
        {*parts} <= {*name_of(step).words} for steps, _ in targets for step in steps
    )
