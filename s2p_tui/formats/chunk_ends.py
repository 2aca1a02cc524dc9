"""Chunk folders as the two ends of a conversion: a checkpoint, and a target."""

from __future__ import annotations

from pathlib import Path

from s2p_tui.core.errors import InputError
from s2p_tui.core.pytree import Leaf, Skeleton
from s2p_tui.core.state_dict import Entry, StateDict
from s2p_tui.core.untrusted import why_malformed
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.chunks import PYTREE, STATE_DICT, ChunkTensors, Field, read_chunks, some
from s2p_tui.formats.target import Target, leaf_from_json


def open_state_dict_chunks(manifest: Path, key: str | None = None) -> Checkpoint:
    """Describe a state dict in chunks. Reads the manifest and each file's header.

    Args:
        manifest: Its `torch_fields.json`.
        key: Must be empty or None: chunk folders do not nest.

    Raises:
        InputError: Manifest and files disagree, or must not be trusted; all reasons are named.
    """
    if key:
        raise InputError(
            f"{manifest} describes a chunk folder, which holds one state dict: "
            f"there is no --key {key}.",
            "Leave --key out.",
        )
    chunks = read_chunks(manifest, STATE_DICT)
    missing = [field.key for field in chunks.fields if field.file is None]
    if missing:
        raise InputError(
            f"{manifest} names no file for {some(missing)}.",
            "Make the folder again with s2p-tui chunk.",
        )
    entries = tuple(Entry(f.key, f.shape, f.dtype, ("chunk", f.file)) for f in chunks.fields)
    tensors = ChunkTensors(chunks.extents.get, chunks.files)
    label = manifest.absolute().parent.name
    return Checkpoint(
        label, chunks.files, chunks.size, StateDict(entries), tensors, notes=chunks.notes
    )


def open_pytree_chunks(manifest: Path) -> Target:
    """Describe a pytree in chunks. Reads the manifest and each file's header.

    Args:
        manifest: Its `jax_fields.json`.

    Raises:
        InputError: Manifest and files disagree, or must not be trusted; all reasons are named.
    """
    chunks = read_chunks(manifest, PYTREE)
    try:
        leaves = tuple(map(_leaf, chunks.fields))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{manifest} is not a usable manifest: {why_malformed(error)}.",
            "Make the folder again with s2p-tui chunk.",
        ) from None
    tensors = ChunkTensors(chunks.extents.get, chunks.files)
    label = manifest.absolute().parent.name
    return Target(label, chunks.files, chunks.size, Skeleton(leaves), tensors)


def _leaf(field: Field) -> Leaf:
    leaf = leaf_from_json({**field.described, "path": field.key})
    if leaf.has_value != (field.file is not None):
        raise ValueError(f"{field.key} has a value without a file, or a file without a value")
    return leaf
