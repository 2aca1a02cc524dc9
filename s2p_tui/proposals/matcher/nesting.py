"""Lists within lists that the other side nests the other way round.

The `j`-th head of the `i`-th layer is `layers.i.heads.j` here and `heads[j].layers[i]` there: each
number belongs to the list that its name says, not to the list at its depth.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby, pairwise, permutations
from operator import itemgetter

from msgspec import Struct

from s2p_tui.alignment.transform import keys_of
from s2p_tui.proposals.matcher.pieces import Piece
from s2p_tui.proposals.matcher.templates import by_template, numbered_levels, template
from s2p_tui.proposals.matcher.words import Steps, name_of, remembered, steps_of_key

Names = tuple[str, ...]
Sizes = Mapping[Names, Sequence[int]]
# Lists of more levels have more orders than anybody compares, and no model has them.
_DEEPEST = 4
_PAIR = 2
"""Steps from a list to a layer's parameter: its number, and the parameter's name."""
_SAME, _ALIKE, _RELATED = 2.0, 1.0, 0.5
"""The likeness of two names of lists: the same, of the same words, with a word in common."""
_ANY_LIST = ("block",)
"""The meaning of `layers`, `blocks` and `stages`: one of them as well as another."""
_Numbers = list[tuple[str, int]]


class _Crossed(Struct, frozen=True):
    """Lists within lists of which the names agree better in another order.

    Attributes:
        mine: The lists of the leaves.
        theirs: The lists of the entries.
        named: The place among the entries' lists of that which each of the leaves' is called like.
        reason: Why this is a doubt.
    """

    mine: Names
    theirs: Names
    named: tuple[int, ...]
    reason: str


def as_nested(steps: Mapping[int, Steps], entries: Iterable[Steps]) -> dict[int, Steps]:
    """Return the steps of leaves with lists nested as the entries have them.

    Args:
        steps: Steps of leaves, by index.
        entries: Steps of the entries.
    """
    entries = [*entries]
    steps = _by_members(steps, entries)
    theirs = sizes_of(entries)
    orders = {
        names: order
        for names, sizes in (sizes_of(steps.values()).items() if theirs else ())
        if (order := _order(names, sizes, theirs)) is not None
    }
    if not orders:
        return dict(steps)
    return {
        index: path
        if (order := orders.get(_names(template(path)))) is None
        else _reordered(path, order)
        for index, path in steps.items()
    }


_Lists = dict[Steps, dict[str, set[int]]]
_Structs = dict[tuple[Steps, str], dict[str, set[int]]]


def _by_members(steps: Mapping[int, Steps], entries: Iterable[Steps]) -> Mapping[int, Steps]:
    """Return the steps of leaves with lists of modules as lists beside each other, or these so.

    Where entries have `linears.i` and `norms.i`, `blocks[i].linear` becomes `linear.i`.
    """
    lists, structs = _lists_and_structs(entries)
    mine, members = _lists_and_structs(steps.values())
    held = {around for around, _ in structs}
    apart = {
        one
        for one, children in members.items()
        if one[0] not in mine and one[0] not in held and _go_together(children, lists.get(one[0]))
    }
    counts = Counter(around for around, _ in structs)
    together = {
        around: name
        for (around, name), children in structs.items()
        if counts[around] == 1
        and around not in lists
        and all(other != around for other, _ in members)
        and _go_together(children, mine.get(around))
    }
    if not apart and not together:
        return steps
    found = dict(steps)
    for index, path in steps.items():
        if (place := _only_number(template(path))) is None:
            continue
        *around, name = path[:place]
        if len(path) == place + _PAIR + 1 and (tuple(around), name) in apart:
            found[index] = (*around, path[place + 1], path[place], path[-1])
        elif len(path) == place + _PAIR and tuple(around) in together:
            found[index] = (*around, together[tuple(around)], path[place], name, path[-1])
    return found


def _lists_and_structs(paths: Iterable[Steps]) -> tuple[_Lists, _Structs]:
    """Return lists of layers, and lists of modules of several layers; the numbers in each."""
    lists: _Lists = defaultdict(lambda: defaultdict(set))
    structs: _Structs = defaultdict(lambda: defaultdict(set))
    for pattern, alike in by_template(paths).items():
        if not (place := _only_number(pattern)):
            continue
        around, name = pattern[: place - 1], pattern[place - 1]
        numbers = {int(path[place]) for path in alike}
        if len(pattern) == place + _PAIR:
            lists[around][name] |= numbers
        elif len(pattern) == place + _PAIR + 1:
            structs[around, name][pattern[place + 1]] |= numbers
    return dict(lists), dict(structs)


def _only_number(pattern: Steps) -> int | None:
    """Return where the only number of a template is; None if there are several, or none."""
    levels = numbered_levels(pattern)
    return levels[0] if len(levels) == 1 and levels[0] > 0 else None


def _go_together(children: Mapping[str, set[int]], lists: Mapping[str, set[int]] | None) -> bool:
    """Return True if lists are those of the layers of modules: all told by a word but for one."""
    if lists is None or not 1 < len(children) == len(lists):
        return False
    numbers = [*children.values(), *lists.values()]
    if any(held != numbers[0] for held in numbers) or len(numbers[0]) < _PAIR:
        return False
    told = [[name for name in lists if _likeness(name, child)] for child in children]
    sure = [names[0] for names in told if len(names) == 1]
    return len({*sure}) == len(sure) >= len(lists) - 1 and max(map(len, told)) == 1


def sizes_of(paths: Iterable[Steps], *, named: bool = True) -> Sizes:
    """Return how many members lists within lists have at the most, by their names from outside.

    Args:
        paths: Steps of leaves or entries.
        named: Only of lists that all have a name.
    """
    held: dict[Names, list[set[int]]] = {}
    for pattern, alike in by_template(paths).items():
        names = _names(pattern) if named else tuple(name for name, *_ in _counted(pattern))
        if 1 < len(names) <= _DEEPEST:
            columns = held.setdefault(names, [set() for _ in names])
            for column, (_, level, number) in zip(columns, _counted(pattern), strict=True):
                if number is None:
                    column.update(int(path[level]) for path in alike)
                else:
                    column.add(number)
    return {names: tuple(map(len, columns)) for names, columns in held.items()}


def _order(names: Names, sizes: Sequence[int], others: Sizes) -> tuple[int, ...] | None:
    """Return the order in which the other side nests lists of these names; None if as here."""
    kept = tuple(range(len(names)))
    best: tuple[float, tuple[int, ...]] = (0.0, kept)
    for theirs, counts in others.items():
        if len(theirs) != len(names):
            continue
        for order in permutations(kept):
            likes = [_likeness(names[n], other) for n, other in zip(order, theirs, strict=True)]
            moved = [place for place in kept if order[place] != place]
            if moved and [sizes[n] for n in order] != list(counts):
                continue
            if moved and not _is_telling([(names[order[n]], theirs[n]) for n in moved]):
                continue
            if sum(likes) > best[0] or (sum(likes) == best[0] and order == kept):
                best = sum(likes), order
    return None if best[1] == kept else best[1]


def _is_telling(names: Sequence[tuple[str, str]]) -> bool:
    """Return True if pairs of lists are named alike, and not all of them as any list may be."""
    likes = [_likeness(*pair) for pair in names]
    told = any(name_of(name).words != _ANY_LIST for name, _ in names)
    return min(likes) >= (_ALIKE if told else _SAME)


@remembered
def _likeness(first: str, second: str) -> float:
    if first.lower().removesuffix("s") == second.lower().removesuffix("s"):
        return _SAME
    mine, theirs = name_of(first).words, name_of(second).words
    if mine == theirs:
        return _ALIKE
    return _RELATED if {*mine} & {*theirs} else 0.0


def _weakly_alike(first: str, second: str) -> float:
    """Return the likeness of two lists of which each may have any name for lists."""
    return min(_likeness(first, second), _ALIKE if name_of(first).words == _ANY_LIST else _SAME)


@remembered
def _levels(path: Steps) -> tuple[tuple[int, int], ...]:
    """The lists that a path leads through: where the steps of each begin and end."""
    found: list[tuple[int, int]] = []
    for level, step in enumerate(path):
        if step.isdigit():
            is_named = level > 0 and not name_of(path[level - 1]).numbers
            found.append((level - is_named, level + 1))
        elif name_of(step).numbers and level + 1 < len(path):
            found.append((level, level + 1))
    return tuple(found)


@remembered
def _names(pattern: Steps) -> Names:
    """The names of the lists that a template leads through; empty where one has none."""
    names = tuple(name for name, *_ in _counted(pattern))
    is_plain = len(names) == len(_levels(pattern))
    return names if is_plain and all(names) and len({*names}) == len(names) else ()


@remembered
def _counted(pattern: Steps) -> tuple[tuple[str, int, int | None], ...]:
    """The numbers in a template, outermost first: the name of what each counts, and where it is.

    Those of `layer0_head1`, and of a list of lists called `layers_heads`, have a part of it each;
    with them is the number, as it is in words, and None for one that is left open.
    """
    found: list[tuple[str, int, int | None]] = []
    one_list: set[int] = set()
    levels = _levels(pattern)
    for start, stop in levels:
        last = pattern[stop - 1]
        numbers = (None,) if last.isdigit() else name_of(last).numbers
        text = pattern[start].strip("0123456789")
        if numbers[0] is not None and pattern[start][-1].isdigit():
            # In `layer_norms_1.0` both words are of the first number.
            one_list.add(len(found))
        parts = [part for part in _apart(text) if part] if len(numbers) > 1 else [text]
        if len(parts) != len(numbers):
            parts = [text] * len(numbers)
        found += [(p.strip("_"), stop - 1, n) for p, n in zip(parts, numbers, strict=True)]
    runs = [list(run) for _, run in groupby(range(len(found)), key=lambda n: found[n][0] == "")]
    for before, run in pairwise(runs):
        words = found[before[-1]][0].split("_")
        is_open = before[-1] not in one_list and not found[run[0]][0]
        # `norm1_layers` is a list of layers, `q1_target` no list of targets.
        is_open = is_open and (found[before[-1]][2] is None or words[-1].endswith("s"))
        if is_open and len(words) == len(run) + 1:
            for n, word in zip((before[-1], *run), words, strict=True):
                found[n] = word, *found[n][1:]
    return tuple(found)


def _apart(text: str) -> list[str]:
    return "".join(" " if each.isdigit() else each for each in text).split(" ")


def _reordered(path: Steps, order: Sequence[int]) -> Steps:
    """Return a path with its lists in another order, what is between them in its place."""
    levels = _levels(path)
    lists = [path[start:stop] for start, stop in levels]
    ends = [0, *(stop for _, stop in levels)]
    found: list[str] = []
    for n, other in enumerate(order):
        found += [*path[ends[n] : levels[n][0]], *lists[other]]
    return (*found, *path[ends[-1] :])


def crosswise(
    pieces: Mapping[int, Piece], steps: Mapping[int, Steps], entries: Iterable[Steps]
) -> dict[int, str]:
    """Leaves of lists within lists that take what another list's number counts, and why.

    Args:
        pieces: What leaves take, by place.
        steps: Steps of the leaves, by place.
        entries: Steps of the entries.
    """
    sizes = sizes_of(steps.values(), named=False), sizes_of(entries, named=False)
    known: dict[tuple[Steps, Steps, tuple[int, ...]], _Crossed | None] = {}
    found: dict[_Crossed, dict[int, tuple[_Numbers, _Numbers]]] = defaultdict(dict)
    for n, piece in pieces.items():
        keys = [steps_of_key(key) for member in piece.members for key in keys_of(member)]
        patterns = [template(path) for path in keys]
        # Most names have one number, and those that differ by it alone are as many as there are.
        counts = {len(_counted(pattern)) for pattern in patterns}
        if len(counts) != 1 or min(counts) < 2:
            continue
        kept = tuple(range(min(counts)))
        if len(keys) > 1:
            numbers = map(_numbers, keys, patterns)
            columns = enumerate(zip(*numbers, strict=True))
            kept = tuple(n for n, column in columns if len({*column}) == 1)
        sides = template(steps[n]), patterns[0], kept
        if sides not in known:
            known[sides] = _crossed_lists(*sides, sizes)
        if (crossed := known[sides]) is not None:
            found[crossed][n] = _numbers(steps[n], sides[0]), _numbers(keys[0], patterns[0])
    return {
        n: crossed.reason
        for crossed, numbers in found.items()
        if not _goes_by_names(crossed, numbers.values())
        for n in numbers
    }


def _goes_by_names(crossed: _Crossed, numbers: Collection[tuple[_Numbers, _Numbers]]) -> bool:
    """Return True if the leaves take what the lists count that are called like theirs."""
    return all(
        len({theirs[place][1] - mine[level][1] for mine, theirs in numbers}) == 1
        for level, place in enumerate(crossed.named)
    )


def _numbers(path: Steps, pattern: Steps) -> _Numbers:
    """The numbers in a path, outermost first, each with the name of what it counts."""
    return [
        (name, int(path[level]) if number is None else number)
        for name, level, number in _counted(pattern)
    ]


def _crossed_lists(
    target: Steps, source: Steps, kept: tuple[int, ...], sizes: tuple[Sizes, Sizes]
) -> _Crossed | None:
    """Return lists whose numbers a leaf may take from other lists; None if from its own.

    Args:
        target: The template of the leaf.
        source: That of the entries.
        kept: The lists of the entries of which all have one number.
        sizes: How many members lists have, on both sides.
    """
    mine, theirs = (tuple(name for name, *_ in _counted(side)) for side in (target, source))
    if not mine or len(kept) != len(mine) or not any(theirs):
        return None
    if (other := _other_lists(mine, theirs, kept)) is None:
        return None
    if any(not name and not source[level].isdigit() for name, level, _ in _counted(source)):
        # Of two numbers in one name, as in `conv1_1`, the outer one is first.
        return None
    if not all(theirs) and not any(
        name_of(name).words != _ANY_LIST
        and _as_list(name, theirs[place]) > _as_list(name, theirs[here])
        for name, place, here in zip(mine, other, kept, strict=True)
    ):
        # Beside a list without a name, one that any list may be called as shows nothing.
        return None
    held, counts = sizes[0].get(mine), sizes[1].get(theirs)
    level = next(level for level, place in enumerate(other) if place != kept[level])
    # Where sizes leave no other list, names say nothing against it.
    if held and counts and held[level] == counts[kept[level]] != counts[other[level]]:
        return None
    taken, named = (
        theirs[place] or "a list without a name" for place in (kept[level], other[level])
    )
    return _Crossed(
        mine,
        theirs,
        other,
        f"the number of {mine[level]} is taken from {taken}, "
        f"and by its name may be that of {named}",
    )


@lru_cache(maxsize=1 << 12)
def _other_lists(mine: Names, theirs: Names, kept: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the lists whose names agree better with a leaf's than those it takes; None if none."""
    if len(theirs) > _DEEPEST:
        return None
    orders = permutations(range(len(theirs)), len(mine))
    best, order = max(((_agreement(mine, theirs, o), o) for o in orders), key=itemgetter(0))
    return order if best > _agreement(mine, theirs, kept) else None


def _agreement(mine: Names, theirs: Names, order: Sequence[int]) -> float:
    return sum(_as_list(name, theirs[n]) for name, n in zip(mine, order, strict=True))


def _as_list(name: str, other: str) -> float:
    """Return the likeness of two lists; one without a name is as any list may be."""
    if other:
        return _weakly_alike(name, other)
    return _RELATED if name_of(name).words == _ANY_LIST else 0.0
