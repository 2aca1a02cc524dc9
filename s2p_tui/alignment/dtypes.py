"""The element types of checkpoints and pytrees, under one name each.

Names are NumPy's, or `ml_dtypes`' where NumPy has none. Sources: the `torch.*Storage` classes, the
safetensors format's `Dtype` enumeration, and `ml_dtypes` for what JAX adds.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from s2p_tui.errors import InputError

if TYPE_CHECKING:
    import numpy as np

Kind = Literal["bool", "int", "uint", "float", "complex", "packed"]


class DType(Struct, frozen=True):
    """One element type.

    Attributes:
        name: NumPy's or ml_dtypes' name.
        bits: Width of one element on disk.
        kind: What the numbers are. `packed` types can be listed but not converted.
        safetensors: Code in a safetensors header, if it has one.
        torch_storage: Name of the typed storage class in old `torch.save` pickles, if it has one.
        loads_in_equinox: Whether `equinox.tree_deserialise_leaves` reads back a leaf of it.
    """

    name: str
    bits: int
    kind: Kind
    safetensors: str | None = None
    torch_storage: str | None = None
    loads_in_equinox: bool = True

    @property
    def itemsize(self) -> int:
        """Bytes of one element; 0 for types narrower than a byte on disk."""
        return self.bits // 8

    @property
    def is_floating(self) -> bool:
        """True if it is real or complex floating point."""
        return self.kind in ("float", "complex")


_TABLE = (
    DType("bool", 8, "bool", "BOOL", "BoolStorage"),
    DType("uint8", 8, "uint", "U8", "ByteStorage"),
    DType("uint16", 16, "uint", "U16"),
    DType("uint32", 32, "uint", "U32"),
    DType("uint64", 64, "uint", "U64"),
    DType("int8", 8, "int", "I8", "CharStorage"),
    DType("int16", 16, "int", "I16", "ShortStorage"),
    DType("int32", 32, "int", "I32", "IntStorage"),
    DType("int64", 64, "int", "I64", "LongStorage"),
    DType("float16", 16, "float", "F16", "HalfStorage"),
    DType("bfloat16", 16, "float", "BF16", "BFloat16Storage"),
    DType("float32", 32, "float", "F32", "FloatStorage"),
    DType("float64", 64, "float", "F64", "DoubleStorage"),
    DType("complex64", 64, "complex", "C64", "ComplexFloatStorage"),
    DType("complex128", 128, "complex", None, "ComplexDoubleStorage"),
    DType("float8_e4m3fn", 8, "float", "F8_E4M3", loads_in_equinox=False),
    DType("float8_e5m2", 8, "float", "F8_E5M2", loads_in_equinox=False),
    DType("float8_e4m3fnuz", 8, "float", "F8_E4M3FNUZ", loads_in_equinox=False),
    DType("float8_e5m2fnuz", 8, "float", "F8_E5M2FNUZ", loads_in_equinox=False),
    DType("float8_e8m0fnu", 8, "float", "F8_E8M0", loads_in_equinox=False),
    DType("float8_e3m4", 8, "float", loads_in_equinox=False),
    DType("float8_e4m3", 8, "float", loads_in_equinox=False),
    DType("float8_e4m3b11fnuz", 8, "float", loads_in_equinox=False),
    DType("int4", 8, "int", loads_in_equinox=False),
    DType("uint4", 8, "uint", loads_in_equinox=False),
    DType("int2", 8, "int", loads_in_equinox=False),
    DType("uint2", 8, "uint", loads_in_equinox=False),
    DType("float4_e2m1fn", 8, "float", loads_in_equinox=False),
    DType("complex32", 32, "packed", None, "ComplexHalfStorage", loads_in_equinox=False),
    DType("float4_e2m1fn_x2", 8, "packed", loads_in_equinox=False),
    DType("float4", 4, "packed", "F4", loads_in_equinox=False),
    DType("float6_e2m3", 6, "packed", "F6_E2M3", loads_in_equinox=False),
    DType("float6_e3m2", 6, "packed", "F6_E3M2", loads_in_equinox=False),
)

BY_NAME = {dtype.name: dtype for dtype in _TABLE}
BY_SAFETENSORS = {dtype.safetensors: dtype for dtype in _TABLE if dtype.safetensors}
BY_TORCH_STORAGE = {dtype.torch_storage: dtype for dtype in _TABLE if dtype.torch_storage}


def dtype_named(name: str) -> DType:
    """The type of that name.

    Raises:
        InputError: No such type is known here.
    """
    try:
        return BY_NAME[name]
    except KeyError:
        raise InputError(
            f"The dtype {name!r} is not known.", f"Use one of {', '.join(BY_NAME)}."
        ) from None


@cache
def numpy_dtype(name: str) -> np.dtype:
    """The NumPy dtype (little-endian) of that name; imports `ml_dtypes` only for what NumPy lacks.

    Raises:
        InputError: The type is unknown, or packs several elements in a byte.
    """
    import numpy as np

    dtype = dtype_named(name)
    if dtype.kind == "packed":
        raise InputError(
            f"{name} tensors cannot be converted: NumPy and JAX have no such element type.",
            "Save the checkpoint in another dtype first, e.g. tensor.float().",
        )
    if hasattr(np, name):
        return np.dtype(name).newbyteorder("<")
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name))
