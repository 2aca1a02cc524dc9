"""Leaves that nothing in the checkpoint feeds, Python scalars, and entries that come twice."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import prod

from s2p_tui.alignment.evidence import Suggestion
from s2p_tui.alignment.left_over import explained
from s2p_tui.alignment.proof import UNPROVEN, Answer, proven_by
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import Constant, Shape, Take, keys_of
from s2p_tui.proposals.matcher.templates import template, words_of
from s2p_tui.proposals.matcher.words import Steps, steps_of_key, steps_of_path

_ADDS_ITS_BIAS = frozenset(
    f"equinox.nn.{name}"
    for name in (
        *("Linear", "Conv", "Conv1d", "Conv2d", "Conv3d"),
        *("ConvTranspose", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"),
        *("LayerNorm", "GroupNorm", "RMSNorm", "BatchNorm", "LSTMCell", "GRUCell"),
    )
) | frozenset(
    f"flax.{package}.{name}"
    for package in ("nnx", "linen")
    for name in (
        *("Linear", "LinearGeneral", "Dense", "DenseGeneral", "Conv", "ConvTranspose"),
        *("LayerNorm", "GroupNorm", "InstanceNorm", "BatchNorm", "SimpleCell"),
        *("LSTMCell", "OptimizedLSTMCell", "GRUCell", "MultiHeadAttention"),
        *("MultiHeadDotProductAttention", "SelfAttention"),
    )
)
_OF_INPUT_OR_STATE = ("bias_ih", "bias_hh")
_NEUTRAL = proven_by(Answer.NO_EFFECT)
# Elements: single numbers share a storage, or a size with a leaf, by accident.
_MORE_THAN_CHANCE = 2
_TABLES = frozenset(("embed", "head", "out", "token"))
_OUTPUTS = _TABLES | {"dec", "generator"}
_LAST = frozenset(("head", "out", "final", "generator", "last"))
_FIRST = frozenset(("stem", "in", "first", "input"))
_DIGITS = re.compile(r"\d+")
_EXCHANGED = "{} has such an entry, and nothing else shows which of the two this layer comes from"
_OF_EMBEDDINGS = (".Embedding", ".Embed")


def without_partner(
    suggestions: Mapping[int, Suggestion],
    skeleton: Skeleton,
    steps: Mapping[int, Steps],
    state_dict: StateDict,
    left_over: Mapping[str, str],
) -> dict[int, Suggestion]:
    """Return suggestions for the leaves that have none.

    Certain only where what they get has no effect: where the rest of their layer is settled and
    nothing of their size is left over that could be theirs. The same layer of other blocks, and a
    norm's bias without its scale, show that an entry is missing.
    """
    if suggestions.keys() >= steps.keys():
        return {}
    modules: dict[Steps, list[Suggestion]] = defaultdict(list)
    filled: set[Steps] = set()
    for index, path in steps.items():
        if index in suggestions:
            modules[path[:-1]].append(suggestions[index])
            if suggestions[index].source is not None:
                filled |= {_in_any_block(path), (*path[:-1], *words_of(path[-1:])[-1:])}
    might_be = (key for key in left_over if not explained(state_dict[key], state_dict))
    sizes = {prod(state_dict.shape(key)) for key in might_be}
    tables = _tables(suggestions, skeleton, state_dict)
    complete = _complete(suggestions, skeleton, steps)
    found: dict[int, Suggestion] = {}
    for index, path in steps.items():
        if index in suggestions:
            continue
        leaf, siblings = skeleton[index], modules[path[:-1]]
        settled = bool(siblings) and all(s.certain and s.source for s in siblings)
        settled = settled and filled.isdisjoint((_in_any_block(path), (*path[:-1], "bias")))
        neutral = _neutral(leaf, path) if settled and prod(leaf.shape) not in sizes else None
        if neutral is not None and (other := _exchanged(path, siblings, complete[leaf.shape])):
            neutral = Suggestion(None, UNPROVEN, _EXCHANGED.format(".".join(other)))
        found[index] = neutral or _shared(path, leaf, tables) or _missing(bool(siblings))
    return found


def _complete(
    suggestions: Mapping[int, Suggestion], skeleton: Skeleton, steps: Mapping[int, Steps]
) -> Mapping[Shape, list[tuple[Steps, Steps]]]:
    """The modules of biases and those that these come from, by the shape of the bias."""
    found: dict[Shape, list[tuple[Steps, Steps]]] = defaultdict(list)
    for index, path in steps.items():
        if index in suggestions and words_of(path[-1:])[-1:] == ("bias",):
            module = _source(suggestions[index])
            if module:
                found[skeleton[index].shape].append((path[:-1], module))
    return found


def _source(suggestion: Suggestion) -> Steps:
    """Return the module that a leaf takes an entry of; empty where it takes none or several."""
    keys = keys_of(suggestion.source) if suggestion.source is not None else ()
    return steps_of_key(keys[0])[:-1] if len(keys) == 1 else ()


def _exchanged(
    path: Steps, siblings: Sequence[Suggestion], complete: Iterable[tuple[Steps, Steps]]
) -> Steps | None:
    """Return a numbered module like the one without a bias that its layer may come from instead.

    Both differ by numbers alone, and nothing but the bias shows which of them is here: the layers
    that they go to are not counted in the same order, and this is not the first or last of them.
    """
    own = {_source(one) for one in siblings}
    if len(own) != 1 or not (source := min(own)):
        return None
    (mine, number), module = _counted(source), path[:-1]
    words, place = _counted(module)
    if module[-1] == source[-1] and not module[-1].isdigit():
        return None
    for other, theirs in complete:
        name, its = _counted(theirs)
        if name != mine or number == its or other[-1:] == theirs[-1:]:
            continue
        there, its_place = _counted(other)
        if there == words and (place, its_place) == (number, its):
            continue
        if not number or not its:
            # `linear` may be before `linear_1` or after it.
            is_in_order = False
        elif there == words and place:
            is_in_order = (place < its_place) == (number < its)
        else:
            is_in_order = bool(_LAST.intersection(words_of(module[-1:]))) and number > its
            is_in_order |= bool(_FIRST.intersection(words_of(module[-1:]))) and number < its
        if not is_in_order:
            return theirs
    return None


def _counted(module: Steps) -> tuple[Steps, tuple[int, ...]]:
    """Return a module's name without its numbers, and these."""
    names = tuple(_DIGITS.sub("#", step).rstrip("#_") for step in module)
    return names, tuple(map(int, _DIGITS.findall(".".join(module))))


def _in_any_block(steps: Steps) -> Steps:
    """The steps with the numbers of blocks left open; a layer that is a list's member keeps its."""
    return (*template(steps[:-2]), *steps[-2:])


def _missing(has_siblings: bool) -> Suggestion:
    layer = "the layer this one comes from has no such entry"
    return Suggestion(None, UNPROVEN, layer if has_siblings else "no entry corresponds to it")


def _neutral(leaf: Leaf, steps: Steps) -> Suggestion | None:
    """Return the value that makes a layer compute as PyTorch's without such a parameter."""
    last = words_of(steps[-1:])[-1:]
    if last == ("weight",) and (leaf.owner or "").endswith("Norm") and leaf.fill == 1:
        return Suggestion(None, _NEUTRAL, "the layer this one comes from does not scale: stays 1")
    is_bias = last == ("bias",) or steps[-1] in _OF_INPUT_OR_STATE
    if not is_bias or leaf.owner not in _ADDS_ITS_BIAS:
        return None
    if leaf.fill == 0:
        return Suggestion(None, _NEUTRAL, "the layer this one comes from adds no bias: stays 0")
    reason = "the layer this one comes from adds no bias"
    return Suggestion(Constant(0.0, leaf.shape), _NEUTRAL, reason)


def _tables(
    suggestions: Mapping[int, Suggestion], skeleton: Skeleton, state_dict: StateDict
) -> Mapping[Shape, list[Take]]:
    """The embedding tables in use, each once, by shape."""
    found: dict[Shape, dict[Take, None]] = defaultdict(dict)
    for index, suggestion in suggestions.items():
        source = suggestion.source
        if isinstance(source, Take) and (
            (skeleton[index].owner or "").endswith(_OF_EMBEDDINGS)
            or _TABLES.intersection(words_of(steps_of_key(source.key)))
        ):
            found[state_dict.shape(source.key)][source] = None
    return {shape: list(tables) for shape, tables in found.items()}


def _shared(steps: Steps, leaf: Leaf, tables: Mapping[Shape, list[Take]]) -> Suggestion | None:
    """The one table of a checkpoint that keeps the embedding for the output layer too."""
    found = tables.get(leaf.shape, ())
    if not _OUTPUTS.intersection(words_of(steps)) or len(leaf.shape) != 2 or len(found) != 1:
        return None
    why = f"the checkpoint has no entry of its own for it: trust it if tied to {found[0].key}"
    return Suggestion(found[0], UNPROVEN, why)


def tied_again(state_dict: StateDict, wanted: Mapping[int, int]) -> dict[str, str]:
    """Entries that are an earlier one again, and which; where there are more of them than leaves.

    Args:
        state_dict: The entries.
        wanted: How many leaves there are by their number of elements.
    """
    sizes = Counter(prod(entry.shape) for entry in state_dict)
    first: dict[object, str] = {}
    again: dict[str, str] = {}
    for entry in state_dict:
        size = prod(entry.shape)
        if entry.storage is None or size < _MORE_THAN_CHANCE:
            continue
        same = first.setdefault((entry.storage, entry.shape), entry.key)
        if same != entry.key and sizes[size] > wanted.get(size, 0):
            sizes[size] -= 1
            again[entry.key] = same
    return again


def scalar_entries(state_dict: StateDict, skeleton: Skeleton) -> dict[int, str]:
    """Entries of one element that fill Python scalars of their own name, by the scalars' indices.

    The whole path says which one, or all of it but what one side begins with (`module.`), or the
    last name where one scalar and one entry have it.
    """
    scalars: dict[str, list[int]] = defaultdict(list)
    arrays: set[str] = set()
    for index, leaf in enumerate(skeleton):
        if leaf.kind == "scalar":
            scalars[steps_of_path(leaf.path)[-1]].append(index)
    if not scalars:
        return {}
    for leaf in skeleton:
        if leaf.kind == "array" and prod(leaf.shape) == 1:
            arrays.add(steps_of_path(leaf.path)[-1])
    entries: dict[str, list[str]] = defaultdict(list)
    for entry in state_dict:
        if prod(entry.shape) == 1 and (last := steps_of_key(entry.key)[-1]) in scalars:
            entries[last].append(entry.key)
    found: dict[int, str] = {}
    for last, keys in entries.items():
        by_path = {steps_of_key(key): key for key in keys}
        for index in scalars[last]:
            path = steps_of_path(skeleton[index].path)
            alike = [key for steps, key in by_path.items() if _end_alike(path, steps)]
            if path in by_path:
                found[index] = by_path[path]
            elif len(alike) == 1:
                found[index] = alike[0]
            elif len(keys) == len(scalars[last]) == 1 and last not in arrays:
                found[index] = keys[0]
    claims = Counter(found.values())
    return {index: key for index, key in found.items() if claims[key] == 1}


def _end_alike(path: Steps, steps: Steps) -> bool:
    """Return True if one of the two, of more than a name, is how the other ends."""
    short = min(len(path), len(steps))
    return short > 1 and path[-short:] == steps[-short:]


def counts_of_keys(skeleton: Skeleton) -> set[int]:
    """Return the indices of whole numbers beside typed PRNG keys, as `flax.nnx.Rngs` has them.

    They count what was drawn with the key, and are in no state dict.
    """
    modules = {_module(path) for path in skeleton.keys}
    return {
        index
        for index, leaf in enumerate(skeleton if modules else ())
        if leaf.dtype.startswith(("int", "uint")) and _module(leaf.path) in modules
    }


def _module(path: str) -> Steps:
    """Return what holds a leaf; the `value` of a variable of `flax.nnx` is no name of its own."""
    return steps_of_path(path.removesuffix(".value"))[:-1]
