"""Layers other than dense ones that read the order of an image's channels, and wider dense ones.

PyTorch flattens channels first, and its pixel shuffle takes the elements of a new pixel from
channels that lie together. Models with their channels last mostly do both the other way round.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from math import isqrt, prod

from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.transform import Shape, keys_of
from s2p_tui.proposals.matcher.channels import may_be_image, with_channels_last
from s2p_tui.proposals.matcher.orientation import keeps_rows
from s2p_tui.proposals.matcher.pieces import Piece
from s2p_tui.proposals.matcher.words import Steps, steps_of_key

_MATRIX = 2
_FIRST_INPUTS = ("weight_ih", "weight_ih_l0", "weight_ih_l0_reverse")
_RECURRENT = ("weight_ih", "weight_hh")
_SMALLEST_IMAGE = 4
"""Elements a flattened image beside other features has at least for each channel."""
_COLOURS = 3
_Found = Mapping[int, tuple[Leaf, Piece]]


def reading_channels(found: _Found, steps: Mapping[int, Steps]) -> dict[int, str]:
    """Layers of models with channels last that may need another order of channels, and why.

    Args:
        found: Leaves and what they take, by place.
        steps: Steps of the leaves.
    """
    kernels = with_channels_last(found)
    if not kernels:
        return {}
    convolutions = {place: _channels(*pair) for place, pair in kernels.items()}
    outputs = {out for out, _ in convolutions.values()}
    inputs = {size for _, size in convolutions.values()}
    # What other layers give, and what they take.
    made, taken = set[int](), set[int]()
    wide: dict[int, int] = {}
    recurrent: dict[int, int] = {}
    for place, (leaf, piece) in found.items():
        shape = _torch_shape(piece)
        last = {steps_of_key(key)[-1] for expr in piece.members for key in keys_of(expr)}
        if any(name.startswith(_RECURRENT) for name in last):
            made.add(shape[-1] if any("_hh" in name for name in last) else 0)
            if last.intersection(_FIRST_INPUTS):
                recurrent[place] = shape[-1]
        elif len(shape) == _MATRIX and keeps_rows(steps[place], leaf.owner):
            made.add(shape[1])
        elif len(shape) == _MATRIX:
            made.add(shape[0])
            taken.add(shape[1])
            wide[place] = shape[1]
    doubted: dict[int, str] = {}
    why = "its input may be a flattened image, whose channels PyTorch has first"
    for place, size in recurrent.items():
        if size not in made and may_be_image(size, outputs, 2):
            doubted[place] = why
    last_ones = outputs - inputs or outputs
    for place, size in wide.items():
        if size not in made | outputs and size > _SMALLEST_IMAGE * min(last_ones):
            doubted[place] = (
                "a part of its input may be a flattened image, " + why.partition(", ")[2]
            )
    return doubted | _shuffled(found, convolutions, made, taken)


def _shuffled(
    found: _Found,
    convolutions: Mapping[int, tuple[int, int]],
    made: Collection[int],
    taken: Collection[int],
) -> dict[int, str]:
    """Convolutions whose outputs may become more pixels, or whose inputs may be of several."""
    vectors: dict[int, set[str]] = defaultdict(set)
    for _, piece in found.values():
        sizes = [size for size in piece.member if size > 1]
        if len(sizes) == 1:
            vectors[sizes[0]].add(_module(piece))
    outputs = {out for out, _ in convolutions.values()}
    inputs = {size for _, size in convolutions.values()}
    # Layers before the first one and after the last one of a model have sizes of their own.
    given = outputs.union(made)
    unknown = {size for size in inputs - given if size > _COLOURS + 1}
    doubted: dict[str, str] = {}
    for place, (out, size) in convolutions.items():
        module = _module(found[place][1])
        is_normed = bool(vectors.get(out, set()) - {module})
        if not (out in inputs or out in taken or is_normed) and _is_several(out, inputs):
            doubted[module] = (
                "its output may be shuffled into more pixels, whose channels PyTorch has first"
            )
        if unknown == {size} and not vectors.get(size) and _is_several(size, outputs | {_COLOURS}):
            doubted[module] = "its input may be of several pixels, whose channels PyTorch has first"
    return {
        place: doubted[module]
        for place, (_, piece) in found.items()
        if (module := _module(piece)) in doubted
    }


def _is_several(size: int, channels: Collection[int]) -> bool:
    """Return True if so many channels are those of a square of pixels."""
    squares = (size // c for c in channels if 1 < c < size and size % c == 0)
    return any(isqrt(square) ** 2 == square for square in squares)


def _channels(leaf: Leaf, piece: Piece) -> tuple[int, int]:
    """Return a kernel's outputs and inputs; a transposed convolution's are the other way round."""
    first, second = piece.member[:2]
    is_turned = leaf.shape[-2:] == (first, second) and prod(piece.member[2:]) > 1
    return (second, first) if is_turned and first != second else (first, second)


def _torch_shape(piece: Piece) -> Shape:
    return piece.member if piece.composite is None else piece.composite.shape


def _module(piece: Piece) -> str:
    key = next((key for expr in piece.members for key in keys_of(expr)), "")
    return key.rpartition(".")[0]
