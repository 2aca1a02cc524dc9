"""What `torch.save` pickles consist of: the names allowed in them, as inert descriptions.

The names are those `torch.load(weights_only=True)` allows (torch 2.13,
`torch/_weights_only_unpickler.py`), less those that only appear in optimizers' internals, plus
plain containers of settings that training scripts save beside the weights; the latter become
`Opaque` and are never looked into.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, cast

from s2p_tui.alignment.dtypes import BY_NAME, BY_TORCH_STORAGE
from s2p_tui.alignment.untrusted import is_size, shape_of, size_of, sizes_of, string_of
from s2p_tui.errors import InputError
from s2p_tui.formats.pickle_machine import BadPickleError, Constructor, Known, Opaque, hashable


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


def persistent_storage(persistent_id: Any) -> StorageRef:
    """The storage a persistent id `("storage", class, key, location, numel[, view])` names.

    Raises:
        BadPickleError: It is not of that form.
    """
    parts = cast("tuple[Any, ...]", persistent_id if isinstance(persistent_id, tuple) else ())
    if len(parts) not in (5, 6) or parts[0] != "storage":
        raise BadPickleError("a storage is not described as torch does")
    key, numel, view = string_of(parts[2]), size_of(parts[4]), (*parts[5:], None)[0]
    dtype = _storage_dtype(parts[1])
    itemsize = BY_NAME[dtype].itemsize if dtype else 1
    if view is None:
        return StorageRef(key, dtype, numel * itemsize)
    start, size = size_of(view[1]), size_of(view[2])
    if start + size > numel:
        raise BadPickleError("a storage view lies outside its storage")
    return StorageRef(key, dtype, size * itemsize, start * itemsize)


def _storage_dtype(kind: Any) -> str | None:
    reference = kind.construct if isinstance(kind, Known) else None
    if not isinstance(reference, _StorageClass):
        raise BadPickleError("a storage has no storage class")
    return reference.dtype


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
    if not isinstance(storage, StorageRef) or not is_size(offset) or len(shape) != len(strides):
        raise BadPickleError("a tensor is not described as torch does")
    name = dtype or storage.dtype
    if name is None:
        raise BadPickleError("a tensor has no dtype")
    if prod(shape):
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if (last + 1) * BY_NAME[name].itemsize > storage.nbytes:
            raise BadPickleError(f"a tensor of shape {shape} lies outside its storage")
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
    if not isinstance(reference, _TorchDType):
        raise BadPickleError("a tensor has no dtype")
    return _tensor(storage, offset, size, stride, reference.name, metadata)


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _rebuild_from_type(function: Any, _type: Any, arguments: Any, _state: Any) -> Any:
    if not isinstance(function, Known) or function.construct not in _REBUILD.values():
        raise BadPickleError("a tensor subclass is rebuilt in an unknown way")
    return function.construct(*arguments)


def _unusable(problem: str) -> Constructor:
    def construct(*_: Any) -> TensorRef:
        return TensorRef(None, 0, (), (), "float32", problem)

    return construct


def _opaque(name: str) -> Constructor:
    def construct(*_: Any) -> Opaque:
        return Opaque(name)

    return construct


def _ordered_dict(items: Iterable[Any] = ()) -> dict[Any, Any]:
    return {hashable(key): value for key, value in items}


def _size(values: Any = ()) -> tuple[Any, ...]:
    return tuple(values)


_REBUILD: Mapping[str, Constructor] = {
    "_rebuild_tensor": _rebuild_tensor,
    "_rebuild_tensor_v2": _rebuild_tensor,
    "_rebuild_tensor_v3": _rebuild_tensor_v3,
    "_rebuild_parameter": _rebuild_parameter,
    "_rebuild_parameter_with_state": _rebuild_parameter,
    "_rebuild_qtensor": _unusable("is quantised; call .dequantize()"),
    "_rebuild_sparse_tensor": _unusable("is sparse; call .to_dense()"),
    "_rebuild_sparse_csr_tensor": _unusable("is sparse; call .to_dense()"),
    "_rebuild_nested_tensor": _unusable("is a nested tensor; call .to_padded_tensor()"),
    "_rebuild_meta_tensor_no_storage": _unusable("is on the meta device and holds no numbers"),
    "_rebuild_device_tensor_from_numpy": _unusable("lives on an XLA device; call .cpu()"),
    "_rebuild_device_tensor_from_cpu_tensor": _unusable("lives on a device; call .cpu()"),
    "_rebuild_wrapper_subclass": _unusable("is a tensor subclass that wraps others"),
}

_OPAQUE = (
    "_codecs.encode",
    "argparse.Namespace",
    "builtins.bytearray",
    "builtins.complex",
    "collections.Counter",
    "collections.defaultdict",
    "datetime.datetime",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "pathlib.PosixPath",
    "pathlib._local.PosixPath",
    "torch.Generator",
    "torch.Tensor",
    "torch.device",
    "torch.nn.parameter.Parameter",
    "torch.per_channel_affine",
    "torch.per_channel_affine_float_qparams",
    "torch.per_channel_symmetric",
    "torch.per_tensor_affine",
    "torch.per_tensor_symmetric",
    "torch.serialization._get_layout",
)


def _torch_table() -> dict[str, Constructor]:
    table: dict[str, Constructor] = {name: _opaque(name) for name in _OPAQUE}
    for name in BY_NAME:
        table[f"torch.{name}"] = _TorchDType(name)
    for storage, dtype in BY_TORCH_STORAGE.items():
        table[f"torch.{storage}"] = table[f"torch.cuda.{storage}"] = _StorageClass(dtype.name)
    for storage in ("torch.UntypedStorage", "torch.storage.UntypedStorage"):
        table[storage] = _StorageClass(None)
    for storage in ("QInt8Storage", "QUInt8Storage", "QUInt4x2Storage", "QUInt2x4Storage"):
        table[f"torch.{storage}"] = _StorageClass("uint8")
    table["torch.QInt32Storage"] = _StorageClass("int32")
    table |= {f"torch._utils.{name}": construct for name, construct in _REBUILD.items()}
    table["torch._tensor._rebuild_from_type_v2"] = _rebuild_from_type
    table["collections.OrderedDict"] = _ordered_dict
    table["builtins.set"] = table["__builtin__.set"] = _opaque("set")
    table["torch.Size"] = _size
    return table


TORCH_TABLE = _torch_table()


def blocked(file: str, name: str) -> InputError:
    """The refusal of a pickle that wants a name outside the table."""
    return InputError(
        f"{file} is refused: its pickle wants {name!r}, which is not part of a state dict. "
        "Nothing in it was run.",
        "If you trust it, load it where it was made and save only the weights: "
        "torch.save(model.state_dict(), file).",
    )
