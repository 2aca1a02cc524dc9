"""Opening a checkpoint, or a target, of any known format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from s2p_tui.errors import Code, Hint, InputError
from s2p_tui.formats.base import Checkpoint, FileKind
from s2p_tui.formats.chunks import (
    PYTREE,
    STATE_DICT,
    Kind,
    find_manifest,
    open_pytree_chunks,
    open_state_dict_chunks,
)
from s2p_tui.formats.safetensors import open_safetensors
from s2p_tui.formats.sharded import find_index, open_sharded
from s2p_tui.formats.skeleton_file import Target
from s2p_tui.formats.skeleton_file import open_target as open_target_file
from s2p_tui.formats.sniff import READABLE, sniff
from s2p_tui.formats.torch_files import open_torch_legacy, open_torch_zip

READERS: Mapping[FileKind, Callable[[Path, str | None], Checkpoint]] = {
    "torch": open_torch_zip,
    "torch-legacy": open_torch_legacy,
    "safetensors": open_safetensors,
    "sharded": open_sharded,
    "chunks": open_state_dict_chunks,
}


def open_checkpoint(path: str | Path, key: str | None = None) -> Checkpoint:
    """Describe a checkpoint of any known format, told by its content. Reads no tensor data.

    Args:
        path: A file, an index of shards, or a folder that holds one; a chunk folder.
        key: Dotted place of the state dict in a nested checkpoint; None to look for it.

    Raises:
        InputError: It is missing, damaged, hostile, or not a checkpoint.
        AmbiguousStateDictError: It holds several state dicts and `key` is None.
    """
    path = Path(path)
    try:
        if path.is_dir():
            path = _in_folder(path)
        kind = sniff(path)
        reader = READERS.get(kind)
        if reader is None:
            raise InputError(
                f"{path} is {_WRONG_SIDE.get(kind, kind)}, a checkpoint was expected.",
                Hint(Code.SWAPPED_SIDES),
            )
        return reader(path, key)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.", READABLE) from None


def open_target(path: str | Path) -> Target:
    """Describe a skeleton file, a plain `.eqx` or a chunk folder. Reads headers only.

    Raises:
        InputError: It is missing, damaged, hostile, or none of these.
    """
    path = Path(path)
    try:
        if path.is_dir():
            path = _manifest(path, PYTREE)
        if sniff(path) == "pytree chunks":
            return open_pytree_chunks(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.", READABLE) from None
    return open_target_file(path)


def kind_of(path: Path) -> FileKind:
    """What a file is, or what a folder holds; of a chunk folder that holds both, the state dict.

    Raises:
        InputError: It is nothing known here.
    """
    if not path.is_dir():
        return sniff(path)
    if find_manifest(path, STATE_DICT) is not None:
        return "chunks"
    return "sharded" if find_manifest(path, PYTREE) is None else "pytree chunks"


def _in_folder(folder: Path) -> Path:
    manifest = find_manifest(folder, STATE_DICT)
    if manifest is None and (find_manifest(folder, PYTREE) or _is_of_ancestor(folder)):
        return _manifest(folder, STATE_DICT)
    return manifest or find_index(folder)


def _manifest(folder: Path, kind: Kind) -> Path:
    manifest = find_manifest(folder, kind)
    if manifest is not None:
        return manifest
    if _is_of_ancestor(folder):
        raise InputError(
            f"{folder} uses statedict2pytree's pickled manifest, which is not loaded, for safety.",
            "Make them again with s2p-tui chunk FILE DIR.",
        )
    other = STATE_DICT if kind is PYTREE else PYTREE
    held = f"holds a {other.holds} in chunks and no" if find_manifest(folder, other) else "is no"
    raise InputError(
        f"{folder} {held} chunk folder with a {kind.holds}: it has no {kind.manifest}.",
        Hint(Code.SWAPPED_SIDES),
    )


def _is_of_ancestor(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("torch_fields.pkl", "jax_fields.pkl"))


_WRONG_SIDE: Mapping[FileKind, str] = {
    "skeleton": "a skeleton file",
    "eqx": "an .eqx file",
    "mapping": "a mapping file",
    "pytree chunks": "the manifest of a pytree in chunks",
}
