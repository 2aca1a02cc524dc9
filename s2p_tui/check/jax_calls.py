"""What every module inside an Equinox model is called with and returns."""

from __future__ import annotations

import contextlib
import functools
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import equinox
import jax
import jax.tree_util

from s2p_tui.check.arrays import UnreadableError, arrays_in
from s2p_tui.check.calls import Call, stacked
from s2p_tui.check.inputs import Examples
from s2p_tui.check.jax_side import call_once, model_and_state

eqx: Any = equinox
jtu: Any = jax.tree_util


def modules_in(tree: Any) -> dict[str, Any]:
    """Every Equinox module in a tree by key path, outer ones first; `""` is the tree itself."""
    found: dict[str, Any] = {}
    queue: list[tuple[str, Any]] = [("", tree)]
    while queue:
        path, node = queue.pop(0)
        if isinstance(node, eqx.Module):
            found[path] = node

        def is_below(child: Any, node: Any = node) -> bool:
            return child is not node

        for keys, child in jtu.tree_flatten_with_path(node, is_leaf=is_below)[0]:
            if keys:
                queue.append((path + jtu.keystr(keys), child))
    return found


def jax_calls(tree: Any, examples: Examples) -> dict[str, list[Call]]:
    """The calls of each module by its key path in the model; arrays count the examples first.

    Modules that are called another number of times from example to example are left out, and so
    are calls that JAX traces, as inside `jax.lax.scan`'s compiled body.
    """
    modules = modules_in(model_and_state(tree)[0])
    each: list[Mapping[str, Sequence[Call]]] = []
    for number in range(examples.count):
        recorder = _Recorder(modules)
        with jax.disable_jit(), recorder.listening():
            call_once(tree, examples, number)
        each.append(recorder.calls)
    found: dict[str, list[Call]] = {}
    for path in modules:
        lots = [calls.get(path, ()) for calls in each]
        if len({len(lot) for lot in lots}) == 1:
            joined = [stacked(calls) for calls in zip(*lots, strict=True)]
            whole = [call for call in joined if call is not None]
            if len(whole) == len(joined):
                found[path] = whole
    return found


class _Recorder:
    """Takes down the calls of known modules while `listening`.

    A module is known again after JAX took it apart and put it together, by its class and arrays.
    """

    def __init__(self, modules: Mapping[str, Any]) -> None:
        self.calls: defaultdict[str, list[Call]] = defaultdict(list)
        self._modules = modules
        self._by_id = {id(module): path for path, module in reversed(list(modules.items()))}
        self._by_arrays = {
            marks: path
            for path, module in reversed(list(modules.items()))
            if (marks := _marks(module))[1]
        }
        self._inside: list[str] = []

    @contextlib.contextmanager
    def listening(self) -> Generator[None]:
        """Have the modules' classes tell of every call."""
        classes: set[type[Any]] = {type(module) for module in self._modules.values()}
        holders = {c for cls in classes for c in cls.__mro__ if "__call__" in vars(c)}
        originals = {holder: vars(holder)["__call__"] for holder in holders if holder is not object}
        # Past the metaclass, which would wrap what it is given.
        try:
            for holder, original in originals.items():
                type.__setattr__(holder, "__call__", self._telling(original))
            yield
        finally:
            for holder, original in originals.items():
                type.__setattr__(holder, "__call__", original)

    def _telling(self, original: Any) -> Callable[..., Any]:
        # Wrapped, so that the signature still shows what it wants to be called with.
        @functools.wraps(original, updated=())
        def tell(module: Any, *arguments: Any, **options: Any) -> Any:
            bound = original.__get__(module, type(module))
            path = self._path(module)
            if path is None or path in self._inside:
                return bound(*arguments, **options)
            self._inside.append(path)
            try:
                output = bound(*arguments, **options)
            finally:
                self._inside.pop()
            with contextlib.suppress(UnreadableError):
                self.calls[path].append(Call(arrays_in(arguments), arrays_in(output)))
            return output

        return tell

    def _path(self, module: Any) -> str | None:
        return self._by_id.get(id(module)) or self._by_arrays.get(_marks(module))


def _marks(module: Any) -> tuple[type[Any], tuple[int, ...]]:
    leaves = jtu.tree_leaves(module)
    return module.__class__, tuple(id(leaf) for leaf in leaves if isinstance(leaf, jax.Array))
