"""Entries that no leaf takes although the model computes with the rest of what they belong to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from s2p_tui.core.state_dict import StateDict
from s2p_tui.core.suggestions import Suggestion
from s2p_tui.core.transform import keys_of
from s2p_tui.proposers.matcher.sequence import say_nothing
from s2p_tui.proposers.matcher.words import meanings, steps_of_key

Steps = tuple[str, ...]
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
    used = _feeding(suggestions)
    if say_nothing([steps_of_key(entry.key) for entry in state_dict], []):
        why = f"{lost[0]} is left over, and nothing shows what it belongs to" if lost else ""
        return {place: why for places in used.values() for place in places if why}
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
    for key, places in used.items():
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
        found.update(dict.fromkeys(places, why))
    return found


def _feeding(suggestions: Mapping[int, Suggestion]) -> dict[str, list[int]]:
    """The leaves that entries feed, by key."""
    found: dict[str, list[int]] = defaultdict(list)
    for place, suggestion in suggestions.items():
        for key in keys_of(suggestion.source) if suggestion.source is not None else ():
            found[key].append(place)
    return found


def _is_parameter(steps: Steps) -> bool:
    role = meanings(steps[-1:])[0][-1:]
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
    found: dict[Steps, str] = {}
    for key, steps in parameters.items():
        for level, step in enumerate(steps[:-1]):
            members = numbers.get(steps[:level], ()) if step.isdigit() else ()
            if not members or int(step) in members:
                continue
            before = max((n for n in members if n < int(step)), default=None)
            after = min((n for n in members if n > int(step)), default=None)
            if before is not None and after is not None:
                for number in (before, after):
                    found.setdefault((*steps[:level], str(number)), key)
    return found


def _first(steps: Steps, told: Mapping[Steps, str]) -> str | None:
    return next((told[steps[:n]] for n in range(1, len(steps)) if steps[:n] in told), None)
