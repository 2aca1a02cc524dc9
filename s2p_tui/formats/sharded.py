"""Checkpoints in several files, with an index that says which file holds what or without one.

An index is a `*.index.json` with a `weight_map`, as Hugging Face's libraries write them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.untrusted import (
    DuplicateNameError,
    MalformedError,
    object_of,
    parse_json,
    string_of,
)
from s2p_tui.errors import InputError, MissingEntriesError, some
from s2p_tui.formats.base import Checkpoint, Extent, FileKind, Locator
from s2p_tui.formats.remote.file import meet
from s2p_tui.formats.safetensors import open_safetensors
from s2p_tui.formats.sniff import read_whole, sniff
from s2p_tui.formats.tensors import FileTensors

_MOST = 1 << 27
"""Bytes of an index; those of the largest models have a few million."""


def _open_torch_zip(path: Locator, key: str | None) -> Checkpoint:
    # With the readers of pickles and zips it takes 12 ms to import.
    from s2p_tui.formats.torch_files import open_torch_zip

    return open_torch_zip(path, key)


def _open_torch_legacy(path: Locator, key: str | None) -> Checkpoint:
    from s2p_tui.formats.torch_files import open_torch_legacy

    return open_torch_legacy(path, key)


READERS: Mapping[FileKind, Callable[[Locator, str | None], Checkpoint]] = {
    "torch": _open_torch_zip,
    "torch-legacy": _open_torch_legacy,
    "safetensors": open_safetensors,
}
"""Of the kinds that a part of a checkpoint can be."""


def open_sharded(
    path: Locator, key: str | None = None, *, allow_missing: bool = False
) -> Checkpoint:
    """Describe a sharded checkpoint. Reads the index and each shard's header, no tensor data.

    Entries come shard by shard, in the shards' own order: indexes are usually sorted by name. What
    the shards hold besides is passed over, with a note.

    Args:
        path: The index.
        key: Place of the state dict within each shard, or None to look for it.
        allow_missing: Leave out entries that no shard holds, with a note.

    Raises:
        MissingEntriesError: The index promises entries that no shard holds.
        InputError: The index is damaged or points outside its folder; all reasons are named.
    """
    weight_map = _read_weight_map(path)
    problems: list[str] = []
    absent: list[str] = []
    shards: dict[str, Checkpoint] = {}
    names = sorted(set(weight_map.values()))
    files = {name: path.parent / name for name in names if _is_inside(name)}
    meet(files.values())
    for name in names:
        shard = _open_shard(name, files.get(name), key, problems, absent)
        if shard is not None:
            shards[name] = shard
    holders: defaultdict[str, list[str]] = defaultdict(list)
    for name, shard in shards.items():
        for entry in shard.state_dict:
            holders[entry.key].append(name)
    chosen: dict[str, str] = {}
    missing: list[str] = []
    for entry, name in weight_map.items():
        held_by = holders.get(entry, [])
        if name in held_by:
            chosen[entry] = name
        elif len(held_by) == 1:
            chosen[entry] = held_by[0]
        elif held_by:
            problems.append(f"{entry} is not in {name} but in {some(held_by)}")
        else:
            missing.append(entry)
    if problems:
        raise InputError(
            f"{path} and its shards disagree: {some(problems, '; ')}.",
            "Copy or download the whole set again.",
        )
    notes: list[str] = []
    if missing:
        gone = "".join(f"; shard {name} is missing" for name in absent)
        held = f"{len(missing):,} entries that the index promises: {some(missing)}{gone}"
        if not allow_missing or not chosen:
            raise MissingEntriesError(f"{path}: no shard holds {held}.", missing)
        notes.append(f"left out, as no shard holds them: {held}")
    moved = [entry for entry, name in chosen.items() if name != weight_map[entry]]
    if moved:
        notes.append(f"in another shard than the index says: {some(moved)}")
    extra = [entry for entry, names in holders.items() if entry not in chosen and names]
    if extra:
        notes.append(f"passed over, as the index does not name them: {some(extra)}")
    return _joined(path.name, (path,), shards, chosen, notes)


def open_parts(files: Sequence[Locator], key: str | None = None) -> Checkpoint:
    """Describe the numbered parts of a checkpoint that has no index. Reads each one's header.

    Args:
        files: All of them, in order.
        key: Place of the state dict within each part, or None to look for it.

    Raises:
        InputError: Parts are damaged, or hold entries of one name.
    """
    meet(files)
    parts = {file.name: READERS[sniff(file)](file, key) for file in files}
    chosen: dict[str, str] = {}
    problems: list[str] = []
    for name, part in parts.items():
        for entry in part.state_dict:
            first = chosen.setdefault(entry.key, name)
            if first != name:
                problems.append(f"{entry.key} is in {first} and in {name}")
    folder = files[0].absolute().parent
    if problems:
        raise InputError(
            f"{folder} holds parts that are not those of one state dict: {some(problems, '; ')}.",
            "Each may hold a slice of every tensor: join them with the library that wrote them. "
            "Or give one of the files.",
        )
    return _joined(folder.name, (), parts, chosen, [])


def _joined(
    label: str,
    index: tuple[Locator, ...],
    shards: Mapping[str, Checkpoint],
    chosen: Mapping[str, str],
    notes: Iterable[str],
) -> Checkpoint:
    entries: list[Entry] = []
    extents: dict[str, Extent] = {}
    for name, shard in shards.items():
        for entry in shard.state_dict:
            extent = shard.tensors.extent(entry.key)
            if chosen.get(entry.key) == name and extent is not None:
                storage = None if entry.storage is None else (name, entry.storage)
                entries.append(Entry(entry.key, entry.shape, entry.dtype, storage))
                extents[entry.key] = extent
    files = [file for shard in shards.values() for file in shard.files]
    said = [note for shard in shards.values() for note in shard.notes]
    return Checkpoint(
        label,
        (*index, *files),
        sum(shard.size for shard in shards.values()),
        StateDict(tuple(entries)),
        FileTensors(extents.get, (*index, *files)),
        notes=tuple(dict.fromkeys((*notes, *said))),
    )


def _read_weight_map(path: Locator) -> dict[str, str]:
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


def _is_inside(name: str) -> bool:
    """Return True if the file a name leads to is in the index's folder or below."""
    inside = PurePosixPath(name)
    return bool(
        inside.parts and not inside.is_absolute() and ".." not in inside.parts and "\0" not in name
    )


def _open_shard(
    name: str, file: Locator | None, key: str | None, problems: list[str], absent: list[str]
) -> Checkpoint | None:
    if file is None:
        problems.append(f"shard {name!r} lies outside the index's folder")
    elif not file.exists():
        absent.append(name)
    elif not file.is_file():
        problems.append(f"shard {name} is not a file")
    else:
        reader = READERS.get(sniff(file))
        if reader is not None:
            return reader(file, key)
        problems.append(f"shard {name} is not a checkpoint")
    return None
