"""Names of output files, and the formats they stand for."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from s2p_tui.errors import OutputError, UsageError
from s2p_tui.formats.remote.address import is_address, name_of

if TYPE_CHECKING:
    from s2p_tui.conversion.plan import FileFormat


_FORMATS: Mapping[str, FileFormat] = {".safetensors": "safetensors", ".orbax": "orbax"}
_SCHEME = re.compile(r"([a-z][a-z0-9]+):/+")


def output_path(output: str | Path) -> Path:
    """The path to write: `.eqx` is added where there is no suffix, as Equinox does on loading."""
    path = Path(output)
    return path if path.suffix or not path.name else path.with_suffix(".eqx")


# Formats that a name can ask for and that are not written here: what is written under their names
# would be taken for them.
_OTHERS = frozenset(
    (
        *(".npz", ".npy", ".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib", ".h5"),
        *(".hdf5", ".keras", ".msgpack", ".onnx", ".gguf", ".ggml", ".tflite", ".pb", ".zip"),
        *(".tar", ".gz", ".json", ".yaml", ".txt", ".csv", ".py", ".parquet", ".arrow", ".mat"),
    )
)


def is_other_format(path: Path) -> bool:
    """Return True if a name asks for a format that is not written here."""
    return path.suffix.lower() in _OTHERS


def refuse_other_format(path: Path) -> None:
    """Make sure that a name does not ask for a format that is not written here.

    Raises:
        UsageError: It does.
    """
    if is_other_format(path):
        raise UsageError(
            f"{path} ends in {path.suffix}, a format that is not written here.",
            "Give a name that ends in .eqx, .safetensors or .orbax.",
        )


def refuse_folder(path: Path) -> None:
    """Make sure that a file's name is not that of a folder.

    Raises:
        OutputError: It is.
    """
    if os.path.isdir(path):
        raise OutputError(
            f"{path} is a folder, a file was expected.", "Give the name of a file in it."
        )


def default_output(
    model: str | Path, skeleton: str | Path = "", file_format: FileFormat | None = None
) -> Path:
    """`model.eqx` in the current folder for any `model.*`, unless that is one of the two ends."""
    name = name_of(model).removesuffix(".index.json")
    stem = (Path(name).stem if Path(name).suffix else name) or "model"
    suffix = file_format or "eqx"
    path = Path(f"{stem}.{suffix}")
    ends = {os.path.realpath(end) for end in (model, skeleton) if not is_address(end)}
    return Path(f"{stem}_converted.{suffix}") if os.path.realpath(path) in ends else path


def default_mapping(output: Path) -> Path:
    """`model.mapping.json` beside `model.eqx`; in the current folder for a bucket."""
    name = f"{output.stem}.mapping.json"
    return Path(name) if is_bucket(output) else output.with_name(name)


def format_of(path: str | Path) -> FileFormat:
    """The file format a name asks for."""
    if is_bucket(path):
        return "orbax"
    return _FORMATS.get(Path(path).suffix, "eqx")


def is_bucket(path: str | Path) -> bool:
    """Return True for a URL of a bucket, also as a `Path` has it, with one slash."""
    return _SCHEME.match(str(path)) is not None


def location(path: str | Path) -> str:
    """Return a path as a string, URLs with the two slashes that `Path` makes one."""
    found = _SCHEME.match(str(path))
    return str(path) if found is None else f"{found[1]}://{str(path)[found.end() :]}"


def in_format(output: Path, file_format: FileFormat | None) -> tuple[Path, FileFormat]:
    """Return the name of an output in a format, and the format; by default what the name asks for.

    Raises:
        UsageError: The name asks for another format.
    """
    named = format_of(output)
    if file_format is None:
        return output, named
    if file_format == "orbax":
        if output.suffix in (".eqx", ".safetensors"):
            raise _contradiction(output, named)
        return output, "orbax"
    path = output if output.suffix else output.with_suffix(f".{file_format}")
    if format_of(path) != file_format:
        raise _contradiction(output, named)
    return path, file_format


def _contradiction(output: Path, named: FileFormat) -> UsageError:
    return UsageError(
        f"{output} is the name of another format ({named}) than was asked for.",
        "Give a name that fits the format, or leave the format out.",
    )
