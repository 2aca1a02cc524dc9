"""Names with all numbers alike: what differs by numbers alone is looked at together.

A model of 100,000 tensors has them under some dozens of such names.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from s2p_tui.proposals.matcher.words import Steps, meanings, remembered

_SEVERAL = 3
_DIGITS = re.compile(r"\d+")


@remembered
def _zero(step: str) -> str:
    return "0" if step.isdigit() else step


def template(steps: Steps) -> Steps:
    """Return the steps with 0 for every one that is a number."""
    return tuple(map(_zero, steps))


@remembered
def numbered_levels(steps: Steps) -> tuple[int, ...]:
    """Return where the numbers of a template are."""
    return tuple(level for level, step in enumerate(steps) if step.isdigit())


def by_template(paths: Iterable[Steps]) -> dict[Steps, list[Steps]]:
    """Return paths by their templates, in order."""
    found: defaultdict[Steps, list[Steps]] = defaultdict(list)
    for path in paths:
        found[template(path)].append(path)
    return dict(found)


class Pairs(dict[int, tuple[Steps, Steps]]):
    """The steps of leaves and of the entries they take, by place."""

    @cached_property
    def by_template(self) -> Mapping[tuple[Steps, Steps], Sequence[int]]:
        """The places of pairs by the templates of both sides, in order."""
        found: defaultdict[tuple[Steps, Steps], list[int]] = defaultdict(list)
        for place, (target, source) in self.items():
            found[template(target), template(source)].append(place)
        return dict(found)


def words_of(steps: Steps) -> tuple[str, ...]:
    """Return the words of several steps, outermost first; numbers have none."""
    # Those of the last steps are a few as they are.
    return meanings(steps if len(steps) < _SEVERAL else template(steps))[0]


@remembered
def open_numbers(step: str) -> str:
    """Return a step with its numbers left open, also those within words."""
    return _DIGITS.sub("#", step)


@remembered
def named(steps: Steps) -> str:
    """Return a template in words, its numbers open."""
    return ".".join("#" if step.isdigit() else step for step in steps)
