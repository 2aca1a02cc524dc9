"""Gradients of both models, parameter by parameter: torch's autograd against `jax.grad`.

Both are of one scalar: the sum of all outputs, each element times a random number. What JAX finds
for a leaf is brought back to the entries that fill it, so that an entry that feeds several leaves,
and tied parameters, are compared as torch sums them up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, cast

import equinox
import jax
import jax.numpy as jnp
import jax.tree_util
import numpy as np
import torch
from torch import nn

from s2p_tui.alignment.transform import (
    Broadcast,
    Concat,
    Constant,
    Expr,
    Flip,
    Norm,
    Permute,
    Reshape,
    Scale,
    SpectralNorm,
    Split,
    Stack,
    Sum,
    Take,
    WeightNorm,
    keys_of,
    nodes_of,
    shape_of,
)
from s2p_tui.cli.check.arrays import Difference, arrays_in, difference, values_in
from s2p_tui.cli.check.inputs import Examples, code_of
from s2p_tui.cli.check.jax_side import called_once, leaf_names, library_of, model_and_state
from s2p_tui.cli.check.result import numbers
from s2p_tui.cli.check.torch_side import torch_arguments
from s2p_tui.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from s2p_tui.alignment.transform import EntryShape

eqx: Any = equinox
jax_: Any = jax
jnp_: Any = jnp
jtu: Any = jax.tree_util
torch_: Any = torch
Gradients = dict[str, "NDArray[Any]"]
# A key's bias in attention has gradients of rounding alone: what is so much smaller than the
# largest gradient of the model counts as so large.
_SMALLEST = 1e-3
# A backward pass rounds about as often as ten forwards: MiniLM's embeddings differ by 3e-6.
LOOSER = 10.0


@dataclass(frozen=True, slots=True)
class GradientParity:
    """A parameter of torch's and the leaves it feeds.

    Attributes:
        key: The parameter's name.
        leaves: Key paths of the leaves.
        apart: How far both gradients are apart.
        agrees: True if that is within the tolerance.
    """

    key: str
    leaves: tuple[str, ...]
    apart: Difference
    agrees: bool

    def as_json(self) -> dict[str, Any]:
        """Return JSON values; numbers that are not finite are null."""
        return {
            "key": self.key,
            "leaves": list(self.leaves),
            "agrees": self.agrees,
            **numbers(self.apart),
            "cosine": self.apart.cosine,
        }


def gradient_parity(
    module: nn.Module,
    tree: Any,
    examples: Examples,
    sources: Mapping[str, Expr],
    entry_shape: EntryShape,
    *,
    prefix: str,
    reference: Sequence[NDArray[Any]],
    tolerance: float,
    seed: int,
) -> tuple[GradientParity, ...]:
    """Compare the gradients of all parameters that leaves are made of, in torch's order.

    Left out are parameters of which a leaf takes a norm, and those that feed no floating-point
    leaf.

    Args:
        module: The torch model.
        tree: The JAX model, filled, or `(model, state)`.
        examples: What both are run on.
        sources: What fills each leaf, by its key path within the model.
        entry_shape: Gives the shape of an entry.
        prefix: What the checkpoint's keys have before the torch module's own.
        reference: The outputs that both return, the first axis counting the examples.
        tolerance: Largest relative difference that counts as agreement.
        seed: Of the random numbers.

    Raises:
        InputError: The backward of either raised an exception, or no output has a gradient.
    """
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=array.shape) for array in reference]
    wanted = torch_gradients(module, examples, weights)
    found = jax_gradients(tree, examples, weights)
    back: Gradients = {}
    seen: Gradients = {}
    leaves: defaultdict[str, list[str]] = defaultdict(list)
    lost: set[str] = set()
    for path, source in sources.items():
        keys = [key.removeprefix(prefix) for key in keys_of(source)]
        for key in keys:
            leaves[key].append(path)
        is_linear = not any(
            isinstance(n, Norm | WeightNorm | SpectralNorm) for n in nodes_of(source)
        )
        if path not in found or not is_linear:
            lost.update(keys)
            continue
        bring_back(source, found[path], entry_shape, prefix, back)
        bring_back(source, np.ones(found[path].shape), entry_shape, prefix, seen)
    largest = max((float(np.abs(one).max(initial=0.0)) for one in wanted.values()), default=0.0)
    compared: list[GradientParity] = []
    for names, gradient in _parameters(module, wanted):
        used = [name for name in names if name in back]
        if not used or lost.intersection(names):
            continue
        # Of a table that lost rows only those that are left can be compared.
        is_taken = np.add.reduce([seen[name] for name in used]) != 0
        pulled = np.add.reduce([back[name] for name in used])
        apart = _apart(pulled[is_taken], gradient[is_taken], largest)
        paths = tuple(dict.fromkeys(path for name in used for path in leaves[name]))
        agrees = apart.relative <= tolerance * LOOSER
        compared.append(GradientParity(used[0], paths, apart, agrees))
    return tuple(compared)


def _apart(found: NDArray[Any], wanted: NDArray[Any], largest: float) -> Difference:
    apart = difference([found], [wanted])
    size = max(float(np.abs(wanted).max(initial=0.0)), _SMALLEST * largest)
    return replace(apart, relative=apart.absolute / size) if size else apart


def torch_gradients(
    module: nn.Module, examples: Examples, weights: Sequence[NDArray[Any]]
) -> Gradients:
    """Return the gradient of every parameter by its name, frozen ones included.

    Raises:
        InputError: The forward or backward raised an exception, or no output has a gradient.
    """
    parameters = {
        name: parameter
        for name, parameter in cast("Any", module).named_parameters()
        if parameter.is_floating_point()
    }
    frozen = [parameter for parameter in parameters.values() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        with code_of("The torch model's backward", _HINT), torch_.enable_grad():
            outputs = values_in(module(*torch_arguments(module, examples)))
            scalar = sum(
                (output * torch_.tensor(_as(output, weight, examples)).to(output)).sum()
                for output, weight in zip(outputs, weights, strict=False)
                if output.is_floating_point()
            )
            if not isinstance(scalar, torch.Tensor) or not scalar.requires_grad:
                raise InputError("No output of the torch model has a gradient.", _HINT)
            found = torch_.autograd.grad(scalar, list(parameters.values()), allow_unused=True)
            return {
                name: arrays_in(torch_.zeros_like(parameter) if one is None else one)[0]
                for (name, parameter), one in zip(parameters.items(), found, strict=True)
            }
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


_HINT = "Compare both models without gradients."


def _as(output: Any, weight: NDArray[Any], examples: Examples) -> NDArray[Any]:
    return (weight if examples.batched else weight[0]).reshape(tuple(output.shape))


def jax_gradients(tree: Any, examples: Examples, weights: Sequence[NDArray[Any]]) -> Gradients:
    """Return the gradient of every floating-point leaf of the model by its key path.

    Raises:
        InputError: The forward or backward raised an exception.
    """
    model, state = model_and_state(tree)
    parameters, rest = eqx.partition(model, eqx.is_inexact_array)
    names = leaf_names(model)

    def scalar(parameters: Any, number: int) -> Any:
        whole = eqx.combine(parameters, rest)
        outputs = values_in(
            called_once(whole if state is None else (whole, state), examples, number)
        )
        return sum(
            (output * jnp_.asarray(weight[number].reshape(output.shape), output.dtype)).sum()
            for output, weight in zip(outputs, weights, strict=False)
            if jnp_.issubdtype(output.dtype, jnp_.floating)
        )

    total: Gradients = {}
    with code_of(f"The {library_of(model)} model's backward", _HINT):
        for number in range(examples.count):
            found = jtu.tree_flatten_with_path(jax_.grad(scalar)(parameters, number))[0]
            for path, leaf in found:
                (array,) = arrays_in(leaf)
                name = names[jtu.keystr(path)]
                total[name] = total[name] + array if name in total else array
    return total


def _parameters(module: nn.Module, wanted: Gradients) -> list[tuple[list[str], NDArray[Any]]]:
    """Return each parameter's names, of tied ones several, and its gradient."""
    names: defaultdict[int, list[str]] = defaultdict(list)
    for name, parameter in cast("Any", module).named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    return [(lot, wanted[lot[0]]) for lot in names.values() if lot[0] in wanted]


def bring_back(
    source: Expr, gradient: NDArray[Any], entry_shape: EntryShape, prefix: str, into: Gradients
) -> None:
    """Add what a gradient of a source amounts to for its entries, by name: the transpose."""

    def down(of: Expr, part: NDArray[Any]) -> None:
        bring_back(of, part, entry_shape, prefix, into)

    match source:
        case Take(key):
            name = key.removeprefix(prefix)
            into[name] = into[name] + gradient if name in into else gradient
        case Permute(of, axes):
            down(of, gradient.transpose(np.argsort(axes)))
        case Flip(of, axes):
            down(of, np.flip(gradient, axes))
        case Reshape(of):
            down(of, gradient.reshape(shape_of(of, entry_shape)))
        case Scale(of, factor):
            down(of, gradient * factor)
        case Split(of, axis, start, stop):
            whole = np.zeros(shape_of(of, entry_shape))
            whole[(slice(None),) * axis + (slice(start, stop),)] = gradient
            down(of, whole)
        case Broadcast(of):
            shape = shape_of(of, entry_shape)
            new = gradient.ndim - len(shape)
            ones = tuple(n + new for n, size in enumerate(shape) if size == 1)
            down(of, gradient.sum((*range(new), *ones)).reshape(shape))
        case Stack(of, axis):
            for number, operand in enumerate(of):
                down(operand, gradient.take(number, axis))
        case Concat(of, axis):
            sizes = [shape_of(operand, entry_shape)[axis] for operand in of]
            for operand, (start, stop) in zip(
                of, pairwise(accumulate(sizes, initial=0)), strict=True
            ):
                down(operand, gradient[(slice(None),) * axis + (slice(start, stop),)])
        case Sum(of):
            for operand in of:
                down(operand, gradient)
        case Constant() | Norm() | WeightNorm() | SpectralNorm():
            pass
