"""A twin's checkpoint and mapping as files, and the modules that make both models."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.session.session import Session
from tests.models.arranging import arrange
from tests.models.twins import BY_NAME

TORCH, JAX = "tests.models.torch_sides", "tests.models.twins"


def twin_files(name: str, folder: Path) -> tuple[Path, Path]:
    """The twin's checkpoint and the right mapping file."""
    twin = BY_NAME[name]
    assert twin.truth is not None
    torch.save(twin.checkpoint(twin.make_torch()), folder / "model.pt")
    save_skeleton(folder / "skeleton.eqx", twin.make_eqx())
    session = Session.open(folder / "model.pt", folder / "skeleton.eqx")
    arrange(session, twin.truth)
    session.save_mapping(folder / "m.json")
    session.close()
    return folder / "model.pt", folder / "m.json"


def swap_rows(mapping: Path, first: str, second: str) -> None:
    """Have two rows, each of one entry, take each other's."""
    content = json.loads(mapping.read_text())
    rows = {row["sources"][0]: row for row in content["rows"] if len(row["sources"]) == 1}
    one, two = rows[first], rows[second]
    one["sources"], two["sources"] = two["sources"], one["sources"]
    mapping.write_text(json.dumps(content))
