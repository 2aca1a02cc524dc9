"""Checkpoints in several files: a `*.index.json` whose `weight_map` says which file holds what."""

from __future__ import annotations

from pathlib import Path

from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.untrusted import (
    DuplicateNameError,
    MalformedError,
    object_of,
    parse_json,
    string_of,
)
from s2p_tui.errors import InputError
from s2p_tui.formats.base import Checkpoint, Extent
from s2p_tui.formats.safetensors import open_safetensors
from s2p_tui.formats.sniff import read_whole, sniff
from s2p_tui.formats.tensors import FileTensors
from s2p_tui.formats.torch_files import open_torch_legacy, open_torch_zip

_MOST = 1 << 27
"""Bytes of an index; those of the largest models have a few million."""
_READERS = {
    "torch": open_torch_zip,
    "torch-legacy": open_torch_legacy,
    "safetensors": open_safetensors,
}


def open_sharded(path: Path, key: str | None = None) -> Checkpoint:
    """Describe a sharded checkpoint. Reads the index and each shard's header, no tensor data.

    Entries come shard by shard, in the shards' own order: indexes are usually sorted by name.

    Args:
        path: The index.
        key: Place of the state dict within each shard, or None to look for it.

    Raises:
        InputError: The index is damaged, points outside its folder, or index and shards disagree;
            all disagreements are named.
    """
    weight_map = _read_weight_map(path)
    problems: list[str] = []
    entries: list[Entry] = []
    extents: dict[str, Extent] = {}
    files: list[Path] = []
    for name in sorted(set(weight_map.values())):
        shard = _open_shard(path, name, key, problems)
        if shard is None:
            continue
        files.extend(shard.files)
        wanted = {entry for entry, file in weight_map.items() if file == name}
        held = {entry.key for entry in shard.state_dict}
        problems += [f"{entry} is not in {name}" for entry in sorted(wanted - held)]
        problems += [f"{entry} of {name} is not in the index" for entry in sorted(held - wanted)]
        for entry in shard.state_dict:
            extent = shard.tensors.extent(entry.key)
            if entry.key in wanted and extent is not None:
                storage = None if entry.storage is None else (name, entry.storage)
                entries.append(Entry(entry.key, entry.shape, entry.dtype, storage))
                extents[entry.key] = extent
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise InputError(
            f"{path} and its shards disagree: {'; '.join(problems[:5])}{more}.",
            "Copy or download the whole set again.",
        )
    size = sum(file.stat().st_size for file in files)
    return Checkpoint(
        path.name, (path, *files), size, StateDict(tuple(entries)), FileTensors(extents.get, files)
    )


def find_index(folder: Path) -> Path:
    """The one index in a folder.

    Raises:
        InputError: There is none, or more than one.
    """
    found = sorted(folder.glob("*.index.json"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(
            f"{folder} is a folder without a *.index.json.",
            "Pass a checkpoint file, or a folder that holds a sharded checkpoint.",
        )
    names = ", ".join(file.name for file in found)
    raise InputError(f"{folder} holds several indexes: {names}.", "Pass the one that is meant.")


def _read_weight_map(path: Path) -> dict[str, str]:
    try:
        index = parse_json(read_whole(path, _MOST))
        weight_map = object_of(object_of(index)["weight_map"])
        pairs = {entry: string_of(file) for entry, file in weight_map.items()}
        if not pairs:
            raise MalformedError("empty")
    except DuplicateNameError as error:
        raise InputError(
            f"{path} is refused: it names {error} twice.", "Download it again."
        ) from None
    except (ValueError, KeyError, RecursionError):
        raise InputError(
            f"{path} is not an index of a sharded checkpoint: it has no usable weight_map.",
            "Pass the *.index.json that lies beside the shards.",
        ) from None
    return pairs


def _open_shard(index: Path, name: str, key: str | None, problems: list[str]) -> Checkpoint | None:
    file = index.parent / name
    if Path(name).name != name:
        problems.append(f"shard {name!r} lies outside the index's folder")
    elif not file.is_file():
        problems.append(f"shard {name} is missing")
    else:
        reader = _READERS.get(sniff(file))
        if reader is not None:
            return reader(file, key)
        problems.append(f"shard {name} is not a checkpoint")
    return None
