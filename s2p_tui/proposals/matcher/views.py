"""Entries as the leaves want them: families stacked, stacked ones apart, fused ones parted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from math import prod

from s2p_tui.alignment.transform import Reshape, Shape, Split
from s2p_tui.proposals.matcher.pieces import Piece, regrouped
from s2p_tui.proposals.matcher.templates import numbered_levels, template
from s2p_tui.proposals.matcher.words import name_of, remembered


def with_views(
    pieces: Sequence[Piece], targets: Sequence[tuple[tuple[str, ...], Shape]]
) -> list[Piece]:
    """The pieces with families stacked, fused ones parted and parts fused as the leaves want them.

    Args:
        pieces: One per entry.
        targets: Steps and shape of every leaf.
    """
    wanted = Counter(prod(shape) for _, shape in targets)
    listed = frozenset(name for steps, _ in targets for name in _lists_around(template(steps)))
    return _stacked(_unstacked(regrouped(pieces, targets), wanted), wanted, listed)


@remembered
def _lists_around(steps: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """The words of the names of all lists that a template leads through, outermost first."""
    levels = numbered_levels(steps)
    return tuple(name_of(steps[level - 1]).words for level in levels if level)


def _unstacked(pieces: list[Piece], wanted: Counter[int]) -> list[Piece]:
    """Tensors stacked on their first axis, one by one, where the leaves come one by one."""
    heads: dict[tuple[int, tuple[str, ...]], list[tuple[str, ...]]] = defaultdict(list)
    counts: dict[int, int] = {}
    for piece in pieces:
        count = piece.shape[0] if len(piece.shape) >= 2 and len(piece.members) == 1 else 0
        whole = prod(piece.shape)
        if count >= 2 and not wanted[whole] and wanted[whole // count] >= count:
            counts[id(piece)] = count
            heads[count, _numbered(piece.steps)].append(piece.steps[:-1])
    levels = {around: _shared(paths) for around, paths in heads.items()}
    result: list[Piece] = []
    for piece in pieces:
        if (count := counts.get(id(piece), 0)) == 0:
            result.append(piece)
            continue
        level = levels[count, _numbered(piece.steps)]
        shape = piece.shape[1:]
        result += [
            Piece(
                (*piece.steps[:level], str(n), *piece.steps[level:]),
                shape,
                (Reshape(Split(piece.members[0], 0, n, n + 1), shape),),
                shape,
            )
            for n in range(count)
        ]
    return result


def _numbered(steps: tuple[str, ...]) -> tuple[str, ...]:
    """The steps down to the last number."""
    return steps[: max(numbered_levels(template(steps)), default=-1) + 1]


def _shared(paths: Sequence[tuple[str, ...]]) -> int:
    """Return the number of leading steps that all paths share."""
    first, last = min(paths), max(paths)
    ends = min(len(first), len(last))
    return next((n for n in range(ends) if first[n] != last[n]), ends)


def _stacked(
    pieces: list[Piece], wanted: Counter[int], listed: frozenset[tuple[str, ...]]
) -> list[Piece]:
    """Families of equal modules as one, where the leaves hold them stacked."""
    depth = max((len(piece.steps) for piece in pieces), default=0)
    for level in range(depth - 1, -1, -1):
        families = _families(pieces, level)
        wholes = _wholes(families, wanted, listed)
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


def _wholes(
    families: Mapping[_Key, Sequence[Piece]],
    wanted: Counter[int],
    listed: frozenset[tuple[str, ...]],
) -> dict[_Key, Piece]:
    """The families to be taken as one: those of which the stacked sizes are wanted more."""
    outer = Counter(map(_template, families))
    singles, stacks = Counter[int](), Counter[int]()
    for family in families.values():
        singles[prod(family[0].shape)] += len(family)
        stacks[prod(family[0].shape) * len(family)] += 1
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
            # Others of the size may be few beside those that are stacked, as a shared expert is.
            are_few = wanted[size] < singles[size] and wanted[size * count] >= stacks[size * count]
            is_alone = wanted[size] >= count and not are_few
            # With as many members either list may be the stacked one: not one that leaves have.
            lists = _lists_around(template((*key[0], "0")))
            is_own = repeats == count and listed.issuperset(lists[:-1])
            is_own = is_own and listed.isdisjoint(lists[-1:])
            alone += is_alone or (repeats > 1 and wanted[size * repeats] >= count and not is_own)
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
    return template(head), tail, first
