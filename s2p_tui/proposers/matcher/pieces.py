"""What can fill a leaf: an entry as it is, or several stacked, or a part of a fused one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from s2p_tui.core.composites import Composite
from s2p_tui.core.transform import Concat, Expr, Reshape, Shape, Split, Stack, Take
from s2p_tui.core.ways import Way, ways
from s2p_tui.proposers.matcher.words import meanings

_FUSED: tuple[tuple[frozenset[str], tuple[str, ...]], ...] = (
    (
        frozenset(
            ("qkv", "wqkv", "in_proj", "in_proj_weight", "in_proj_bias", "c_attn", "qkv_proj")
        ),
        ("query", "key", "value"),
    ),
    (frozenset(("kv", "wkv", "to_kv", "kv_proj")), ("key", "value")),
    (frozenset(("gate_up_proj", "gate_up")), ("gate_proj", "up_proj")),
)
_TOGETHER: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("qkv", ("query", "key", "value")),
    ("kv", ("key", "value")),
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


def with_views(
    pieces: Sequence[Piece], targets: Sequence[tuple[tuple[str, ...], Shape]]
) -> list[Piece]:
    """The pieces with families stacked, fused ones parted and parts fused as the leaves want them.

    Args:
        pieces: One per entry.
        targets: Steps and shape of every leaf.
    """
    wanted = Counter(prod(shape) for _, shape in targets)
    result = _parted(list(pieces), wanted, targets)
    result = _together(result, wanted, targets)
    return _stacked(_unstacked(result, wanted), wanted)


def _parted(
    pieces: list[Piece], wanted: Counter[int], targets: Sequence[tuple[tuple[str, ...], Shape]]
) -> list[Piece]:
    words = {word for steps, _ in targets for word in meanings(steps)[0]}
    names = {step.lower() for steps, _ in targets for step in steps}
    result: list[Piece] = []
    for piece in pieces:
        parts = _parts_of(piece, words, names, wanted)
        result.extend(parts or [piece])
    return result


def _parts_of(piece: Piece, words: set[str], names: set[str], wanted: Counter[int]) -> list[Piece]:
    for place, step in enumerate(piece.steps):
        for fused, parts in _FUSED:
            if step.lower() not in fused or not piece.shape or step.lower() in names:
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
    for name, parts in _TOGETHER:
        if name not in words:
            continue
        groups: dict[tuple[tuple[str, ...], ...], dict[str, Piece]] = defaultdict(dict)
        for piece in pieces:
            for place in range(len(piece.steps) - 1, -1, -1):
                found = meanings((piece.steps[place],))[0]
                word = next((w for w in found if w in parts), None)
                if word is not None:
                    rest = tuple(other for other in found if other != word)
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


def _unstacked(pieces: list[Piece], wanted: Counter[int]) -> list[Piece]:
    """Tensors stacked on their first axis, one by one, where the leaves come one by one."""
    result: list[Piece] = []
    for piece in pieces:
        count = piece.shape[0] if len(piece.shape) >= 2 and len(piece.members) == 1 else 0
        whole = prod(piece.shape)
        if count < 2 or wanted[whole] or wanted[whole // count] < count:
            result.append(piece)
            continue
        shape = piece.shape[1:]
        result += [
            Piece(
                (*piece.steps[:-1], str(n), piece.steps[-1]),
                shape,
                (Reshape(Split(piece.members[0], 0, n, n + 1), shape),),
                shape,
            )
            for n in range(count)
        ]
    return result


def _stacked(pieces: list[Piece], wanted: Counter[int]) -> list[Piece]:
    """Families of equal modules as one, where the leaves hold them stacked."""
    depth = max((len(piece.steps) for piece in pieces), default=0)
    for level in range(depth - 1, -1, -1):
        families: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Piece]] = defaultdict(list)
        for piece in pieces:
            if level < len(piece.steps) and piece.steps[level].isdigit():
                families[piece.steps[:level], piece.steps[level + 1 :]].append(piece)
        wholes = _wholes(families, wanted, level)
        if not wholes:
            continue
        result: list[Piece] = []
        for piece in pieces:
            key = (piece.steps[:level], piece.steps[level + 1 :])
            if not (level < len(piece.steps) and piece.steps[level].isdigit() and key in wholes):
                result.append(piece)
            elif families[key][0] is piece:
                result.append(wholes[key])
        pieces = result
    return pieces


_Key = tuple[tuple[str, ...], tuple[str, ...]]


def _wholes(
    families: dict[_Key, list[Piece]], wanted: Counter[int], level: int
) -> dict[_Key, Piece]:
    """The families to be taken as one: those of which the stacked sizes are wanted more."""
    outer = Counter(
        (tuple("#" if step.isdigit() else step for step in key[0]), key[1]) for key in families
    )
    by_module: dict[tuple[str, ...], list[_Key]] = defaultdict(list)
    for key in families:
        by_module[key[0]].append(key)
    wholes: dict[_Key, Piece] = {}
    for keys in by_module.values():
        alone = together = total = 0
        for key in keys:
            family = families[key]
            count, size = len(family), prod(family[0].shape)
            if count < 2 or len({piece.shape for piece in family}) > 1:
                continue
            repeats = outer[tuple("#" if step.isdigit() else step for step in key[0]), key[1]]
            total += 1
            alone += wanted[size] >= count or (repeats > 1 and wanted[size * repeats] >= count)
            together += wanted[size * count] > 0 or wanted[size * count * repeats] > 0
        if not total or together <= alone:
            continue
        for key in keys:
            family = sorted(families[key], key=lambda piece: int(piece.steps[level]))
            count = len(family)
            if count < 2 or len({piece.shape for piece in family}) > 1:
                continue
            members = tuple(expr for piece in family for expr in piece.members)
            wholes[key] = Piece(
                (*key[0], *key[1]), (count, *family[0].shape), members, family[0].member
            )
    return wholes
