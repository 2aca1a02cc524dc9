"""Layers of Flax, both NNX and Linen: what their leaves are made of.

Flax holds a dense layer's kernel (in, out) and a convolution's (*window, in, out), splits attention
into heads, and keeps recurrent gates apart. A square kernel gives no sign of that: the class does.
Measured by comparing forwards, torch 2.13 and flax 0.12.8.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import prod

from msgspec import Struct

from s2p_tui.alignment.layouts import is_input_first
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.transform import (
    Concat,
    Constant,
    Expr,
    Flip,
    Permute,
    Reshape,
    Shape,
    Split,
    Sum,
    Take,
)

_MATRIX = 2


class Rule(Struct, frozen=True):
    """The making of one leaf of a layer.

    Attributes:
        owners: The layer classes it holds for.
        role: The ends that the leaf's key path may have.
        make: Gives the expression, from the leaf and the entry put on it; None if it does not
            apply to that entry. The entry is None for leaves that take none.
        why: The reason, for people.
        rank: The axes of the leaf; None for any. Layers stacked for a scan have one more.
        others: Gives what else the leaf may take, where only the entry's name speaks for `make`.
    """

    owners: frozenset[str]
    role: str | tuple[str, ...]
    make: Callable[[Leaf, str | None, Shape], Expr | None]
    why: str
    rank: int | None = None
    others: Callable[[Leaf, str, Shape], tuple[Expr, ...]] | None = None


def _turned(leaf: Leaf, key: str, shape: Shape) -> Expr | None:
    """PyTorch's (out, in, *window) as (*window, in, out); 1-sized axes of the window may differ."""
    rank = len(shape)
    if rank < _MATRIX or leaf.shape[-2:] != (shape[1], shape[0]):
        return None
    ours, theirs = leaf.shape[:-2], shape[2:]
    if [size for size in ours if size != 1] != [size for size in theirs if size != 1]:
        return None
    made = Permute(Take(key), (*range(2, rank), 1, 0))
    return made if ours == theirs else Reshape(made, leaf.shape)


def _kernel(leaf: Leaf, key: str | None, shape: Shape) -> Expr | None:
    if key is None:
        return None
    if shape == leaf.shape and is_input_first(key):
        return Take(key)
    return _turned(leaf, key, shape)


def _other_kernels(leaf: Leaf, key: str, shape: Shape) -> tuple[Expr, ...]:
    """Return both layouts of a kernel whose name says that it holds the input axis first."""
    turned = _turned(leaf, key, shape)
    if shape != leaf.shape or turned is None or not is_input_first(key):
        return ()
    return turned, Reshape(Take(key), leaf.shape)


def _transposed_kernel(leaf: Leaf, key: str | None, shape: Shape) -> Expr | None:
    """PyTorch's (in, out, *window): the window flipped, as Flax computes no gradient.

    With `transpose_kernel` Flax swaps the channels and flips the window itself.
    """
    if key is None or len(shape) != len(leaf.shape) or len(shape) <= _MATRIX:
        return None
    rank = len(shape)
    window = tuple(range(2, rank))
    if leaf.config.get("transpose_kernel") is True:
        made = Permute(Take(key), (*window, 1, 0))
        return made if (*shape[2:], shape[1], shape[0]) == leaf.shape else None
    if leaf.config.get("transpose_kernel") is not False:
        return None
    if (*shape[2:], shape[0], shape[1]) != leaf.shape:
        return None
    wide = prod(shape[2:]) > 1
    return Permute(Flip(Take(key), window) if wide else Take(key), (*window, 0, 1))


def _table(leaf: Leaf, key: str | None, shape: Shape) -> Expr | None:
    return Take(key) if key is not None and shape == leaf.shape else None


def _heads_out(leaf: Leaf, key: str | None, shape: Shape) -> Expr | None:
    """A projection into heads: PyTorch's (heads * size, in) as (in, heads, size)."""
    size, *heads = leaf.shape
    if key is None or len(shape) != _MATRIX:
        return None
    if shape == (size, prod(heads)) and is_input_first(key):
        return Reshape(Take(key), leaf.shape)
    if shape != (prod(heads), size):
        return None
    return Reshape(Permute(Take(key), (1, 0)), leaf.shape)


def _heads_in(leaf: Leaf, key: str | None, shape: Shape) -> Expr | None:
    """A projection out of heads: PyTorch's (out, heads * size) as (heads, size, out)."""
    *heads, size = leaf.shape
    if key is None or len(shape) != _MATRIX:
        return None
    if shape == (prod(heads), size) and is_input_first(key):
        return Reshape(Take(key), leaf.shape)
    if shape != (size, prod(heads)):
        return None
    return Reshape(Permute(Take(key), (1, 0)), leaf.shape)


def _other_heads(leaf: Leaf, key: str, shape: Shape) -> tuple[Expr, ...]:
    """Return both layouts of a square projection whose name says that the input axis is first."""
    if len(shape) != _MATRIX or shape[0] != shape[1] or not is_input_first(key):
        return ()
    turned = Permute(Take(key), (1, 0))
    return Reshape(turned, leaf.shape), Reshape(Take(key), leaf.shape)


def _bias_of_heads(leaf: Leaf, key: str | None, shape: Shape) -> Expr | None:
    if key is None or shape != (prod(leaf.shape),):
        return None
    return Reshape(Take(key), leaf.shape)


def _flax(*names: str) -> frozenset[str]:
    return frozenset(f"flax.{package}.{name}" for package in ("nnx", "linen") for name in names)


class Gates(Struct, frozen=True):
    """The part of PyTorch's recurrent layer that one leaf of a cell holds.

    Attributes:
        count: The gates that the layer stacks.
        tensor: `weight_ih`, `weight_hh` or `bias`.
        gate: The one that the leaf holds; None for all of them.
        biases: Of a bias, what is in it: `sum` of both; that of the input (`input`) or of the state
            (`state`) alone; `reset`, of the state without the last gate's.
    """

    count: int
    tensor: str
    gate: int | None = None
    biases: str = ""

    @property
    def name(self) -> str:
        """The name of the gate; empty for all of them."""
        return "" if self.gate is None or self.count == 1 else _NAMES[self.count][self.gate]

    @property
    def role(self) -> str:
        """The name of the tensor, that of PyTorch's where it is in no other leaf."""
        return {"input": "bias_ih", "state": "bias_hh"}.get(self.biases, self.tensor)

    def part(self, expr: Expr, shape: Shape) -> Expr | None:
        """Return the leaf's part of a weight of PyTorch's of that shape, as the leaf holds it."""
        if len(shape) != _MATRIX or shape[0] % self.count:
            return None
        return Permute(self._own(expr, shape[0] // self.count), (1, 0))

    def bias(self, ours: Expr, theirs: Expr, shape: Shape) -> Expr | None:
        """Return the leaf's part of the input's and the state's bias of PyTorch's."""
        if len(shape) != 1 or shape[0] % self.count:
            return None
        size = shape[0] // self.count
        ours, whole = self._own(ours, size), theirs
        theirs = self._own(theirs, size)
        match self.biases:
            case "input":
                return ours
            case "state":
                return theirs
            case "reset":
                rest = Split(whole, 0, 0, (self.count - 1) * size)
                return Sum((ours, Concat((rest, Constant(0.0, (size,))), 0)))
            case _:
                return Sum((ours, theirs))

    def _own(self, expr: Expr, size: int) -> Expr:
        if self.gate is None or self.count == 1:
            return expr
        return Split(expr, 0, self.gate * size, (self.gate + 1) * size)


_LSTM, _RESET = "ifgo", "rzn"
_NAMES = {4: ("input", "forget", "candidate", "output"), 3: ("reset", "update", "candidate")}
# By the ends of class names and of key paths. OptimizedLSTMCell of Linen keeps its gates apart, as
# LSTMCell does; that of NNX does not, nor does GRUCell of NNX, which has no bias in the state.
_CELLS: tuple[tuple[frozenset[str], dict[tuple[str, str], Gates]], ...] = (
    (
        _flax("LSTMCell") | {"flax.linen.OptimizedLSTMCell"},
        {
            **{(f"i{g}", "kernel"): Gates(4, "weight_ih", n) for n, g in enumerate(_LSTM)},
            **{(f"h{g}", "kernel"): Gates(4, "weight_hh", n) for n, g in enumerate(_LSTM)},
            **{(f"h{g}", "bias"): Gates(4, "bias", n, "sum") for n, g in enumerate(_LSTM)},
        },
    ),
    (
        frozenset(("flax.nnx.OptimizedLSTMCell",)),
        {
            ("dense_i", "kernel"): Gates(4, "weight_ih"),
            ("dense_h", "kernel"): Gates(4, "weight_hh"),
            ("dense_h", "bias"): Gates(4, "bias", None, "sum"),
        },
    ),
    (
        frozenset(("flax.nnx.GRUCell",)),
        {
            ("dense_i", "kernel"): Gates(3, "weight_ih"),
            ("dense_h", "kernel"): Gates(3, "weight_hh"),
            ("dense_i", "bias"): Gates(3, "bias", None, "reset"),
        },
    ),
    (
        frozenset(("flax.linen.GRUCell",)),
        {
            **{(f"i{g}", "kernel"): Gates(3, "weight_ih", n) for n, g in enumerate(_RESET)},
            **{(f"h{g}", "kernel"): Gates(3, "weight_hh", n) for n, g in enumerate(_RESET)},
            **{(f"i{g}", "bias"): Gates(3, "bias", n, "sum") for n, g in enumerate(_RESET[:2])},
            ("in", "bias"): Gates(3, "bias", 2, "input"),
            ("hn", "bias"): Gates(3, "bias", 2, "state"),
        },
    ),
    (
        frozenset(("flax.nnx.SimpleCell",)),
        {
            ("dense_i", "kernel"): Gates(1, "weight_ih"),
            ("dense_h", "kernel"): Gates(1, "weight_hh"),
            ("dense_i", "bias"): Gates(1, "bias", None, "sum"),
        },
    ),
    (
        frozenset(("flax.linen.SimpleCell",)),
        {
            ("i", "kernel"): Gates(1, "weight_ih"),
            ("h", "kernel"): Gates(1, "weight_hh"),
            ("i", "bias"): Gates(1, "bias", None, "sum"),
        },
    ),
)
_STEP = re.compile(r"\['([^']*)'\]|([^.\[\]]+)")
_GATES = {
    owner: {(outer.rstrip("_"), inner): gates for (outer, inner), gates in table.items()}
    for owners, table in _CELLS
    for owner in owners
}
FLAX_CELLS = frozenset(_GATES)


def gates_in(leaf: Leaf) -> Gates | None:
    """Return the part of a recurrent layer that a leaf of a cell of Flax holds; None for others."""
    table = _GATES.get(leaf.owner or "")
    if table is None:
        return None
    *_, outer, inner = ("", "", *(a or b for a, b in _STEP.findall(leaf.path)))
    # NNX calls a gate `if_`, as `if` is a word of Python.
    return table.get((outer.rstrip("_"), inner))


def _gate(leaf: Leaf, key: str | None, shape: Shape) -> Expr | None:
    """PyTorch's weight of all gates as this one's kernel, or as that of all."""
    gates = gates_in(leaf)
    if gates is None or key is None or gates.tensor == "bias":
        return None
    made = gates.part(Take(key), shape)
    rows = shape[0] // gates.count if gates.gate is not None else shape[0] if shape else 0
    return made if leaf.shape == (*shape[1:], rows) else None


def _no_entry(_leaf: Leaf, _key: str | None, _shape: Shape) -> Expr | None:
    return None


def _ends(*steps: str) -> tuple[str, str]:
    """Return how the key paths of such leaves end in NNX and in Linen."""
    return "".join(f".{step}" for step in steps), "".join(f"['{step}']" for step in steps)


_ATTENTION = _flax("MultiHeadAttention", "MultiHeadDotProductAttention", "SelfAttention")
_HEADS = "attention holds its heads on an axis of their own"
_GATE = "the cell holds its gates' weights input axis first"
FLAX_RULES: tuple[Rule, ...] = (
    Rule(
        _flax("Linear", "LinearGeneral", "Dense", "DenseGeneral"),
        _ends("kernel"),
        _kernel,
        "the layer holds its kernel input axis first",
        rank=2,
        others=_other_kernels,
    ),
    *(
        Rule(
            _flax("Conv"),
            _ends("kernel"),
            _kernel,
            "the layer holds its kernel channels last",
            rank=rank,
            others=_other_kernels,
        )
        for rank in (3, 4, 5)
    ),
    *(
        Rule(
            _flax("ConvTranspose"),
            _ends("kernel"),
            _transposed_kernel,
            "the layer holds its kernel channels last, and the other way round",
            rank=rank,
        )
        for rank in (3, 4, 5)
    ),
    Rule(_flax("Embed"), _ends("embedding"), _table, "tables keep their rows", rank=2),
    *(
        Rule(_ATTENTION, _ends(name, "kernel"), _heads_out, _HEADS, 3, _other_heads)
        for name in ("query", "key", "value")
    ),
    *(
        Rule(_ATTENTION, _ends(name, "bias"), _bias_of_heads, _HEADS, 2)
        for name in ("query", "key", "value")
    ),
    Rule(_ATTENTION, _ends("out", "kernel"), _heads_in, _HEADS, 3, _other_heads),
    Rule(FLAX_CELLS, _ends("kernel"), _gate, _GATE, rank=2),
    Rule(
        frozenset(("flax.nnx.GRUCell",)),
        _ends("bias"),
        _no_entry,
        "NNX's GRUCell has no bias in the state's candidate, as the last third of bias_hh is",
        rank=1,
    ),
    Rule(
        FLAX_CELLS - {"flax.nnx.GRUCell"},
        _ends("bias"),
        _no_entry,
        "the cell adds PyTorch's two biases up, except those of a gate's own",
        rank=1,
    ),
)
