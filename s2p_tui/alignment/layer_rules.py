"""Layers of Equinox whose leaves are not simply the PyTorch twin's tensors.

Shapes alone cannot tell: a transposed convolution's kernel has the right number of elements and is
wrong, and batch normalisation keeps counters no checkpoint holds. Each rule below says what a leaf
of such a layer is made of; those of Flax are in `flax_rules.py`. Measured by comparing forwards,
torch 2.13 and equinox 0.13.8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from msgspec import structs

from s2p_tui.alignment.flax_rules import FLAX_RULES, Rule
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.transform import (
    Constant,
    Expr,
    Flip,
    Permute,
    Reshape,
    Scale,
    Shape,
    SpectralNorm,
    Stack,
    Take,
    WeightNorm,
    keys_of,
    nodes_of,
    shape_of,
)

_FORGOTTEN = 2.0**-40
_LARGEST_COUNT = 2**31 - 1


def _conv_transpose(leaf: Leaf, key: str | None, shape: Shape) -> Expr | None:
    """Torch (in, out/g, *k) → Equinox (out, in/g, *k) with every spatial axis flipped."""
    groups = leaf.config.get("groups", 1)
    axes = leaf.config.get("num_spatial_dims", len(leaf.shape) - 2) + 2
    if key is None or len(leaf.shape) != axes or not isinstance(groups, int) or groups < 1:
        return None
    out, in_per_group, *kernel = leaf.shape
    if out % groups or shape != (in_per_group * groups, out // groups, *kernel):
        return None
    spatial = range(len(kernel))
    expr: Expr = Take(key)
    if groups == 1:
        if any(size > 1 for size in kernel):
            expr = Flip(expr, tuple(axis + 2 for axis in spatial))
        return Permute(expr, (1, 0, *(axis + 2 for axis in spatial)))
    expr = Reshape(expr, (groups, in_per_group, out // groups, *kernel))
    if any(size > 1 for size in kernel):
        expr = Flip(expr, tuple(axis + 3 for axis in spatial))
    return Reshape(Permute(expr, (0, 2, 1, *(axis + 3 for axis in spatial))), leaf.shape)


def _not_the_first_time(leaf: Leaf, key: str | None, _shape: Shape) -> Expr | None:
    return Constant(0.0, leaf.shape) if key is None else None


def _long_ago(leaf: Leaf, key: str | None, _shape: Shape) -> Expr | None:
    """A count so large that `momentum ** count` vanishes beside 1 in any float."""
    momentum = leaf.config.get("momentum")
    if key is not None or not isinstance(momentum, float) or not 0 < momentum < 1:
        return None
    count = math.ceil(math.log(_FORGOTTEN) / math.log(momentum))
    return Constant(float(count), leaf.shape) if count <= _LARGEST_COUNT else None


def _never_one_entry(_leaf: Leaf, _key: str | None, _shape: Shape) -> Expr | None:
    return None


def _magnitude(leaf: Leaf, key: str | None, shape: Shape) -> Expr | None:
    """Torch's g, if it is taken along the axis of PyTorch's weight that Equinox takes it along."""
    axis, layer = leaf.config.get("axis"), leaf.config.get("layer", "")
    if key is None:
        return None
    if axis is None or math.prod(shape) == math.prod(leaf.shape) == 1:
        return Take(key) if math.prod(shape) == math.prod(leaf.shape) == 1 else None
    if layer in CONV_TRANSPOSE:
        swapped = {0: 1, 1: 0}.get(axis)
        if swapped is None or leaf.config.get("layer_config", {}).get("groups") != 1:
            return None
        axis = swapped
    wide = [place for place, size in enumerate(shape) if size != 1]
    return Take(key) if wide == [axis] and math.prod(shape) == math.prod(leaf.shape) else None


def _right_singular(leaf: Leaf, key: str | None, shape: Shape) -> Expr | None:
    """Torch's v runs over (in, *k), and so does Equinox's, where the kernel is flipped."""
    if key is None or shape != leaf.shape:
        return None
    if leaf.config.get("layer", "") not in CONV_TRANSPOSE:
        return Take(key)
    layer = leaf.config.get("layer_config", {})
    kernel = layer.get("kernel_size")
    if layer.get("groups") != 1 or not isinstance(kernel, list | tuple):
        return None
    sizes = tuple(cast("Sequence[int]", kernel))
    if math.prod(sizes) == 1:
        return Take(key)
    apart = Reshape(Take(key), (math.prod(shape) // math.prod(sizes), *sizes))
    return Reshape(Flip(apart, tuple(range(1, len(sizes) + 1))), shape)


def _in_nn(*names: str) -> frozenset[str]:
    return frozenset(f"equinox.nn.{name}" for name in names)


CONV_TRANSPOSE = _in_nn("ConvTranspose", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
TRANSPOSED = CONV_TRANSPOSE | {"flax.nnx.ConvTranspose", "flax.linen.ConvTranspose"}
RULES: tuple[Rule, ...] = (
    Rule(
        CONV_TRANSPOSE,
        ".weight",
        _conv_transpose,
        "ConvTranspose stores its kernel the other way round",
    ),
    Rule(
        _in_nn("LSTMCell"),
        ".bias",
        _never_one_entry,
        "LSTMCell has one bias, the sum of PyTorch's bias_ih and bias_hh",
    ),
    Rule(
        _in_nn("GRUCell"),
        ".bias",
        _never_one_entry,
        "GRUCell's bias is bias_ih plus the first two thirds of bias_hh",
    ),
    Rule(
        _in_nn("GRUCell"),
        ".bias_n",
        _never_one_entry,
        "GRUCell's bias_n is the last third of bias_hh",
    ),
    Rule(
        _in_nn("WeightNorm"),
        ".g",
        _magnitude,
        "the norms are taken along another axis of the weight",
    ),
    Rule(
        _in_nn("SpectralNorm"),
        ".uv_index[1]",
        _right_singular,
        "v follows the kernel, which ConvTranspose stores the other way round",
    ),
    Rule(
        _in_nn("BatchNorm"),
        ".ema_first_time_index",
        _not_the_first_time,
        "left True, the first training step would throw the running statistics away",
    ),
    Rule(
        _in_nn("BatchNorm"),
        ".batch_counter",
        _long_ago,
        "with a high count the running statistics are used as they are",
    ),
    *FLAX_RULES,
)

_BY_OWNER: Mapping[str, tuple[Rule, ...]] = {
    owner: tuple(rule for rule in RULES if owner in rule.owners)
    for owner in {owner for rule in RULES for owner in rule.owners}
}

RULED = frozenset(_BY_OWNER)
"""The classes of layers that have rules: to look there first spares most leaves a call."""


def rule_for(leaf: Leaf) -> Rule | None:
    """The rule that says what the leaf is made of, if its layer has one."""
    rules = _BY_OWNER.get(leaf.owner or "")
    if rules is None:
        return None
    path, rank = leaf.path, len(leaf.shape)
    return next((r for r in rules if path.endswith(r.role) and r.rank in (None, rank)), None)


def constant_for(leaf: Leaf) -> tuple[Expr, str] | None:
    """Return the constant of a leaf that no entry feeds, and why; None if entries feed it."""
    rule = rule_for(leaf)
    expr = rule.make(leaf, None, ()) if rule is not None else None
    return None if rule is None or expr is None else (expr, rule.why)


def as_layer_needs(leaf: Leaf, key: str, shape: Shape) -> Expr | None:
    """Return the source of a leaf when an entry of that shape is put on it.

    None if the leaf's rule, should it have one, does not apply to such an entry.
    """
    rule = rule_for(leaf)
    return rule.make(leaf, key, shape) if rule is not None else None


def rule_applied(leaf: Leaf, expr: Expr, shape: Shape) -> Expr | None:
    """Apply the layer's rule to an expression of that shape; None where it has no rule."""
    keys = keys_of(expr)
    made = as_layer_needs(leaf, keys[0], shape) if keys else None
    return None if made is None else _put(made, expr)


def other_layouts(leaf: Leaf, expr: Expr, shape: Shape) -> tuple[Expr, ...]:
    """Return other layouts that an expression may have, where only its name speaks for one."""
    rule, keys = rule_for(leaf), keys_of(expr)
    if rule is None or rule.others is None or not keys:
        return ()
    return tuple(_put(one, expr) for one in rule.others(leaf, keys[0], shape))


def _put(steps: Expr, expr: Expr) -> Expr:
    """The steps made for a whole entry, done to an expression in its stead."""
    if isinstance(steps, Take):
        return expr
    return steps.with_operands(tuple(_put(one, expr) for one in steps.operands))


def departs_from_rule(leaf: Leaf, source: Expr, entry_shape: Callable[[str], Shape]) -> bool:
    """Return True if a written-out source differs from the leaf's layer rule.

    A stack is looked into, as layers stacked for `jax.lax.scan` follow the rule one by one. A
    source of several entries of one layer (a sum of biases) is not judged here, a fold of them is.

    Raises:
        TransformError: A step does not apply to the shape it meets.
    """
    match source:
        case Take():
            return False
        case Scale(of):
            return departs_from_rule(leaf, of, entry_shape)
        case Stack(of, axis) if axis < len(leaf.shape):
            one = structs.replace(leaf, shape=(*leaf.shape[:axis], *leaf.shape[axis + 1 :]))
            return any(_departs(one, operand, entry_shape) for operand in of)
        case _:
            return _departs(leaf, source, entry_shape)


def _departs(leaf: Leaf, source: Expr, entry_shape: Callable[[str], Shape]) -> bool:
    keys = keys_of(source)
    folds = [
        keys_of(node) for node in nodes_of(source) if isinstance(node, WeightNorm | SpectralNorm)
    ]
    if rule_for(leaf) is None or (len(keys) != 1 and keys not in folds):
        return False
    return all(
        source not in (rule_applied(leaf, node, shape), *other_layouts(leaf, node, shape))
        for node in nodes_of(source)
        if keys_of(node)
        for shape in [shape_of(node, entry_shape)]
    )
