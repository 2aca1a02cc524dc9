"""`tests.models.torch_sides:<name>` is the torch factory of the twin of that name."""

from __future__ import annotations

from typing import Any

from tests.models.twins import BY_NAME


def __getattr__(name: str) -> Any:
    if name in BY_NAME:
        return BY_NAME[name].make_torch
    raise AttributeError(name)
