"""Output paths and the mapping file written beside the converted file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import count
from pathlib import Path

from msgspec import Struct, structs

from s2p_tui.alignment.alignment import Alignment, Row
from s2p_tui.alignment.judge import as_taken
from s2p_tui.alignment.mapping_ends import kinds_of, kinds_of_leaves
from s2p_tui.alignment.mapping_file import End, SavedAlignment, to_text
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.conversion.convert import Written, refuse_to_replace
from s2p_tui.conversion.output_names import refuse_folder
from s2p_tui.errors import OutputError
from s2p_tui.formats.atomic import output_error, written_atomically
from s2p_tui.formats.base import Checkpoint, Locator
from s2p_tui.formats.skeleton_file import Target


class Converted(Struct, frozen=True):
    """The files that a conversion wrote.

    Attributes:
        written: The output.
        mapping: The mapping file saved beside it, if any.
        certificate: The certificate written beside it, if any.
    """

    written: Written
    mapping: Path | None
    certificate: Path | None = None


def require_place(path: Path, protected: Iterable[Locator]) -> None:
    """Make sure, before any work is done, that a file can be written beside the output.

    Raises:
        OutputError: It would replace a protected file, is a folder, or its folder is missing.
    """
    refuse_to_replace(path, protected)
    refuse_folder(path)
    if not os.path.isdir(path.parent):
        raise OutputError(
            f"{path} cannot be written: its folder does not exist.", "Create the folder first."
        )


def source_end(checkpoint: Checkpoint) -> End:
    """Return the identity of the torch side."""
    entries = checkpoint.state_dict
    return End(checkpoint.label, checkpoint.size, entries.digest, len(entries))


def target_end(target: Target) -> End:
    """Return the identity of the JAX side."""
    skeleton = target.skeleton
    return End(target.label, target.size, skeleton.digest, len(skeleton), skeleton.classes)


def mapping_of(checkpoint: Checkpoint, target: Target, alignment: Alignment) -> SavedAlignment:
    """Return an alignment as a mapping file's content, with layer rules spelled out."""
    rows = tuple(
        (leaf.path, _written_out(leaf, row, checkpoint.state_dict))
        for leaf, row in zip(target.skeleton, alignment.rows, strict=True)
    )
    bench, accepted = alignment.bench, alignment.accepted
    return SavedAlignment(
        source_end(checkpoint),
        target_end(target),
        rows,
        bench,
        tuple(key for key in bench if key in accepted),
        kinds_of(checkpoint.state_dict),
        kinds_of_leaves(target.skeleton),
    )


def write_mapping(path: Path, mapping: SavedAlignment, *, keep_old: bool) -> Path | None:
    """Write a mapping file; see `write_beside`."""
    return write_beside(path, to_text(mapping).encode(), keep_old=keep_old)


def write_beside(path: Path, text: bytes, *, keep_old: bool) -> Path | None:
    """Write a file; back up another one there, if wanted, with `~` behind its name.

    Returns:
        The backup's path, if any; `~2`, `~3` and so on if there are backups already.

    Raises:
        OutputError: It cannot be written.
    """
    kept = None
    try:
        if keep_old and os.path.isfile(path) and not _holds(path, text):
            kept = _backed_up(path)
    except OSError as error:
        raise output_error(error, path) from None
    with written_atomically(path) as stream:
        stream.write(text)
    return kept


def _holds(path: Path, text: bytes) -> bool:
    return path.stat().st_size == len(text) and path.read_bytes() == text


def _backed_up(path: Path) -> Path:
    """Give a file a second name, with `~` behind the first, so that it is never without one.

    Earlier backups are never replaced.
    """
    for number in count(1):
        backup = Path(f"{path}~{number if number > 1 else ''}")
        if os.path.lexists(backup):
            if backup.is_file() and _holds(backup, path.read_bytes()):
                return backup
            continue
        try:
            os.link(path, backup)
        except FileExistsError:
            continue
        except OSError:
            os.rename(path, backup)
        return backup
    raise AssertionError


def _written_out(leaf: Leaf, row: Row, state_dict: StateDict) -> Row:
    """Return the row with its layer's rule spelled out, so that no rule is needed again."""
    source = row.source and as_taken(row.source, leaf, state_dict)
    return row if source is row.source else structs.replace(row, source=source)
