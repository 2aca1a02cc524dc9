"""The Equinox model: creation, loading a converted file, forwards one example at a time."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import equinox
import jax
import jax.numpy as jnp
import jax.tree_util
import numpy as np

from s2p_tui.cli.check.arrays import (
    Call,
    UnreadableError,
    arrays_in,
    dtype_in,
    shapes_of,
    stacked,
)
from s2p_tui.cli.check.inputs import Examples, code_of
from s2p_tui.errors import InputError, S2PError
from s2p_tui.formats.pytree.factory import call_factory
from s2p_tui.formats.pytree.flax_models import is_linen, is_nnx
from s2p_tui.formats.pytree.skeleton import is_key, with_state_apart

if TYPE_CHECKING:
    from numpy.typing import NDArray

eqx: Any = equinox
jnp_: Any = jnp
_HINT = "Check --shape and --dtype, or call it yourself to see the traceback."


def make_jax(spec: str, kwargs: Mapping[str, Any]) -> Any:
    """Call the user's factory for the module, or `(model, state)`.

    Raises:
        UsageError: There is no such factory.
        InputError: It raised an exception, or made something that cannot be called.
    """
    try:
        made = call_factory(spec, kwargs)
        if is_nnx(made) or is_linen(made):
            raise InputError(
                f"{spec} made a {type(made).__name__} of Flax, of which check runs none.",
                "Run both models on one input yourself, and compare the outputs.",
            )
        tree = with_state_apart(made)
    except S2PError as error:
        raise type(error)(f"The JAX side: {error.message}", error.hint) from error
    if not callable(model_and_state(tree)[0]):
        raise InputError(
            f"The JAX side: {spec} made a {type(tree).__name__}, which cannot be called.",
            "Give the factory of an Equinox module, or of (model, state).",
        )
    return tree


def load_converted(path: Path, tree: Any) -> Any:
    """Load an `.eqx` file into the tree as a user does, in inference mode.

    Raises:
        InputError: Equinox cannot load it.
    """
    with code_of(
        "equinox.tree_deserialise_leaves", "Give the factory of the converted model with --jax."
    ):
        loaded = eqx.tree_deserialise_leaves(path, tree, filter_spec=_except_keys)
        return eqx.nn.inference_mode(loaded)


def _except_keys(file: Any, leaf: Any) -> Any:
    return leaf if is_key(leaf) else eqx.default_deserialise_filter_spec(file, leaf)


def jax_forward(tree: Any, examples: Examples) -> list[NDArray[Any]]:
    """Run the model; the first axis of the arrays counts the examples.

    Raises:
        InputError: It raised an exception.
    """
    with code_of("The Equinox model's forward", _HINT):
        lots = [call_once(tree, examples, number) for number in range(examples.count)]
    other = next((lot for lot in lots if shapes_of(lot) != shapes_of(lots[0])), None)
    if other is not None:
        raise InputError(
            f"The Equinox model's outputs differ in shape from example to example: "
            f"{shapes_of(lots[0])} first, then {shapes_of(other)}.",
            "Compare one example with --batch 1, or one of your own by --sample-input.",
        )
    return [np.stack(arrays) for arrays in zip(*lots, strict=True)]


def call_once(tree: Any, examples: Examples, number: int) -> list[NDArray[Any]]:
    """Run the model on one example; its state is passed, and left out of the result."""
    return arrays_in(called_once(tree, examples, number))


def called_once(tree: Any, examples: Examples, number: int) -> Any:
    """Return what the model returns for one example, as it is."""
    model, state = model_and_state(tree)
    arguments: list[Any] = [jnp_.asarray(array[number]) for array in examples.arrays]
    parameters = _parameters(model)
    options: dict[str, Any] = {}
    if state is not None and "state" in parameters:
        options["state"] = state
    elif state is not None:
        arguments.append(state)
    key = parameters.get("key")
    if key is not None and key.default is key.empty and key.kind is key.KEYWORD_ONLY:
        options["key"] = jax.random.PRNGKey(0)
    return model(*arguments, **options)


def model_and_state(tree: Any) -> tuple[Any, Any]:
    """Split a tree into the model and its state, None if it has none."""
    if isinstance(tree, tuple):
        items = cast("tuple[Any, ...]", tree)
        if len(items) == 2 and isinstance(items[1], eqx.nn.State):
            return items[0], items[1]
    return cast("Any", tree), None


def _parameters(model: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(model.__call__).parameters
    except (TypeError, ValueError):
        return {}


jtu: Any = jax.tree_util


def modules_in(tree: Any) -> dict[str, Any]:
    """Map key paths to the Equinox modules in a tree, outer ones first; `""` is the tree itself."""
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
    """Record the calls of each module by its key path; the first axis counts the examples.

    Modules that are called another number of times from example to example are left out, and so
    are calls that JAX traces, as inside `jax.lax.scan`'s compiled body.
    """
    modules = modules_in(model_and_state(tree)[0])
    each: list[Mapping[str, Sequence[Call]]] = []
    for number in range(examples.count):
        calls: defaultdict[str, list[Call]] = defaultdict(list)

        def record(path: str, call: Any, to: Any = calls) -> None:
            to[path].append(
                Call(arrays_in(call.arguments), arrays_in(call.output), dtype_in(call.output))
            )

        with jax.disable_jit(), listening(modules, record):
            call_once(tree, examples, number)
        each.append(calls)
    found: dict[str, list[Call]] = {}
    for path in modules:
        lots = [calls.get(path, ()) for calls in each]
        if len({len(lot) for lot in lots}) == 1:
            joined = [stacked(calls) for calls in zip(*lots, strict=True)]
            whole = [call for call in joined if call is not None]
            if len(whole) == len(joined):
                found[path] = whole
    return found


class MadeCall(NamedTuple):
    """A call of a module, as it was made: its arrays may be traced by `jax.vmap`."""

    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    output: Any


@contextlib.contextmanager
def listening(
    modules: Mapping[str, Any], record: Callable[[str, MadeCall], None]
) -> Generator[None]:
    """Record every call of known modules by key path, when it returns."""
    with _Recorder(modules, record).listening():
        yield


class _Recorder:
    """Takes down the calls of known modules while `listening`.

    A module is known again after JAX took it apart and put it together, by its class and arrays.
    """

    def __init__(self, modules: Mapping[str, Any], record: Callable[[str, MadeCall], None]) -> None:
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
