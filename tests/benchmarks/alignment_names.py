"""Pairs of models of any size whose names are of one kind: lists, flat, nested, renamed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from s2p_tui.alignment.transform import Shape

Sides = tuple[list[tuple[str, Shape]], list[tuple[str, Shape]], list[str]]
"""Entries, leaves, and for every leaf the key that belongs to it."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SHAPES: Mapping[str, Sequence[Shape]] = {
    "one shape": ((8, 8),),
    "four shapes": ((8, 8), (8,), (16, 8), (8, 16)),
}
_BRANCHES = 10


@dataclass(frozen=True)
class Names:
    """A kind of names.

    Attributes:
        what: The kind, in words.
        make: Makes so many entries and leaves of these shapes, in turn.
        knowable: Whether the names of both sides say what belongs together.
    """

    what: str
    make: Callable[[int, Sequence[Shape]], Sides]
    knowable: bool = True


def _word(number: int, length: int = 4) -> str:
    """The number in letters, so that neighbours differ by their last one."""
    letters = ""
    for _ in range(length):
        number, rest = divmod(number, len(_LETTERS))
        letters = _LETTERS[rest] + letters
    return letters


def _random_word(source: random.Random) -> str:
    return "".join(source.choices(_LETTERS, k=8))


def _in_turn(shapes: Sequence[Shape], number: int) -> Shape:
    return shapes[number % len(shapes)]


def _sorted_dict(keys: Sequence[str], shapes: Sequence[Shape]) -> Sides:
    """A state dict, and a flat dict of the same keys, which JAX sorts."""
    entries = [(key, _in_turn(shapes, n)) for n, key in enumerate(keys)]
    ordered = sorted(entries)
    leaves = [(f"['{key}']", shape) for key, shape in ordered]
    return entries, leaves, [key for key, _ in ordered]


def _numbered_list(count: int, shapes: Sequence[Shape]) -> Sides:
    entries = [(f"layers.{n}.weight", _in_turn(shapes, n)) for n in range(count)]
    leaves = [(f".layers[{n}].weight", _in_turn(shapes, n)) for n in range(count)]
    return entries, leaves, [key for key, _ in entries]


def _flat_neighbours(count: int, shapes: Sequence[Shape]) -> Sides:
    return _sorted_dict([_word(n) for n in range(count)], shapes)


def _flat_random(count: int, shapes: Sequence[Shape]) -> Sides:
    source = random.Random(count)
    keys = list(dict.fromkeys(_random_word(source) for _ in range(count)))
    return _sorted_dict(keys, shapes)


def _flat_numbered(count: int, shapes: Sequence[Shape]) -> Sides:
    return _sorted_dict([f"param_{n}" for n in range(count)], shapes)


def _nested(count: int, shapes: Sequence[Shape]) -> Sides:
    """Dicts of ten in dicts of ten, with a name of its own at every level."""
    source = random.Random(count)
    names: dict[int, list[str]] = {}
    entries: list[tuple[str, Shape]] = []
    paths: list[str] = []
    for n in range(count):
        steps: list[str] = []
        place = n
        for level in range(3):
            place //= _BRANCHES
            around = names.setdefault((place << 2) | level, [_random_word(source)])
            steps.insert(0, around[0])
        steps.append(f"{_random_word(source)}")
        entries.append((".".join(steps), _in_turn(shapes, n)))
        paths.append("".join(f"['{step}']" for step in steps))
    order = sorted(range(count), key=lambda n: paths[n])
    leaves = [(paths[n], entries[n][1]) for n in order]
    return entries, leaves, [entries[n][0] for n in order]


def _blocks(count: int, shapes: Sequence[Shape]) -> list[tuple[list[str], Shape]]:
    parts = ("attn.query", "attn.key", "attn.value", "attn.out", "mlp.up", "mlp.down")
    return [
        (
            ["layers", str(n // len(parts)), *parts[n % len(parts)].split("."), "weight"],
            _in_turn(shapes, n),
        )
        for n in range(count)
    ]


def _order_reversed(count: int, shapes: Sequence[Shape]) -> Sides:
    named = _blocks(count, shapes)
    entries = [(".".join(steps), shape) for steps, shape in named]
    leaves = [("".join(f"['{step}']" for step in steps), shape) for steps, shape in named[::-1]]
    return entries, leaves, [key for key, _ in reversed(entries)]


def _steps_reversed(count: int, shapes: Sequence[Shape]) -> Sides:
    named = _blocks(count, shapes)
    entries = [(".".join(steps), shape) for steps, shape in named]
    leaves = [("".join(f"['{step}']" for step in steps[::-1]), shape) for steps, shape in named]
    return entries, leaves, [key for key, _ in entries]


def _letters_reversed(count: int, shapes: Sequence[Shape]) -> Sides:
    entries = [(".".join(steps), shape) for steps, shape in _blocks(count, shapes)]
    leaves = [(f"['{key[::-1]}']", shape) for key, shape in entries]
    return entries, leaves, [key for key, _ in entries]


def _nonsense(count: int, shapes: Sequence[Shape]) -> Sides:
    source = random.Random(count)
    entries = [(".".join(steps), shape) for steps, shape in _blocks(count, shapes)]
    leaves = [(f"['{_random_word(source)}{n}']", shape) for n, (_, shape) in enumerate(entries)]
    return entries, leaves, [key for key, _ in entries]


def _nonsense_with_known_words(count: int, shapes: Sequence[Shape]) -> Sides:
    """Words that mean something, put together by chance: names are read and say nothing."""
    source = random.Random(count)
    words = ("attn", "norm", "proj", "query", "head", "embed", "up", "down", "gate", "conv")
    entries = [(".".join(steps), shape) for steps, shape in _blocks(count, shapes)]
    leaves: list[tuple[str, Shape]] = []
    for n, (_, shape) in enumerate(entries):
        picked = "_".join(source.choices(words, k=3))
        leaves.append((f"['{picked}_{_random_word(source)}_{n}']", shape))
    return entries, leaves, [key for key, _ in entries]


NAMES = (
    Names("numbered list", _numbered_list),
    Names("flat, neighbours alike", _flat_neighbours),
    Names("flat, random", _flat_random),
    Names("flat, numbered", _flat_numbered),
    Names("nested dicts", _nested),
    Names("order reversed", _order_reversed),
    Names("steps reversed", _steps_reversed),
    Names("letters reversed", _letters_reversed, knowable=False),
    Names("nonsense", _nonsense, knowable=False),
    Names("nonsense of known words", _nonsense_with_known_words, knowable=False),
)
SHAPES = _SHAPES
