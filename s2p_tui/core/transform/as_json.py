"""Expressions as JSON values, for mapping files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, get_args

from s2p_tui.core.transform.nodes import Expr, Joining, Take, operands
from s2p_tui.core.untrusted import (
    MalformedError,
    list_of,
    object_of,
    size_of,
    sizes_of,
    string_of,
)


def _name(kind: type[Any]) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


_OPS: dict[str, type[Any]] = {_name(kind): kind for kind in get_args(Expr) if kind is not Take}


def to_json(expr: Expr, sources: Sequence[str]) -> Any:
    """The expression as JSON values, entries given by their place in `sources`."""
    if isinstance(expr, Take):
        return sources.index(expr.key)
    node: dict[str, Any] = {"op": _name(type(expr))}
    for attribute in fields(expr):
        if attribute.name == "of":
            of = [to_json(operand, sources) for operand in operands(expr)]
            node["of"] = of if isinstance(expr, Joining) else of[0]
        else:
            node[attribute.name] = getattr(expr, attribute.name)
    return node


def from_json(node: Any, sources: Sequence[str]) -> Expr:
    """Inverse of `to_json`.

    Raises:
        MalformedError: The JSON is not such an expression.
    """
    if type(node) is int:
        if 0 <= node < len(sources):
            return Take(sources[node])
        raise MalformedError(f"a transform refers to source {node}, the row has {len(sources)}")
    step = dict(object_of(node))
    kind = _OPS.get(string_of(step.pop("op", None)))
    if kind is None or set(step) != {attribute.name for attribute in fields(kind)}:
        raise MalformedError(f"{node!r} is not a transform; known are {', '.join(_OPS)}")
    return kind(**{name: _argument(kind, name, step[name], sources) for name in step})


def _argument(kind: type[Any], name: str, value: Any, sources: Sequence[str]) -> Any:
    match name:
        case "of" if kind in get_args(Joining):
            return tuple(from_json(operand, sources) for operand in list_of(value))
        case "of":
            return from_json(value, sources)
        case "axes" | "shape":
            return sizes_of(value)
        case "axis" | "start" | "stop":
            return size_of(value)
        case _ if type(value) is float or (type(value) is int and abs(value) < 2**63):
            return value
        case _:
            raise MalformedError(f"{_name(kind)}: {name} must be a number")
