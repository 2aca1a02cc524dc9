"""Sound files of every format that is read, each to be changed and given to the program."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import torch

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.edits import OpenGap, SendToBench, SetRows, Swap
from s2p_tui.alignment.transform import Permute, Take
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.session.journal import Journal
from s2p_tui.session.session import Session
from tests.helpers.dcp import Box, save_by_hand
from tests.helpers.files import save_legacy, save_safetensors, save_zip

CHUNKS, SOUND_LIST = "__0_0.distcp", "sound.metadata"
MODEL, SKELETON, EQX, MAPPING = "model.pt", "skeleton.eqx", "plain.eqx", "model.mapping.json"


@dataclass(frozen=True)
class Seed:
    """One sound file and what to do with a changed one.

    Attributes:
        name: Its format.
        content: Its bytes.
        role: What it is given to the program as.
        wrap: Makes the file of the part that is changed, where that is not the whole.
        text: Where in the part JSON lies, as start and stop; None where it holds none.
    """

    name: str
    content: bytes
    role: str
    wrap: Callable[[bytes], bytes] = bytes
    text: tuple[int, int] | None = None


def make_seeds(folder: Path, state: Path) -> list[Seed]:
    """Write one sound pair with its mapping into a folder, its journal into another.

    Returns:
        These files and others of every format.
    """
    tensors = {
        "b.weight": torch.arange(12.0).reshape(3, 4),
        "b.bias": torch.zeros(3, dtype=torch.bfloat16),
        "a.weight": torch.arange(12.0).reshape(4, 3).T,
        "a.count": torch.tensor(7),
    }
    tree = {
        "a": {"weight": jnp.zeros((3, 4)), "count": jnp.array(0)},
        "b": {"weight": jnp.zeros((3, 4)), "bias": jnp.zeros(3)},
        "rate": 0.5,
        "turned": np.asfortranarray(np.ones((2, 3))),
    }
    nested = {"model": tensors, "step": 3, "optim": {"lr": [0.1, None, True]}}
    model, skeleton = save_zip(nested, folder / MODEL), folder / SKELETON
    save_skeleton(skeleton, tree)
    skeleton_bytes = skeleton.read_bytes()
    head = skeleton_bytes.index(b"\n")
    (folder / EQX).write_bytes(skeleton_bytes[head + 1 :])
    session = Session.open(model, skeleton)
    session.edit(SetRows(((0, Row(Permute(Take("a.weight"), (0, 1)), why="turned")),)))
    session.save_mapping(folder / MAPPING)
    mapping = (folder / MAPPING).read_bytes()
    journal = _journal(session, state)
    session.close()

    dense = {key: tensor.contiguous() for key, tensor in tensors.items()}
    shard = save_safetensors(dense, folder / "shard.safetensors").read_bytes()
    length = int.from_bytes(shard[:8], "little")
    weights = dict.fromkeys(tensors, "shard.safetensors")
    index = json.dumps({"metadata": {"total_size": 118}, "weight_map": weights}).encode()
    pickled = _members(model)
    halves = {key: (tensor, _halves(tuple(tensor.shape))) for key, tensor in tensors.items()}
    chunked = save_by_hand(halves, folder / "chunked", files=1)
    chunks = (chunked / CHUNKS).rename(folder / CHUNKS).read_bytes()
    listed = (chunked / ".metadata").rename(folder / SOUND_LIST).read_bytes()
    chunked.rmdir()
    return [
        Seed("zip", model.read_bytes(), "model"),
        Seed("zip pickle", pickled[f"{_root(pickled)}data.pkl"], "model", _in_zip(pickled)),
        Seed("legacy", save_legacy(nested, folder / "legacy.pt").read_bytes(), "model"),
        Seed("safetensors", shard, "model"),
        Seed("safetensors header", shard, "model", _with_length, (8, 8 + length)),
        Seed("index", index, "index", text=(0, len(index))),
        Seed("shard", shard, "shard", _with_length, (8, 8 + length)),
        Seed("skeleton", skeleton_bytes, "skeleton", text=(0, head)),
        Seed("eqx", skeleton_bytes[head + 1 :], "skeleton"),
        Seed("dcp", listed, "dcp"),
        Seed("distcp", chunks, "distcp"),
        Seed("mapping", mapping, "mapping", text=(0, len(mapping))),
        Seed("journal", journal, "journal", text=(0, len(journal))),
    ]


def _halves(shape: tuple[int, ...]) -> list[Box]:
    rest = tuple((0, size) for size in shape[1:])
    return [((0, 2), *rest), ((2, shape[0]), *rest)] if shape else [()]


def _journal(session: Session, state: Path) -> bytes:
    journal = Journal.open(session.checkpoint, session.target)
    journal.start(session.alignment)
    session.record(journal.record)
    for edit in (Swap(0, 1), OpenGap(2), SendToBench((0,))):
        session.edit(edit)
    session.undo()
    journal.close()
    (path,) = state.rglob("*.jsonl")
    return path.read_bytes()


def _members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def _root(members: dict[str, bytes]) -> str:
    return next(name for name in members if name.endswith("data.pkl")).removesuffix("data.pkl")


def _in_zip(members: dict[str, bytes]) -> Callable[[bytes], bytes]:
    """Zip archives with another pickle: its checksum is right, so that it is looked at."""
    root = _root(members)

    def wrap(pickled: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, pickled if name == f"{root}data.pkl" else content)
        return buffer.getvalue()

    return wrap


def _with_length(content: bytes) -> bytes:
    """The file with the length its header has now, where that can be told."""
    end = content.rfind(b"}}")
    return content if end < 8 else (end + 2 - 8).to_bytes(8, "little") + content[8:]
