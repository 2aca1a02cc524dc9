"""Models of Flax as Equinox modules that take one example, so that one check runs both kinds."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox
import jax
import jax.numpy as jnp
import jax.tree_util
import numpy as np

from s2p_tui.cli.check.arrays import UnreadableError
from s2p_tui.cli.check.recorder import MadeCall, Record, listening
from s2p_tui.errors import InputError
from s2p_tui.formats.pytree.flax_models import (
    LinenModel,
    NnxModel,
    WithOwners,
    is_linen,
    is_nnx,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

eqx: Any = equinox
jnp_: Any = jnp
jtu: Any = jax.tree_util
_MODES = {"deterministic": True, "train": False, "training": False, "is_training": False}
"""Arguments that Flax's models are commonly switched to inference with, and their values."""


class _Nnx:
    """An NNX module, called with other arrays in its variables."""

    def __init__(self, tree: Any) -> None:
        self.pytree = tree
        self._model = NnxModel(tree)
        self.variables: Any = [value for held in self._model.kept for _, value in held.arrays()]
        self.paths = tuple(self._model.modules)

    def call(self, variables: Any, arguments: Sequence[Any], record: Record | None) -> Any:
        arrays = iter(variables)
        module = self._model.filled(lambda _: next(arrays))
        module.eval()
        options = _modes(module.__call__)
        if record is None:
            return module(*arguments, **options)
        with listening(NnxModel(module).modules, record):
            return module(*arguments, **options)


class _Linen:
    """A module of Linen, applied to variables."""

    def __init__(self, model: LinenModel, pytree: Any) -> None:
        self.pytree, self.variables = pytree, model.variables
        self._module = model.module
        self.paths = tuple(dict.fromkeys(_paths_of(model.variables)))

    def call(self, variables: Any, arguments: Sequence[Any], record: Record | None) -> Any:
        options = _modes(self._module.__call__)
        if record is None:
            return self._module.apply(variables, *arguments, **options)

        def listen(call: Any, given: Any, named: Any, context: Any) -> Any:
            output = call(*given, **named)
            inner = "".join(f"[{name!r}]" for name in context.module.path)
            if inner and context.method_name == "__call__":
                for collection in variables:
                    record(f"[{collection!r}]{inner}", MadeCall(given, named, output))
            return output

        with sys.modules["flax.linen"].intercept_methods(listen):
            return self._module.apply(variables, *arguments, **options)


def _modes(method: Callable[..., Any]) -> dict[str, bool]:
    parameters = inspect.signature(method).parameters
    return {name: value for name, value in _MODES.items() if name in parameters}


def _paths_of(variables: Mapping[str, Any]) -> Iterator[str]:
    """Yield the key paths of the modules that hold variables: where Linen nests, a module does."""
    for path, _ in jtu.tree_flatten_with_path(variables)[0]:
        for length in range(2, len(path)):
            yield jtu.keystr(path[:length])


class Layout(NamedTuple):
    """Axes of what goes in and out that differ from torch's.

    Attributes:
        inputs: True if arguments are given with channels last.
        outputs: True if what is returned has channels last.
    """

    inputs: bool = False
    outputs: bool = False


_LAYOUTS = (Layout(), Layout(True, True), Layout(True, False), Layout(False, True))
"""The likeliest first: convolutions of Flax have channels last, and so has what they return."""


class FlaxModel(eqx.Module):
    """A model of Flax that is called on one example.

    Attributes:
        variables: The arrays that files hold, in their order.
        made: What calls it.
        is_batched: True if it takes and returns a first axis of examples.
        layout: Its axes.
        record: Takes the calls of the modules inside.
    """

    variables: Any
    made: Any = eqx.field(static=True)
    is_batched: bool = eqx.field(static=True, default=True)
    layout: Layout = eqx.field(static=True, default=Layout())
    record: Record | None = eqx.field(static=True, default=None)

    def __call__(self, *arguments: Any) -> Any:
        """Run it on one example, in inference mode."""
        given = [self._given(jnp_.asarray(argument)) for argument in arguments]
        record = self.record
        if record is None:
            output = self.made.call(self.variables, given, None)
        else:

            def inner(path: str, call: MadeCall) -> None:
                with contextlib.suppress(UnreadableError):
                    record(path, MadeCall(*jtu.tree_map(self._example, tuple(call))))

            output = self.made.call(self.variables, given, inner)
        return jtu.tree_map(self._returned, output)

    def watched(self, record: Record) -> FlaxModel:
        """Return the same model, the calls of whose inner modules are recorded."""
        return replace(self, record=record)

    @property
    def pytree(self) -> Any:
        """The pytree that a skeleton describes."""
        return self.made.pytree

    @property
    def paths(self) -> Sequence[str]:
        """Key paths of the modules inside."""
        return self.made.paths

    def _given(self, argument: Any) -> Any:
        if self.layout.inputs and _has_channels(argument):
            argument = jnp_.moveaxis(argument, 0, -1)
        return argument[None] if self.is_batched else argument

    def _example(self, value: Any) -> Any:
        is_batch = self.is_batched and isinstance(value, jax.Array) and value.shape[:1] == (1,)
        return value[0] if is_batch else value

    def _returned(self, value: Any) -> Any:
        value = self._example(value)
        moves = self.layout.outputs and isinstance(value, jax.Array) and value.ndim > 1
        return jnp_.moveaxis(value, -1, 0) if moves else value


def _has_channels(array: Any) -> bool:
    return array.ndim > 1 and jnp_.issubdtype(array.dtype, jnp_.floating)


def flax_model(tree: Any, owners: Any) -> FlaxModel | None:
    """Return what a factory made as a model to call; None if it is not of Flax.

    Args:
        tree: The model.
        owners: The layers of Linen's variables.

    Raises:
        InputError: It has no variables, or cannot be called.
    """
    if is_nnx(tree):
        if not callable(tree):
            raise InputError(
                f"It is a {type(tree).__name__} of Flax, which cannot be called.",
                "Give the factory of the module.",
            )
        made = _Nnx(tree)
        return FlaxModel(made.variables, made)
    model = LinenModel.of(tree)
    if model is None and is_linen(tree):
        raise InputError(
            f"It is a {type(tree).__name__} of Flax's Linen, which holds no variables.",
            "Give the factory of (module, variables), or of module.bind(variables).",
        )
    if model is None:
        return None
    linen = _Linen(model, WithOwners(model.variables, owners))
    return FlaxModel(linen.variables, linen)


def laid_out(
    model: FlaxModel,
    batched: bool,
    run: Callable[[FlaxModel], list[NDArray[Any]]],
    apart: Callable[[list[NDArray[Any]]], float | None],
) -> FlaxModel:
    """Return a model with the axes with which it returns what is nearest to torch's.

    Args:
        model: The model.
        batched: True if torch is given an axis of examples.
        run: The forward.
        apart: The distance from what torch returns; None for other shapes.

    Raises:
        InputError: Its forward raises an exception however its axes are.
    """
    found: list[tuple[float, int, FlaxModel]] = []
    failed: InputError | None = None
    for number, layout in enumerate(_LAYOUTS):
        one = replace(model, is_batched=batched, layout=layout)
        try:
            distance = apart(run(one))
        except InputError as error:
            failed = failed or error
            continue
        found.append((float("inf") if distance is None else distance, number, one))
    if not found:
        assert failed is not None
        raise failed
    return min(found, key=lambda one: one[:2])[2]


def channels_first(arrays: Iterable[NDArray[Any]]) -> list[NDArray[Any]]:
    """Return arrays, an axis of examples first, with their last axis behind it."""
    return [np.moveaxis(one, -1, 1) if one.ndim > 2 else one for one in arrays]
