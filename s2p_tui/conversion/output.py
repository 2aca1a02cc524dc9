"""What a conversion leaves on the disk, and where what goes beside the output may go."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from s2p_tui.alignment.alignment import Alignment, Row
from s2p_tui.alignment.judge import as_taken
from s2p_tui.alignment.mapping_file import End, Mapping, to_text
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.conversion.convert import Written, refuse_to_replace
from s2p_tui.errors import OutputError
from s2p_tui.formats.atomic import output_error, written_atomically
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.skeleton_file import Target


@dataclass(frozen=True, slots=True)
class Converted:
    """What a conversion left on the disk.

    Attributes:
        written: The output.
        mapping: The mapping file saved beside it, if any.
        report: The certificate written beside it, if any.
    """

    written: Written
    mapping: Path | None
    report: Path | None = None


def require_place(path: Path, protected: Iterable[Path]) -> None:
    """Make sure, before any work is done, that a file can be written beside the output.

    Raises:
        OutputError: It would replace a protected file, is a folder, or its folder is missing.
    """
    refuse_to_replace(path, protected)
    if os.path.isdir(path):
        raise OutputError(
            f"{path} is a folder, a file was expected.", "Give the name of a file in it."
        )
    if not os.path.isdir(path.parent):
        raise OutputError(
            f"{path} cannot be written: its folder does not exist.", "Create the folder first."
        )


def source_end(checkpoint: Checkpoint) -> End:
    """What identifies the torch side."""
    entries = checkpoint.state_dict
    return End(checkpoint.label, checkpoint.size, entries.digest, len(entries))


def target_end(target: Target) -> End:
    """What identifies the JAX side."""
    return End(target.label, target.size, target.skeleton.digest, len(target.skeleton))


def mapping_of(checkpoint: Checkpoint, target: Target, alignment: Alignment) -> Mapping:
    """An alignment as a mapping file's content, what layers' rules do spelled out."""
    rows = tuple(
        (leaf.path, _written_out(leaf, row, checkpoint.state_dict))
        for leaf, row in zip(target.skeleton, alignment.rows, strict=True)
    )
    accepted = tuple(
        entry.key for entry in checkpoint.state_dict if entry.key in alignment.accepted
    )
    ends = source_end(checkpoint), target_end(target)
    return Mapping(*ends, rows, alignment.bench, accepted)


def write_mapping(path: Path, mapping: Mapping, *, keep_old: bool) -> Path | None:
    """Write a mapping file; another one there is kept, if wanted, with `~` behind its name.

    Returns:
        Where another one is kept now; `~2`, `~3` and so on where there are kept ones already.

    Raises:
        OutputError: It cannot be written.
    """
    text = to_text(mapping).encode()
    kept = None
    try:
        if keep_old and os.path.isfile(path) and not _holds(path, text):
            kept = _kept_aside(path)
    except OSError as error:
        raise output_error(error, path) from None
    with written_atomically(path) as stream:
        stream.write(text)
    return kept


def _holds(path: Path, text: bytes) -> bool:
    return path.stat().st_size == len(text) and path.read_bytes() == text


def _kept_aside(path: Path) -> Path:
    """A second name of a file, `~` behind the first, so that it is never without one.

    Nothing that is kept under such a name is replaced.
    """
    for number in count(1):
        aside = Path(f"{path}~{number if number > 1 else ''}")
        if os.path.lexists(aside):
            if aside.is_file() and _holds(aside, path.read_bytes()):
                return aside
            continue
        try:
            os.link(path, aside)
        except FileExistsError:
            continue
        except OSError:
            os.rename(path, aside)
        return aside
    raise AssertionError


def _written_out(leaf: Leaf, row: Row, state_dict: StateDict) -> Row:
    """The row with what its layer's rule does spelled out, so that no rule is needed again."""
    source = row.source and as_taken(row.source, leaf, state_dict)
    return row if source is row.source else replace(row, source=source)
