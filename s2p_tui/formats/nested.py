"""Finding the state dict in whatever a training script saved around it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from s2p_tui.errors import AmbiguousStateDictError, Code, Hint, InputError

_NOT_WEIGHTS = ("optim", "sched", "scaler", "callback", "loops", "rng", "hyper")
_MAX_DEPTH = 8
_SAVE_ONE = "Save model.state_dict() with torch.save."
_LONGEST_NAME = 200
"""Of what a state dict is nested in; every place under it is named after it."""


def find_state_dict(
    value: Any, is_tensor: Callable[[Any], bool], key: str | None, label: str
) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """The state dict in a value: a mapping from names to tensors, at the top or nested.

    Args:
        value: What a file or a caller holds.
        is_tensor: Tells tensors from other values.
        key: Dotted place of the state dict, or None to look for it.
        label: What to call the value in messages.

    Returns:
        Its dotted place (empty at the top), its tensors, and the names of its other items.

    Raises:
        AmbiguousStateDictError: Several candidates and no `key`.
        InputError: No candidate, or nothing at `key`.
    """
    found = _by_place(_candidates(value, is_tensor))
    if key is not None:
        if key.strip(".") not in found:
            raise InputError(
                f"{label} has no state dict at {key!r}.",
                Hint(Code.CHOOSE_STATE_DICT, {"choices": _choices(found)}) if found else _SAVE_ONE,
            )
        key = key.strip(".")
    else:
        distinct = {id(state): place for place, state in reversed(found.items())}
        likely = {place: found[place] for place in reversed(distinct.values())}
        likely = {place: state for place, state in likely.items() if not _unlikely(place)}
        top = likely.get("")
        if top is not None and len(likely) > 1:
            counts = {place: len(_tensors(state, is_tensor)) for place, state in likely.items()}
            if counts[""] * 2 > len(top) and counts[""] == max(counts.values()):
                likely = {"": top}
        if not likely:
            raise InputError(
                f"{label} holds no state dict: no mapping from names to tensors was found.",
                _SAVE_ONE,
            )
        if len(likely) > 1:
            raise AmbiguousStateDictError(
                f"{label} holds several state dicts: {_choices(likely)}.",
                [(place, len(_tensors(state, is_tensor))) for place, state in likely.items()],
            )
        key = next(iter(likely))
    state = found[key]
    tensors = _tensors(state, is_tensor)
    return key, tensors, tuple(_shown(name) for name in state if name not in tensors)


def _by_place(
    candidates: Iterator[tuple[str, Mapping[Any, Any]]],
) -> dict[str, Mapping[Any, Any]]:
    """The candidates by place; those whose dotted places read alike are numbered."""
    found: dict[str, Mapping[Any, Any]] = {}
    counts: Counter[str] = Counter()
    for place, state in candidates:
        name = place
        while name in found:
            counts[place] += 1
            name = f"{place}#{counts[place] + 1}"
        found[name] = state
    return found


def _shown(name: Any) -> str:
    """A dictionary's key as text; anything but short text and small numbers by its type alone."""
    short = isinstance(name, int) and abs(name) < 2**63
    return str(name) if short or isinstance(name, str) else f"<{type(name).__name__}>"


def _tensors(state: Mapping[Any, Any], is_tensor: Callable[[Any], bool]) -> dict[str, Any]:
    return {k: v for k, v in state.items() if isinstance(k, str) and is_tensor(v)}


def _choices(found: Mapping[str, Mapping[Any, Any]]) -> str:
    shown = [f"{place or '.'} ({len(state)} items)" for place, state in list(found.items())[:20]]
    return ", ".join(shown) or "none"


def _unlikely(place: str) -> bool:
    return any(
        part.isdigit() or part.lower().startswith(_NOT_WEIGHTS) for part in place.split(".") if part
    )


def _candidates(
    value: Any, is_tensor: Callable[[Any], bool]
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    holds_tensors: dict[int, bool] = {}
    queue: deque[tuple[str, Any, int]] = deque([("", value, 0)])
    while queue:
        place, node, depth = queue.popleft()
        if not isinstance(node, Mapping) or depth > _MAX_DEPTH:
            continue
        items = cast("Mapping[Any, Any]", node)
        again = id(items) in holds_tensors
        if not again:
            holds_tensors[id(items)] = bool(_tensors(items, is_tensor))
        if holds_tensors[id(items)]:
            yield place, items
        if again:
            continue
        for name, child in items.items():
            shown = _shown(name)
            if len(shown) <= _LONGEST_NAME:
                queue.append((f"{place}.{shown}".removeprefix("."), child, depth + 1))
