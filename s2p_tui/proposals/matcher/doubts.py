"""Pairs that do not do as the others of their kind do: where an entry is missing, another may be
taken for it although the rest of the model says what belongs together.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import sub

from msgspec import Struct, field

from s2p_tui.alignment.evidence import Suggestion
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import Shape, keys_of
from s2p_tui.proposals.matcher.align import say_nothing
from s2p_tui.proposals.matcher.opposites import opposites
from s2p_tui.proposals.matcher.pieces import Piece
from s2p_tui.proposals.matcher.templates import Pairs, numbered_levels, open_numbers, words_of
from s2p_tui.proposals.matcher.words import Steps, remembered, steps_of_key

_NUMBER = re.compile(r"\d+")
# Shares of a kind's rows that make what they have in common a rule for the rest, and the fewest
# rows that do. With a majority of 0.4, 232 rows of the real pairs are doubtful, with 0.8 or with
# five rows 24 instead of 28 (`python -m tests.benchmarks.alignment`).
_MAJORITY = 0.5
_TOGETHER = 0.75
_FEW = 3
_LAYER = frozenset(("weight", "bias", "mean", "var"))
_OF_WEIGHTS = ("weight_", "bias_")
"""Beginnings of names for parts of a layer's weight, as `weight_g` and `weight_v` are."""


def inconsistent(
    pairs: Pairs, shapes: Mapping[int, tuple[Shape, Shape]]
) -> tuple[dict[int, str], set[int]]:
    """The pairs that others speak against, by their number, and what they say.

    Also those whose numbers are as far apart as those of most pairs of the same names.

    Args:
        pairs: The steps of a leaf and of what it takes.
        shapes: Their shapes.
    """
    numbered, other_number = _by_difference(pairs)
    found = _other_kind(pairs, _axes_of_weights(pairs, shapes)) | other_number
    return found | _other_module(pairs) | opposites(pairs), numbered


def _kind(steps: Steps) -> Steps:
    """The steps with all numbers but those of the tensor and its own module left open."""
    return (*map(open_numbers, steps[:-2]), *steps[-2:])


def _axes_of_weights(pairs: Pairs, shapes: Mapping[int, tuple[Shape, Shape]]) -> dict[int, int]:
    """The number of axes of the weight beside each pair; a norm's has one, a convolution's four."""
    axes = {
        source[:-1]: len(shapes[n][1]) for n, (_, source) in pairs.items() if source[-1] == "weight"
    }
    return {n: axes[source[:-1]] for n, (_, source) in pairs.items() if source[:-1] in axes}


def _other_kind(pairs: Pairs, axes: Mapping[int, int]) -> dict[int, str]:
    """Pairs of which the same tensors of other blocks are paired otherwise.

    Layers of another kind, as a convolution at a norm's place in a `Sequential`, say nothing; nor
    do any where what they speak for is a layer of another kind in this block.
    """
    modules: list[dict[Steps, int]] = []
    kinds: dict[int, tuple[Steps, Steps]] = {}
    for templates, places in pairs.by_template.items():
        if any(numbered_levels(steps[-2:]) for steps in templates):
            kinds |= {n: (_kind(pairs[n][0]), _kind(pairs[n][1])) for n in places}
        else:
            kinds |= dict.fromkeys(places, (_kind(templates[0]), _kind(templates[1])))
    found: dict[int, str] = {}
    for mine, theirs in ((0, 1), (1, 0)):
        votes: dict[Steps, Counter[Steps]] = defaultdict(Counter)
        layers: dict[tuple[Steps, Steps], set[int | None]] = defaultdict(set)
        for n, kind in kinds.items():
            votes[kind[mine]][kind[theirs]] += 1
            layers[kind[mine], kind[theirs]].add(axes.get(n))
        most_do: dict[Steps, Steps] = {}
        for kind, counts in votes.items():
            total = counts.total()
            if len(counts) > 1 and total >= _FEW:
                best, most = counts.most_common(1)[0]
                if most > _MAJORITY * total:
                    most_do[kind] = best
        if most_do and not modules:
            known = [(sides, axes[n]) for n, sides in pairs.items() if n in axes]
            modules = [{sides[side][:-1]: count for sides, count in known} for side in (0, 1)]
        for n, kind in kinds.items() if most_do else ():
            best = most_do.get(kind[mine], kind[theirs])
            if best == kind[theirs]:
                continue
            own, alike = axes.get(n), layers[kind[mine], best]
            is_other = None not in alike and own not in alike
            if best[:-2] == kind[theirs][:-2]:
                there = (*pairs[n][theirs][:-2], *best[-2:-1])
                is_other = is_other or modules[theirs].get(there, own) != own
            if own is None or not is_other:
                found[n] = f"elsewhere {_text(kind[mine])} goes with {_text(best)}"
    return found


def _by_difference(
    pairs: Pairs,
) -> tuple[set[int], dict[int, str]]:
    """Pairs whose numbers are as far apart as those of most pairs of the same names; the others."""
    apart: dict[tuple[Steps, Steps], dict[int, tuple[int, ...]]] = defaultdict(dict)
    for templates, places in pairs.by_template.items():
        levels = [
            tuple(level for level, step in enumerate(side[:-2]) if _numbers(step))
            for side in templates
        ]
        counts = [
            sum(len(_numbers(s[n])) for n in o) for s, o in zip(templates, levels, strict=True)
        ]
        if not counts[0] or counts[0] != counts[1]:
            continue
        members = apart[_kind(templates[0])[:-2], _kind(templates[1])[:-2]]
        for n in places:
            mine, theirs = (
                [number for level in at for number in _numbers(steps[level])]
                for steps, at in zip(pairs[n], levels, strict=True)
            )
            members[n] = tuple(map(sub, theirs, mine))
    agreeing: set[int] = set()
    others: dict[int, str] = {}
    for differences in apart.values():
        best, most = Counter(differences.values()).most_common(1)[0]
        if most > 1 and most > _MAJORITY * len(differences):
            for n, each in differences.items():
                if each == best:
                    agreeing.add(n)
                else:
                    usual, here = next(
                        both for both in zip(best, each, strict=True) if both[0] != both[1]
                    )
                    others[n] = (
                        f"in most rows like it the entry's number is {_shift(usual)} the leaf's, "
                        f"here it is {_shift(here)} it"
                    )
    return agreeing, others


def _shift(difference: int) -> str:
    if not difference:
        return "equal to"
    return f"{abs(difference)} {'above' if difference > 0 else 'below'}"


@remembered
def _numbers(step: str) -> tuple[int, ...]:
    return tuple(map(int, _NUMBER.findall(step)))


_Numbers = tuple[int, ...]
"""A module and those around it, outermost first, by number."""


def _other_module(pairs: Pairs) -> dict[int, str]:
    """Pairs of two modules that each have all else in common with another one."""
    layers: dict[tuple[Steps, Steps], list[int]] = defaultdict(list)
    for n, (target, source) in pairs.items():
        layers[target[:-1], source[:-1]].append(n)
    together: Counter[tuple[int, int]] = Counter()
    sizes: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
    around = _around(layer[0] for layer in layers), _around(layer[1] for layer in layers)
    held = [len(numbers) for numbers in layers.values()]
    for side, counts in zip(around, sizes, strict=True):
        for modules, count in zip(side, held, strict=True):
            for module in modules:
                counts[module] += count
    for targets, sources, count in zip(*around, held, strict=True):
        # One tensor is never enough in common: of deep trees most modules hold no more.
        both = [(module, size) for module in sources if (size := sizes[1][module]) > 1]
        for target in targets if both else ():
            mine = sizes[0][target]
            for source, theirs in both if mine > 1 else ():
                # All that is in the smaller one is too little of a much larger one.
                if 2 * mine >= _TOGETHER * (mine + theirs) <= 2 * theirs:
                    together[target, source] += count
    partners = _partners(together, sizes)
    if not partners[0]:
        return {}
    found: dict[int, str] = {}
    names = {
        module: layer[1][:level]
        for layer, modules in zip(layers, around[1], strict=True)
        for level, module in enumerate(modules, 1)
    }
    for layer, targets, sources in zip(layers, *around, strict=True):
        leaves = [
            [
                (level, other)
                for level, module in reversed(list(enumerate(modules, 1)))
                if (other := known.get(module)) is not None and other not in others
            ]
            for modules, others, known in (
                (targets, sources, partners[0]),
                (sources, targets, partners[1]),
            )
        ]
        if all(leaves):
            ((level, other), *_), _ = leaves
            why = f"the rest of {_text(layer[0][:level])} goes with {_text(names[other])}"
            found.update(dict.fromkeys(layers[layer], why))
    return found


def _partners(
    together: Counter[tuple[int, int]], sizes: tuple[Counter[int], Counter[int]]
) -> tuple[dict[int, int], dict[int, int]]:
    """Modules that have more in common with each other than with any other, and nearly all."""
    best: tuple[dict[int, tuple[float, int]], ...] = ({}, {})
    for pair, count in together.items():
        common = 2 * count / (sizes[0][pair[0]] + sizes[1][pair[1]])
        for mine, theirs in ((0, 1), (1, 0)):
            if common > best[mine].get(pair[mine], (0.0, 0))[0]:
                best[mine][pair[mine]] = common, pair[theirs]
    partners: tuple[dict[int, int], dict[int, int]] = ({}, {})
    for target, (common, source) in best[0].items():
        few = min(sizes[0][target], sizes[1][source])
        if _TOGETHER <= common < 1 and few >= _FEW and best[1][source][1] == target:
            partners[0][target] = source
            partners[1][source] = target
    return partners


def _around(layers: Iterable[Steps]) -> list[_Numbers]:
    """Return each layer's modules by number; as names, each would be read once more at each use."""
    numbers: dict[tuple[int, str], int] = {}
    found: list[_Numbers] = []
    for steps in layers:
        module, modules = 0, list[int]()
        for step in steps:
            module = numbers.setdefault((module, step), len(numbers) + 1)
            modules.append(module)
        found.append(tuple(modules))
    return found


def torn_apart(pairs: Pairs) -> dict[int, str]:
    """Weights and biases of one layer that come from different layers, or go to different ones.

    Args:
        pairs: The steps of a leaf and of what it takes.
    """
    found: dict[int, str] = {}
    of_layers: list[tuple[int, tuple[Steps, Steps], str]] = []
    for n, (target, source) in pairs.items():
        role = words_of(target[-1:])
        if len(role) == 1 and role[0] in _LAYER and role == words_of(source[-1:]):
            of_layers.append((n, (target[:-1], source[:-1]), role[0]))
        elif target[-1] == source[-1] and target[-1].startswith(_OF_WEIGHTS):
            of_layers.append((n, (target[:-1], source[:-1]), target[-1]))
    for mine, theirs in ((0, 1), (1, 0)):
        # Most layers go with one, which takes a look at each to know.
        first: dict[Steps, Steps] = {}
        torn = {
            s[mine] for _, s, _ in of_layers if first.setdefault(s[mine], s[theirs]) != s[theirs]
        }
        layers: dict[Steps, list[tuple[int, Steps, str]]] = defaultdict(list)
        for n, sides, role in of_layers if torn else ():
            if sides[mine] in torn:
                layers[sides[mine]].append((n, sides[theirs], role))
        for layer, parts in layers.items():
            if len({role for *_, role in parts}) < len(parts):
                continue
            (best, most), (_, next_most) = Counter(other for _, other, _ in parts).most_common(2)
            for n, other, _ in parts:
                if other != best or most == next_most:
                    found[n] = f"{_text(layer)} goes with more than one layer"
    return found


def _text(steps: Steps) -> str:
    return ".".join(steps)


def crossed(
    pairs: Mapping[int, tuple[Shape, Shape]],
    left: Iterable[Shape],
    steps: Mapping[int, tuple[str, ...]],
) -> dict[int, str]:
    """The pairs of unlike axes for which one of like axes is to be had, by number, and why.

    With each the rest of its layer.

    Args:
        pairs: The shapes of a leaf and of what it takes.
        left: The shapes of what no leaf takes.
        steps: The steps of the leaves.
    """
    unlike = {n: shapes for n, shapes in pairs.items() if _is_weight(shapes) and _unlike(*shapes)}
    if not unlike:
        return {}
    entries = {*left, *(entry for _, entry in unlike.values())}
    leaves = {leaf for leaf, _ in unlike.values()}
    found = {n for n, (leaf, entry) in unlike.items() if leaf in entries or entry in leaves}
    layers = {steps[n][:-1] for n in found} - {()}
    why = "another one has the very shape that is wanted here"
    return {n: why for n in pairs if n in found or steps[n][:-1] in layers}


def _is_weight(shapes: tuple[Shape, Shape]) -> bool:
    return sum(size != 1 for size in shapes[0]) > 1


def _unlike(leaf: Shape, entry: Shape) -> bool:
    return len(leaf) != len(entry) and _wide(leaf) == _wide(entry)


def _wide(shape: Shape) -> list[int]:
    return sorted(size for size in shape if size != 1)


_MATRIX = 2


def turned(found: Mapping[int, tuple[Leaf, Piece]], shapes: Iterable[Shape]) -> dict[int, str]:
    """The pairs of which the entry is turned although nothing shows that it has to be, and why.

    It has to be where one of them has no entry of its leaf's shape at all.

    Args:
        found: Leaves and what they take, by index.
        shapes: The shapes of all that leaves could take.
    """
    pairs = {index: pair for index, pair in found.items() if _is_turned(*pair)}
    if not pairs:
        return {}
    held = {*shapes}
    if any(leaf.shape not in held for leaf, _ in pairs.values()):
        return {}
    why = "this layer keeps PyTorch's layout, and entries of its shape are there"
    return {n: why for n, (_, piece) in pairs.items() if not piece.is_input_first}


def _is_turned(leaf: Leaf, piece: Piece) -> bool:
    return (
        (leaf.owner or "").startswith("equinox.nn.")
        and len(leaf.shape) == _MATRIX
        and piece.shape == leaf.shape[::-1] != leaf.shape
    )


_NUMBERED = re.compile(r"(.*?)\d+")
_TAKEN = "of {all} alike {name} in the checkpoint the model takes {used}, not {unused}"
_FILLED = "of {all} alike {name} in the model the checkpoint fills {used}, not {unused}"


class _Member(Struct):
    """A numbered module: what is in it, and of which tensors it is known whether they are used."""

    steps: Steps
    form: set[tuple[Steps, Shape]] = field(default_factory=set)
    used: bool = False


_Lists = Mapping[Steps, Mapping[Steps, _Member]]


def unequal(
    suggestions: Mapping[int, Suggestion],
    skeleton: Skeleton,
    steps: Mapping[int, Steps],
    state_dict: StateDict,
    lost: Iterable[str],
) -> dict[int, str]:
    """Leaves of lists of which one side has more members, and how many each has.

    A whole member is left over beside others with the same names and shapes in it: the model is
    then of another size, or another member is the one to leave out. Modules unlike all that are in
    use, such as auxiliary heads, are no such members.

    Args:
        suggestions: By index.
        skeleton: The leaves.
        steps: Steps of the leaves that entries may feed, by index.
        state_dict: The entries.
        lost: Entries that no leaf takes, under no other name either.
    """
    indices: dict[str, list[int]] = defaultdict(list)
    for index, suggestion in suggestions.items():
        for key in keys_of(suggestion.source) if suggestion.source is not None else ():
            indices[key].append(index)
    found: dict[int, str] = {}
    lost = {*lost}
    if lost:
        paths = {entry.key: steps_of_key(entry.key) for entry in state_dict}
        items = [(paths[e.key], e.shape, e.key in indices) for e in state_dict]
        told = _short(_lists(items, {paths[key] for key in lost}), _TAKEN)
        for key, feeding in indices.items() if told else ():
            if (why := _within(paths[key], told)) is not None:
                found.update(dict.fromkeys(feeding, why))
    filled = {p: p in suggestions and suggestions[p].source is not None for p in steps}
    empty = {steps[index] for index, is_filled in filled.items() if not is_filled}
    if empty:
        items = [(path, skeleton[index].shape, filled[index]) for index, path in steps.items()]
        told = _short(_lists(items, empty), _FILLED)
        for index, path in steps.items() if told else ():
            if (why := _within(path, told)) is not None:
                found.setdefault(index, why)
    return found


def _lists(items: Iterable[tuple[Steps, Shape, bool]], lost: set[Steps]) -> _Lists:
    """The lists that have a tensor in them that is not used."""
    concerned = {name for path in lost for _, name in _levels_around(path)}
    lists: dict[Steps, dict[Steps, _Member]] = defaultdict(dict)
    for path, shape, used in items:
        for level, name in _levels_around(path):
            if name in concerned:
                member = lists[name].setdefault(path[:level], _Member(path[:level]))
                member.form.add((path[level:], shape))
                member.used |= used
    return lists


def _levels_around(path: Steps) -> Iterable[tuple[int, Steps]]:
    """The lists that a tensor is in: how many steps lead to its member, and the list's name."""
    for level, step in enumerate(path, 1):
        if (stem := _NUMBERED.fullmatch(step)) is not None:
            yield level, (*path[: level - 1], f"{stem[1]}*")


def _short(lists: _Lists, words: str) -> dict[Steps, str]:
    """Members in use beside others like them that are not, and why that is strange."""
    found: dict[Steps, str] = {}
    for name, members in lists.items():
        kinds: dict[frozenset[tuple[Steps, Shape]], list[_Member]] = defaultdict(list)
        for member in members.values():
            kinds[frozenset(member.form)].append(member)
        for kind in kinds.values():
            unused = [member for member in kind if not member.used]
            if not unused or len(unused) == len(kind):
                continue
            more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
            why = words.format(
                all=len(kind),
                name=".".join(name),
                used=len(kind) - len(unused),
                unused=".".join(unused[0].steps) + more,
            )
            found.update({member.steps: why for member in kind})
    return found


def _within(path: Steps, told: Mapping[Steps, str]) -> str | None:
    return next((told[path[:n]] for n in range(1, len(path) + 1) if path[:n] in told), None)


_PARAMETERS = ("weight", "bias")


def lost_entries(
    state_dict: StateDict, suggestions: Mapping[int, Suggestion], left_over: Mapping[str, str]
) -> list[str]:
    """Entries that no leaf takes, under no other name either."""
    storages = {state_dict[key].storage for key in _feeding(suggestions)} - {None}
    return [key for key in left_over if state_dict[key].storage not in storages]


def losses(
    state_dict: StateDict, suggestions: Mapping[int, Suggestion], lost: Sequence[str]
) -> dict[int, str]:
    """Leaves of modules of which a parameter would be lost, and which.

    A weight or bias beside others of its layer; a layer in a block of which other layers are in
    use; a layer between two others of a list. Heads and other modules at the ends are no such
    loss. Where names say nothing an entry that is lost may belong to any module.
    """
    if not lost:
        return {}
    used = _feeding(suggestions)
    if say_nothing([steps_of_key(entry.key) for entry in state_dict], []):
        why = f"{lost[0]} is left over, and nothing shows what it belongs to"
        return {index: why for indices in used.values() for index in indices}
    parameters = {key: steps for key in lost if _is_parameter(steps := steps_of_key(key))}
    found: dict[int, str] = {}
    modules: dict[Steps, str] = {}
    blocks: dict[Steps, str] = {}
    for key, steps in parameters.items():
        modules.setdefault(steps[:-1], key)
        block = _block_of(steps[:-2])
        if block is not None and steps[-1].startswith("weight"):
            blocks.setdefault(block, key)
    between = _between(parameters, [steps_of_key(key) for key in used])
    for key, indices in used.items():
        steps = steps_of_key(key)
        block = _block_of(steps[:-1])
        if (same := modules.get(steps[:-1])) is not None:
            why = f"{same} of the same layer would be lost"
        elif block is not None and block in blocks:
            why = f"{blocks[block]} of the same block would be lost"
        elif (other := _first(steps, between)) is not None:
            why = f"{other} beside it in its list would be lost"
        else:
            continue
        found.update(dict.fromkeys(indices, why))
    return found


def _feeding(suggestions: Mapping[int, Suggestion]) -> dict[str, list[int]]:
    """The leaves that entries feed, by key."""
    found: dict[str, list[int]] = defaultdict(list)
    for index, suggestion in suggestions.items():
        for key in keys_of(suggestion.source) if suggestion.source is not None else ():
            found[key].append(index)
    return found


def _is_parameter(steps: Steps) -> bool:
    role = words_of(steps[-1:])[-1:]
    return role in (("weight",), ("bias",)) or steps[-1].startswith(_PARAMETERS)


def _block_of(module: Steps) -> Steps | None:
    """The innermost member of a list that a module is, or is in."""
    level = next((n for n in range(len(module), 0, -1) if module[n - 1].isdigit()), None)
    return None if level is None else module[:level]


def _between(parameters: Mapping[str, Steps], used: Sequence[Steps]) -> dict[Steps, str]:
    """Members of lists in use that a lost one lies between, and which that is."""
    numbers: dict[Steps, set[int]] = defaultdict(set)
    for steps in used:
        for level, step in enumerate(steps[:-1]):
            if step.isdigit():
                numbers[steps[:level]].add(int(step))
    ordered = {around: sorted(members) for around, members in numbers.items()}
    found: dict[Steps, str] = {}
    for key, steps in parameters.items():
        for level, step in enumerate(steps[:-1]):
            members = ordered.get(steps[:level], []) if step.isdigit() else []
            if not members or int(step) in numbers[steps[:level]]:
                continue
            after = bisect(members, int(step))
            if 0 < after < len(members):
                for number in members[after - 1 : after + 1]:
                    found.setdefault((*steps[:level], str(number)), key)
    return found


def _first(steps: Steps, told: Mapping[Steps, str]) -> str | None:
    return next((told[steps[:n]] for n in range(1, len(steps)) if steps[:n] in told), None)
