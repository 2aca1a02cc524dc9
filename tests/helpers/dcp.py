"""Folders of `torch.distributed.checkpoint`, by several processes and by hand."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

Box = tuple[tuple[int, int], ...]

# Forked after the imports, which take longest.
IN_PROCESSES = """
import os
import sys
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

folder, store, world = sys.argv[1], sys.argv[2], int(sys.argv[3])
children = []
for rank in range(world):
    child = os.fork()
    if not child:
        break
    children.append(child)
else:
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children))
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=world)
mesh = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("a", "b"))
torch.manual_seed(0)
whole = torch.load(folder + ".whole.pt")
placed = {
    "rows": [Shard(0), Shard(0)], "columns": [Shard(1), Shard(1)], "grid": [Shard(0), Shard(1)],
    "copies": [Replicate(), Replicate()], "uneven": [Shard(0), Shard(0)],
    "half": [Replicate(), Shard(0)], "cube": [Shard(2), Shard(0)],
}
state = {
    name: distribute_tensor(tensor, mesh, placed[name]) if name in placed else tensor
    for name, tensor in whole.items()
}
if len(sys.argv) > 4:
    writer = dcp.HuggingFaceStorageWriter(path=folder, save_distributed=True)
    dcp.save(state, storage_writer=writer)
else:
    dcp.save({"model": state, "step": 7}, checkpoint_id=folder)
dist.destroy_process_group()
"""


def save_in_processes(
    state: Mapping[str, torch.Tensor], folder: Path, world: int, *more: str
) -> Path:
    """Save DTensors from several processes, as FSDP and tensor parallelism do.

    Args:
        state: The whole tensors.
        folder: Where to.
        world: How many processes, a multiple of two.
        more: Anything, to have `.safetensors` written.
    """
    torch.save(dict(state), f"{folder}.whole.pt")
    words = [str(folder), f"{folder}.store", str(world), *more]
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_PROCESSES, *words], check=True, timeout=300
    )
    return folder


def save_by_hand(
    tensors: Mapping[str, tuple[torch.Tensor, Sequence[Box]]], folder: Path, files: int = 3
) -> Path:
    """Save tensors in the given boxes, into several files in turn, as torch's writer would."""
    folder.mkdir()
    described: dict[str, Any] = {}
    places: dict[MetadataIndex, _StorageInfo] = {}
    streams = [(folder / f"__{number}_0.distcp").open("wb") for number in range(files)]
    number = 0
    for name, (tensor, boxes) in tensors.items():
        chunks: list[ChunkStorageMetadata] = []
        for box in boxes:
            part = tensor[tuple(slice(*bounds) for bounds in box)].clone()
            stream = streams[number % files]
            start = stream.tell()
            torch.save(part, stream)
            info = _StorageInfo(f"__{number % files}_0.distcp", start, stream.tell() - start)
            offsets = torch.Size([start for start, _ in box])
            chunks.append(ChunkStorageMetadata(offsets, part.shape))
            places[MetadataIndex(name, offsets, len(chunks) - 1)] = info
            number += 1
        properties = TensorProperties.create_from_tensor(tensor)
        described[name] = TensorStorageMetadata(properties, tensor.shape, chunks)
    for stream in streams:
        stream.close()
    write_list(folder, Metadata(described, {name: (name,) for name in described}, places))
    return folder


def write_list(folder: Path, metadata: Metadata) -> None:
    with (folder / ".metadata").open("wb") as stream:
        pickle.dump(metadata, stream)


def read_list(folder: Path) -> Metadata:
    with (folder / ".metadata").open("rb") as stream:
        return pickle.load(stream)


def as_torch_has_it(folder: Path) -> dict[str, Any]:
    """What torch itself makes of a folder."""
    file = folder.with_name(f"{folder.name}.torch.pt")
    dcp_to_torch_save(str(folder), str(file))
    return torch.load(file)
