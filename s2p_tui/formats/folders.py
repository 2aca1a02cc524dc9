"""The checkpoint that a folder holds: a list of shards, numbered parts, or a single file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from s2p_tui.errors import AmbiguousStateDictError, InputError, NoStateDictError, some
from s2p_tui.formats.base import Checkpoint, Locator
from s2p_tui.formats.parts import Numbered, is_of_zero, numbered_sets, refuse_ranks, zero_hint
from s2p_tui.formats.remote.file import RemoteFolder, meet
from s2p_tui.formats.sharded import READERS
from s2p_tui.formats.sniff import CHECKPOINTS, sniff

Found = Locator | tuple[Locator, ...]
"""A file to open, or the numbered parts of one checkpoint."""
_NAMED = 6
"""Candidates after which no more are opened: a message names five."""
_DEEPEST = 3
_MOST_LOOKED_AT = 2000
"""Files and folders looked at below a folder, to name the checkpoints that lie there."""


def find_index(folder: Path | RemoteFolder) -> Locator | None:
    """The index of the sharded checkpoint that a folder holds; None if it has none.

    Raises:
        InputError: It holds more than one.
    """
    found: list[Locator]
    if isinstance(folder, RemoteFolder):
        listed = sorted(name for name in folder.names() if name.endswith(".index.json"))
        found = [folder / name for name in listed]
    else:
        found = [*sorted(folder.glob("*.index.json"))]
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise InputError(f"{folder} holds several indexes: {names}.", "Pass the one that is meant.")
    return found[0] if found else None


def find_files(
    folder: Path | RemoteFolder, opened: Callable[[Locator], Checkpoint]
) -> tuple[Found, tuple[str, ...]]:
    """The one checkpoint among the files of a folder without an index, and what to note of others.

    Args:
        folder: The folder; its subfolders are not looked into.
        opened: Opens a checkpoint, to see which of the files hold a state dict.

    Raises:
        InputError: There is none, or more than one; they are named.
    """
    there = [*_files(folder)]
    meet(there)
    files = [file for file in there if _is_checkpoint(file)]
    for file in files:
        refuse_ranks(file)
    sets = numbered_sets(files)
    parts = {file for found in sets for file in found.files}
    if len(sets) == 1 and sets[0].missing:
        raise _incomplete(folder, sets[0])
    held: list[Found] = [found.files for found in sets]
    passed: list[str] = []
    for file in files:
        if len(held) >= _NAMED:
            break
        if file not in parts:
            try:
                opened(file).tensors.close()
            except NoStateDictError:
                passed.append(file.name)
                continue
            except AmbiguousStateDictError:
                pass
            except InputError:
                # Damaged or not, it may be the one that is meant; alone, it says what is wrong.
                pass
            held.append(file)
    if len(held) > 1:
        names = some([_name(found) for found in held])
        raise InputError(
            f"{folder} holds several checkpoints: {names}.", "Pass the one that is meant."
        )
    if not held:
        raise _empty(folder, passed)
    notes = (f"passed over: {some(passed)}, without a state dict",) if passed else ()
    return held[0], notes


def _files(folder: Path | RemoteFolder) -> Iterator[Locator]:
    if isinstance(folder, RemoteFolder):
        # To ask each file what it is takes a request; in a repository most are something else.
        names = sorted(name for name in folder.names() if name.lower().endswith(CHECKPOINTS))
        yield from (folder / name for name in names if not name.startswith("."))
        return
    with os.scandir(folder) as inside:
        names = sorted(item.name for item in inside if item.is_file())
    yield from (folder / name for name in names if not name.startswith("."))


def _is_checkpoint(file: Locator) -> bool:
    try:
        return sniff(file) in READERS
    except InputError:
        return False


def _name(found: Found) -> str:
    if not isinstance(found, tuple):
        return found.name
    return f"{found[0].name} … {found[-1].name}"


def _incomplete(folder: Path | RemoteFolder, found: Numbered) -> InputError:
    there, gone = len(found.files), len(found.missing)
    return InputError(
        f"{folder} holds {there} of {there + gone} numbered parts of a checkpoint, without "
        f"{some(found.missing)}.",
        "Copy or download what is missing; or give one of the files, to read it alone.",
    )


def _empty(folder: Path | RemoteFolder, passed: list[str]) -> InputError:
    without = f", only {some(passed)} without a state dict" if passed else ""
    if isinstance(folder, RemoteFolder):
        return InputError(
            f"{folder} holds no checkpoint itself{without}.",
            "Give the address of a checkpoint, of an index of shards or of their folder.",
        )
    below = [str(path.relative_to(folder)) for path in _below(folder)]
    zero = [name for name in (*passed, *below) if is_of_zero(os.path.basename(name))]
    if zero:
        hint = zero_hint(folder / zero[0])
        return InputError(
            f"{folder} holds no whole model, only what DeepSpeed's ZeRO split over all processes: "
            f"{some(zero)}.",
            hint,
        )
    if below:
        return InputError(
            f"{folder} holds no checkpoint itself; below it lie {some(below)}.",
            "Pass the one that is meant.",
        )
    if any((folder / name).exists() for name in _OF_JAX):
        return InputError(
            f"{folder} is a folder of Orbax, TensorStore or Zarr, as JAX programs write them; a "
            "PyTorch checkpoint was expected.",
            "Give the PyTorch checkpoint; the model of the JAX side is given as a skeleton.",
        )
    return InputError(
        f"{folder} is a folder without a checkpoint{without}.",
        "Pass a checkpoint file, or a folder that holds one or its shards.",
    )


_OF_JAX = ("_CHECKPOINT_METADATA", "manifest.ocdbt", "_METADATA", ".zarray", "zarr.json")


def _below(folder: Path) -> Iterator[Path]:
    """Return the indexes and checkpoints in the folders below one, nearest first."""
    looked_at = 0
    level = [folder]
    for _ in range(_DEEPEST):
        deeper: list[Path] = []
        for place in level:
            try:
                items = sorted(place.iterdir())
            except OSError:
                continue
            for item in items:
                looked_at += 1
                if looked_at > _MOST_LOOKED_AT:
                    return
                if item.is_dir():
                    if (item / ".metadata").is_file():
                        yield item
                    deeper.append(item)
                elif place != folder and (
                    item.name.endswith(".index.json") or _is_checkpoint(item)
                ):
                    yield item
        level = deeper
