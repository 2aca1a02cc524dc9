"""Lists of modules of which the checkpoint and the model have different numbers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from s2p_tui.core.pytree import Skeleton
from s2p_tui.core.state_dict import StateDict
from s2p_tui.core.suggestions import Suggestion
from s2p_tui.core.transform import Shape, keys_of
from s2p_tui.proposers.matcher.words import steps_of_key

Steps = tuple[str, ...]
_NUMBERED = re.compile(r"(.*?)\d+")
_TAKEN = "of {all} alike {name} in the checkpoint the model takes {used}, not {unused}"
_FILLED = "of {all} alike {name} in the model the checkpoint fills {used}, not {unused}"


@dataclass(slots=True)
class _Member:
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
        suggestions: By place.
        skeleton: The leaves.
        steps: Steps of the leaves that entries may feed, by place.
        state_dict: The entries.
        lost: Entries that no leaf takes, under no other name either.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for place, suggestion in suggestions.items():
        for key in keys_of(suggestion.source) if suggestion.source is not None else ():
            places[key].append(place)
    found: dict[int, str] = {}
    lost = {*lost}
    if lost:
        paths = {entry.key: steps_of_key(entry.key) for entry in state_dict}
        items = [(paths[e.key], e.shape, e.key in places) for e in state_dict]
        told = _short(_lists(items, {paths[key] for key in lost}), _TAKEN)
        for key, feeding in places.items() if told else ():
            if (why := _within(paths[key], told)) is not None:
                found.update(dict.fromkeys(feeding, why))
    filled = {p: p in suggestions and suggestions[p].source is not None for p in steps}
    empty = {steps[place] for place, is_filled in filled.items() if not is_filled}
    if empty:
        items = [(path, skeleton[place].shape, filled[place]) for place, path in steps.items()]
        told = _short(_lists(items, empty), _FILLED)
        for place, path in steps.items() if told else ():
            if (why := _within(path, told)) is not None:
                found.setdefault(place, why)
    return found


def _lists(items: Iterable[tuple[Steps, Shape, bool]], lost: set[Steps]) -> _Lists:
    """The lists that have a tensor in them that is not used."""
    concerned = {name for path in lost for _, name in _around(path)}
    lists: dict[Steps, dict[Steps, _Member]] = defaultdict(dict)
    for path, shape, used in items:
        for level, name in _around(path):
            if name in concerned:
                member = lists[name].setdefault(path[:level], _Member(path[:level]))
                member.form.add((path[level:], shape))
                member.used |= used
    return lists


def _around(path: Steps) -> Iterable[tuple[int, Steps]]:
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
