"""Layers that take from one of another name, where nearly all others take from those of their own.

Where a port keeps the checkpoint's names, the size alone does not tell that an entry of another
name is what a leaf wants: `lm_head` may be lost, and `lm_head2` be of the same size.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from s2p_tui.proposals.matcher.templates import Pairs, template, words_of
from s2p_tui.proposals.matcher.words import FAINT, Steps, name_of, remembered

# The fewest layers, numbers left open, that show whether a port keeps names, the share of them that
# has to, and the share that has a word more where it is the port's habit to leave that word out.
_FEWEST = 6
_MOST = 0.6
_USUAL = 0.5
_FREE = frozenset(("final", "post", "out", "head", "generator", "token", "0", "1"))
"""Words that a model's last layers and its table of tokens may lack, and a kind's first number."""
_Words = frozenset[str]


def renamed(pairs: Pairs) -> dict[int, str]:
    """Pairs of which the entry's name says more than the leaf's, as one layer alone has them.

    Args:
        pairs: Steps of leaves and of the entries they take, by place.
    """
    layers: dict[tuple[Steps, Steps], list[int]] = defaultdict(list)
    for (target, source), places in pairs.by_template.items():
        layers[_layer(target), _layer(source)] += places
    more = {sides: _words(sides[1]) - _words(sides[0]) for sides in layers}
    counts = Counter(word for words in more.values() for word in words)
    usual = {word for word, count in counts.items() if count > _USUAL * len(layers)}
    odd = {sides: words - usual for sides, words in more.items() if words - usual}
    if len(layers) < _FEWEST or len(odd) > (1 - _MOST) * len(layers):
        return {}
    # A word that a port leaves out is left out in each block, or in several layers.
    often: dict[_Words, set[Steps]] = defaultdict(set)
    for sides, words in odd.items():
        often[words] |= {_module(pairs[n][1]) for n in layers[sides]}
    found: dict[int, str] = {}
    for sides, words in odd.items():
        if len(often[words]) == 1 and not words <= _FREE:
            for n in layers[sides]:
                name = ".".join(_module(pairs[n][1]))
                found[n] = f"nearly all others keep their names, and {name} is called otherwise"
    return found


def other_roles(pairs: Pairs) -> dict[int, str]:
    """Pairs whose entry is called otherwise within its layer than in all layers but this one.

    `scale` may be another tensor than the `weight` that is lost.

    Args:
        pairs: Steps of leaves and of the entries they take, by place.
    """
    roles: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for (target, source), places in pairs.by_template.items():
        if words_of(target[-1:]) == words_of(source[-1:]):
            roles[target[-1]][source[-1]] += places
    found: dict[int, str] = {}
    for names in roles.values():
        usual = max(names, key=lambda name: len(names[name]))
        for name, places in names.items() if len(names[usual]) >= _FEWEST else ():
            if len(places) == 1:
                found[places[0]] = f"{name} is {usual} in all other layers"
    return found


def _layer(steps: Steps) -> Steps:
    return template(_module(steps))


def _module(steps: Steps) -> Steps:
    return steps[:-1] or steps


@remembered
def _words(steps: Steps) -> _Words:
    """The words of a name that say something, and the numbers within its steps."""
    names = [name_of(step) for step in steps if not step.isdigit()]
    words = {word for name in names for word in name.words} - FAINT
    return frozenset(words | {str(number) for name in names for number in name.numbers})
