"""Calls of Equinox modules that are kept, to be made again with other weights or inputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import equinox
import jax
import jax.numpy as jnp
import jax.tree_util

from s2p_tui.cli.check.arrays import UnreadableError, arrays_in, concrete, values_in
from s2p_tui.cli.check.inputs import Examples
from s2p_tui.cli.check.jax_side import call_once, model_and_state, modules_in
from s2p_tui.cli.check.recorder import MadeCall, listening

if TYPE_CHECKING:
    from numpy.typing import NDArray

eqx: Any = equinox
jax_: Any = jax
jnp_: Any = jnp
jtu: Any = jax.tree_util


@dataclass(frozen=True, slots=True)
class KeptCall:
    """One call on one example; arrays under `jax.vmap` have their mapped axes first.

    Attributes:
        leaves: Everything in the arguments.
        mapped: How many axes of each are mapped.
        structure: Gives positional and keyword arguments from the leaves.
        given: Places of the arrays in the positional arguments.
        inputs: These arrays, widened.
    """

    leaves: tuple[Any, ...]
    mapped: tuple[int, ...]
    structure: Any
    given: tuple[int, ...]
    inputs: Sequence[NDArray[Any]]

    def again(
        self, module: Any, state: Any, inputs: Sequence[NDArray[Any]] | None = None
    ) -> list[NDArray[Any]]:
        """Call a module like this one; the arrays it returns.

        Args:
            module: The module.
            state: Takes the place of the state that was given.
            inputs: Take the place of the arrays that were given, if there are any.
        """
        leaves = [state if _is_state(leaf) else leaf for leaf in self.leaves]
        for place, array in zip(self.given, inputs or (), strict=False):
            like = leaves[place]
            leaves[place] = jnp_.asarray(array.reshape(like.shape)).astype(like.dtype)
        made = _run_compiled if self.compiles else _run
        return arrays_in(made(module, leaves, self.structure, self.mapped))

    @property
    def compiles(self) -> bool:
        """True unless something given cannot be an argument of a compiled function."""
        return all(eqx.is_array(leaf) or _is_hashable(leaf) for leaf in self.leaves)


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return _is_state(value)
    return True


def _run(module: Any, leaves: list[Any], structure: Any, mapped: tuple[int, ...]) -> list[Any]:
    """Call a module under as many `jax.vmap` as the arguments have mapped axes."""
    places = [place for place, count in enumerate(mapped) if count]

    def call(arrays: Sequence[Any]) -> Any:
        filled = list(leaves)
        for place, array in zip(places, arrays, strict=True):
            filled[place] = array
        arguments, options = jtu.tree_unflatten(structure, filled)
        return [jnp_.asarray(value) for value in values_in(module(*arguments, **options))]

    made: Callable[[Sequence[Any]], Any] = call
    for _ in range(max(mapped, default=0)):
        made = jax.vmap(made)
    return made([leaves[place] for place in places])


# A candidate after the other is tried in one module: compiled, each takes a tenth of the time.
_run_compiled: Callable[..., list[Any]] = eqx.filter_jit(_run)


def _is_state(value: Any) -> bool:
    return isinstance(value, eqx.nn.State)


def _kept(call: MadeCall) -> KeptCall | None:
    """Return a call with concrete arrays; None if it cannot be made again."""
    leaves, structure = jtu.tree_flatten((call.arguments, dict(call.options)), is_leaf=_is_state)
    count = len(jtu.tree_leaves(call.arguments, is_leaf=_is_state))
    found: list[Any] = []
    mapped: list[int] = []
    given: list[int] = []
    for place, leaf in enumerate(leaves):
        value, axes = leaf, 0
        if isinstance(leaf, jax.Array):
            is_key = jax_.dtypes.issubdtype(leaf.dtype, jax_.dtypes.prng_key)
            value, axes = (leaf, 0) if is_key else concrete(leaf)
            if is_key and isinstance(leaf, jax_.core.Tracer):
                return None
            if not is_key:
                value = jnp_.asarray(value)
                given += [place] if place < count else []
        found.append(value)
        mapped.append(axes)
    if len({axes for axes in mapped if axes}) > 1:
        return None
    return KeptCall(tuple(found), tuple(mapped), structure, tuple(given), arrays_in(call.arguments))


def kept_calls(tree: Any, examples: Examples) -> dict[str, list[list[KeptCall]]]:
    """Run the model and keep the calls of each module: by key path, call and example.

    Modules that are called another number of times from example to example are left out, and so
    are those of which a call cannot be made again.
    """
    modules = modules_in(model_and_state(tree)[0])
    each: list[Mapping[str, list[KeptCall | None]]] = []
    for number in range(examples.count):
        kept: defaultdict[str, list[KeptCall | None]] = defaultdict(list)

        def keep(path: str, call: MadeCall, to: Any = kept) -> None:
            to[path].append(None)
            to[path][-1] = _kept(call)

        with jax.disable_jit(), listening(modules, keep):
            call_once(tree, examples, number)
        each.append(kept)
    found: dict[str, list[list[KeptCall]]] = {}
    for path in modules:
        lots = [calls.get(path, []) for calls in each]
        if lots[0] and len({len(lot) for lot in lots}) == 1:
            joined = [
                [call for call in calls if call is not None] for calls in zip(*lots, strict=True)
            ]
            if all(len(calls) == examples.count for calls in joined):
                found[path] = joined
    return found


__all__ = ["KeptCall", "UnreadableError", "kept_calls"]
