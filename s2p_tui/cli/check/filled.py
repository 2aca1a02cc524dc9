"""The Equinox model filled by an alignment, whole or one module at a time, without a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import equinox
import jax.numpy as jnp
import jax.tree_util

from s2p_tui.alignment.dtypes import numpy_dtype
from s2p_tui.alignment.skeleton import Skeleton
from s2p_tui.alignment.transform import Expr
from s2p_tui.cli.check.jax_side import model_and_state, modules_in
from s2p_tui.conversion.evaluate import Evaluator
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.pytree.skeleton import is_saved

if TYPE_CHECKING:
    from numpy.typing import NDArray

eqx: Any = equinox
jnp_: Any = jnp
jtu: Any = jax.tree_util

Changes = Mapping[int, Expr]
"""Other sources, by the index of the leaf they fill."""
UNCHANGED: Changes = MappingProxyType({})
# A candidate's leaf is compared with the one in use, and then tried.
_LEAVES_KEPT = 3


class FilledModel:
    """A pytree whose leaves hold what their sources make of a checkpoint.

    Args:
        tree: The pytree, in inference mode.
        skeleton: Its leaves.
        checkpoint: Gives the numbers.
        sources: What fills each leaf; None for one that keeps its value.
    """

    def __init__(
        self,
        tree: Any,
        skeleton: Skeleton,
        checkpoint: Checkpoint,
        sources: Sequence[Expr | None],
    ) -> None:
        self.skeleton = skeleton
        self.sources = list(sources)
        self._evaluator = Evaluator(checkpoint.state_dict, checkpoint.tensors)
        found, self._structure = jtu.tree_flatten_with_path(tree)
        self._leaves = [leaf for _, leaf in found]
        paths = [jtu.keystr(path) for path, _ in found]
        self._places = [place for place, leaf in enumerate(self._leaves) if is_saved(leaf)]
        assert len(self._places) == len(skeleton)
        self._has_state = model_and_state(tree)[1] is not None
        head = "[0]" if self._has_state else ""
        self._modules: dict[str, tuple[Any, list[int]]] = {}
        for path, module in modules_in(model_and_state(tree)[0]).items():
            structure = jtu.tree_structure(module)
            inside = [place for place, name in enumerate(paths) if _is_under(name, head + path)]
            if structure.num_leaves == len(inside):
                self._modules[path] = structure, inside
        self._index = {place: index for index, place in enumerate(self._places)}
        self.leaf = lru_cache(maxsize=_LEAVES_KEPT)(self._leaf)
        self._fill(self._leaves, {n: s for n, s in enumerate(self.sources) if s is not None})

    @property
    def modules(self) -> list[str]:
        """Key paths of the modules that can be made."""
        return list(self._modules)

    def rows_under(self, module: str) -> list[int]:
        """Return the leaves within a module, its state included."""
        skipped = len("[0]") if self._has_state else 0
        return [
            index
            for index, leaf in enumerate(self.skeleton)
            if _is_under(leaf.path[skipped:], module)
        ]

    def numbers(self, source: Expr) -> NDArray[Any]:
        """Return all numbers of a source."""
        shape = self._evaluator.shape(source)
        return self._evaluator.region(source, tuple((0, size) for size in shape))

    def _leaf(self, index: int, source: Expr) -> Any:
        """Return a leaf as a source fills it."""
        leaf, old = self.skeleton[index], self._leaves[self._places[index]]
        array = self.numbers(source).reshape(leaf.shape).astype(numpy_dtype(leaf.dtype))
        if leaf.kind == "scalar":
            return type(old)(array.item())
        return jnp_.asarray(array) if eqx.is_array(old) and not _is_numpy(old) else array

    def take(self, changes: Changes) -> None:
        """Fill leaves otherwise from now on."""
        for index, source in changes.items():
            self.sources[index] = source
        self._fill(self._leaves, changes)

    def _with(self, changes: Changes) -> list[Any]:
        leaves = list(self._leaves)
        self._fill(leaves, changes)
        return leaves

    def _fill(self, leaves: list[Any], changes: Changes) -> None:
        for index, source in changes.items():
            leaves[self._places[index]] = self.leaf(index, source)
        if any(self.skeleton[index].kind == "scalar" for index in changes):
            # One of them may say that a layer trains.
            made = eqx.nn.inference_mode(jtu.tree_unflatten(self._structure, leaves))
            leaves[:] = jtu.tree_leaves(made)

    def tree(self, changes: Changes = UNCHANGED) -> Any:
        """Return the whole pytree, some leaves filled otherwise."""
        return jtu.tree_unflatten(self._structure, self._with(changes))

    def module(self, path: str, changes: Changes = UNCHANGED) -> tuple[Any, Any]:
        """Return a module and the state, some leaves filled otherwise."""
        structure, inside = self._modules[path]
        leaves = self._with(changes)
        module = jtu.tree_unflatten(structure, [leaves[place] for place in inside])
        state = jtu.tree_unflatten(self._structure, leaves)[1] if self._has_state else None
        return module, state


def _is_numpy(value: Any) -> bool:
    return type(value).__module__ == "numpy"


def _is_under(path: str, module: str) -> bool:
    return not module or (path.startswith(module) and path[len(module) : len(module) + 1] in ".[")
