"""`chunkify_state_dict`, `chunkify_pytree`: either side as one `.npy` file an array."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from s2p_tui.alignment.task import Job
from s2p_tui.conversion.chunk_folder import chunk_checkpoint, chunk_target
from s2p_tui.converter.ways_out import in_words_of_python
from s2p_tui.errors import UsageError
from s2p_tui.formats.memory import checkpoint_in_memory, is_tensor, is_torch_module
from s2p_tui.formats.registry import CHECKPOINT_KINDS, kind_of
from s2p_tui.formats.remote.address import is_address
from s2p_tui.formats.sniff import KIND_NAMES
from s2p_tui.session.opening import (
    is_there,
    pytree_at,
    pytree_object,
    state_dict_at,
    target_in_memory,
)

Holds = Literal["state-dict", "pytree"]
MEBIBYTE = 1 << 20


@in_words_of_python()
def chunkify_state_dict(
    state_dict: Any,
    target_path: str | Path,
    *,
    key: str | None = None,
    allow_missing: bool = False,
    chunk_size: int = 64,
    overwrite: bool = False,
) -> Path:
    """Write a state dict as one `.npy` file a tensor, `DIR/state_dict/*.npy`, and a manifest.

    One tensor at a time, read back and compared; memory stays at one chunk.

    Args:
        state_dict: As for `convert`: names and torch tensors, NumPy or JAX arrays; or a path to a
            checkpoint.
        target_path: The folder; created if missing.
        key: Dotted place of the state dict in a nested one.
        allow_missing: Leave out entries that an index promises and no shard holds.
        chunk_size: MiB to stay within.
        overwrite: Replace a state dict in chunks that is there.

    Returns:
        The folder, for `convert(path_to_state_dict_chunks=…)`.

    Raises:
        S2PError: Tensors cannot be converted (all are named), or the folder cannot be written.
    """
    if isinstance(state_dict, str | Path):
        checkpoint = state_dict_at(state_dict, key, allow_missing=allow_missing)
    else:
        checkpoint = checkpoint_in_memory(state_dict, key=key)
    try:
        size = chunk_size * MEBIBYTE
        return chunk_checkpoint(
            checkpoint, Path(target_path), chunk_bytes=size, overwrite=overwrite
        )
    finally:
        checkpoint.tensors.close()


@in_words_of_python()
def chunkify_pytree(
    pytree: Any, target_path: str | Path, *, chunk_size: int = 64, overwrite: bool = False
) -> Path:
    """Write a pytree as one `.npy` file a leaf, `DIR/pytree/*.npy`, and a manifest.

    Args:
        pytree: As for `convert`; or a path to a skeleton file or `.eqx`.
        target_path: The folder; created if missing. May be the state dict's.
        chunk_size: MiB to stay within.
        overwrite: Replace a pytree in chunks that is there.

    Returns:
        The folder, for `convert(path_to_pytree_chunks=…)`.

    Raises:
        S2PError: A leaf cannot be saved to a file, or the folder cannot be written.
    """
    is_path = isinstance(pytree, str | Path)
    target = pytree_at(pytree) if is_path else target_in_memory(pytree)
    try:
        size = chunk_size * MEBIBYTE
        return chunk_target(target, Path(target_path), chunk_bytes=size, overwrite=overwrite)
    finally:
        target.values.close()


def chunkify(
    where: str,
    folder: Path,
    *,
    holds: Holds | None = None,
    key: str | None = None,
    allow_missing: bool = False,
    like: str | None = None,
    chunk_bytes: int,
    overwrite: bool = False,
    job: Job | None = None,
) -> tuple[str, int]:
    """Write a file, or the object of an import path, in chunks.

    Args:
        where: A checkpoint, a skeleton, an `.eqx`, or `pkg.module:object`.
        folder: The folder to write to.
        holds: Its kind; None to tell by its content.
        key: Dotted place of the state dict in a nested checkpoint.
        allow_missing: Leave out entries that an index promises and no shard holds.
        like: `pkg.module:factory` that names the leaves of a plain `.eqx`.
        chunk_bytes: Memory to stay within, about.
        overwrite: Replace chunks that are there.
        job: Progress and cancellation.

    Returns:
        Its kind ("state dict" or "pytree") and number of arrays.

    Raises:
        S2PError: It cannot be read, or the folder cannot be written.
    """
    given: Any = None
    if is_there(where):
        kind = "safetensors" if is_address(where) else kind_of(Path(where))
        if kind in ("mapping", "recipe"):
            raise UsageError(
                f"{where} is {KIND_NAMES[kind]}, which holds no arrays to split.",
                "Give a checkpoint or a skeleton.",
            )
        found: Holds = "state-dict" if kind in CHECKPOINT_KINDS else "pytree"
    else:
        given = pytree_object(where)
        found = "state-dict" if holds == "state-dict" or _is_torch(given) else "pytree"
    holds = holds or found
    if holds == "state-dict":
        if given is None:
            checkpoint = state_dict_at(where, key, allow_missing=allow_missing)
        else:
            checkpoint = checkpoint_in_memory(given, key=key, label=where)
        chunk_checkpoint(checkpoint, folder, chunk_bytes=chunk_bytes, overwrite=overwrite, job=job)
        return "state dict", len(checkpoint.state_dict)
    target = pytree_at(where, like) if given is None else target_in_memory(given, where)
    chunk_target(target, folder, chunk_bytes=chunk_bytes, overwrite=overwrite, job=job)
    return "pytree", len(target.skeleton)


def _is_torch(value: Any) -> bool:
    """Return True for a torch module, or a mapping with torch tensors in it."""
    if is_torch_module(value):
        return True
    if isinstance(value, Mapping):
        return any(map(_is_torch, cast("Mapping[Any, Any]", value).values()))
    return is_tensor(value) and type(value).__module__.startswith("torch")
