"""Names of output files, and the formats they stand for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from s2p_tui.formats.remote.address import is_address, name_of

if TYPE_CHECKING:
    from s2p_tui.conversion.plan import FileFormat


def output_path(output: str | Path) -> Path:
    """The path to write: `.eqx` is added where there is no suffix, as Equinox does on loading."""
    path = Path(output)
    return path if path.suffix or not path.name else path.with_suffix(".eqx")


def default_output(model: str | Path, skeleton: str | Path = "") -> Path:
    """`model.eqx` in the current folder for any `model.*`, unless that is one of the two ends."""
    name = name_of(model).removesuffix(".index.json")
    stem = (Path(name).stem if Path(name).suffix else name) or "model"
    path = Path(f"{stem}.eqx")
    ends = {os.path.realpath(end) for end in (model, skeleton) if not is_address(end)}
    return Path(f"{stem}_converted.eqx") if os.path.realpath(path) in ends else path


def default_mapping(output: Path) -> Path:
    """`model.mapping.json` beside `model.eqx`."""
    return output.with_name(f"{output.stem}.mapping.json")


def format_of(path: Path) -> FileFormat:
    """The file format a name asks for."""
    return "safetensors" if path.suffix == ".safetensors" else "eqx"
