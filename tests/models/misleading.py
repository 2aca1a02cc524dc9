"""A twin's checkpoint in orders and under names that mislead."""

from __future__ import annotations

import random
import string
from collections import defaultdict
from collections.abc import Iterator

import torch

from tests.models.twins import TWINS

Tensors = dict[str, torch.Tensor]
SEEING = [twin for twin in TWINS if not twin.blind]


def _swapped(tensors: Tensors, chance: random.Random) -> list[tuple[str, torch.Tensor]]:
    """The entries with two of one shape in each other's place, under their own names."""
    entries = list(tensors.items())
    places: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, (_, tensor) in enumerate(entries):
        places[tuple(tensor.shape)].append(place)
    rivals = [group for group in places.values() if len(group) > 1]
    if rivals:
        first, second = chance.sample(chance.choice(rivals), 2)
        entries[first], entries[second] = entries[second], entries[first]
    return entries


def misleading(tensors: Tensors) -> Iterator[tuple[str, Tensors]]:
    """The same tensors in other orders, and under names that say less and less."""
    chance = random.Random(0)
    values = list(tensors.values())
    swapped = [tensor for _, tensor in _swapped(tensors, chance)]
    letters = "".join(chance.sample(string.ascii_lowercase, 26))
    words = ["".join(chance.choices(string.ascii_lowercase, k=5)) for _ in values]
    yield "as it is", tensors
    yield "reversed", dict(reversed(tensors.items()))
    yield "swapped", dict(_swapped(tensors, chance))
    yield "numbered", {f"w{n}": tensor for n, tensor in enumerate(values)}
    yield "numbered in reverse", {f"w{n}": tensor for n, tensor in enumerate(reversed(values))}
    yield "numbered and swapped", {f"p.{n}": tensor for n, tensor in enumerate(swapped)}
    yield (
        "random words",
        {f"{word}{n}": v for n, (word, v) in enumerate(zip(words, values, strict=True))},
    )
    yield (
        "letters",
        {letters[n] if n < len(letters) else f"x{n}": tensor for n, tensor in enumerate(swapped)},
    )
