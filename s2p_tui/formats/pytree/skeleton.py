"""From a pytree or the user's factory to leaves, and to skeleton files. Imports JAX and Equinox."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import equinox
import jax
import jax.dtypes
import jax.numpy
import jax.tree_util
import numpy as np
from msgspec import structs

from s2p_tui.alignment.dtypes import dtype_named
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.errors import InputError, UsageError
from s2p_tui.formats.atomic import require_space, written_atomically
from s2p_tui.formats.npy import size_in_bytes
from s2p_tui.formats.pytree.leaves import is_saved, key_paths, saved_leaves, with_state_apart
from s2p_tui.formats.skeleton_file import Target, head_line
from s2p_tui.formats.tensors import ArrayTensors, FileTensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

eqx: Any = equinox
jtu: Any = jax.tree_util
_FEW = 64
_BLOCK = 1 << 20


def save_skeleton(path: str | Path, pytree: Any, *, values: bool = True) -> Skeleton:
    """Write a skeleton file for a pytree.

    It holds the leaves' descriptions and, as Equinox writes them, their values.

    Args:
        path: The file; an existing one is replaced.
        pytree: A module, `(model, state)`, any pytree, or an abstract one
            (`equinox.filter_eval_shape`). A module that still holds the initial values of its
            `StateIndex`es is taken as `(model, state)`.
        values: Store the arrays, so that a gap can keep them. Python scalars are always stored.

    Returns:
        The leaves, as described in the file.

    Raises:
        UsageError: A leaf cannot be saved to a file at all, or the pytree is a PyTorch module.
        OutputError: The file cannot be written.
    """
    _refuse_torch(pytree)
    tree = with_state_apart(pytree)
    leaves, keys = list(saved_leaves(tree)), key_paths(tree)
    described = tuple(_described(leaf, value, values) for leaf, value in leaves)
    held = (leaf for leaf in described if leaf.has_value)
    require_space(Path(path), sum(size_in_bytes(leaf.shape, leaf.dtype) for leaf in held))
    with written_atomically(Path(path)) as stream:
        stream.write(head_line(described, keys))
        for leaf, (_, value) in zip(described, leaves, strict=True):
            if leaf.has_value:
                _serialise(stream, value)
    return Skeleton(described, keys)


def _serialise(stream: BinaryIO, value: Any) -> None:
    """As Equinox does it, but what the disk refuses stays the operating system's own error."""
    try:
        eqx.tree_serialise_leaves(stream, value)
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__
        if cause is None:
            raise
        # NumPy says how many numbers were not written, and not why.
        raise OSError(cause.errno or errno.ENOSPC, cause.strerror or str(cause)) from None


def target_of(pytree: Any, label: str) -> Target:
    """The leaves of a pytree in memory, and their values where it has them.

    Raises:
        UsageError: A leaf cannot be saved to a file at all, or the pytree is a PyTorch module.
    """
    _refuse_torch(pytree)
    tree = with_state_apart(pytree)
    leaves = list(saved_leaves(tree))
    described = tuple(_described(leaf, value, True) for leaf, value in leaves)
    arrays = {
        leaf.path: _array(value)
        for leaf, (_, value) in zip(described, leaves, strict=True)
        if leaf.has_value
    }
    skeleton = Skeleton(described, key_paths(tree))
    return Target(label, (), 0, skeleton, ArrayTensors(arrays))


def _refuse_torch(pytree: Any) -> None:
    """JAX takes a PyTorch module as one leaf, of which nothing would be saved."""
    if any(cls.__module__ == "torch.nn.modules.module" for cls in type(pytree).__mro__):
        name = type(pytree).__name__
        raise UsageError(
            f"{name} is a torch.nn.Module; expected the model that is to be filled.",
            "Give the Equinox module, or what makes it; PyTorch's side is a checkpoint.",
        )


def with_values(pytree: Any, values: Iterable[NDArray[Any] | None]) -> Any:
    """The pytree with other values in its leaves; a module with state inside as `(model, state)`.

    Args:
        pytree: As for `target_of`.
        values: One for each leaf there, in order: a new array, or None to keep what is there. They
            become JAX arrays where JAX has the dtype, unless the leaf is a NumPy array.

    Returns:
        A new pytree; the old one is left alone.
    """
    leaves, structure = jtu.tree_flatten(with_state_apart(pytree))
    new = iter(values)
    filled = [_filled(leaf, next(new)) if is_saved(leaf) else leaf for leaf in leaves]
    return jtu.tree_unflatten(structure, filled)


def _is_scalar(leaf: Any) -> bool:
    return isinstance(leaf, bool | int | float | complex | np.generic)


def _filled(leaf: Any, value: NDArray[Any] | None) -> Any:
    if value is None:
        return leaf
    if _is_scalar(leaf):
        return type(leaf)(value.item())
    if isinstance(leaf, np.ndarray) or jax.dtypes.canonicalize_dtype(value.dtype) != value.dtype:
        return value
    return cast("Any", jax.numpy).asarray(value)


def rename_leaves(target: Target, like: Any, label: str) -> Target:
    """A target read from a plain `.eqx`, its leaves named after those of a pytree like it.

    Raises:
        InputError: Number, shapes or dtypes of the leaves differ.
    """
    tree = with_state_apart(like)
    described = [leaf for leaf, _ in saved_leaves(tree)]
    found = [(leaf.shape, leaf.dtype) for leaf in target.skeleton]
    if found != [(leaf.shape, leaf.dtype) for leaf in described]:
        first = next(
            (n for n, (a, b) in enumerate(zip(target.skeleton, described, strict=False))
             if (a.shape, a.dtype) != (b.shape, b.dtype)),
            min(len(found), len(described)),
        )  # fmt: skip
        raise InputError(
            f"{target.label} has {len(found)} leaves and {label} {len(described)}; "
            f"leaf {first} is the first that differs in shape or dtype.",
            "Give the factory that made the file.",
        )
    extents = {
        leaf.path: extent
        for old, leaf in zip(target.skeleton, described, strict=True)
        if (extent := target.values.extent(old.path)) is not None
    }
    named = tuple(structs.replace(leaf, has_value=True) for leaf in described)
    skeleton = Skeleton(named, key_paths(tree))
    return replace(target, skeleton=skeleton, values=FileTensors(extents.get, target.files))


def _array(value: Any) -> NDArray[np.generic]:
    return np.asarray(value)


def _described(leaf: Leaf, value: Any, keep: bool) -> Leaf:
    has_value = not isinstance(value, jax.ShapeDtypeStruct) and (keep or leaf.kind == "scalar")
    fill = _fill(_array(value)) if has_value and leaf.kind == "array" else None
    return structs.replace(leaf, has_value=has_value, fill=fill)


def _fill(array: NDArray[Any]) -> float | None:
    """The number all elements are, if they are; initial biases are 0, scales of norms 1."""
    if not array.size or dtype_named(str(array.dtype)).kind != "float":
        return None
    first = array[(0,) * array.ndim]
    flat = array.reshape(-1)
    ends = [_FEW, *range(_BLOCK, flat.size, _BLOCK), flat.size]
    same = all((flat[start:end] == first).all() for start, end in pairwise([0, *ends]))
    return float(first) if same else None
