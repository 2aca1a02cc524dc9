"""Checkpoints to serve, and a comparison with what is read of an address."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from s2p_tui.formats.registry import open_checkpoint
from tests.helpers.files import array_bytes, read, save_safetensors, tensor_bytes


def model(count: int = 6) -> dict[str, torch.Tensor]:
    return {f"layers.{i}.weight": torch.randn(200, 100 + i) for i in range(count)}


def sharded(folder: Path, state_dict: dict[str, torch.Tensor], shards: int) -> Path:
    names = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    keys = list(state_dict)
    weight_map = {key: names[number % shards] for number, key in enumerate(keys)}
    for name in names:
        held = {key: state_dict[key] for key in keys if weight_map[key] == name}
        save_safetensors(held, folder / name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def holds(address: str, tensors: dict[str, torch.Tensor]) -> None:
    """Assert that what is at an address has the tensors' bytes."""
    checkpoint = open_checkpoint(address)
    found = {e.key: array_bytes(read(checkpoint, e.key)) for e in checkpoint.state_dict}
    assert found == {key: tensor_bytes(one) for key, one in tensors.items()}
