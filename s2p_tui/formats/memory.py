"""State dicts in memory as checkpoints: tensors are viewed where they are, never copied whole.

Of torch only the methods of the tensors given are used; it is not imported.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping
from math import prod
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from s2p_tui.alignment.dtypes import BY_NAME, numpy_dtype
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.errors import InputError, UsageError, some
from s2p_tui.formats.base import Checkpoint, Region, without_extra_state
from s2p_tui.formats.nested import find_state_dict, inside_plain
from s2p_tui.formats.tensors import ArrayTensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

LABEL = "state dict in memory"
_BITS = {1: "uint8", 2: "int16"}


class _UnusableError(Exception):
    """A tensor cannot be converted; the text says why and what to call."""


class MemoryTensors(ArrayTensors):
    """Tensors in memory. Regions of those on the CPU are views; of others, copies to it.

    Args:
        arrays: Those that NumPy can view.
        others: Torch tensors that it cannot: on another device, lazily conjugated, of packed dtype.
        versions: Torch tensors with the version each had, to tell whether it was written to.
    """

    def __init__(
        self,
        arrays: Mapping[str, NDArray[np.generic]],
        others: Mapping[str, Any],
        versions: Mapping[str, tuple[Any, int]],
    ) -> None:
        super().__init__(arrays)
        self._others = others
        self._versions = versions

    def read(self, name: str, region: Region) -> NDArray[np.generic]:
        """The elements of a region, in their own dtype."""
        if name not in self._others:
            return super().read(name, region)
        box = tuple(slice(start, stop) for start, stop in region)
        dtype = numpy_dtype(_torch_dtype(self._others[name]))
        part = self._others[name][box].resolve_conj().resolve_neg().cpu()
        return _viewed(part, str(dtype))

    def check_unchanged(self) -> None:
        """Make sure that no torch tensor was written to meanwhile.

        Raises:
            InputError: One was.
        """
        changed = [key for key, (t, version) in self._versions.items() if t._version != version]
        if changed:
            raise InputError(
                f"Tensors of the state dict were written to meanwhile: {some(changed, '; ')}.",
                "Convert while nothing trains the model.",
            )


def checkpoint_in_memory(
    state_dict: Any, *, key: str | None = None, label: str = LABEL
) -> Checkpoint:
    """Describe a state dict in memory. Reads and copies no numbers.

    Args:
        state_dict: Mapping from names to torch tensors, NumPy or JAX arrays; a training checkpoint
            that holds one; or a torch module, whose `state_dict()` is taken.
        key: Dotted place of the state dict in a nested one; None to look for it.
        label: What to call it.

    Raises:
        UsageError: It is not a mapping.
        InputError: No state dict in it, or tensors that cannot be converted; all are named.
        AmbiguousStateDictError: It holds several and `key` is None.
    """
    if is_torch_module(state_dict):
        state_dict = state_dict.state_dict()
    if not isinstance(state_dict, Mapping):
        raise UsageError(
            f"The state dict is of type {type(state_dict).__name__}, not a mapping.",
            "Give model.state_dict(), a dictionary of names and tensors.",
        )
    found = find_state_dict(
        state_dict, is_tensor, key, f"The {label}", inside_memory, is_chosen=True
    )
    place, tensors, others = found.place, found.tensors, found.others
    entries: list[Entry] = []
    problems: list[str] = []
    arrays: dict[str, NDArray[np.generic]] = {}
    apart: dict[str, Any] = {}
    versions: dict[str, tuple[Any, int]] = {}
    for name, tensor in tensors.items():
        try:
            if _is_torch_tensor(tensor):
                view, entry = _of_torch(name, tensor)
                if not tensor.is_inference():
                    versions[name] = tensor, tensor._version
            else:
                view, entry = _of_array(name, tensor)
        except _UnusableError as error:
            problems.append(f"{name} {error}")
            continue
        entries.append(entry)
        if view is None:
            apart[name] = tensor.detach()
        else:
            arrays[name] = view
    if problems:
        raise InputError(
            f"The {label} holds {len(problems)} tensors that cannot be converted: "
            f"{some(problems, '; ')}.",
            "Convert or remove these tensors and try again.",
        )
    described = StateDict(tuple(entries))
    notes = (f"{len(others)} items are not tensors: {some(list(others), '; ')}",) if others else ()
    notes = (*notes, *found.notes)
    tensors_here = MemoryTensors(arrays, apart, versions)
    return without_extra_state(
        Checkpoint(label, (), described.nbytes, described, tensors_here, place, notes)
    )


def is_torch_module(value: Any) -> bool:
    """Return True if it is a `torch.nn.Module`."""
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def inside_memory(value: Any) -> Mapping[Any, Any] | None:
    """The items of a mapping, list or tuple, or the state dict of a module; else None."""
    return value.state_dict() if is_torch_module(value) else inside_plain(value)


def is_tensor(value: Any) -> bool:
    """Return True if it is a torch tensor, a NumPy array or a JAX array."""
    jax: Any = sys.modules.get("jax")
    if isinstance(value, np.ndarray) or _is_torch_tensor(value):
        return True
    return jax is not None and isinstance(value, jax.Array)


def _is_torch_tensor(value: Any) -> bool:
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _of_torch(name: str, tensor: Any) -> tuple[NDArray[np.generic] | None, Entry]:
    """A NumPy view of a tensor, or None where there can be none, and its entry."""
    problem = _problem_of(tensor)
    if problem:
        raise _UnusableError(problem)
    dtype, shape = _torch_dtype(tensor), tuple(tensor.shape)
    if BY_NAME[dtype].kind == "packed":
        return None, Entry(name, shape, dtype)
    bare = tensor.detach()
    if bare.device.type == "cpu" and not bare.is_conj() and not bare.is_neg():
        view = _viewed(bare, dtype)
        return view, Entry(name, shape, dtype, _identity(view))
    place = (str(bare.device), bare.data_ptr(), shape, bare.stride(), dtype, bare.is_conj())
    return None, Entry(name, shape, dtype, place if prod(shape) else None)


def _problem_of(tensor: Any) -> str:
    torch: Any = sys.modules["torch"]
    if torch.nn.parameter.is_lazy(tensor):
        return "is not initialised yet; run the model once"
    plain: Any = torch.Tensor.__torch_dispatch__
    if callable(getattr(tensor, "full_tensor", None)):
        return "is a DTensor, which is spread over processes; call .full_tensor()"
    if getattr(cast("object", type(tensor)), "__torch_dispatch__", None) is not plain:
        return "is a tensor subclass that wraps others; convert it to a plain tensor"
    if tensor.is_meta:
        return "is on the meta device and holds no numbers"
    if tensor.is_quantized:
        return "is quantised; call .dequantize()"
    if tensor.is_nested:
        return "is a nested tensor; call .to_padded_tensor()"
    if tensor.layout != torch.strided:
        return "is sparse; call .to_dense()"
    dtype = _torch_dtype(tensor)
    return "" if dtype in BY_NAME else f"is {dtype}, which NumPy and JAX do not have"


def _torch_dtype(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _viewed(tensor: Any, dtype: str) -> NDArray[np.generic]:
    """A NumPy view of a plain tensor on the CPU; bits where torch does not hand over the dtype."""
    if hasattr(np, dtype):
        return tensor.numpy()
    torch: Any = sys.modules["torch"]
    bits = getattr(torch, _BITS[tensor.element_size()])
    return tensor.view(bits).numpy().view(numpy_dtype(dtype))


def _of_array(name: str, array: Any) -> tuple[NDArray[np.generic], Entry]:
    if isinstance(array, np.ma.MaskedArray):
        raise _UnusableError("is a masked array; call .filled()")
    plain: NDArray[np.generic] = np.asarray(array)
    dtype = str(plain.dtype.newbyteorder("="))
    if dtype not in BY_NAME:
        raise _UnusableError(f"is of dtype {plain.dtype}, which holds no plain numbers")
    if not plain.dtype.isnative:
        raise _UnusableError(f"is big-endian; call .astype({dtype!r})")
    return plain, Entry(name, plain.shape, dtype, _identity(plain))


def _identity(array: NDArray[np.generic]) -> Hashable:
    """Equal for arrays that are the same elements of the same memory."""
    if not array.size:
        return None
    address = array.__array_interface__["data"][0]
    return address, array.shape, array.strides, str(array.dtype)
