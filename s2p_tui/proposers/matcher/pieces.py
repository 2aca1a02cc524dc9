"""What can fill a leaf: an entry as it is, or several stacked, or a part of a fused one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from s2p_tui.core.composites import Composite
from s2p_tui.core.transform import Concat, Expr, Reshape, Shape, Split, Stack, Take
from s2p_tui.core.ways import Way, ways
from s2p_tui.proposers.matcher.words import FAINT, meanings

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
    ("gate_up", ("gate", "up")),
)


def parts_named(step: str) -> tuple[str, ...]:
    """What a module or tensor of that name is made of: query, key and value of `qkv`."""
    return next((parts for names, parts in _FUSED if step.lower() in names), ())


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
    names = {step.lower() for steps, _ in targets for step in steps}
    for name, parts in _TOGETHER:
        if name not in words and not any(step.startswith(name) for step in names):
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
        families = _families(pieces, level)
        wholes = _wholes(families, wanted)
        if not wholes:
            continue
        family_of = {id(piece): key for key in wholes for piece in families[key]}
        result: list[Piece] = []
        for piece in pieces:
            key = family_of.get(id(piece))
            if key is None:
                result.append(piece)
            elif families[key][0] is piece:
                result.append(wholes[key])
        pieces = result
    return pieces


_Key = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
"""The steps before a number, after it, and the first number if not all of the list are taken."""


def _families(pieces: Sequence[Piece], level: int) -> dict[_Key, list[Piece]]:
    """Pieces that differ by the number at a level alone, in order, runs of equal modules apart."""
    lists: dict[tuple[str, ...], dict[int, list[Piece]]] = defaultdict(lambda: defaultdict(list))
    for piece in pieces:
        if level < len(piece.steps) and piece.steps[level].isdigit():
            lists[piece.steps[:level]][int(piece.steps[level])].append(piece)
    families: dict[_Key, list[Piece]] = {}
    for head, modules in lists.items():
        shapes: dict[tuple[str, ...], set[Shape]] = defaultdict(set)
        for members in modules.values():
            for piece in members:
                shapes[piece.steps[level + 1 :]].add(piece.shape)
        alike = all(len(found) == 1 for found in shapes.values())
        runs = [sorted(modules)] if alike else _runs(modules, level)
        for run in runs:
            for number in run:
                for piece in modules[number]:
                    first = () if alike else (str(run[0]),)
                    families.setdefault((head, piece.steps[level + 1 :], first), []).append(piece)
    return families


def _runs(modules: Mapping[int, Sequence[Piece]], level: int) -> list[list[int]]:
    """Numbers of modules one after the other that hold the same."""
    runs: list[list[int]] = []
    before: set[tuple[tuple[str, ...], Shape]] | None = None
    for number in sorted(modules):
        holds = {(piece.steps[level + 1 :], piece.shape) for piece in modules[number]}
        if holds == before:
            runs[-1].append(number)
        else:
            runs.append([number])
        before = holds
    return runs


def _wholes(families: Mapping[_Key, Sequence[Piece]], wanted: Counter[int]) -> dict[_Key, Piece]:
    """The families to be taken as one: those of which the stacked sizes are wanted more."""
    outer = Counter(map(_template, families))
    by_module: dict[tuple[tuple[str, ...], tuple[str, ...]], list[_Key]] = defaultdict(list)
    for key, family in families.items():
        if len(family) > 1:
            by_module[key[0], key[2]].append(key)
    wholes: dict[_Key, Piece] = {}
    for keys in by_module.values():
        alone = together = 0
        for key in keys:
            count, size, repeats = (
                len(families[key]),
                prod(families[key][0].shape),
                outer[_template(key)],
            )
            alone += wanted[size] >= count or (repeats > 1 and wanted[size * repeats] >= count)
            together += wanted[size * count] > 0 or wanted[size * count * repeats] > 0
        if together <= alone:
            continue
        for key in keys:
            family = families[key]
            members = tuple(expr for piece in family for expr in piece.members)
            head, tail, first = key
            shape = (len(family), *family[0].shape)
            wholes[key] = Piece((*head, *first, *tail), shape, members, family[0].member)
    return wholes


def _template(key: _Key) -> _Key:
    head, tail, first = key
    return tuple("#" if step.isdigit() else step for step in head), tail, first
