"""Bring PyTorch checkpoints into Equinox models.

- `convert(...)` writes the file of a pytree from a state dict, from memory or from paths;
  `convert_tree(state_dict, pytree)` fills the pytree itself.
- `export(pytree, mapping, checkpoint)` is the way back: a state dict for PyTorch.
- `chunkify_state_dict` and `chunkify_pytree` write one `.npy` file an array.
- `save_skeleton(path, pytree)` describes the model to be filled.
- `Session.open(model, skeleton)` is what the terminal app works on: edit, convert, verify.
- `load_mapping(path)` reads a saved alignment, for `Session.start_from`.

Importing this package imports nothing else; each name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s2p_tui.conversion.report import Report
    from s2p_tui.converter import chunkify_pytree, chunkify_state_dict, convert, convert_tree
    from s2p_tui.converter.export import export
    from s2p_tui.errors import AlignmentError, S2PError
    from s2p_tui.formats.pytree.skeleton import save_skeleton
    from s2p_tui.session.opening import load_mapping
    from s2p_tui.session.session import Session

# Of what is installed, `importlib.metadata` would tell: its import takes 11 ms or more.
__version__ = "0.2.0"

__all__ = [
    "AlignmentError",
    "Report",
    "S2PError",
    "Session",
    "chunkify_pytree",
    "chunkify_state_dict",
    "convert",
    "convert_tree",
    "export",
    "load_mapping",
    "save_skeleton",
]

_HOMES = {
    "AlignmentError": "s2p_tui.errors",
    "Report": "s2p_tui.conversion.report",
    "S2PError": "s2p_tui.errors",
    "Session": "s2p_tui.session.session",
    "chunkify_pytree": "s2p_tui.converter",
    "chunkify_state_dict": "s2p_tui.converter",
    "convert": "s2p_tui.converter",
    "convert_tree": "s2p_tui.converter",
    "export": "s2p_tui.converter.export",
    "load_mapping": "s2p_tui.session.opening",
    "save_skeleton": "s2p_tui.formats.pytree.skeleton",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 's2p_tui' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
