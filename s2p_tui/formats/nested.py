"""The state dict in whatever a training script saved around it, and copies of a model in it.

Copies are moving averages, target networks, teachers: which is meant is the user's choice.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple, cast

from msgspec import Struct, field

from s2p_tui.errors import AmbiguousStateDictError, Code, Hint, InputError, NoStateDictError, some

_BOOKKEEPING = frozenset(
    (
        *("optimizer", "optimizers", "optimiser", "optimisers", "optim", "optims"),
        *("scheduler", "schedulers", "sched", "scaler", "amp", "callback", "callbacks", "loops"),
        *("rng", "hparams", "hyperparameters", "criterion", "loss", "losses", "metric", "metrics"),
    )
)
"""Last words of names under which no model lies: `lr_scheduler`, but not `schedule_embed`."""
_OPTIMIZERS = frozenset(("optimizer", "optimizers", "optimiser", "optimisers"))
_QUALIFIERS = frozenset(
    ("state", "states", "dict", "dicts", "all", "fn", "g", "d", "gen", "dis", "disc", "a", "b")
)
_SETTINGS = frozenset(("parameters", "params", "param", "parameter"))
_SLOTS = frozenset(
    (
        *("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg"),
        *("grad_avg", "acc_delta", "sum", "prev", "step_size", "eta", "mu", "mu_product", "ax"),
        *("exp_inf", "exp_avg_sq_row", "exp_avg_sq_col", "momentum", "variance"),
    )
)
"""Names that optimizers hold for each parameter."""
_CONTAINERS = frozenset(
    (
        *("model", "state_dict", "model_state_dict", "model_state", "module", "net", "network"),
        *("weights", "model_weights", "params", "parameters", "net_state_dict", "network_state"),
    )
)
"""Names under which training scripts save the model."""
_PARAMETERS = frozenset(("weight", "bias", "kernel", "running_mean", "running_var"))
_MAX_DEPTH = 10
_LONGEST_NAME = 200
"""Of what a state dict is nested in; every place under it is named after it."""
_LONGEST_LIST = 1 << 17
"""Items: what is longer is data, not a list of models."""
_MOST_ITEMS, _MOST_LETTERS = 1 << 22, 1 << 26
"""Looked through in all: what lies deepest is looked at last, and pickles can share without end."""
_PER_CHILD = 8
"""A child to be looked into takes more time and memory than a number or a string."""
_LEAVES = frozenset((str, int, float, bool, bytes, type(None)))
_SHOWN = 20
_MOST_PARTS = 200
_LEAST_ALIKE = 3
"""Tensors: two embeddings of one shape are not two models."""
_DOMINANT = 10
ALL = "."
"""The key of everything in a checkpoint, each part's names behind its place."""


class Found(NamedTuple):
    """The state dict in a value.

    Attributes:
        place: Its dotted place; empty at the top.
        tensors: Its tensors by name.
        others: Names of its items that are not tensors.
        notes: What else there is that was not taken.
    """

    place: str
    tensors: dict[str, Any]
    others: tuple[str, ...]
    notes: tuple[str, ...] = ()


def inside_plain(value: Any) -> Mapping[Any, Any] | None:
    """The items of a mapping, list or tuple by name or number; None for anything else."""
    if isinstance(value, Mapping):
        return cast("Mapping[Any, Any]", value)
    if isinstance(value, list | tuple) and len(cast("Sequence[Any]", value)) <= _LONGEST_LIST:
        return dict(enumerate(cast("Sequence[Any]", value)))
    return None


def find_state_dict(
    value: Any,
    is_tensor: Callable[[Any], bool],
    key: str | None,
    label: str,
    inside: Callable[[Any], Mapping[Any, Any] | None] = inside_plain,
    *,
    is_chosen: bool = False,
) -> Found:
    """The state dict in a value: a mapping from names to tensors, at the top or nested.

    Args:
        value: What a file or a caller holds.
        is_tensor: Tells tensors, which have a `shape`, from other values.
        key: Dotted place of the state dict, or what the wanted names in one begin with; `.` for
            everything together; None to look for it.
        label: What to call the value in messages.
        inside: The items of a value by name, None if it holds none.
        is_chosen: True if the caller chose this very state dict, so that copies within it, such as
            an online and a target network, are both wanted.

    Raises:
        AmbiguousStateDictError: Several candidates and no `key`.
        InputError: No candidate, or nothing at `key`.
    """
    nameless: list[_Nameless] = []
    groups = _by_place(_groups(value, is_tensor, inside, nameless))
    if key is not None:
        return _at(groups, key, label, nameless)
    return _best(groups, label, nameless, is_chosen=is_chosen)


class _Group(Struct, frozen=True, eq=False):
    """A mapping that holds tensors under names."""

    items: Mapping[Any, Any]
    tensors: dict[str, Any]
    is_likely: bool
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])

    def weights(self) -> int:
        """The number of tensors that may be weights: no single numbers, no generator's bytes."""
        return sum(
            prod(shape) != 1 and not (len(shape) == 1 and _is_of_bytes(self.tensors[name]))
            for name, shape in self.sizes().items()
        )

    def others(self) -> tuple[str, ...]:
        if len(self.tensors) == len(self.items):
            return ()
        return tuple(_shown(name) for name in self.items if name not in self.tensors)

    def has_parameters(self) -> bool:
        return any("." in name or name in _PARAMETERS for name in self.tensors)

    def sizes(self) -> dict[str, tuple[int, ...]]:
        if not self.shapes:
            self.shapes.update((name, shape_of(tensor)) for name, tensor in self.tensors.items())
        return self.shapes


class _Nameless(NamedTuple):
    """A list of tensors, which have no names."""

    place: str
    length: int


def _at(groups: Mapping[str, _Group], key: str, label: str, nameless: list[_Nameless]) -> Found:
    place = key.strip(".")
    is_all = key.strip() in (ALL, "")
    if place in groups and key != ALL:
        return _taken(place, groups)
    below = {
        at: group for at, group in groups.items() if not place or f"{at}.".startswith(f"{place}.")
    }
    if below:
        likely = _distinct({at: group for at, group in below.items() if group.is_likely})
        together = likely or _distinct(below)
        if is_all and len(together) == 1 and "" in together:
            return _taken("", groups)
        return _together(ALL if is_all else place, len(place), together)
    for at in sorted(groups, key=len, reverse=True):
        prefix = place[len(at) :].removeprefix(".") + "."
        if not f"{place}.".startswith(f"{at}." if at else ""):
            continue
        under = {name: t for name, t in groups[at].tensors.items() if name.startswith(prefix)}
        if under:
            tensors = {name.removeprefix(prefix): tensor for name, tensor in under.items()}
            rest = len(groups[at].tensors) - len(under)
            notes = (f"{rest} tensors whose names do not begin with {prefix} are left out",)
            return Found(place, tensors, (), notes if rest else ())
    listed = next((item for item in nameless if item.place == place), None)
    if listed is not None:
        raise InputError(f"{label}: {_explained(listed)}.", _NAMELESS)
    raise InputError(
        f"{label} has no state dict at {key!r}.",
        Hint(Code.CHOOSE_STATE_DICT, {"choices": _choices(groups)}),
    )


def _taken(place: str, groups: Mapping[str, _Group], notes: Sequence[str] = ()) -> Found:
    """A group with what lies in groups under it, unless its own tensors are most."""
    group = groups[place]
    inside = {at: o for at, o in groups.items() if not place or at.startswith(f"{place}.")}
    below = _distinct(
        {at: o for at, o in inside.items() if o.is_likely and o.items is not group.items}
    )
    if sum(len(other.tensors) for other in below.values()) > len(group.tensors):
        return _together(place, len(place), {place: group, **below}, notes)
    return Found(place, group.tensors, group.others(), tuple(notes))


def _together(
    place: str, front: int, groups: Mapping[str, _Group], notes: Sequence[str] = ()
) -> Found:
    tensors: dict[str, Any] = {}
    for at, group in groups.items():
        prefix = at[front:].removeprefix(".")
        for name, tensor in group.tensors.items():
            tensors.setdefault(f"{prefix}.{name}" if prefix else name, tensor)
    if len(groups) > 1:
        places = [at or ALL for at in groups]
        notes = (*notes, f"taken together, each part's names behind its place: {some(places)}")
    return Found(place, tensors, (), tuple(notes))


_NAMELESS = (
    "Load it with the library that wrote it, copy it into the model (ema.copy_to(parameters)), "
    "then save model.state_dict()."
)


def _explained(listed: _Nameless) -> str:
    return (
        f"{listed.place or ALL} is a list of {listed.length:,} tensors without names, as averages "
        "of parameters (EMA) are saved; names are needed"
    )


def _best(
    groups: Mapping[str, _Group], label: str, nameless: list[_Nameless], *, is_chosen: bool
) -> Found:
    likely = _distinct({at: group for at, group in groups.items() if group.is_likely})
    notes = [_explained(item) for item in nameless if item.length > 1 and not _is_kept(item.place)]
    if not likely:
        raise NoStateDictError(
            f"{label} holds no state dict: no mapping from names to tensors was found."
            + "".join(f" {note}." for note in notes[:1]),
            Hint(Code.CHOOSE_STATE_DICT, {"choices": _choices(groups)})
            if groups
            else _NAMELESS
            if notes
            else "Save model.state_dict() with torch.save.",
        )
    candidates = _without_sides(likely)
    if len(candidates) > 1:
        raise _question(label, candidates, _may_be_joined(candidates))
    place = next(iter(candidates))
    left = [at for at in likely if at != place and not (place == "" or at.startswith(f"{place}."))]
    if left:
        names = [f"{at}.{name}".removeprefix(".") for at in left for name in likely[at].tensors]
        notes.append(f"tensors beside the state dict are left out: {some(names)}")
    copies = copies_within(candidates[place].tensors)
    if copies and not (is_chosen and place == ""):
        whole = (place or ALL, len(candidates[place].tensors))
        raise _question(label, _as_groups(place, candidates[place], copies), [whole])
    return _taken(place, groups, notes)


def _without_sides(likely: dict[str, _Group]) -> dict[str, _Group]:
    """The candidates less those that lie beside a state dict: metrics, statistics, states."""
    if len(likely) == 1:
        return likely
    strong = {at: group for at, group in likely.items() if group.weights()}
    likely = strong or likely
    inner: dict[str, list[str]] = {}
    for at in likely:
        for outer in _outer(at):
            if outer in likely:
                inner.setdefault(outer, []).append(at)
    for at, within in inner.items():
        group = likely.get(at)
        below = {other: likely[other] for other in within if other in likely}
        if group is None or not below:
            continue
        most = max(below.values(), key=_Group.weights)
        own, theirs = group.weights(), most.weights()
        contained = any(_is_container(other) for other in below)
        if contained and not group.has_parameters() and own <= theirs:
            del likely[at]
        elif own * 2 > len(group.items) and own >= theirs:
            likely = {other: kept for other, kept in likely.items() if other not in below}
        elif not group.has_parameters() and own < theirs:
            del likely[at]
    mains = [at for at in likely if _is_container(at)]
    if len(mains) == 1:
        main = likely[mains[0]]
        rest = [group for at, group in likely.items() if at != mains[0]]
        if not any(are_copies(main.sizes(), other.sizes()) for other in rest) and all(
            other.weights() * _DOMINANT <= main.weights() for other in rest
        ):
            return {mains[0]: main}
    return likely


def _outer(place: str) -> list[str]:
    """The places that a place lies in."""
    if not place:
        return []
    return ["", *(place[:end] for end, letter in enumerate(place) if letter == ".")]


def _may_be_joined(candidates: Mapping[str, _Group]) -> list[tuple[str, int]]:
    """Return the common place of candidates that may be parts of one model, and their tensor count.

    Several models of a kind are not joined.
    """
    groups = list(candidates.values())
    if len(groups) > _MOST_PARTS or any(map(is_marked, candidates)):
        return []
    for number, group in enumerate(groups):
        for other in groups[:number]:
            is_small = min(len(group.tensors), len(other.tensors)) < _LEAST_ALIKE
            if not is_small and are_copies(group.sizes(), other.sizes()):
                return []
    shared = next(
        outer
        for outer in reversed(["", *_outer(next(iter(candidates)))])
        if all(not outer or at.startswith(f"{outer}.") for at in candidates)
    )
    return [(shared or ALL, sum(len(group.tensors) for group in groups))]


def _as_groups(place: str, group: _Group, copies: Sequence[tuple[str, str]]) -> dict[str, _Group]:
    found: dict[str, _Group] = {}
    for prefix in (prefix for pair in copies for prefix in pair):
        under = {n: t for n, t in group.tensors.items() if n.startswith(f"{prefix}.")}
        found[f"{place}.{prefix}".removeprefix(".")] = _Group(under, under, is_likely=True)
    return found


def _question(
    label: str, candidates: Mapping[str, _Group], whole: Sequence[tuple[str, int]]
) -> AmbiguousStateDictError:
    is_copied = any(map(is_marked, candidates))
    choices = [(at or ALL, len(group.tensors)) for at, group in candidates.items()]
    meanings = {
        at or ALL: role_of(at) or ("the trained weights" if is_copied else "") for at in candidates
    }
    choices = [*choices[:_SHOWN], *whole, *choices[_SHOWN:]]
    meanings |= {key: "everything together" for key, _ in whole}
    shown = choices[: _SHOWN + len(whole)]
    words = [
        f"{key} ({': '.join(filter(None, (f'{n} items', meanings[key])))})" for key, n in shown
    ]
    return AmbiguousStateDictError(
        f"{label} holds several state dicts: {', '.join(words)}.",
        choices,
        meanings=meanings,
    )


def _distinct(groups: Mapping[str, _Group]) -> dict[str, _Group]:
    """Each group at its first place alone."""
    first: dict[int, str] = {}
    for at, group in groups.items():
        first.setdefault(id(group.items), at)
    return {at: groups[at] for at in first.values()}


def _by_place(candidates: Iterator[tuple[str, _Group]]) -> dict[str, _Group]:
    """The groups by place; those whose dotted places read alike are numbered."""
    found: dict[str, _Group] = {}
    counts: Counter[str] = Counter()
    for place, group in candidates:
        name = place
        while name in found:
            counts[place] += 1
            name = f"{place}#{counts[place] + 1}"
        found[name] = group
    return found


def _shown(name: Any) -> str:
    """A dictionary's key as text; anything but short text and small numbers by its type alone."""
    short = isinstance(name, int) and abs(name) < 2**63
    return str(name) if short or isinstance(name, str) else f"<{type(name).__name__}>"


def _choices(groups: Mapping[str, _Group]) -> str:
    first = list(groups.items())[:_SHOWN]
    return ", ".join(f"{at or ALL} ({len(g.items)} items)" for at, g in first) or "none"


def _is_container(place: str) -> bool:
    return place.rpartition(".")[2].lower() in _CONTAINERS


def _is_kept(place: str) -> bool:
    return any(map(_is_bookkeeping, place.split(".")))


def _is_bookkeeping(name: str) -> bool:
    words = words_of(name)
    while words and (words[-1] in _QUALIFIERS or words[-1].isdigit()):
        words.pop()
    if not words:
        return False
    if words[0] in _OPTIMIZERS or words[-1] in _BOOKKEEPING:
        return True
    return words[0] == "hyper" and len(words) > 1 and words[1] in _SETTINGS


def _is_of_bytes(tensor: Any) -> bool:
    return str(tensor.dtype).removeprefix("torch.") == "uint8"


def _groups(
    value: Any,
    is_tensor: Callable[[Any], bool],
    inside: Callable[[Any], Mapping[Any, Any] | None],
    nameless: list[_Nameless],
) -> Iterator[tuple[str, _Group]]:
    seen: dict[int, tuple[Any, _Group | None]] = {}
    queue: deque[tuple[str, Any, int, bool]] = deque([("", value, 0, True)])
    visited = letters = 0
    while queue and visited < _MOST_ITEMS:
        place, node, depth, is_likely = queue.popleft()
        if depth > _MAX_DEPTH:
            continue
        if id(node) in seen:
            group = seen[id(node)][1]
            if group is not None:
                is_likely = is_likely and group.is_likely
                yield place, _Group(group.items, group.tensors, is_likely, group.shapes)
            continue
        items = inside(node)
        if items is None:
            continue
        tensors = {k: v for k, v in items.items() if isinstance(k, str) and is_tensor(v)}
        is_optimizer = "param_groups" in items and "state" in items
        if is_optimizer or (tensors and _SLOTS.issuperset(tensors)):
            is_likely = False
        group = _Group(items, tensors, is_likely) if tensors else None
        # The node is held so that its identity stays its own.
        seen[id(node)] = node, group
        if group is not None:
            yield place, group
        elif items and all(map(is_tensor, items.values())):
            nameless.append(_Nameless(place, len(items)))
        visited += len(items) - len(tensors)
        if len(tensors) == len(items):
            continue
        for name, child in items.items():
            if type(child) in _LEAVES or is_tensor(child) or letters > _MOST_LETTERS:
                continue
            shown = _shown(name)
            if len(shown) <= _LONGEST_NAME:
                at = f"{place}.{shown}".removeprefix(".")
                letters += len(at)
                visited += _PER_CHILD
                queue.append((at, child, depth + 1, is_likely and not _is_bookkeeping(shown)))


_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_AVERAGES = frozenset(("ema", "swa", "avg", "averaged", "average", "shadow", "polyak"))
_SLOW = frozenset(("target", "teacher", "momentum", "k", "key"))
_TRAINED = frozenset(("online", "student", "q", "query", "base", "main"))
_WHOLE = frozenset(("model", "module", "net", "network", "backbone", "encoder", "state", "dict"))
_ROLES: tuple[tuple[frozenset[str], str], ...] = (
    (_AVERAGES, "a moving average of the weights"),
    (frozenset(("target",)), "the target network, a slow copy"),
    (frozenset(("teacher",)), "the teacher"),
    (frozenset(("k", "key", "momentum")), "the key or momentum encoder, a slow copy"),
    (frozenset(("online",)), "the online network, which is trained"),
    (frozenset(("student",)), "the student, which is trained"),
    (frozenset(("q", "query")), "the query encoder, which is trained"),
)
_ALIKE = 0.8
"""Of a copy's tensors that the original has too; averages often hold a counter or two besides."""
_OVERLAP = 0.5
_LEAST_OF_KEYS = 3
"""Tensors: `k_proj` beside `q_proj` is a layer of weight and bias, and no copy."""

Shapes = Mapping[str, tuple[int, ...]]


def shape_of(tensor: Any) -> tuple[int, ...]:
    """The shape of a tensor; empty for a lazy one of torch, which has none yet."""
    try:
        return tuple(tensor.shape)
    except RuntimeError:
        return ()


def words_of(name: str) -> list[str]:
    """The words of a name, in lower case: `optG_state` is opt, g, state."""
    return [word.lower() for word in _WORDS.findall(name)]


def role_of(place: str) -> str:
    """Describe a part of a checkpoint by its name, such as a moving average; empty if unknown."""
    words = set(words_of(place.rpartition(".")[2]))
    return next((role for marks, role in _ROLES if words & marks), "")


def is_marked(place: str) -> bool:
    """Return True if a name says that it is a slow copy or an average of something."""
    words = words_of(place.rpartition(".")[2])
    return bool(_AVERAGES.intersection(words) or _SLOW.intersection(words))


def are_copies(first: Shapes, second: Shapes) -> bool:
    """Return True if half of the smaller one's tensors are in the other, in the same shapes."""
    one, other = sorted((_bare(first), _bare(second)), key=len)
    alike = sum(other.get(name) == shape for name, shape in one.items())
    return bool(one) and alike >= _OVERLAP * len(one)


def _bare(shapes: Shapes) -> Shapes:
    """The shapes without what all names begin with, such as `module.`."""
    names = list(shapes)
    while names and all("." in name for name in names):
        first = names[0].partition(".")[0]
        if not all(name.startswith(f"{first}.") for name in names):
            break
        names = [name[len(first) + 1 :] for name in names]
    return dict(zip(names, shapes.values(), strict=True))


def copies_within(tensors: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Prefixes of names in one state dict that hold a model and a slow copy or average of it.

    Returns:
        Original and copy of each; none is within another.
    """
    # Most have no such part, which is found in a third of the time.
    steps = {*".".join(tensors).split(".")}
    if not any(is_marked(step) for step in steps if not step.isdigit()):
        return []
    parts: set[str] = set()
    seen: set[str] = set()
    for name in tensors:
        place = name.rpartition(".")[0]
        # What is above a place that was seen was seen with it.
        while place and place not in seen:
            seen.add(place)
            place, _, part = place.rpartition(".")
            # Numbers, of which a long list has as many, mark nothing.
            if not part.isdigit():
                parts.add(part)
    marked = set(filter(is_marked, parts))
    if not marked:
        return []
    copies = dict.fromkeys(
        name[:end] for name in tensors for end in _ends(name) if _last(name[:end]) in marked
    )
    parents = {copy.rpartition(".")[0] for copy in copies}
    below: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, tensor in tensors.items():
        for end in _ends(name):
            if name[:end].rpartition(".")[0] in parents:
                below.setdefault(name[:end], {})[name[end + 1 :]] = shape_of(tensor)
    pairs: list[tuple[str, str]] = []
    for copy in copies:
        if any(copy.startswith(f"{found}.") for pair in pairs for found in pair):
            continue
        parent = copy.rpartition(".")[0]
        original = next(
            (
                other
                for other in below
                if other.rpartition(".")[0] == parent
                and _is_pair(_last(other), _last(copy), below[other], below[copy])
            ),
            None,
        )
        if original is not None:
            pairs.append((original, copy))
    return pairs


def _is_pair(original: str, copy: str, of_original: Shapes, of_copy: Shapes) -> bool:
    words, others = words_of(copy), words_of(original)
    marks = [word for word in words if word in _AVERAGES or word in _SLOW]
    base = [word for word in words if word not in marks]
    bare = [word for word in others if word not in _TRAINED]
    if original == copy or is_marked(original):
        return False
    if {"k", "key"}.issuperset(marks):
        if len(of_copy) < _LEAST_OF_KEYS or not {"q", "query"}.intersection(others):
            return False
        is_named = base == bare
    else:
        is_named = base == bare or not {*base, *bare} - _WHOLE
        # An average beside one model alone is one of it, however that is called.
        is_named |= not base and _AVERAGES.issuperset(marks)
    return is_named and _covers(of_original, of_copy)


def _covers(original: Shapes, copy: Shapes) -> bool:
    # Some averages keep the names with their dots taken out.
    flat = {name.replace(".", ""): shape for name, shape in original.items()}
    alike = sum(flat.get(name.replace(".", "")) == shape for name, shape in copy.items())
    return bool(alike) and alike >= _ALIKE * len(copy)


def _ends(name: str) -> list[int]:
    """Return the ends of the proper prefixes of a dotted name."""
    return [place for place, letter in enumerate(name) if letter == "."]


def _last(prefix: str) -> str:
    return prefix.rpartition(".")[2]
