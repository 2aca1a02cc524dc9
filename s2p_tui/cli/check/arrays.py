"""Arrays that forwards take and return, and the difference between two lists of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import equinox
import jax
import jax.tree_util
import numpy as np
import torch

from s2p_tui.alignment.judge import same_but_ones

if TYPE_CHECKING:
    from numpy.typing import NDArray

eqx: Any = equinox
jax_: Any = jax
_SCALARS = (bool, int, float, complex, np.generic)


class UnreadableError(Exception):
    """A value is known only while JAX traces, so that it has no numbers to compare."""


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """The distance of arrays from their reference.

    Attributes:
        absolute: The largest difference; infinite where numbers that are not finite differ, and
            where one is NaN.
        relative: That, divided by the reference's largest finite number.
        cosine: The cosine between both, all elements as one vector; None where it is not defined.
    """

    absolute: float
    relative: float
    cosine: float | None = None


def arrays_in(value: Any) -> list[NDArray[Any]]:
    """List every array in a value as NumPy's, widened; see `values_in`.

    Raises:
        UnreadableError: One is being traced by JAX.
    """
    return [_as_numpy(array) for array in values_in(value)]


def values_in(value: Any) -> list[Any]:
    """List every array, tensor and number in a value, in order: of tuples and lists as they come,
    of mappings by the names of their keys, of dataclasses by field. Text, None, `State` and PRNG
    keys are left out.
    """
    match value:
        case None | str() | bytes():
            return []
        case jax.Array():
            is_key = jax_.dtypes.issubdtype(value.dtype, jax_.dtypes.prng_key)
            return [] if is_key else [value]
        case torch.Tensor() | np.ndarray():
            return [value]
        case Mapping():
            items = cast("Mapping[Any, Any]", value)
            return _all(items[key] for key in sorted(items, key=str))
        case list() | tuple():
            return _all(cast("Sequence[Any]", value))
        case _ if isinstance(value, _SCALARS):
            return [value]
        case _ if isinstance(value, eqx.nn.State):
            return []
        case _ if dataclasses.is_dataclass(value):
            return _all(getattr(value, field.name) for field in dataclasses.fields(value))
        case _:
            leaves = jax.tree_util.tree_leaves(value)
            return _all(leaf for leaf in leaves if leaf is not value)


def _as_numpy(value: Any) -> NDArray[Any]:
    match value:
        case torch.Tensor():
            return _of_torch(value)
        case jax.Array():
            return _wide(np.asarray(concrete(value)[0]))
        case _:
            return _wide(np.asarray(value))


def dtype_in(value: Any) -> str:
    """Return the dtype of the first array or tensor in a value; empty if it holds none."""
    found = values_in(value)
    return str(getattr(found[0], "dtype", "")).removeprefix("torch.") if found else ""


def _all(values: Iterable[Any]) -> list[Any]:
    return [array for value in values for array in values_in(value)]


def concrete(value: Any) -> tuple[Any, int]:
    """Return the numbers behind a value under `jax.vmap`, mapped axes first, and their count."""
    if not isinstance(value, jax_.core.Tracer):
        return value, 0
    if not hasattr(value, "batch_dim") or not hasattr(value, "val"):
        raise UnreadableError
    inner, mapped = concrete(value.val)
    if not isinstance(value.batch_dim, int):
        return inner, mapped
    return np.moveaxis(np.asarray(inner), mapped + value.batch_dim, mapped), mapped + 1


def _of_torch(tensor: torch.Tensor) -> NDArray[Any]:
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.to(torch.float64)
    # A copy: what comes next in the forward may change the tensor in place.
    return _wide(np.array(tensor.resolve_conj().resolve_neg().numpy()))


def _wide(array: NDArray[Any]) -> NDArray[Any]:
    if np.iscomplexobj(array):
        return array.astype(np.complex128)
    return array.astype(np.float64)


def shapes_of(arrays: Sequence[NDArray[Any]]) -> list[tuple[int, ...]]:
    """Return their shapes, in order."""
    return [array.shape for array in arrays]


def comparable(found: Sequence[NDArray[Any]], reference: Sequence[NDArray[Any]]) -> bool:
    """Return True for as many arrays of the same shapes, except for axes of size 1."""
    return len(found) == len(reference) and all(
        same_but_ones(a.shape, b.shape) for a, b in zip(found, reference, strict=True)
    )


def difference(
    found: Sequence[NDArray[Any]], reference: Sequence[NDArray[Any]], *, cosine: bool = True
) -> Difference:
    """Return the largest difference between comparable arrays, each relative to its own size.

    Args:
        found: The arrays.
        reference: Those they should be.
        cosine: Compute the cosine, too; of thousands of candidates it took four fifths of the time.
    """
    pairs = zip(found, reference, strict=True)
    return worst([_apart(a.reshape(b.shape), b, cosine=cosine) for a, b in pairs])


def worst(parts: Sequence[Difference]) -> Difference:
    """Return the largest of several differences, and the smallest cosine."""
    return Difference(
        max((part.absolute for part in parts), default=0.0),
        max((part.relative for part in parts), default=0.0),
        min((part.cosine for part in parts if part.cosine is not None), default=None),
    )


def _apart(found: NDArray[Any], reference: NDArray[Any], *, cosine: bool) -> Difference:
    if not reference.size:
        return Difference(0.0, 0.0)
    with np.errstate(all="ignore"):
        apart = np.where(found == reference, 0.0, np.abs(found - reference))
    absolute = float(np.where(np.isnan(apart), np.inf, apart).max())
    sizes = np.abs(reference)
    largest = float(sizes[np.isfinite(sizes)].max(initial=0.0))
    angle = _cosine(found, reference) if cosine else None
    if absolute == 0.0:
        return Difference(0.0, 0.0, angle)
    return Difference(absolute, absolute / largest if largest else float("inf"), angle)


def _cosine(found: NDArray[Any], reference: NDArray[Any]) -> float | None:
    with np.errstate(all="ignore"):
        sizes = float(np.linalg.norm(found.ravel()) * np.linalg.norm(reference.ravel()))
        product = float(np.vdot(found.ravel(), reference.ravel()).real)
    return min(1.0, product / sizes) if 0.0 < sizes < float("inf") else None


@dataclass(frozen=True, slots=True)
class Call:
    """The arrays one call of a module was given and returned.

    Attributes:
        inputs: The arrays in its positional arguments.
        outputs: The arrays in what it returned.
        dtype: The dtype of the first of these, before they were widened; empty if unknown.
    """

    inputs: Sequence[NDArray[Any]]
    outputs: Sequence[NDArray[Any]]
    dtype: str = ""


def stacked(calls: Sequence[Call]) -> Call | None:
    """Stack the calls for several examples; the first axis counts them.

    None if the shapes differ from example to example.
    """
    inputs = _stacked([call.inputs for call in calls])
    outputs = _stacked([call.outputs for call in calls])
    return None if inputs is None or outputs is None else Call(inputs, outputs, calls[0].dtype)


def _stacked(lots: Sequence[Sequence[NDArray[Any]]]) -> list[NDArray[Any]] | None:
    if any(shapes_of(lot) != shapes_of(lots[0]) for lot in lots):
        return None
    return [np.stack(arrays) for arrays in zip(*lots, strict=True)]
