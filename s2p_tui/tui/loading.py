"""The code a user pastes to load a converted file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def snippet(path: Path, leaf_paths: Sequence[str], dtype: str | None = None) -> str:
    """Python code that loads the file.

    Args:
        path: The converted file.
        leaf_paths: Key paths of the skeleton; `[0]…` and `[1]…` mean `(model, state)`.
        dtype: The dtype floating-point leaves were written in, if not the skeleton's.
    """
    name = _quoted(str(path))
    if path.suffix == ".safetensors":
        return f"from safetensors.flax import load_file\n\nleaves = load_file({name})"
    if _is_model_and_state(leaf_paths):
        made, like = "model, state", "eqx.nn.make_with_state(Model)(...)"
    else:
        made, like = "model", "Model(...)"
    return (
        "import equinox as eqx\n\n"
        f"like = {like}{f'  # with {dtype} leaves, as in the file' if dtype else ''}\n"
        f"{made} = eqx.tree_deserialise_leaves({name}, like)"
    )


def _quoted(name: str) -> str:
    plain = name.isprintable() and not set(name) & {'"', "\\"}
    return f'"{name}"' if plain else repr(name)


def _is_model_and_state(paths: Sequence[str]) -> bool:
    """Both halves have named leaves below: a bare `[0]`, `[1]` is a plain `.eqx` without names."""
    heads = {path[:3] for path in paths if len(path) > 3}
    return heads == {"[0]", "[1]"}
