"""Tensors and storages of `torch.save` pickles, as inert descriptions.

The names here are the functions that rebuild tensors, their storages and dtypes (torch 2.13,
`torch/_weights_only_unpickler.py`), and two plain containers. All other names stay placeholders.
A tensor that cannot be used says so itself: only where it is wanted does that matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, cast

from s2p_tui.alignment.dtypes import BY_NAME, BY_TORCH_STORAGE
from s2p_tui.alignment.untrusted import is_size, shape_of, size_of, sizes_of, string_of
from s2p_tui.formats.pickle_machine import (
    PLAIN,
    BadPickleError,
    Constructor,
    Known,
    Placeholder,
    unknown_persistent,
)


@dataclass(frozen=True, slots=True, eq=False)
class StorageRef:
    """A storage named in a pickle.

    Attributes:
        key: Its name in the file.
        dtype: Element type of a typed storage, None for an untyped one.
        nbytes: Its size.
        offset: Bytes into the storage of that name (views in legacy files).
    """

    key: str
    dtype: str | None
    nbytes: int
    offset: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class TensorRef:
    """A tensor named in a pickle: which elements of which storage.

    Attributes:
        storage: Its storage, or None when `problem` is set.
        offset: Elements before its first one.
        shape: Its shape.
        strides: Elements from one index to the next, per axis.
        dtype: Its dtype's name.
        problem: Why it cannot be converted, with the way out; empty if it can.
    """

    storage: StorageRef | None
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    problem: str = ""


def unusable(problem: str) -> TensorRef:
    """A tensor that cannot be converted; the text says why and what to call."""
    return TensorRef(None, 0, (), (), "float32", problem)


def persistent_storage(persistent_id: Any) -> Any:
    """The storage a persistent id `("storage", class, key, location, numel[, view])` names.

    Old files of whole modules name classes by `("module", class, file, source)`; that is the class.
    Anything else becomes a placeholder.
    """
    parts = cast("tuple[Any, ...]", persistent_id if isinstance(persistent_id, tuple) else ())
    what, kind, *described = parts if len(parts) in (4, 5, 6) else (None, None)
    if what == "module" and len(described) == 2:
        return kind
    dtype = kind.construct if isinstance(kind, Known) else None
    if what != "storage" or not isinstance(dtype, _StorageClass):
        return unknown_persistent(persistent_id)
    try:
        return _storage(dtype.dtype, *described)
    except (ValueError, TypeError, IndexError):
        return unknown_persistent(persistent_id)


def _storage(dtype: str | None, key: Any, _: Any, count: Any, view: Any = None) -> StorageRef:
    key, numel = string_of(key), size_of(count)
    itemsize = BY_NAME[dtype].itemsize if dtype else 1
    if view is None:
        return StorageRef(key, dtype, numel * itemsize)
    start, size = size_of(view[1]), size_of(view[2])
    if start + size > numel:
        raise ValueError("a storage view lies outside its storage")
    return StorageRef(key, dtype, size * itemsize, start * itemsize)


@dataclass(frozen=True, slots=True)
class _StorageClass:
    dtype: str | None

    def __call__(self, *_: Any) -> Any:
        raise BadPickleError("a storage is built in place")


@dataclass(frozen=True, slots=True)
class _TorchDType:
    name: str

    def __call__(self, *_: Any) -> Any:
        raise BadPickleError("a dtype is called")


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, dtype: str | None, metadata: Any
) -> TensorRef:
    shape, strides = shape_of(size), sizes_of(stride)
    if isinstance(storage, Placeholder) and storage.dotted == "torch.storage._load_from_bytes":
        return unusable(
            "was saved by pickle.dump with protocol 2; load it with pickle, save it with torch.save"
        )
    if not isinstance(storage, StorageRef) or not is_size(offset) or len(shape) != len(strides):
        raise BadPickleError("it is not described as torch does")
    name = dtype or storage.dtype
    if name is None:
        raise BadPickleError("it has no dtype")
    if prod(shape):
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if (last + 1) * BY_NAME[name].itemsize > storage.nbytes:
            raise BadPickleError(f"its shape {list(shape)} lies outside its storage")
    problem = ""
    if isinstance(metadata, dict) and metadata:
        problem = "is a lazily conjugated or negated view; call .resolve_conj().resolve_neg()"
    return TensorRef(storage, offset, shape, strides, name, problem)


def _rebuild_tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    _grad: Any = None,
    _hooks: Any = None,
    metadata: Any = None,
) -> TensorRef:
    return _tensor(storage, offset, size, stride, None, metadata)


def _rebuild_tensor_v3(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    _grad: Any,
    _hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> TensorRef:
    reference = dtype.construct if isinstance(dtype, Known) else None
    if isinstance(reference, _TorchDType):
        return _tensor(storage, offset, size, stride, reference.name, metadata)
    if isinstance(dtype, Placeholder) and dtype.arguments is None:
        return unusable(f"is of dtype {dtype.dotted}, which NumPy and JAX do not have")
    raise BadPickleError("it has no dtype")


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _rebuild_from_type(function: Any, kind: Any, arguments: Any, _state: Any = None) -> Any:
    given = cast("tuple[Any, ...]", arguments if type(arguments) is tuple else ())
    if isinstance(function, Placeholder):
        return Placeholder(function.module, function.name, given, is_call=True)
    name = kind.dotted if isinstance(kind, Placeholder) else ""
    if name.endswith(".DTensor"):
        return unusable("is a DTensor, which is spread over processes; call .full_tensor()")
    if not isinstance(function, Known) or function.construct not in _REBUILD.values():
        raise BadPickleError("it is rebuilt in an unknown way")
    if function.construct is _REBUILD["_rebuild_wrapper_subclass"] and name:
        return unusable(f"is a {name}, which wraps other tensors; convert it to a plain tensor")
    return function.construct(*given)


def _never(problem: str) -> Constructor:
    def construct(*_: Any) -> TensorRef:
        return unusable(problem)

    return construct


def _guarded(construct: Callable[..., Any]) -> Constructor:
    """Make a badly described tensor unusable, so that it is refused alone, not the whole file."""

    def guarded(*arguments: Any) -> Any:
        try:
            return construct(*arguments)
        except (BadPickleError, ValueError, TypeError, KeyError, IndexError) as error:
            why = str(error) if isinstance(error, BadPickleError | ValueError) else "it is damaged"
            return unusable(f"cannot be read: {why}")

    return guarded


_REBUILD: Mapping[str, Constructor] = {
    "_rebuild_tensor": _guarded(_rebuild_tensor),
    "_rebuild_tensor_v2": _guarded(_rebuild_tensor),
    "_rebuild_tensor_v3": _guarded(_rebuild_tensor_v3),
    "_rebuild_parameter": _guarded(_rebuild_parameter),
    "_rebuild_parameter_with_state": _guarded(_rebuild_parameter),
    "_rebuild_qtensor": _never("is quantised; call .dequantize()"),
    "_rebuild_sparse_tensor": _never("is sparse; call .to_dense()"),
    "_rebuild_sparse_csr_tensor": _never("is sparse; call .to_dense()"),
    "_rebuild_nested_tensor": _never("is a nested tensor; call .to_padded_tensor()"),
    "_rebuild_meta_tensor_no_storage": _never("is on the meta device and holds no numbers"),
    "_rebuild_device_tensor_from_numpy": _never("lives on an XLA device; call .cpu()"),
    "_rebuild_device_tensor_from_cpu_tensor": _never("lives on a device; call .cpu()"),
    "_rebuild_wrapper_subclass": _never("is a tensor subclass that wraps others"),
}


def _torch_table() -> dict[str, Constructor]:
    table: dict[str, Constructor] = {f"torch.{name}": _TorchDType(name) for name in BY_NAME}
    for storage, dtype in BY_TORCH_STORAGE.items():
        table[f"torch.{storage}"] = table[f"torch.cuda.{storage}"] = _StorageClass(dtype.name)
    for storage in ("torch.UntypedStorage", "torch.storage.UntypedStorage"):
        table[storage] = _StorageClass(None)
    for storage in ("QInt8Storage", "QUInt8Storage", "QUInt4x2Storage", "QUInt2x4Storage"):
        table[f"torch.{storage}"] = _StorageClass("uint8")
    table["torch.QInt32Storage"] = _StorageClass("int32")
    table |= {f"torch._utils.{name}": construct for name, construct in _REBUILD.items()}
    table["torch._tensor._rebuild_from_type_v2"] = _guarded(_rebuild_from_type)
    return {**table, **PLAIN}


TORCH_TABLE = _torch_table()
