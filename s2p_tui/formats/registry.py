"""Opening a checkpoint of any known format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from s2p_tui.core.errors import InputError
from s2p_tui.formats.base import Checkpoint, FileKind
from s2p_tui.formats.safetensors import open_safetensors
from s2p_tui.formats.sharded import find_index, open_sharded
from s2p_tui.formats.sniff import sniff
from s2p_tui.formats.torch_legacy import open_torch_legacy
from s2p_tui.formats.torch_zip import open_torch_zip

READERS: Mapping[FileKind, Callable[[Path, str | None], Checkpoint]] = {
    "torch": open_torch_zip,
    "torch-legacy": open_torch_legacy,
    "safetensors": open_safetensors,
    "sharded": open_sharded,
}


def open_checkpoint(path: str | Path, key: str | None = None) -> Checkpoint:
    """Describe a checkpoint of any known format, told by its content. Reads no tensor data.

    Args:
        path: A file, an index of shards, or a folder that holds one.
        key: Dotted place of the state dict in a nested checkpoint; None to look for it.

    Raises:
        InputError: It is missing, damaged, hostile, or not a checkpoint.
        AmbiguousStateDictError: It holds several state dicts and `key` is None.
    """
    path = Path(path)
    try:
        if path.is_dir():
            path = find_index(path)
        kind = sniff(path)
        reader = READERS.get(kind)
        if reader is None:
            raise InputError(
                f"{path} is {_WRONG_SIDE.get(kind, kind)}, a checkpoint was expected.",
                "The order is: MODEL (the checkpoint), then SKELETON.",
            )
        return reader(path, key)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None


_WRONG_SIDE: Mapping[FileKind, str] = {
    "skeleton": "a skeleton file",
    "eqx": "an .eqx file",
    "mapping": "a mapping file",
}
