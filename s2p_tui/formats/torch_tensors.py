"""From pickled descriptions of tensors to entries and byte ranges, for both torch formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from s2p_tui.core.dtypes import BY_NAME
from s2p_tui.core.errors import InputError
from s2p_tui.core.state_dict import Entry, StateDict
from s2p_tui.formats.base import Checkpoint, Extent
from s2p_tui.formats.nested import find_state_dict
from s2p_tui.formats.pickle_machine import BadPickleError, BlockedGlobalError, PickleMachine
from s2p_tui.formats.tensors import FileTensors
from s2p_tui.formats.torch_objects import TORCH_TABLE, TensorRef, blocked, persistent_storage

SAVE_AGAIN = "Save it again with torch.save(model.state_dict(), file)."
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class StoragePlace:
    """Where a storage lies in the file: first byte and number of bytes."""

    start: int
    nbytes: int


def big_endian(path: Path) -> InputError:
    """The refusal of a file whose numbers lie the other way round, or that does not say how."""
    return InputError(
        f"{path} was written on a big-endian machine, or does not say that it was not.",
        "Load it on the machine that wrote it and save it as .safetensors.",
    )


def load_pickle(
    path: Path, stream: BinaryIO, persistent: Callable[[Any], Any] = persistent_storage
) -> Any:
    """The pickled value at the stream's position, tensors as `TensorRef`; runs nothing.

    Args:
        path: The file, for messages.
        stream: Stands at the pickle's first byte; left behind its last.
        persistent: Turns a persistent id into a `StorageRef`.

    Raises:
        InputError: It wants names outside the table, or is malformed.
    """
    try:
        return PickleMachine(TORCH_TABLE, persistent).load(stream)
    except BlockedGlobalError as error:
        raise blocked(str(path), error.name) from None
    except BadPickleError as error:
        raise InputError(
            f"{path} is not a usable torch checkpoint: {error}.",
            SAVE_AGAIN,
        ) from None


def checkpoint_of(
    path: Path, value: Any, storages: Mapping[str, StoragePlace], key: str | None
) -> Checkpoint:
    """The checkpoint a pickled value describes.

    Raises:
        InputError: Tensors cannot be converted or lie outside the file; all are named.
        AmbiguousStateDictError: Several state dicts and no `key`.
    """
    place, tensors, others = find_state_dict(value, _is_tensor, key, str(path))
    problems = [f"{name} {ref.problem}" for name, ref in tensors.items() if ref.problem]
    if problems:
        raise InputError(
            f"{path} holds {len(problems)} tensors that cannot be converted: {_some(problems)}.",
            "Mend each as it says, or drop it, then save the state dict again.",
        )
    entries: list[Entry] = []
    extents: dict[str, Extent] = {}
    missing: list[str] = []
    for name, ref in tensors.items():
        storage = ref.storage
        held = storages.get(storage.key) if storage is not None else None
        if storage is None or held is None or storage.offset + storage.nbytes > held.nbytes:
            missing.append(name)
            continue
        offset = storage.offset + ref.offset * BY_NAME[ref.dtype].itemsize
        extents[name] = Extent(path, held.start + offset, ref.shape, ref.strides, ref.dtype)
        identity = (storage.key, offset, ref.shape, ref.strides, ref.dtype)
        entries.append(Entry(name, ref.shape, ref.dtype, identity))
    if missing:
        raise InputError(
            f"{path} is damaged: the data of {len(missing)} tensors is missing or too short: "
            f"{_some(missing)}.",
            "Copy or download it again.",
        )
    notes = (f"{len(others)} items are not tensors: {_some(list(others))}",) if others else ()
    return Checkpoint(
        path.name,
        (path,),
        path.stat().st_size,
        StateDict(tuple(entries)),
        FileTensors(extents.get, (path,)),
        place,
        notes,
    )


def _is_tensor(value: Any) -> bool:
    return isinstance(value, TensorRef)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
