"""Calls of known modules recorded while a model runs."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple

import jax
import jax.tree_util

from s2p_tui.cli.check.arrays import UnreadableError

jtu: Any = jax.tree_util


class MadeCall(NamedTuple):
    """A call of a module, as it was made: its arrays may be traced by `jax.vmap`."""

    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    output: Any


Record = Callable[[str, MadeCall], None]
"""Takes a module's key path and its call."""


@contextlib.contextmanager
def listening(modules: Mapping[str, Any], record: Record) -> Generator[None]:
    """Record every call of known modules by key path, when it returns."""
    with _Recorder(modules, record).listening():
        yield


class _Recorder:
    """Takes down the calls of known modules while `listening`.

    A module is known again after JAX took it apart and put it together, by its class and arrays.
    """

    def __init__(self, modules: Mapping[str, Any], record: Record) -> None:
        self._record = record
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
        """Record every call of the modules' classes."""
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
                self._record(path, MadeCall(arguments, options, output))
            return output

        return tell

    def _path(self, module: Any) -> str | None:
        return self._by_id.get(id(module)) or self._by_arrays.get(_marks(module))


def _marks(module: Any) -> tuple[type[Any], tuple[int, ...]]:
    leaves = jtu.tree_leaves(module)
    return module.__class__, tuple(id(leaf) for leaf in leaves if isinstance(leaf, jax.Array))
