"""Placeholders of a pickle, seen as what they stand for: NumPy arrays, modules, containers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, cast

from s2p_tui.alignment.dtypes import BY_NAME
from s2p_tui.alignment.untrusted import shape_of
from s2p_tui.formats.base import strides_of
from s2p_tui.formats.nested import inside_plain
from s2p_tui.formats.pickle_machine import BadPickleError, Placeholder, Stretch
from s2p_tui.formats.torch_objects import StorageRef, TensorRef, unusable

_NUMPY = ("numpy.core", "numpy._core")
_DTYPE = re.compile(r"[biufc](\d{1,2})")
_KINDS = {"b": "bool", "i": "int", "u": "uint", "f": "float", "c": "complex"}
_MOST_LETTERS = 1 << 25
"""Of all names in one module: more than 100,000 long ones. Modules may hold one another twice."""
_DEEPEST = 100
_MODULE_PARTS = ("_parameters", "_buffers", "_modules")


@dataclass(frozen=True, slots=True, eq=False)
class ArrayRef:
    """A NumPy array in a pickle.

    Attributes:
        data: Its elements, or where they lie; text holds one byte a letter (Latin-1).
        shape: Its shape.
        strides: Elements from one index to the next, per axis.
        dtype: Its dtype's name.
        origin: The placeholder it was made of: the same for an array that is there twice.
    """

    data: bytes | str | Stretch
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    origin: Placeholder

    def at(self, start: int) -> ArrayRef:
        """The array with its stretch at another place."""
        assert isinstance(self.data, Stretch)
        return replace(self, data=replace(self.data, start=start))


class ModuleItems(dict[Any, Any]):
    """The state dict of a whole module that was pickled.

    Attributes:
        name: Its class.
        classes: Module and name of its class and of those of all in it.
        hooks: Whether it has hooks that change its state dict, which are not run.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.classes: set[tuple[str, str]] = set()
        self.hooks = False


def is_pickled_tensor(value: Any) -> bool:
    """Return True if it is a tensor or array, usable or not."""
    return isinstance(value, TensorRef | ArrayRef)


class PickledItems:
    """Gives the items of what is in one pickle: of containers, modules, other objects."""

    def __init__(self) -> None:
        self._letters = 0

    def __call__(self, value: Any) -> Mapping[Any, Any] | None:
        """The items by name, tensors as such; None if the value has none.

        Raises:
            BadPickleError: It is a module that holds others without end.
        """
        if isinstance(value, Placeholder):
            items = self._inside(value)
        elif type(value) is dict:
            items = cast("dict[Any, Any]", value)
        else:
            items = inside_plain(value)
        if items and any(isinstance(item, Placeholder) for item in items.values()):
            return {name: seen(item) for name, item in items.items()}
        return items

    def _inside(self, value: Placeholder) -> Mapping[Any, Any] | None:
        if value.arguments is None:
            return None
        attributes = _attributes(value)
        if attributes is not None and all(type(attributes.get(p)) is dict for p in _MODULE_PARTS):
            return self._module(value)
        if value.items is not None:
            return value.items
        if value.elements is not None:
            return inside_plain(value.elements)
        return attributes if attributes is not None else inside_plain(value.arguments)

    def _module(self, root: Placeholder) -> ModuleItems:
        """Return the items of a pickled module's `state_dict()`, in torch's own order."""
        found = ModuleItems(root.dotted)
        for prefix, module, attributes in _modules(root):
            found.classes.add((module.module, module.name))
            hooks = ("_state_dict_hooks", "_state_dict_pre_hooks")
            found.hooks |= any(attributes.get(name) for name in hooks)
            unsaved = _members(attributes.get("_non_persistent_buffers_set"))
            saved = dict(_dict(attributes.get("_buffers")))
            for name in unsaved:
                if isinstance(name, str):
                    saved.pop(name, None)
            self._letters += len(prefix) * (1 + len(saved))
            for name, item in (*_dict(attributes.get("_parameters")).items(), *saved.items()):
                tensor = seen(item)
                if isinstance(name, str) and is_pickled_tensor(tensor):
                    found[prefix + name] = tensor
                    self._letters += len(prefix) + len(name)
            if self._letters > _MOST_LETTERS:
                raise BadPickleError("modules hold one another without end")
        return found


def _attributes(value: Placeholder) -> dict[Any, Any] | None:
    """An object's attributes, as far as they are pickled plainly."""
    state = value.state
    if type(state) is tuple:
        # Attributes and those in `__slots__`: rarely are there both.
        parts = cast("tuple[Any, ...]", state)
        state = (parts[0] or parts[1]) if len(parts) == 2 else None
    if type(state) is dict:
        return _dict(state)
    first = value.arguments[0] if value.arguments else None
    return _dict(first) if type(first) is dict else None


def seen(value: Any) -> Any:
    """The tensor or array a placeholder stands for, if it does; else the value."""
    if not isinstance(value, Placeholder) or value.arguments is None:
        return value
    return _array(value) or _unknown_tensor(value) or value


def _unknown_tensor(value: Placeholder) -> TensorRef | None:
    """A tensor that a function not known here would rebuild."""
    if not value.is_call:
        return None
    if any(isinstance(a, TensorRef | StorageRef) for a in (value.arguments or ())[:64]):
        return unusable(
            f"is rebuilt by {value.dotted}, which is not known here; save it as a plain tensor"
        )
    return None


def _array(value: Placeholder) -> ArrayRef | TensorRef | None:
    package, _, module = value.module.rpartition(".")
    if package not in _NUMPY:
        return None
    arguments, state = value.arguments or (), value.state
    if (module, value.name) == ("multiarray", "_reconstruct") and type(state) is tuple:
        kind = arguments[0] if arguments else None
        if not isinstance(kind, Placeholder) or kind.dotted != "numpy.ndarray":
            return None
        described = cast("tuple[Any, ...]", state)[-4:]
    elif (module, value.name) == ("numeric", "_frombuffer") and len(arguments) == 4:
        data, dtype, shape, order = arguments
        described = (shape, dtype, order == "F", data)
    else:
        return None
    try:
        return _array_of(value, *described)
    except (ValueError, TypeError) as error:
        return unusable(f"is a damaged array: {error}")


def _array_of(
    origin: Placeholder, size: Any, dtype: Any, is_fortran: Any, raw: Any
) -> ArrayRef | TensorRef | None:
    code, order = _dtype_of(dtype)
    if code not in BY_NAME:
        # Objects, text and dates are not numbers, so they are settings, not weights.
        return None if not code or code[0] not in "fc" else unusable(f"is of NumPy's dtype {code}")
    if order == ">":
        return unusable(f"is big-endian; call .astype({code!r})")
    shape = shape_of(size)
    data = _raw(raw)
    if data is None:
        return None
    strides = strides_of(shape, is_fortran=is_fortran)
    nbytes = prod(shape) * BY_NAME[code].itemsize
    held = data.nbytes if isinstance(data, Stretch) else len(data)
    # Text takes one or two bytes a letter in the file: it is counted when it is read.
    most = 2 * nbytes if isinstance(data, Stretch) and data.is_text else nbytes
    if not nbytes <= held <= most:
        raise ValueError(f"{held:,} bytes do not hold {list(shape)} of {code}")
    return ArrayRef(data, shape, strides, code, origin)


def _dtype_of(dtype: Any) -> tuple[str, str]:
    """The name of a pickled dtype and its byte order; empty if it is not a plain one."""
    if not isinstance(dtype, Placeholder) or dtype.dotted != "numpy.dtype" or not dtype.arguments:
        return "", ""
    state = cast("tuple[Any, ...]", dtype.state if type(dtype.state) is tuple else ())
    order = state[1] if len(state) > 1 and isinstance(state[1], str) else "|"
    code = dtype.arguments[0]
    if isinstance(code, Placeholder) and code.module == "ml_dtypes":
        return code.name, order
    found = _DTYPE.fullmatch(code) if isinstance(code, str) else None
    if not isinstance(code, str) or found is None:
        return "", ""
    kind, size = _KINDS[code[0]], int(found[1])
    return (kind if kind == "bool" else f"{kind}{size * 8}"), order


def _raw(value: Any) -> bytes | str | Stretch | None:
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, str | Stretch):
        return value
    if isinstance(value, Placeholder) and value.arguments is not None:
        if value.dotted == "_codecs.encode" and value.arguments[1:] in (("latin1",), ("latin-1",)):
            text = value.arguments[0]
            return text if isinstance(text, str | Stretch) else None
        if value.name == "bytes" and not value.arguments:
            return b""
    return None


def _modules(root: Placeholder) -> Iterator[tuple[str, Placeholder, dict[Any, Any]]]:
    """A module and all in it, each before what it holds: prefix, module, attributes."""
    todo: list[tuple[str, Any, int]] = [("", root, 0)]
    letters = 0
    while todo:
        prefix, module, depth = todo.pop()
        if not isinstance(module, Placeholder):
            continue
        attributes = _attributes(module)
        if attributes is None:
            continue
        letters += len(prefix) + 1
        if depth > _DEEPEST or letters > _MOST_LETTERS:
            raise BadPickleError("a module holds others without end")
        yield prefix, module, attributes
        children = _dict(attributes.get("_modules"))
        todo.extend(
            (f"{prefix}{name}.", child, depth + 1)
            for name, child in reversed(children.items())
            if isinstance(name, str)
        )


def _dict(value: Any) -> dict[Any, Any]:
    return cast("dict[Any, Any]", value) if type(value) is dict else {}


def _members(value: Any) -> Sequence[Any]:
    """The members of a pickled set."""
    if not isinstance(value, Placeholder):
        return ()
    if value.elements is not None:
        return value.elements
    first = value.arguments[0] if value.arguments else ()
    return cast("Sequence[Any]", first) if isinstance(first, list | tuple) else ()
