"""What fills the leaves of a layer, as expressions over the keys of its torch twin."""

from __future__ import annotations

from s2p_tui.alignment.transform import (
    Concat,
    Constant,
    Expr,
    Flip,
    Permute,
    Reshape,
    Scale,
    Shape,
    Split,
    Stack,
    Sum,
    Take,
)

Leaves = dict[str, Expr | None]

SETTLED = 1_000_000
"""A `batch_counter` so large that `momentum ** counter` is nothing."""


def same(leaf: str, key: str, *names: str) -> Leaves:
    """Leaves that equal the entries of the same names; weight and bias if none are given."""
    dot = f"{key}." if key else ""
    return {f"{leaf}.{name}": Take(dot + name) for name in names or ("weight", "bias")}


def weight(leaf: str, key: str) -> Leaves:
    """The weight of a layer without bias."""
    return same(leaf, key, "weight")


def renamed(pairs: dict[str, str], *names: str) -> Leaves:
    """`same` for many layers."""
    found: Leaves = {}
    for leaf, key in pairs.items():
        found |= same(leaf, key, *names)
    return found


def gaps(*leaves: str) -> Leaves:
    """Leaves that keep the skeleton's value."""
    return dict.fromkeys(leaves)


def transposed(key: str) -> Expr:
    """A matrix stored the other way round."""
    return Permute(Take(key), (1, 0))


def part(of: str | Expr, number: int, size: int, axis: int = 0) -> Expr:
    """The n-th part of that size along an axis."""
    expr = Take(of) if isinstance(of, str) else of
    return Split(expr, axis, number * size, (number + 1) * size)


def element(key: str, number: int, shape: Shape) -> Expr:
    """One of those stacked along axis 0, of that shape."""
    return Reshape(Split(Take(key), 0, number, number + 1), shape)


def stacked(*keys: str) -> Expr:
    """Entries stacked along a new axis 0."""
    return Stack(tuple(map(Take, keys)), 0)


def conv_transpose(key: str, shape: Shape, groups: int = 1) -> Expr:
    """The kernel of a ConvTranspose whose torch weight (in, out/groups, *k) has that shape."""
    rows, columns, *kernel = shape
    axes = tuple(range(2, len(shape)))
    if groups == 1:
        return Flip(Permute(Take(key), (1, 0, *axes)), axes)
    each = rows // groups
    apart = Reshape(Take(key), (groups, each, columns, *kernel))
    swapped = Permute(apart, (0, 2, 1, *(axis + 1 for axis in axes)))
    return Flip(Reshape(swapped, (groups * columns, each, *kernel)), axes)


def gru_bias(leaf: str, key: str, hidden: int, suffix: str = "") -> Leaves:
    """Both biases of a GRUCell."""
    dot = f"{key}." if key else ""
    ours, theirs = Take(f"{dot}bias_ih{suffix}"), Take(f"{dot}bias_hh{suffix}")
    nothing = Constant(0.0, (hidden,))
    return {
        f"{leaf}.bias": Sum((ours, Concat((Split(theirs, 0, 0, 2 * hidden), nothing), 0))),
        f"{leaf}.bias_n": Split(theirs, 0, 2 * hidden, 3 * hidden),
    }


def recurrent(leaf: str, key: str, suffix: str = "") -> Leaves:
    """The weights of a GRUCell or an LSTMCell."""
    dot = f"{key}." if key else ""
    return {f"{leaf}.{name}": Take(f"{dot}{name}{suffix}") for name in ("weight_ih", "weight_hh")}


def lstm(leaf: str, key: str, suffix: str = "") -> Leaves:
    """An LSTMCell with bias."""
    dot = f"{key}." if key else ""
    biases = (Take(f"{dot}bias_ih{suffix}"), Take(f"{dot}bias_hh{suffix}"))
    return {**recurrent(leaf, key, suffix), f"{leaf}.bias": Sum(biases)}


def attention(leaf: str, key: str, width: int, *, biases: bool = True) -> Leaves:
    """A MultiheadAttention whose torch twin has its three projections in one matrix."""
    dot = f"{key}." if key else ""
    found: Leaves = gaps(f"{leaf}.dropout.p", f"{leaf}.dropout.inference")
    for number, name in enumerate(("query_proj", "key_proj", "value_proj")):
        found[f"{leaf}.{name}.weight"] = part(f"{dot}in_proj_weight", number, width)
        if biases:
            found[f"{leaf}.{name}.bias"] = part(f"{dot}in_proj_bias", number, width)
    names = ("weight", "bias") if biases else ("weight",)
    return found | same(f"{leaf}.output_proj", f"{dot}out_proj", *names)


def norm_ema(leaf: str, key: str, *, affine: bool = True) -> Leaves:
    """A BatchNorm with `mode="ema"` in a `(model, state)`; `leaf` is its place in the model."""
    dot = f"{key}." if key else ""
    return {
        **(same(f"[0]{leaf}", key) if affine else {}),
        f"[0]{leaf}.inference": None,
        f"[1]{leaf}.ema_first_time_index": Constant(0, ()),
        f"[1]{leaf}.ema_state_index[0]": Take(f"{dot}running_mean"),
        f"[1]{leaf}.ema_state_index[1]": Take(f"{dot}running_var"),
    }


def norm_batch(leaf: str, key: str, *, affine: bool = True) -> Leaves:
    """A BatchNorm with `mode="batch"`: the statistics as they are, and a counter that settled."""
    dot = f"{key}." if key else ""
    return {
        **(same(f"[0]{leaf}", key) if affine else {}),
        f"[0]{leaf}.inference": None,
        f"[1]{leaf}.batch_counter": Constant(SETTLED, ()),
        f"[1]{leaf}.batch_state_index[0]": Take(f"{dot}running_mean"),
        f"[1]{leaf}.batch_state_index[1]": Take(f"{dot}running_var"),
    }


def norm_counted(leaf: str, key: str, momentum: float, count: int) -> Leaves:
    """The same with torch's own count, and the statistics scaled to what Equinox divides by."""
    dot = f"{key}." if key else ""
    factor = 1 - momentum**count if count else 1.0
    return {
        **norm_batch(leaf, key),
        f"[1]{leaf}.batch_counter": Take(f"{dot}num_batches_tracked"),
        f"[1]{leaf}.batch_state_index[0]": Scale(Take(f"{dot}running_mean"), factor),
        f"[1]{leaf}.batch_state_index[1]": Scale(Take(f"{dot}running_var"), factor),
    }


def counters(*keys: str) -> tuple[str, ...]:
    """The `num_batches_tracked` of BatchNorms, which a settled counter does without."""
    return tuple(f"{key}.num_batches_tracked" for key in keys)
