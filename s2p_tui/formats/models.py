"""The code that makes both models of a pair, as skeleton files record it and people write it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from msgspec import Struct, field, structs

from s2p_tui.alignment.untrusted import MalformedError, object_of, parse_json, string_of
from s2p_tui.errors import UsageError

_NAME = re.compile(r"[^:{}]+:[^\W\d]\w*(\.[^\W\d]\w*)*")
_EXAMPLE = 'Write it as pkg.module:factory or file.py:factory {"width": 64}.'


class Factory(Struct, frozen=True):
    """A function that makes a model, and its arguments.

    Attributes:
        name: `pkg.module:factory` or `file.py:factory`.
        kwargs: Its arguments, as JSON has them.
        takes_key: True if it gets a PRNG key besides.
        holds_state: True if what it makes is split into `(model, state)` afterwards.
    """

    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    takes_key: bool = False
    holds_state: bool = False

    @property
    def text(self) -> str:
        """The factory as people write it: its name, and its arguments if it has any."""
        return f"{self.name} {json.dumps(dict(self.kwargs))}" if self.kwargs else self.name

    @property
    def module(self) -> str:
        """The module's name in an import statement; empty if it has none."""
        where = self.name.rpartition(":")[0]
        if where.endswith(".py"):
            where = PurePath(where).stem
        return where if all(part.isidentifier() for part in where.split(".")) else ""

    @property
    def attribute(self) -> str:
        """The factory's name in its module."""
        return self.name.rpartition(":")[2]


class Models(Struct, frozen=True):
    """The factories of both sides, where they are known."""

    jax: Factory | None = None
    torch: Factory | None = None

    def holding_state(self, is_split: bool) -> Models:
        """Return the same, where what the JAX side makes was split into `(model, state)`."""
        if self.jax is None or not is_split:
            return self
        return structs.replace(self, jax=structs.replace(self.jax, holds_state=True))


UNKNOWN = Models()


def factory_in(text: str) -> Factory:
    """Return the factory that somebody wrote, arguments as a JSON object behind its name.

    Raises:
        UsageError: It is not written so.
    """
    name, brace, rest = text.strip().partition("{")
    name = name.strip()
    if not _is_name(name):
        raise UsageError(f"{text.strip() or 'Nothing'} names no factory.", _EXAMPLE)
    try:
        return Factory(name, object_of(parse_json((brace + rest).encode())) if brace else {})
    except (ValueError, RecursionError):
        raise UsageError(
            f"The arguments of {name} are no JSON object: {brace + rest}.", _EXAMPLE
        ) from None


def recordable(factory: Factory) -> Factory | None:
    """Return the factory, or None if no file could hold it: its name or arguments are too odd."""
    # Arguments are shown as code that can be pasted.
    is_plain = _is_name(factory.name) and all(name.isidentifier() for name in factory.kwargs)
    return factory if is_plain else None


def models_as_json(models: Models) -> bytes:
    """Return both factories as the JSON of a skeleton file."""
    sides = {"jax": models.jax, "torch": models.torch}
    written = {side: _as_json(factory) for side, factory in sides.items() if factory is not None}
    return json.dumps(written, separators=(",", ":")).encode()


def models_from_json(text: bytes) -> Models:
    """Return both factories as a skeleton file records them.

    Raises:
        MalformedError: They are not described as the format asks.
    """
    sides = object_of(parse_json(text))
    return Models(_from_json(sides.get("jax")), _from_json(sides.get("torch")))


def _is_name(text: str) -> bool:
    return text.isprintable() and _NAME.fullmatch(text) is not None


def _as_json(factory: Factory) -> dict[str, Any]:
    return {
        "name": factory.name,
        "kwargs": dict(factory.kwargs),
        "takes_key": factory.takes_key,
        "holds_state": factory.holds_state,
    }


def _from_json(node: Any) -> Factory | None:
    if node is None:
        return None
    fields = object_of(node)
    name, kwargs = string_of(fields.get("name")), object_of(fields.get("kwargs", {}))
    flags = fields.get("takes_key", False), fields.get("holds_state", False)
    factory = recordable(Factory(name, kwargs, flags[0] is True, flags[1] is True))
    if factory is None:
        raise MalformedError(f"{name!r} is no factory")
    return factory
