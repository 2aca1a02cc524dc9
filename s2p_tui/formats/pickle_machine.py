"""Unpickling that cannot run anything.

A pickle is a program for a stack machine. This machine knows the opcodes that build plain data and
no others, and the only names it resolves are the ones in a table the caller gives, each bound to a
constructor of ours. No module is imported and no attribute looked up on the pickle's behalf.

A pickle can name a thing again in two bytes. What takes longer the larger the thing is may
therefore be done to no more in all than the pickle has opcodes: its time grows with its size alone.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

Constructor = Callable[..., Any]


class BlockedGlobalError(Exception):
    """The pickle wants a name that is not in the table."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class BadPickleError(Exception):
    """The bytes are not a pickle this machine understands."""


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A resolved name: what it is called and what stands in for it when it is called."""

    name: str
    construct: Constructor


_PUSH = frozenset(
    (
        *("NONE", "NEWTRUE", "NEWFALSE", "FLOAT", "BINFLOAT"),
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    )
)
_CONTAINERS = frozenset((list, tuple, dict, set, frozenset))
_MOST_ARGUMENTS = 64
_MOST_PARTS = 64
_MOST_BITS = 1 << 12
_AHEAD = 1 << 12
_CONSTANTS: Mapping[str, object] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


class _Mark:
    pass


_MARK = _Mark()


class PickleMachine:
    """Reads one pickle at a time from a stream.

    Args:
        table: Dotted names (`module.attribute`) and what stands in for each when it is called.
        persistent: Turns a persistent id into a value.
    """

    def __init__(self, table: Mapping[str, Constructor], persistent: Callable[[Any], Any]) -> None:
        self._known = {name: Known(name, construct) for name, construct in table.items()}
        self._persistent = persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._opcodes = self._handed_over = 0

    def load(self, stream: BinaryIO) -> Any:
        """The value of the pickle at the stream's position, which is left behind its STOP.

        Raises:
            BlockedGlobalError: It wants a name outside the table.
            BadPickleError: It is malformed, or uses opcodes no checkpoint needs.
        """
        self._stack = []
        self._memo = {}
        self._opcodes = self._handed_over = 0
        try:
            # Odd escapes in old strings are the file's affair, not a warning to the user.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                for opcode, argument, _ in pickletools.genops(stream):
                    if opcode.name == "STOP":
                        return self._stack.pop()
                    self._step(opcode.name, argument)
        except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            raise BadPickleError(str(error) or type(error).__name__) from None
        except (OverflowError, MemoryError, RecursionError):
            raise BadPickleError("it claims more than there can be") from None
        raise BadPickleError("it has no end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        self._opcodes += 1
        if name in _PUSH:
            stack.append(_CONSTANTS.get(name, argument))
            return
        match name:
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(self._memo[int(argument)])
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self._memo[int(argument)] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "MARK":
                stack.append(_MARK)
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "TUPLE":
                stack.append(tuple(self._pop_mark()))
            case "EMPTY_LIST":
                stack.append([])
            case "LIST":
                stack.append(self._pop_mark())
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                stack.append(_paired(self._pop_mark()))
            case "EMPTY_SET":
                stack.append(set())
            case "FROZENSET":
                stack.append(frozenset(map(hashable, self._pop_mark())))
            case "APPEND":
                item = stack.pop()
                self._fill(stack[-1], list, "append", item)
            case "APPENDS":
                items = self._pop_mark()
                self._fill(stack[-1], list, "extend", items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._fill(stack[-1], dict, "update", _paired([key, value]))
            case "SETITEMS":
                items = self._pop_mark()
                self._fill(stack[-1], dict, "update", _paired(items))
            case "ADDITEMS":
                items = list(map(hashable, self._pop_mark()))
                self._fill(stack[-1], set, "update", items)
            case "GLOBAL" | "INST":
                known = self._resolve(*str(argument).split(" ", 1))
                if name == "INST":
                    stack.append(known.construct(*self._pop_mark()))
                else:
                    stack.append(known)
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(self._resolve(module, attribute))
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                stack.append(self._call(function, arguments))
            case "BUILD":
                stack.pop()
            case "PERSID":
                stack.append(self._persistent(argument))
            case "BINPERSID":
                stack.append(self._persistent(stack.pop()))
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._pop_mark()
            case "PROTO" | "FRAME":
                pass
            case _:
                raise BadPickleError(f"opcode {name} has no place in a checkpoint")

    def _pop_mark(self) -> list[Any]:
        stack = self._stack
        start = len(stack) - 1
        while stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise BadPickleError("a mark is missing")
        items = stack[start + 1 :]
        del stack[start:]
        return items

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Known) or type(arguments) is not tuple:
            raise BadPickleError(f"{type(function).__name__} is called like a function")
        given = cast("tuple[Any, ...]", arguments)
        if len(given) > _MOST_ARGUMENTS:
            raise BadPickleError(f"{function.name} is called with {len(given):,} arguments")
        self._handed_over += sum(map(_length, given))
        if self._handed_over > self._opcodes + _AHEAD:
            raise BadPickleError("it hands one large value over again and again")
        return function.construct(*given)

    def _resolve(self, module: Any, attribute: Any) -> Known:
        if type(module) is not str or type(attribute) is not str:
            raise BadPickleError("a name is not a string")
        name = f"{module}.{attribute}"
        try:
            return self._known[name]
        except KeyError:
            raise BlockedGlobalError(name) from None

    @staticmethod
    def _fill(container: Any, kind: type, method: str, items: Any) -> None:
        if type(container) is kind:
            getattr(container, method)(items)
        elif not isinstance(container, Opaque):
            raise BadPickleError(f"{type(container).__name__} is not a {kind.__name__}")


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """A value that is of no interest here, such as an optimizer's settings."""

    name: str


def _paired(items: Sequence[Any]) -> dict[Any, Any]:
    return dict(zip(map(hashable, items[::2]), items[1::2], strict=True))


def hashable(key: Any) -> Any:
    """The key, unless it is of a size or depth that makes hashing it over and over take forever."""
    if isinstance(key, tuple | frozenset):
        parts = cast("tuple[Any, ...]", key)
        if len(parts) > _MOST_PARTS:
            raise BadPickleError(f"a key has {len(parts):,} parts")
        for part in parts:
            if isinstance(part, tuple | frozenset):
                raise BadPickleError("a key is nested")
            hashable(part)
        return parts
    if isinstance(key, int) and key.bit_length() > _MOST_BITS:
        raise BadPickleError("a key is a number of thousands of digits")
    return key


def _length(value: Any) -> int:
    return len(value) if type(value) in _CONTAINERS else 0
