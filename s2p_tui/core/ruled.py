"""Whether an expression makes of an entry what the leaf's layer needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from msgspec import structs

from s2p_tui.core.layers import as_layer_needs, rule_for
from s2p_tui.core.pytree import Leaf
from s2p_tui.core.transform import (
    Broadcast,
    Constant,
    Expr,
    Flip,
    Norm,
    Permute,
    Reshape,
    Scale,
    Shape,
    SpectralNorm,
    Split,
    Stack,
    Take,
    WeightNorm,
    keys_of,
    nodes_of,
    shape_of,
)


def rule_applied(leaf: Leaf, expr: Expr, shape: Shape) -> Expr | None:
    """What the layer's rule makes of an expression of that shape; None where it has no rule."""
    keys = keys_of(expr)
    made = as_layer_needs(leaf, keys[0], shape) if keys else None
    return None if made is None else _put(made, expr)


def _put(steps: Expr, expr: Expr) -> Expr:
    """The steps made for a whole entry, done to an expression in its stead."""
    match steps:
        case Take() | Constant():
            return expr
        case (
            Permute(of) | Flip(of) | Reshape(of) | Split(of) | Scale(of) | Broadcast(of) | Norm(of)
        ):
            return replace(steps, of=_put(of, expr))
        case _:
            return steps


def departs_from_rule(leaf: Leaf, source: Expr, entry_shape: Callable[[str], Shape]) -> bool:
    """Whether a written-out source differs from what the leaf's layer rule makes of its entry.

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
        rule_applied(leaf, node, shape_of(node, entry_shape)) != source
        for node in nodes_of(source)
        if keys_of(node)
    )
