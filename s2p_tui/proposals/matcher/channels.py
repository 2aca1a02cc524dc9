"""Doubts about weights of models that hold their channels last: axes of flattened images, windows
of transposed convolutions.

PyTorch has channels first. A layer beside such convolutions may need the elements of one axis in
another order, of which its shape says nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from math import prod

from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import Shape, Take
from s2p_tui.proposals.matcher.orientation import keeps_rows
from s2p_tui.proposals.matcher.pieces import Piece
from s2p_tui.proposals.matcher.templates import numbered_levels, template, words_of
from s2p_tui.proposals.matcher.words import Steps, name_of

_VECTOR, _MATRIX = 1, 2
_MOST_OF_AN_IMAGE = 3
"""Channels that images have at most: a layer's output is no image of so few."""
_SMALLEST_IMAGE = 4
"""Elements an image has at least that a dense layer makes: 2 by 2."""
_TRANSPOSED = frozenset(
    ("up", "deconv", "deconvolution", "transpose", "transposed", "convt", "tconv", "upconv", "t")
)
_UPWARDS = _TRANSPOSED | {"dec", "generator", "gen", "netg", "synthesis"}
_CONVOLUTIONS = frozenset(("conv", "patch", "stem", "down", "shortcut"))
_LAYERS = frozenset(("weight", "kernel"))
_RECURRENT = ("weight_hh", "weight_ih")


def flattened(
    found: Mapping[int, tuple[Leaf, Piece]], steps: Mapping[int, Steps]
) -> dict[int, str]:
    """Layers on flattened images, or that make them, and why they may be wrong.

    A dense layer's axis is no image where a convolution has as many channels, where another dense
    layer of the same list gives it or takes it, or where dense layers of several blocks do.

    Args:
        found: Leaves and what they take, by place.
        steps: Steps of the leaves.
    """
    kernels = with_channels_last(found)
    if not kernels:
        return {}
    both = [piece.member[:2] for _, piece in kernels.values()]
    turned = [
        piece.member[1::-1]
        for leaf, piece in kernels.values()
        if leaf.shape[-2:] == piece.member[:2]
    ]
    outputs = {out for out, _ in (*both, *turned)}
    inputs = {size for _, size in (*both, *turned) if size > _MOST_OF_AN_IMAGE}
    dense = {
        place: piece
        for place, (leaf, piece) in found.items()
        if len(piece.member) == _MATRIX
        and len(piece.members) == 1
        and not keeps_rows(steps[place], leaf.owner)
        and not piece.steps[-1].startswith(_RECURRENT)
    }
    beside = _Beside(dense.values())
    doubted: dict[int, str] = {}
    sizes: set[int] = set()
    for place, piece in dense.items():
        out, size = piece.member
        if may_be_image(size, outputs, 2) and not beside.gives(piece):
            doubted[place] = "its input may be a flattened image, whose channels PyTorch has first"
            sizes.add(size)
        elif (
            may_be_image(out, inputs, _SMALLEST_IMAGE)
            and not beside.takes(piece)
            and "head" not in _words(piece.steps)[1]
        ):
            doubted[place] = "it may make an image, whose channels PyTorch has first"
            sizes.add(out)
    why = "it may be of a flattened image, whose channels PyTorch has first"
    for place, (_, piece) in found.items():
        wide = [size for size in piece.member if size > 1]
        is_image = len(wide) > _MATRIX and wide[0] == wide[-1] and piece.steps[-1] not in _LAYERS
        if is_image or (len(wide) == _VECTOR and wide[0] in sizes):
            doubted.setdefault(place, why)
    return doubted


def with_channels_last(
    found: Mapping[int, tuple[Leaf, Piece]],
) -> dict[int, tuple[Leaf, Piece]]:
    """The kernels of a model that may hold its channels last; none of another one."""
    kernels = {
        place: pair
        for place, pair in found.items()
        if len(pair[1].member) > _MATRIX and not (pair[0].owner or "").startswith("equinox.nn.")
    }
    is_one = any(_may_hold_channels_last(*pair) for pair in kernels.values())
    return kernels if is_one else {}


def may_be_image(size: int, channels: Collection[int], smallest: int) -> bool:
    """Return True if so many elements may be those of several channels of an image."""
    return size not in channels and any(size % c == 0 and size >= smallest * c for c in channels)


def _may_hold_channels_last(leaf: Leaf, piece: Piece) -> bool:
    """Return True for a convolution's kernel with its window before its channels.

    A user's own class may keep PyTorch's kernels and have the channels of its images last.
    """
    window = piece.member[2:]
    if len(leaf.shape) != len(piece.member) or prod(window) == 1:
        return False
    is_turned = leaf.shape[: len(window)] == window and leaf.shape != piece.member
    is_layer = piece.steps[-1] in _LAYERS and piece.member[0] > 1
    return is_turned or (leaf.owner is not None and is_layer and len(window) > 1)


class _Beside:
    """Tells which axes of dense layers others hand on or take."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._modules: dict[Steps, list[Piece]] = defaultdict(list)
        blocks: tuple[Counter[tuple[Steps, int]], ...] = (Counter(), Counter())
        for piece in pieces:
            around = piece.steps[:-2]
            self._modules[around].append(piece)
            pattern = template(piece.steps)
            in_list = bool(numbered_levels(pattern[:-2]))
            for size, counts in zip(piece.member, blocks, strict=True):
                counts[pattern, size] += in_list
        self._repeated = tuple(
            {size for (_, size), count in counts.items() if count > 1} for counts in blocks
        )

    def gives(self, piece: Piece) -> bool:
        """Return True if others have a layer's input for an output."""
        return piece.member[1] in self._repeated[0] or any(
            other.member[0] == piece.member[1] and _precedes(other.steps, piece.steps)
            for other in self._modules[piece.steps[:-2]]
        )

    def takes(self, piece: Piece) -> bool:
        """Return True if others have a layer's output for an input."""
        return piece.member[0] in self._repeated[1] or any(
            other.member[1] == piece.member[0] and _precedes(piece.steps, other.steps)
            for other in self._modules[piece.steps[:-2]]
        )


def _precedes(first: Steps, second: Steps) -> bool:
    """Return True if the one layer is before the other one by the numbers in their names."""
    mine, theirs = (name_of(steps[-2] if len(steps) > 1 else "") for steps in (first, second))
    return mine.words == theirs.words and () < mine.numbers < theirs.numbers


class Kernels:
    """Tells kernels of convolutions from those of transposed ones, whose windows are flipped.

    Args:
        entries: The entries.
    """

    def __init__(self, entries: StateDict) -> None:
        self.entries = entries
        self._biases: dict[str, Shape] = {
            entry.key.rpartition(".")[0]: entry.shape
            for entry in entries
            if entry.key.rpartition(".")[2] == "bias"
        }

    def doubt(self, piece: Piece, steps: Steps) -> str:
        """Return why a kernel's window may have to be flipped; empty if it has not to be.

        Its bias has as many elements as the layer has outputs. Where this says nothing, windows of
        an odd width and modules called so are those of convolutions.

        Args:
            piece: What the leaf takes.
            steps: The steps of the leaf.
        """
        out, size, *window = piece.member
        if prod(window) == 1 or piece.steps[-1] == "bias":
            return ""
        member = piece.members[0]
        module = member.key.rpartition(".")[0] if isinstance(member, Take) else ""
        (bias,) = self._biases.get(module, (0,))[-1:] or (0,)
        if bias in (out, size) and out != size:
            why = "by its bias it is a transposed convolution, whose window may be flipped"
            return why if bias == size else ""
        names = [_words(path) for path in (piece.steps, steps)]
        own = names[0][1] | names[1][1]
        around = names[0][0] | names[1][0]
        is_odd = all(width % 2 for width in window)
        if own & _TRANSPOSED or not (is_odd or (own & _CONVOLUTIONS and not around & _UPWARDS)):
            return "it may be a transposed convolution, whose window is flipped"
        return ""


def _words(steps: Steps) -> tuple[set[str], set[str]]:
    """Return the words of a tensor's modules, and those of its own one."""
    named = [step for step in steps[:-1] if not step.isdigit()]
    return {*words_of(tuple(named))}, {*words_of(tuple(named[-1:]))}
