"""The Equinox model: made, filled from a converted file, run one example at a time."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import equinox
import jax
import jax.numpy as jnp
import numpy as np

from s2p_tui.check.arrays import arrays_in, shapes_of
from s2p_tui.check.blame import code_of
from s2p_tui.check.inputs import Examples
from s2p_tui.core.errors import InputError, S2PError
from s2p_tui.factory import call_factory
from s2p_tui.skeleton import with_state_apart

if TYPE_CHECKING:
    from numpy.typing import NDArray

eqx: Any = equinox
jnp_: Any = jnp
_HINT = "Check --shape and --dtype, or call it yourself to see the traceback."


def make_jax(spec: str, kwargs: Mapping[str, Any]) -> Any:
    """The module, or `(model, state)`, that the user's factory makes.

    Raises:
        UsageError: There is no such factory.
        InputError: It raised an exception, or made something that cannot be called.
    """
    try:
        tree = with_state_apart(call_factory(spec, kwargs))
    except S2PError as error:
        raise type(error)(f"The JAX side: {error.message}", error.hint) from error
    if not callable(model_and_state(tree)[0]):
        raise InputError(
            f"The JAX side: {spec} made a {type(tree).__name__}, which cannot be called.",
            "Give the factory of an Equinox module, or of (model, state).",
        )
    return tree


def load_converted(path: Path, tree: Any) -> Any:
    """The tree with the numbers of an `.eqx` file, in inference mode, as a user loads it.

    Raises:
        InputError: Equinox cannot load it.
    """
    with code_of(
        "equinox.tree_deserialise_leaves", "Give the factory of the converted model with --jax."
    ):
        return eqx.nn.inference_mode(eqx.tree_deserialise_leaves(path, tree))


def jax_forward(tree: Any, examples: Examples) -> list[NDArray[Any]]:
    """The arrays the model returns, the first axis counting the examples.

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
    """The arrays the model returns for one example; its state is passed and left out of these."""
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
    return arrays_in(model(*arguments, **options))


def model_and_state(tree: Any) -> tuple[Any, Any]:
    """The model and its state, None if it has none."""
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
