"""Names that mean something by convention alone: which of two layers leads in, which one is a gate.

Some models hold to another convention, so that such names prove a pair only where more speaks for
it: sizes, or the layers beside them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from s2p_tui.proposals.matcher.templates import Pairs
from s2p_tui.proposals.matcher.words import Steps, name_of, written

Shape = tuple[int, ...]
_GATED = {"w1": "gate", "w2": "down", "w3": "up"}
"""Llama's names of the layers of a gated one, and what they are there."""
_UP_AND_DOWN = frozenset(("up", "down"))
_GATE_UP_AND_DOWN = _UP_AND_DOWN | {"gate"}
_IN_AND_OUT = frozenset(("in", "out"))
_WIDENING = frozenset(("mlp", "ffn", "ff", "ffw", "feed", "feedforward", "expert", "experts"))
"""Words of modules that lead up to more channels first, and down again."""


def gated_by_number(pairs: Pairs, shapes: Mapping[int, Shape]) -> dict[int, str]:
    """Pairs of `w1`, `w2` or `w3` and another name that need not mean the same.

    Some models call the second one the layer that leads back, others the third; where that is the
    second, the first one is the gate if the others are called gate, up and down. Where they are
    numbered or called in and out, the gate may be the one that was added last.

    Args:
        pairs: Steps of leaves and of the entries they take, by place.
        shapes: The shapes of what the leaves take.
    """
    layers: dict[tuple[int, Steps], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    otherwise: set[tuple[int, Steps]] = set()
    for templates, places in pairs.by_template.items():
        for side, steps in enumerate(templates):
            level = next((at for at, step in enumerate(steps) if step in _GATED), None)
            if level is None or steps[level] in templates[1 - side]:
                continue
            name = steps[level]
            is_called = any(_is_called(step, _GATED[name]) for step in templates[1 - side])
            for n in places:
                layer = side, pairs[n][side][:level]
                layers[layer][name].append(n)
                if not is_called:
                    otherwise.add(layer)
    found: dict[int, str] = {}
    for layer, members in layers.items():
        # Biases say nothing: one may be missing.
        sizes = {name: {shapes[n] for n in members[name] if len(shapes[n]) > 1} for name in _GATED}
        if not all(sizes.values()):
            continue
        if not sizes["w1"] == sizes["w3"] != sizes["w2"]:
            why = "w1, w2 and w3 are called otherwise here, and no size shows which is which"
        elif layer in otherwise:
            why = "w1, w2 and w3 are called otherwise here, and nothing shows which one is the gate"
        else:
            continue
        found.update((n, why) for numbers in members.values() for n in numbers)
    return found


def _is_called(step: str, word: str) -> bool:
    return word in name_of(step).words and not any(map(str.isdigit, step))


def up_by_name(
    pairs: Pairs,
    shapes: Mapping[int, tuple[Shape, Shape]],
    known: Mapping[int, bool],
) -> dict[int, str]:
    """Pairs called up or down on one side and in or out on the other, in modules of any kind.

    In a feed-forward layer up leads in; an adapter leads down first.

    Args:
        pairs: Steps of leaves and of the entries they take, by place.
        shapes: The shapes of a leaf and of what it takes, by place.
        known: Whether the class of a leaf's layer shows how its axes are laid out, by place.
    """
    groups: dict[tuple[Steps, Steps], list[int]] = defaultdict(list)
    called: dict[tuple[Steps, Steps], set[str]] = defaultdict(set)
    for templates, places in pairs.by_template.items():
        layers = [steps[-2] if len(steps) > 1 else "" for steps in templates]
        words = {word for layer in layers for word in written(layer)} & _GATE_UP_AND_DOWN
        others = [layer for layer in layers if _UP_AND_DOWN.isdisjoint(written(layer))]
        name = name_of(others[0] if len(others) == 1 else "")
        is_called = bool(name.numbers or _IN_AND_OUT.intersection(name.words))
        for target, source, n in ((*pairs[n], n) for n in places if words):
            around = target[:-2], source[:-2]
            called[around] |= words
            if is_called:
                groups[around].append(n)
    found: dict[int, str] = {}
    for around, members in groups.items():
        steps = (step for side in around for step in side)
        # Without the other one they are levels.
        if "gate" in called[around] or not called[around] >= _UP_AND_DOWN:
            continue
        if any(_WIDENING.intersection(written(step)) for step in steps):
            continue
        if _is_settled([(*shapes[n], known[n]) for n in members]):
            continue
        why = "up and down are called otherwise here, and nothing shows which of them leads in"
        found.update(dict.fromkeys(members, why))
    return found


def _is_settled(layers: list[tuple[Shape, Shape, bool]]) -> bool:
    """Return True if sizes leave no other way: of biases, or where a class has one layout."""
    sizes = [leaf for leaf, entry, known in layers if len(leaf) == 1 or (known and leaf == entry)]
    return any(sizes.count(shape) == 1 for shape in sizes) and len({*sizes}) > 1
