"""A pytree's leaves as Equinox saves them, named by key path; skeleton files. Imports JAX.

Each leaf is described with the module that holds it.
"""

from __future__ import annotations

import errno
import inspect
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise, takewhile
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

import equinox
import jax
import jax.dtypes
import jax.numpy
import jax.tree_util
import numpy as np
from msgspec import structs

from s2p_tui.alignment.dtypes import BY_NAME, dtype_named
from s2p_tui.alignment.layer_rules import RULED
from s2p_tui.alignment.skeleton import HALVES, ROTARY, Leaf, Skeleton
from s2p_tui.errors import InputError, UsageError
from s2p_tui.formats.atomic import require_space, written_atomically
from s2p_tui.formats.models import UNKNOWN, Models
from s2p_tui.formats.npy import size_in_bytes
from s2p_tui.formats.pytree.flax_models import NOBODY, NnxModel, Owner, WithOwners, is_linen, is_nnx
from s2p_tui.formats.pytree.nodes import tree_as_json
from s2p_tui.formats.skeleton_file import Target, head_line
from s2p_tui.formats.tensors import ArrayTensors, FileTensors

if TYPE_CHECKING:
    from numpy.typing import NDArray


eqx: Any = equinox
jtu: Any = jax.tree_util
_Path = tuple[Any, ...]
_WRAPPERS = (eqx.nn.WeightNorm, eqx.nn.SpectralNorm)
_SCALARS = (bool, int, float, complex, np.generic)


def with_state_apart(pytree: Any) -> Any:
    """Turn a module with state still inside into `(model, state)`, leaving the original alone."""
    indices = [node for node in jtu.tree_leaves(pytree, is_leaf=_is_index) if _is_index(node)]
    if not any(jtu.tree_leaves(index.init) for index in indices):
        return pytree
    leaves, structure = jtu.tree_flatten(pytree)
    fresh = jtu.tree_unflatten(structure, leaves)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        return eqx.filter_eval_shape(_split_state, fresh)
    return _split_state(fresh)


def _split_state(model: Any) -> Any:
    return eqx.nn.make_with_state(lambda: model)()


def _is_index(node: Any) -> bool:
    return isinstance(node, eqx.nn.StateIndex)


def _is_state(node: Any) -> bool:
    return isinstance(node, eqx.nn.State)


class _Parts(NamedTuple):
    """A pytree's leaves with their values, the key paths of its PRNG state, and its nodes.

    Attributes:
        is_split: True if it was a module that was split into `(model, state)`.
    """

    leaves: list[tuple[Leaf, Any]]
    keys: tuple[str, ...]
    nodes: bytes
    is_split: bool


def _parts_of(pytree: Any) -> _Parts:
    """Every leaf Equinox saves, with its value, in flatten order.

    Raises:
        UsageError: A leaf cannot be saved to a file at all, or the pytree is a PyTorch module.
    """
    if is_nnx(pytree):
        model = NnxModel(pytree)
        keys = (
            *model.random_names,
            *(name for name, value, _ in _items_of(model) if is_key(value)),
        )
        nodes = tree_as_json(model.as_dict(), is_saved)
        return _Parts(_leaves_of(_items_of(model)), keys, nodes, is_split=False)
    given = pytree if isinstance(pytree, WithOwners) else WithOwners(pytree)
    _refuse_models_without_leaves(given.tree)
    tree = with_state_apart(given.tree)
    leaves, nodes = _leaves_of(_items_in(tree, given)), tree_as_json(tree, is_saved)
    return _Parts(leaves, key_paths(tree), nodes, is_split=tree is not given.tree)


_Item = tuple[str, Any, Owner]
"""Key path, value and owner of a leaf."""


def _items_of(model: NnxModel) -> Iterator[_Item]:
    for held in model.kept:
        yield from ((held.name + more, value, held.owner) for more, value in held.arrays())


def _items_in(tree: Any, given: WithOwners) -> Iterator[_Item]:
    owners = _Owners(tree)
    places: dict[Any, list[_Path]] = {}
    for path, index in jtu.tree_flatten_with_path(tree, is_leaf=_is_index)[0]:
        if _is_index(index):
            places.setdefault(index.marker, []).append(path)
    for path, node in jtu.tree_flatten_with_path(tree, is_leaf=_is_state)[0]:
        if _is_state(node):
            for name, place, value in _state_items(node, path, places, owners):
                yield name, value, owners.of(place)
        else:
            is_known = given.owners is not None
            owner = given.of(path, np.shape(node)) if is_known else owners.of(path)
            yield jtu.keystr(path), node, owner


def _leaves_of(items: Iterable[_Item]) -> list[tuple[Leaf, Any]]:
    found: list[tuple[Leaf, Any]] = []
    problems: list[str] = []
    for name, value, owner in items:
        if not is_saved(value):
            continue
        dtype = _dtype_name(value)
        if dtype is None:
            problems.append(f"{name} is {getattr(value, 'dtype', type(value).__name__)}")
            continue
        kind = "scalar" if _is_scalar(value) else "array"
        found.append((Leaf(name, np.shape(value), dtype, kind, owner.name, owner.config), value))
    if problems:
        raise UsageError(
            f"Equinox cannot save these leaves: {'; '.join(problems[:5])}.",
            "Leave them out of the model, or give them a dtype that Equinox saves.",
        )
    return _with_names_apart(found)


def _with_names_apart(leaves: list[tuple[Leaf, Any]]) -> list[tuple[Leaf, Any]]:
    """Number the leaves whose key paths print alike, as keys of a user's own may."""
    seen: Counter[str] = Counter()
    found: list[tuple[Leaf, Any]] = []
    for leaf, value in leaves:
        seen[leaf.path] += 1
        again = seen[leaf.path]
        named = leaf if again == 1 else structs.replace(leaf, path=f"{leaf.path}#{again}")
        found.append((named, value))
    return found


def _state_items(
    state: Any, prefix: _Path, places: Mapping[Any, list[_Path]], owners: _Owners
) -> list[tuple[str, _Path, Any]]:
    """Name, place of the index, and value of each leaf of a State, by its index's key path."""
    values, markers = state.tree_flatten()
    items: list[tuple[str, _Path, Any]] = []
    for marker, value in zip(markers, values, strict=True):
        place = _place_of(str(marker), prefix, places.get(marker, []), owners)
        if place:
            name = jtu.keystr(place[_shared(place, prefix) + 1 :])
        else:
            name = re.sub(r"^[^.\[]*", "", str(marker))
        for inner, leaf in jtu.tree_flatten_with_path(value)[0]:
            items.append((jtu.keystr(prefix) + name + jtu.keystr(inner), place, leaf))
    return items


def _place_of(marker: str, prefix: _Path, places: list[_Path], owners: _Owners) -> _Path:
    """The `StateIndex` a state's value belongs to: of those of that marker, the nearest.

    Raises:
        UsageError: Models of one class stand beside several states, and differ.
    """
    nearest = max((_shared(place, prefix) for place in places), default=0)
    candidates = [place for place in places if _shared(place, prefix) == nearest]
    if any(owners.of(place) != owners.of(candidates[0]) for place in candidates):
        raise UsageError(
            f"{jtu.keystr(prefix)} holds the state {marker}, which {len(candidates)} models of "
            "the same class beside it could mean, and these differ.",
            "Nest each model with its own state: {'a': (model, state), 'b': (model, state)}.",
        )
    return candidates[0] if candidates else ()


def _shared(place: _Path, prefix: _Path) -> int:
    """Return the number of leading keys two paths have in common."""
    return sum(
        1 for _ in takewhile(lambda keys: keys[0] == keys[1], zip(place, prefix, strict=False))
    )


class _Owners:
    """Finds the module that holds a leaf, by walking key paths from the root."""

    def __init__(self, tree: Any) -> None:
        self._nodes: dict[_Path, Any] = {(): tree}
        self._described: dict[int, Owner] = {}

    def of(self, path: _Path) -> Owner:
        """Class name and plain static fields of the innermost module above the path.

        A layer within a `WeightNorm` or `SpectralNorm` also has that as its "wrapper", with its
        "wrapper_axis"; and they have their "layer" and its fields as "layer_config".
        """
        for length in range(len(path) - 1, -1, -1):
            node = self._node(path[:length])
            if is_dataclass(node) and not isinstance(node, type):
                if id(node) not in self._described:
                    around = self._node(path[: length - 1]) if length else None
                    name = _class_name(node.__class__)
                    config = {**_config(node, around), **self._rotary(path[:length])}
                    self._described[id(node)] = Owner(name, config)
                return self._described[id(node)]
        return NOBODY

    def _rotary(self, path: _Path) -> Mapping[str, Any]:
        """The setting of a layer in a module that has a rotary embedding, which holds no leaf."""
        above = (self._node(path[:length]) for length in range(len(path)))
        return {ROTARY: HALVES} if any(map(_has_rotary, above)) else {}

    def _node(self, path: _Path) -> Any:
        if path not in self._nodes:
            self._nodes[path] = _child(self._node(path[:-1]), path[-1])
        return self._nodes[path]


def _has_rotary(node: Any) -> bool:
    return is_dataclass(node) and any(
        isinstance(getattr(node, attribute.name, None), eqx.nn.RotaryPositionalEmbedding)
        for attribute in fields(node)
    )


def _child(node: Any, key: Any) -> Any:
    if isinstance(key, jtu.GetAttrKey):
        return getattr(node, key.name, None)
    if isinstance(key, jtu.SequenceKey) and isinstance(node, list | tuple):
        return cast("Sequence[Any]", node)[key.idx]
    if isinstance(key, jtu.DictKey) and isinstance(node, Mapping):
        return cast("Mapping[Any, Any]", node).get(key.key)
    return None


def _class_name(cls: type[Any]) -> str:
    """The class's name as one writes it; a subclass of an Equinox layer counts as that layer.

    It is a class of its own if it computes with the weights itself instead of calling the layer it
    inherits from: nothing says then that the order of their axes is the layer's. Layers with a rule
    of their own are left out, as the rule is still the likeliest reading of a subclass.
    """
    for place, base in enumerate(cls.__mro__):
        name = f"equinox.nn.{base.__name__}"
        if base.__module__.startswith("equinox.nn") and hasattr(eqx.nn, base.__name__):
            if name in RULED or not any(map(_computes_itself, cls.__mro__[:place])):
                return name
            break
    return f"{cls.__module__}.{cls.__qualname__}"


def _computes_itself(cls: type[Any]) -> bool:
    """Return True if a class has a `__call__` that calls no other one."""
    call = vars(cls).get("__call__")
    code = None if call is None else getattr(inspect.unwrap(call), "__code__", None)
    return code is not None and "__call__" not in _names_in(code)


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _config(node: Any, around: Any = None) -> Mapping[str, Any]:
    plain: dict[str, Any] = {}
    for attribute in fields(node):
        value = getattr(node, attribute.name, None)
        if attribute.metadata.get("static") and _is_plain(value):
            plain[attribute.name] = value
    layer: Any = getattr(node, "layer", None) if isinstance(node, _WRAPPERS) else None
    if layer is not None:
        plain["layer"], plain["layer_config"] = _class_name(layer.__class__), _config(layer)
    if isinstance(around, _WRAPPERS) and getattr(around, "layer", None) is node:
        plain["wrapper"] = _class_name(around.__class__)
        plain["wrapper_axis"] = getattr(around, "axis", None)
    return plain


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, cast("list[Any]", value)))
    return isinstance(value, bool | int | float | str | None)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, _SCALARS)


def is_saved(value: Any) -> bool:
    """Return True if such a leaf is saved: as Equinox does, except typed PRNG keys."""
    is_leaf = isinstance(value, jax.ShapeDtypeStruct) or eqx.is_array_like(value)
    return is_leaf and not is_key(value)


def is_key(value: Any) -> bool:
    """Return True for typed PRNG keys (`jax.random.key`), on which Equinox's saving fails."""
    is_jax = isinstance(value, jax.Array | jax.ShapeDtypeStruct)
    return is_jax and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key)


def key_paths(tree: Any) -> tuple[str, ...]:
    """Return the key paths of all typed PRNG keys, those within a State by the state's own."""
    found = jtu.tree_flatten_with_path(tree)[0]
    return tuple(jtu.keystr(path) for path, value in found if is_key(value))


def _dtype_name(value: Any) -> str | None:
    """The dtype Equinox stores a leaf in, or None if it cannot be stored or read back in place."""
    dtype: Any = getattr(value, "dtype", None)
    if dtype is None:
        dtype = np.asarray(value).dtype
    if not getattr(dtype, "isnative", True):
        return None
    name = str(dtype)
    return name if name in BY_NAME else None


_FEW = 64
_BLOCK = 1 << 20


def save_skeleton(
    path: str | Path, pytree: Any, *, values: bool = True, models: Models = UNKNOWN
) -> Skeleton:
    """Write a skeleton file for a pytree.

    It holds the leaves' descriptions and, as Equinox writes them, their values.

    Args:
        path: The file; an existing one is replaced.
        pytree: A module, `(model, state)`, a module of `flax.nnx`, any pytree, or an abstract one
            (`equinox.filter_eval_shape`). A module that still holds the initial values of its
            `StateIndex`es is taken as `(model, state)`.
        values: Store the arrays, so that a gap can keep them. Python scalars are always stored.
        models: The code that makes this pytree and its twin in PyTorch, to be recorded.

    Returns:
        The leaves, as described in the file.

    Raises:
        UsageError: A leaf cannot be saved to a file at all, or the pytree is a PyTorch module.
        OutputError: The file cannot be written.
    """
    leaves, keys, nodes, is_split = _parts_of(pytree)
    described = tuple(_described(leaf, value, values) for leaf, value in leaves)
    held = (leaf for leaf in described if leaf.has_value)
    require_space(Path(path), sum(size_in_bytes(leaf.shape, leaf.dtype) for leaf in held))
    with written_atomically(Path(path)) as stream:
        stream.write(head_line(described, keys, nodes, models.holding_state(is_split)))
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


def target_of(pytree: Any, label: str, models: Models = UNKNOWN) -> Target:
    """The leaves of a pytree in memory, and their values where it has them.

    Args:
        pytree: As for `save_skeleton`.
        label: What to call it.
        models: The code that made it, if it is known.

    Raises:
        UsageError: A leaf cannot be saved to a file at all, or the pytree is a PyTorch module.
    """
    leaves, keys, nodes, is_split = _parts_of(pytree)
    described = tuple(_described(leaf, value, True) for leaf, value in leaves)
    arrays = {
        leaf.path: _array(value)
        for leaf, (_, value) in zip(described, leaves, strict=True)
        if leaf.has_value
    }
    made = models.holding_state(is_split)
    return Target(label, (), 0, Skeleton(described, keys), ArrayTensors(arrays), nodes, made)


def _refuse_models_without_leaves(pytree: Any) -> None:
    """JAX takes modules of PyTorch and Linen as one leaf, of which nothing would be saved."""
    if is_linen(pytree):
        raise UsageError(
            f"{type(pytree).__name__} is a flax.linen.Module, which holds no variables.",
            "Give the variables, model.init(key, x), with or without the module, or a function "
            "that returns them.",
        )
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
    new = iter(values)

    def fill(leaf: Any) -> Any:
        return _filled(leaf, next(new)) if is_saved(leaf) else leaf

    if is_nnx(pytree):
        return NnxModel(pytree).filled(fill)
    leaves, structure = jtu.tree_flatten(with_state_apart(pytree))
    return jtu.tree_unflatten(structure, list(map(fill, leaves)))


def _filled(leaf: Any, value: NDArray[Any] | None) -> Any:
    if value is None:
        return leaf
    if _is_scalar(leaf):
        return type(leaf)(value.item())
    if isinstance(leaf, np.ndarray) or jax.dtypes.canonicalize_dtype(value.dtype) != value.dtype:
        return value
    return cast("Any", jax.numpy).asarray(value)


def rename_leaves(target: Target, like: Any, label: str) -> Target:
    """A target that was read from a file, its leaves named after those of a pytree like it.

    The leaves of a plain `.eqx` go by their order; others keep the names they have, and get owner
    classes.

    Raises:
        InputError: Number, shapes or dtypes of the leaves differ, or names that they have.
    """
    leaves, keys, nodes, _ = _parts_of(like)
    described = [leaf for leaf, _ in leaves]
    is_plain = all(leaf.path == f"[{n}]" for n, leaf in enumerate(target.skeleton))

    def of(leaf: Leaf) -> tuple[object, ...]:
        return leaf.shape, leaf.dtype, "" if is_plain else leaf.path

    found, wanted = list(map(of, target.skeleton)), list(map(of, described))
    if found != wanted:
        pairs = enumerate(zip(found, wanted, strict=False))
        first = next((n for n, (a, b) in pairs if a != b), min(len(found), len(wanted)))
        raise InputError(
            f"{target.label} has {len(found)} leaves and {label} {len(wanted)}; leaf {first} is "
            f"the first that differs in {'' if is_plain else 'name, '}shape or dtype.",
            "Give the factory that made the file.",
        )
    extents = {
        leaf.path: extent
        for old, leaf in zip(target.skeleton, described, strict=True)
        if (extent := target.values.extent(old.path)) is not None
    }
    named = tuple(structs.replace(leaf, has_value=True) for leaf in described)
    values = FileTensors(extents.get, target.files)
    return replace(target, skeleton=Skeleton(named, keys), values=values, tree=nodes)


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
