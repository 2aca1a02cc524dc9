"""The JAX model: creation, loading a converted file, forwards one example at a time."""

from __future__ import annotations

import contextlib
import inspect
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import equinox
import jax
import jax.numpy as jnp
import jax.tree_util
import numpy as np

from s2p_tui.cli.check.arrays import (
    Call,
    arrays_in,
    dtype_in,
    shapes_of,
    stacked,
)
from s2p_tui.cli.check.flax_side import FlaxModel, flax_model
from s2p_tui.cli.check.inputs import Examples, code_of
from s2p_tui.cli.check.recorder import MadeCall, Record, listening
from s2p_tui.errors import InputError, S2PError
from s2p_tui.formats.pytree.factory import callable_model
from s2p_tui.formats.pytree.skeleton import is_key, target_of, with_state_apart
from s2p_tui.formats.skeleton_file import Target

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
        made, owners = callable_model(spec, kwargs)
        tree = flax_model(made, owners) or with_state_apart(made)
    except S2PError as error:
        raise type(error)(f"The JAX side: {error.message}", error.hint) from error
    if not callable(model_and_state(tree)[0]):
        raise InputError(
            f"The JAX side: {spec} made a {type(tree).__name__}, which cannot be called.",
            "Give the factory of an Equinox or NNX module, of (model, state), or of Linen's "
            "(module, variables).",
        )
    return tree


def target_of_model(tree: Any, label: str) -> Target:
    """Return the leaves of a model as a skeleton of it has them; see `target_of`."""
    return target_of(tree.pytree if isinstance(tree, FlaxModel) else tree, label)


def leaf_names(model: Any) -> dict[str, str]:
    """Return the key path that a skeleton has for each leaf, by its key path in a model to call."""
    paths = [jtu.keystr(path) for path, _ in jtu.tree_flatten_with_path(model)[0]]
    if not isinstance(model, FlaxModel):
        return dict(zip(paths, paths, strict=True))
    names = [leaf.path for leaf in target_of_model(model, "").skeleton]
    return dict(zip(paths, names, strict=True))


def library_of(tree: Any) -> str:
    """Return the name of the library that a model is of."""
    return "Flax" if isinstance(tree, FlaxModel) else "Equinox"


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
    with code_of(f"The {library_of(tree)} model's forward", _HINT):
        lots = [call_once(tree, examples, number) for number in range(examples.count)]
    other = next((lot for lot in lots if shapes_of(lot) != shapes_of(lots[0])), None)
    if other is not None:
        raise InputError(
            f"The {library_of(tree)} model's outputs differ in shape from example to example: "
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


def module_paths(tree: Any) -> list[str]:
    """List the key paths of the modules of which calls are recorded."""
    model = model_and_state(tree)[0]
    return list(model.paths) if isinstance(model, FlaxModel) else list(modules_in(model))


def jax_calls(tree: Any, examples: Examples) -> dict[str, list[Call]]:
    """Record the calls of each module by its key path; the first axis counts the examples.

    Modules that are called another number of times from example to example are left out, and so
    are calls that JAX traces, as inside `jax.lax.scan`'s compiled body.
    """
    each: list[Mapping[str, Sequence[Call]]] = []
    for number in range(examples.count):
        calls: defaultdict[str, list[Call]] = defaultdict(list)

        def record(path: str, call: MadeCall, to: Any = calls) -> None:
            to[path].append(
                Call(arrays_in(call.arguments), arrays_in(call.output), dtype_in(call.output))
            )

        with jax.disable_jit(), _watched(tree, record) as watched:
            call_once(watched, examples, number)
        each.append(calls)
    found: dict[str, list[Call]] = {}
    for path in module_paths(tree):
        lots = [calls.get(path, ()) for calls in each]
        if len({len(lot) for lot in lots}) == 1:
            joined = [stacked(calls) for calls in zip(*lots, strict=True)]
            whole = [call for call in joined if call is not None]
            if len(whole) == len(joined):
                found[path] = whole
    return found


@contextlib.contextmanager
def _watched(tree: Any, record: Record) -> Generator[Any]:
    """Yield the model to call, whose inner calls are recorded."""
    model = model_and_state(tree)[0]
    if isinstance(model, FlaxModel):
        yield model.watched(record)
        return
    with listening(modules_in(model), record):
        yield tree
