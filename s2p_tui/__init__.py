"""Bring PyTorch checkpoints into Equinox models.

- `save_skeleton(path, pytree)` describes the model to be filled.
- `Session.open(model, skeleton)` is what the terminal app works on: edit, convert, verify.
- `load_mapping(path)` reads a saved alignment, for `Session.start_from`.

Importing this package imports nothing else; each name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s2p_tui.opening import load_mapping
    from s2p_tui.session import Session
    from s2p_tui.skeleton import save_skeleton

__all__ = ["Session", "load_mapping", "save_skeleton"]

_HOMES = {
    "Session": "s2p_tui.session",
    "load_mapping": "s2p_tui.opening",
    "save_skeleton": "s2p_tui.skeleton",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 's2p_tui' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
