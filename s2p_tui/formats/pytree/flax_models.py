"""Models of Flax: NNX modules and states taken apart, and the layers that hold Linen's variables.

Flax is not imported before the user's own code has done so: no other model needs it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax
import jax.tree_util
import numpy as np

from s2p_tui.alignment.skeleton import NO_CONFIG
from s2p_tui.errors import UsageError

jtu: Any = jax.tree_util
_Path = tuple[str | int, ...]
_Place = tuple[_Path, tuple[int, ...]]
"""Path and shape of a variable."""
_SETTINGS = frozenset(
    (
        *("in_features", "out_features", "features", "hidden_features", "num_features"),
        *("num_embeddings", "num_heads", "num_kv_heads", "qkv_features", "in_kv_features"),
        *("kernel_size", "strides", "padding", "kernel_dilation", "input_dilation"),
        *("feature_group_count", "transpose_kernel", "num_groups", "group_size"),
        *("axis", "feature_axes", "reduction_axes", "use_bias", "use_scale", "normalize_qk"),
        *("epsilon", "momentum"),
    )
)
"""Settings that numbers depend on; not modes such as `deterministic`, nor what Flax may add."""
_LAYERS = ("flax.nnx.nn.", "flax.linen.")
# Base classes of layers, and Linen's own base class: no layers themselves.
_BASES = frozenset(("Module", "RNNCellBase", "RNNBase"))
_HOLDERS = ("LSTMCell", "GRUCell", "SimpleCell", "Attention")
"""Ends of the names of Flax's layers whose dense layers are parts of them."""
_DENSE = ("Linear", "LinearGeneral", "Dense", "DenseGeneral", "DenseParams")
_CONTAINERS = "flax.nnx.helpers"


class Owner(NamedTuple):
    """The layer that holds a leaf: its class and its settings."""

    name: str | None = None
    config: Mapping[str, Any] = NO_CONFIG


NOBODY = Owner()


@dataclass(frozen=True)
class WithOwners:
    """A pytree, and the layers of its leaves by key path and shape.

    Attributes:
        tree: The pytree.
        owners: The layers; None if they are to be found in the tree.
    """

    tree: Any
    owners: Mapping[_Place, Owner] | None = None

    def of(self, path: Sequence[Any], shape: tuple[int, ...]) -> Owner:
        """Return the layer of a leaf."""
        keys = tuple(getattr(key, "key", None) for key in path)
        return (self.owners or {}).get((cast("_Path", keys), shape), NOBODY)


def _owner(layers: Sequence[object]) -> Owner:
    """Return the owner of what the last of nested layers holds.

    The dense layers of a recurrent cell, or of attention, are parts of it.
    """
    if not layers:
        return NOBODY
    inner = _layer_name(type(layers[-1]))
    if len(layers) > 1 and inner.endswith(_DENSE):
        around = _layer_name(type(layers[-2]))
        if around.startswith("flax.") and around.endswith(_HOLDERS):
            return Owner(around, _config(layers[-2]))
    return Owner(inner, _config(layers[-1]) if inner.startswith("flax.") else NO_CONFIG)


def _layer_name(cls: type[Any]) -> str:
    """The class's name as one writes it; a subclass of a layer of Flax counts as that layer."""
    for base in cls.__mro__:
        if base.__module__.startswith(_LAYERS) and base.__name__ not in _BASES:
            package = ".".join(base.__module__.split(".")[:2])
            if getattr(sys.modules.get(package), base.__name__, None) is base:
                return f"{package}.{base.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def _config(layer: object) -> Mapping[str, Any]:
    settings = {name: getattr(layer, name) for name in _SETTINGS if hasattr(layer, name)}
    return {name: value for name, value in sorted(settings.items()) if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, cast("list[Any]", value)))
    return isinstance(value, bool | int | float | str | None)


def is_nnx(tree: Any) -> bool:
    """Return True for a module of `flax.nnx`, or the state of one."""
    nnx: Any = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(tree, (nnx.Module, nnx.State))


def is_linen(tree: Any) -> bool:
    """Return True for a module of `flax.linen`, which holds no arrays itself."""
    linen: Any = sys.modules.get("flax.linen")
    return linen is not None and isinstance(tree, linen.Module)


@dataclass(frozen=True)
class Value:
    """The content of one place of an NNX module: a variable, or an array of its own.

    Attributes:
        path: Names of attributes, and indices of lists.
        node: The variable, or the array.
        is_random: True for the state of a PRNG, which a model draws from and no checkpoint holds.
        owner: The layer that holds it.
    """

    path: _Path
    node: Any
    is_random: bool
    owner: Owner

    @property
    def name(self) -> str:
        """The path as one writes it."""
        return _written(self.path)

    def arrays(self) -> list[tuple[str, Any]]:
        """The arrays in it, with what stands behind the path: nothing but for nested ones."""
        # A variable is a node whose one child goes by another name from version to version.
        levels = 1 if _is_variable(self.node) else 0
        found = jtu.tree_flatten_with_path(self.node)[0]
        return [(jtu.keystr(path[levels:]), value) for path, value in found]


def _written(path: _Path) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)


def _is_variable(node: Any) -> bool:
    return isinstance(node, sys.modules["flax.nnx"].Variable)


def _held_by(variable: Any) -> Any:
    def is_below(node: Any) -> bool:
        return node is not variable

    (held,) = jtu.tree_leaves(variable, is_leaf=is_below)
    return held


class NnxModel:
    """An NNX module, or the state of one, as what it holds; a shared variable comes once.

    Args:
        tree: The module or state, abstract (`nnx.eval_shape`) or not.

    Attributes:
        values: What it holds, in the order in which JAX flattens the state.

    Raises:
        UsageError: Flax cannot take it apart.
    """

    def __init__(self, tree: Any) -> None:
        nnx: Any = sys.modules["flax.nnx"]
        self._nnx = nnx
        self._definition: Any = None
        state = tree
        if not isinstance(tree, nnx.State):
            try:
                self._definition, state = nnx.split(tree)
            except Exception as error:
                raise UsageError(
                    f"{type(tree).__name__} cannot be split into its graph and state: "
                    f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
                    "Make sure that nnx.split takes it.",
                ) from error
        root = None if self._definition is None else tree
        self.values = tuple(
            Value(
                path,
                node,
                isinstance(node, nnx.RngState),
                _owner([module for _, module in _modules(root, path)]),
            )
            for path, node in nnx.to_flat_state(state)
        )
        self._root = root

    @property
    def kept(self) -> Iterator[Value]:
        """The variables that are saved: all but the state of PRNGs."""
        return (value for value in self.values if not value.is_random)

    @property
    def random_names(self) -> tuple[str, ...]:
        """The key paths of the state of PRNGs."""
        random = (value for value in self.values if value.is_random)
        return tuple(value.name + more for value in random for more, _ in value.arrays())

    @property
    def modules(self) -> dict[str, Any]:
        """The modules that hold variables, by key path; `""` is the whole model."""
        held = (_modules(self._root, value.path) for value in self.kept)
        return {_written(path): module for lot in held for path, module in lot}

    def as_dict(self) -> dict[Any, Any]:
        """The saved variables, as `nnx.to_pure_dict` has it: nested dictionaries of arrays."""
        tree: dict[Any, Any] = {}
        for value in self.kept:
            node = tree
            for key in value.path[:-1]:
                node = node.setdefault(key, {})
            node[value.path[-1]] = _held_by(value.node) if _is_variable(value.node) else value.node
        return tree

    def filled(self, new: Callable[[Any], Any]) -> Any:
        """Return a module or state of this kind that holds other arrays.

        Args:
            new: Gives the array in place of one that is saved; called in order.
        """
        flat: list[tuple[_Path, Any]] = []
        for value in self.values:
            leaves, structure = jtu.tree_flatten(value.node)
            if not value.is_random:
                leaves = list(map(new, leaves))
            # Made again in any case, as nothing drawn from the new one may change the old one.
            flat.append((value.path, jtu.tree_unflatten(structure, leaves)))
        state = self._nnx.from_flat_state(flat)
        return state if self._definition is None else self._nnx.merge(self._definition, state)


def _modules(root: Any, path: _Path) -> list[tuple[_Path, object]]:
    """Return the modules on the way to a place, from the outside in; containers are none."""
    module: Any = sys.modules["flax.nnx"].Module
    found: list[tuple[_Path, object]] = []
    node: Any = root
    for length, key in enumerate(path):
        if isinstance(node, module) and not type(node).__module__.startswith(_CONTAINERS):
            found.append((path[:length], node))
        try:
            is_name = isinstance(key, str) and hasattr(node, key)
            node = getattr(node, str(key)) if is_name else node[key]
        except (KeyError, IndexError, TypeError):
            break
    return found


class LinenModel(NamedTuple):
    """A module of Linen and its variables.

    Attributes:
        module: The module, bound to nothing.
        variables: Its variables by collection.
    """

    module: Any
    variables: Mapping[str, Any]

    @classmethod
    def of(cls, tree: Any) -> LinenModel | None:
        """Return a module bound to variables, or a pair of both, as such; None for others."""
        if is_linen(tree) and tree.scope is not None:
            return cls(*tree.unbind())
        if isinstance(tree, tuple):
            items = cast("tuple[Any, ...]", tree)
            if len(items) == 2 and is_linen(items[0]) and isinstance(items[1], Mapping):
                return cls(items[0], cast("Mapping[str, Any]", items[1]))
        return None


def traced_apart(
    make: Callable[[], Any],
) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """Return a function for JAX to trace, and what turns its result into the pytree it stands for.

    A module is taken apart while it is traced, as `nnx.eval_shape` does it.
    """
    parts: list[Any] = []

    def traced() -> Any:
        tree = make()
        parts.clear()
        # A bound module would hide its variables from JAX.
        tree = LinenModel.of(tree) or tree
        if not is_nnx(tree) or isinstance(tree, sys.modules["flax.nnx"].State):
            return tree
        definition, state = sys.modules["flax.nnx"].split(tree)
        parts.append(definition)
        return state

    def whole(tree: Any) -> Any:
        return sys.modules["flax.nnx"].merge(parts[0], tree) if parts else tree

    return traced, whole


@contextlib.contextmanager
def linen_layers() -> Generator[dict[_Place, Owner]]:
    """Record the layers that hold variables while modules of `flax.linen` are initialised.

    Yields:
        The layers, by collection and path of a variable and its shape; whole after the end. A
        variable of two different layers, as of two models, is nobody's.
    """
    owners: dict[_Place, Owner] = {}
    linen: Any = sys.modules.get("flax.linen")
    if linen is None:
        yield owners
        return

    def listen(call: Any, arguments: Any, options: Any, context: Any) -> Any:
        result = call(*arguments, **options)
        # A module that was never bound to a scope has no variables to ask for.
        if context.module.scope is not None:
            for place, owner in _variables_of(context.module):
                known = owners.setdefault(place, owner)
                if known != owner:
                    owners[place] = NOBODY
        return result

    with linen.intercept_methods(listen):
        yield owners


def _variables_of(module: Any) -> Iterator[tuple[_Place, Owner]]:
    """Yield the variables that a bound module holds itself, and their layer."""
    around: Any = module.parent
    is_inside = dataclasses.is_dataclass(around) and hasattr(around, "variables")
    owner = _owner([around, module] if is_inside else [module])
    for collection, held in module.variables.items():
        for name, value in cast("Mapping[str, Any]", held).items():
            if not isinstance(value, Mapping) and hasattr(value, "shape"):
                yield ((collection, *module.path, name), tuple(np.shape(value))), owner
