"""Unpickling that cannot run anything.

A pickle is a program for a stack machine. This machine imports no module and looks no attribute up
on the pickle's behalf: the only names it resolves are those in a table the caller gives, each bound
to a constructor of ours. Any other name, and whatever is made by calling it, is a `Placeholder`
that records the call and is as harmless as a string.

How it is bounded:
- Each opcode takes constant time and memory, except for the bytes it carries itself. Work that
  grows with the size of a value (`OrderedDict(items)`, hashing a tuple) is either limited per call
  or, in all, to the number of opcodes: a pickle can name a large value again in two bytes.
- There are at most `MOST_OPCODES`, which take at most 105 bytes of memory each (measured: an empty
  set), and nothing is ever walked or hashed in depth.
- Long strings stay in the file: only their place is recorded (`Stretch`).
"""

from __future__ import annotations

import io
import os
import pickletools
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

Constructor = Callable[..., Any]


class BadPickleError(Exception):
    """The bytes are not a pickle this machine understands."""


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A name of the table: what it is called and what stands in for it when it is called."""

    name: str
    construct: Constructor


@dataclass(slots=True, eq=False, repr=False)
class Placeholder:
    """A name outside the table, or an object made by calling one: recorded, never made.

    Attributes:
        module: The module the name is of.
        name: The name in that module.
        arguments: Arguments of the call; None for the name itself, which was not called.
        state: State that BUILD gave the object (`__setstate__`, or its `__dict__`), or None.
        items: What was set in it like in a dictionary, or None.
        elements: What was appended or added to it like to a list or set, or None.
        is_call: Whether REDUCE called a function, which may return anything.
    """

    module: str
    name: str
    arguments: tuple[Any, ...] | None = None
    state: Any = None
    items: dict[Any, Any] | None = None
    elements: list[Any] | None = None
    is_call: bool = False

    @property
    def dotted(self) -> str:
        """The whole name."""
        return f"{self.module}.{self.name}"

    def __repr__(self) -> str:
        # What it holds may be without end.
        return f"<{self.dotted}>"


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """A long string that was left in the file.

    Attributes:
        start: Position of its first byte in the stream.
        nbytes: Its length there.
        is_text: Whether it is text, stored as UTF-8; bytes otherwise.
    """

    start: int
    nbytes: int
    is_text: bool


MOST_OPCODES = 1 << 26
"""A tensor takes 30 to 50, so this is more than a million of them, and less than three minutes."""
_LONG_BYTES = 200
"""Bytes from here on stay in the file: the elements of an array, which are read when wanted; also
the smallest storage that `pickle.dump` writes, of 240 bytes."""
_LONG_TEXT = 1 << 14
"""Text from here on stays there too, as it is not a name: keys of 5,000 letters do occur."""
_LONGEST_LINE = 1 << 28
_MOST_ARGUMENTS = 64
_MOST_PARTS = 64
_MOST_BITS = 1 << 12
_AHEAD = 1 << 12
_COPYREG = frozenset(("copyreg", "copy_reg"))
_COPYREG_NAMES = frozenset(("_reconstructor", "__newobj__", "__newobj_ex__"))


class _Mark:
    pass


_MARK = _Mark()


class PickleMachine:
    """Reads one pickle at a time from a stream.

    Args:
        table: Dotted names (`module.attribute`) and what stands in for each when it is called.
        persistent: Turns a persistent id into a value.

    Attributes:
        strangers: How often names outside the table were called, by module and name.
    """

    def __init__(self, table: Mapping[str, Constructor], persistent: Callable[[Any], Any]) -> None:
        # Looked up by module and name, so that no long name is ever put together.
        self._names: dict[tuple[str, str], Known | Placeholder] = {}
        for name, construct in table.items():
            module, _, attribute = name.rpartition(".")
            self._names[module, attribute] = Known(name, construct)
        self._persistent = persistent
        self.strangers: Counter[tuple[str, str]] = Counter()
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._opcodes = self._handed_over = 0

    def load(self, stream: BinaryIO) -> Any:
        """The value of the pickle at the stream's position, which is left behind its STOP.

        Raises:
            BadPickleError: It is malformed, or uses opcodes no checkpoint needs.
        """
        self._stack = []
        self._memo = {}
        self._opcodes = self._handed_over = 0
        try:
            # Odd escapes in old strings are the file's affair, not a warning to the user.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                return self._run(_Source(stream))
        except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            raise BadPickleError(str(error) or type(error).__name__) from None
        except (OverflowError, MemoryError, RecursionError):
            raise BadPickleError("it claims more than there can be") from None

    def _run(self, source: _Source) -> Any:
        read, push = source.read, self._stack.append
        while code := read(1):
            self._opcodes += 1
            if self._opcodes > MOST_OPCODES:
                raise BadPickleError(f"it has more than {MOST_OPCODES:,} opcodes")
            try:
                argument, step = _OPCODES[code]
            except KeyError:
                raise BadPickleError(f"byte {code!r} is no opcode a checkpoint needs") from None
            if step is None:
                assert argument is not None
                push(argument(source))
            else:
                step(self, argument(source) if argument else None)
                if code == b".":
                    return self._stack.pop()
        raise BadPickleError("it has no end")

    def _op_proto(self, _: Any) -> None:
        pass

    _op_frame = _op_stop = _op_proto

    def _op_get(self, argument: Any) -> None:
        self._stack.append(self._memo[int(argument)])

    _op_binget = _op_long_binget = _op_get

    def _op_put(self, argument: Any) -> None:
        self._memo[int(argument)] = self._stack[-1]

    _op_binput = _op_long_binput = _op_put

    def _op_memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _op_tuple1(self, _: Any) -> None:
        self._stack[-1:] = [(self._stack[-1],)]

    def _op_tuple2(self, _: Any) -> None:
        self._stack[-2:] = [(self._stack[-2], self._stack[-1])]

    def _op_tuple3(self, _: Any) -> None:
        self._stack[-3:] = [(self._stack[-3], self._stack[-2], self._stack[-1])]

    def _op_tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._pop_mark()))

    def _op_list(self, _: Any) -> None:
        self._stack.append(self._pop_mark())

    def _op_dict(self, _: Any) -> None:
        self._stack.append(_paired(self._pop_mark()))

    def _op_frozenset(self, _: Any) -> None:
        items = self._pop_mark()
        self._stack.append(Placeholder("builtins", "frozenset", (), elements=items))

    def _op_append(self, _: Any) -> None:
        item = self._stack.pop()
        self._extend([item])

    def _op_appends(self, _: Any) -> None:
        self._extend(self._pop_mark())

    _op_additems = _op_appends

    def _extend(self, items: list[Any]) -> None:
        container = self._stack[-1]
        if type(container) is list:
            cast("list[Any]", container).extend(items)
        elif isinstance(container, Placeholder):
            if container.elements is None:
                container.elements = []
            container.elements.extend(items)
        else:
            raise BadPickleError(f"{type(container).__name__} is not a list")

    def _op_setitem(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update(_paired([key, value]))

    def _op_setitems(self, _: Any) -> None:
        self._update(_paired(self._pop_mark()))

    def _update(self, items: dict[Any, Any]) -> None:
        container = self._stack[-1]
        if type(container) is dict:
            cast("dict[Any, Any]", container).update(items)
        elif isinstance(container, Placeholder):
            if container.items is None:
                container.items = {}
            container.items.update(items)
        else:
            raise BadPickleError(f"{type(container).__name__} is not a dict")

    def _op_global(self, argument: Any) -> None:
        self._stack.append(self._named(*str(argument).split(" ", 1)))

    def _op_stack_global(self, _: Any) -> None:
        attribute, module = self._stack.pop(), self._stack.pop()
        self._stack.append(self._named(module, attribute))

    def _op_inst(self, argument: Any) -> None:
        arguments = tuple(self._pop_mark())
        self._stack.append(self._call(self._named(*str(argument).split(" ", 1)), arguments))

    def _op_obj(self, _: Any) -> None:
        function, *arguments = self._pop_mark()
        self._stack.append(self._call(function, tuple(arguments)))

    def _op_reduce(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        made = self._call(function, arguments)
        if isinstance(made, Placeholder) and made.name == getattr(function, "name", None):
            made.is_call = True
        self._stack.append(made)

    def _op_newobj(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._stack.append(self._call(function, arguments))

    def _op_newobj_ex(self, _: Any) -> None:
        keywords, arguments, function = (self._stack.pop() for _ in range(3))
        made = self._call(function, arguments)
        if isinstance(made, Placeholder):
            made.state = keywords
        self._stack.append(made)

    def _op_build(self, _: Any) -> None:
        state = self._stack.pop()
        built = self._stack[-1]
        if isinstance(built, Placeholder) and built.arguments is not None:
            built.state = state

    def _op_persid(self, argument: Any) -> None:
        self._stack.append(self._persistent(argument))

    def _op_binpersid(self, _: Any) -> None:
        self._stack.append(self._persistent(self._stack.pop()))

    def _op_pop(self, _: Any) -> None:
        self._stack.pop()

    def _op_pop_mark(self, _: Any) -> None:
        self._pop_mark()

    def _pop_mark(self) -> list[Any]:
        stack = self._stack
        start = len(stack) - 1
        while start >= 0 and stack[start] is not _MARK:
            start -= 1
        if start < 0:
            raise BadPickleError("a mark is missing")
        items = stack[start + 1 :]
        del stack[start:]
        return items

    def _call(self, function: Any, arguments: Any) -> Any:
        if type(arguments) is not tuple:
            raise BadPickleError("a call has no arguments")
        given = cast("tuple[Any, ...]", arguments)
        if isinstance(function, Placeholder):
            return self._stand_in(function, given)
        if not isinstance(function, Known):
            raise BadPickleError(f"{type(function).__name__} is called like a function")
        if len(given) > _MOST_ARGUMENTS:
            raise BadPickleError(f"{function.name} is called with {len(given):,} arguments")
        self._handed_over += sum(map(_length, given))
        if self._handed_over > self._opcodes + _AHEAD:
            raise BadPickleError("it hands one large value over again and again")
        return function.construct(*given)

    def _stand_in(self, function: Placeholder, given: tuple[Any, ...]) -> Placeholder:
        """Record a call; one that only makes an object of a class is recorded as that class's."""
        made, items = function, None
        if function.module in _COPYREG and function.name in _COPYREG_NAMES and given:
            if isinstance(given[0], Placeholder):
                made = given[0]
            base = given[-1]
            items = cast("dict[Any, Any]", base) if type(base) is dict else None
        if made.arguments is None:
            self.strangers[made.module, made.name] += 1
        return Placeholder(made.module, made.name, given, items=items)

    def _named(self, module: Any, attribute: Any) -> Known | Placeholder:
        if type(module) is not str or type(attribute) is not str:
            raise BadPickleError("a name is not a string")
        found = self._names.get((module, attribute))
        if found is None:
            found = self._names[module, attribute] = Placeholder(module, attribute)
            self.strangers[module, attribute] += 0
        return found


class _Source:
    """The stream a pickle is read from, in the form that `pickletools` reads arguments from."""

    def __init__(self, stream: BinaryIO) -> None:
        self.read = stream.read
        self._stream = stream
        position = stream.tell()
        self._end = stream.seek(0, os.SEEK_END)
        stream.seek(position)

    def readline(self) -> bytes:
        return self._stream.readline(_LONGEST_LINE)

    def string(self, width: int, longest: int, is_text: bool) -> bytes | Stretch:
        """A string behind its length, or its place if it is long."""
        length = self.read(width)
        nbytes = int.from_bytes(length, "little")
        if nbytes < longest:
            found = self.read(nbytes)
            if len(length) == width and len(found) == nbytes:
                return found
        else:
            start = self._stream.tell()
            if start + nbytes <= self._end:
                self._stream.seek(nbytes, os.SEEK_CUR)
                return Stretch(start, nbytes, is_text)
        raise BadPickleError("it is cut short in a string")


def _text(width: int) -> Callable[[Any], Any]:
    def read(source: _Source) -> str | Stretch:
        found = source.string(width, _LONG_TEXT, is_text=True)
        return found if isinstance(found, Stretch) else str(found, "utf-8", "surrogatepass")

    return read


def _bytes(width: int) -> Callable[[Any], Any]:
    return lambda source: source.string(width, _LONG_BYTES, is_text=False)


def _old_string(width: int) -> Callable[[Any], Any]:
    """Strings of Python 2, which were text and bytes at once."""

    def read(source: _Source) -> str | Stretch:
        found = source.string(width, _LONG_BYTES, is_text=False)
        return found if isinstance(found, Stretch) else str(found, "latin-1")

    return read


Reader = Callable[[Any], Any]
Step = Callable[[PickleMachine, Any], None]
_READ: Mapping[str, Reader] = {
    "SHORT_BINUNICODE": _text(1),
    "BINUNICODE": _text(4),
    "BINUNICODE8": _text(8),
    "SHORT_BINBYTES": _bytes(1),
    "BINBYTES": _bytes(4),
    "BINBYTES8": _bytes(8),
    "BYTEARRAY8": _bytes(8),
    "SHORT_BINSTRING": _old_string(1),
    "BINSTRING": _old_string(4),
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "MARK": lambda _: _MARK,
    "EMPTY_TUPLE": lambda _: (),
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: {},
    "EMPTY_SET": lambda _: Placeholder("builtins", "set", ()),
}
"""Values that this machine reads otherwise than `pickletools` does."""
_PUSHED = frozenset(
    (
        *("FLOAT", "BINFLOAT", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
        *("STRING", "UNICODE", *_READ),
    )
)
_OPCODES: Mapping[bytes, tuple[Reader | None, Step | None]] = {
    opcode.code.encode("latin-1"): (
        _READ.get(opcode.name) or (opcode.arg.reader if opcode.arg else None),
        getattr(PickleMachine, f"_op_{opcode.name.lower()}", None),
    )
    for opcode in pickletools.opcodes
    if opcode.name in _PUSHED or hasattr(PickleMachine, f"_op_{opcode.name.lower()}")
}
"""Opcodes that are understood: values, and those a method of the machine is named after."""


def ordered_dict(items: Iterable[Any] = ()) -> dict[Any, Any]:
    """Stand in for `collections.OrderedDict`."""
    return {hashable(key): value for key, value in items}


def size(values: Any = ()) -> tuple[Any, ...]:
    """Stand in for `torch.Size`."""
    return tuple(values)


PLAIN: Mapping[str, Constructor] = {"collections.OrderedDict": ordered_dict, "torch.Size": size}
"""Containers that become plain dictionaries and tuples."""


def read_objects(source: bytes | BinaryIO) -> Any:
    """Unpickle into plain values and placeholders. Imports and runs nothing.

    Every class, function and object is a `Placeholder`, of which persistent ids are given as the
    only argument of `persistent.id`; `OrderedDict` is a dictionary, `torch.Size` a tuple.

    Raises:
        BadPickleError: It is malformed, or uses opcodes no checkpoint needs.
    """
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    return PickleMachine(PLAIN, unknown_persistent).load(stream)


def unknown_persistent(persistent_id: Any) -> Placeholder:
    """Stand in for what a persistent id names."""
    return Placeholder("persistent", "id", (persistent_id,))


def _paired(items: Sequence[Any]) -> dict[Any, Any]:
    return dict(zip(map(hashable, items[::2]), items[1::2], strict=True))


def hashable(key: Any) -> Any:
    """The key; if it is of a size or depth that makes hashing it slow, what stands in for it."""
    if type(key) is str or isinstance(key, str | Placeholder):
        return key
    if type(key) is tuple:
        parts = cast("tuple[Any, ...]", key)
        if len(parts) > _MOST_PARTS or any(hashable_part(part) is not part for part in parts):
            return Placeholder("builtins", "tuple", parts)
        return parts
    return hashable_part(key)


def hashable_part(part: Any) -> Any:
    """The key, which is not a tuple, or what stands in for it."""
    if type(part) is tuple:
        return Placeholder("builtins", "tuple", cast("tuple[Any, ...]", part))
    if type(part) is int and part.bit_length() > _MOST_BITS:
        return Placeholder("builtins", "int", (part,))
    return part


def _length(value: Any) -> int:
    return len(value) if type(value) in (list, tuple, dict) else 0
