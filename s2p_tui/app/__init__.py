"""The terminal app. Its entry points are imported when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s2p_tui.app.start import (
        start_conversion_from_paths,
        start_conversion_from_pytree_and_state_dict,
    )

__all__ = ["start_conversion_from_paths", "start_conversion_from_pytree_and_state_dict"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 's2p_tui.app' has no attribute {name!r}")
    return getattr(import_module("s2p_tui.app.start"), name)
