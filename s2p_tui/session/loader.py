"""Standalone loaders, written from a mapping without its checkpoint."""

from __future__ import annotations

from pathlib import Path

from s2p_tui.alignment.mapping_file import SavedAlignment
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.conversion.eject import loader_of
from s2p_tui.conversion.output import require_place, write_beside
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.skeleton_file import Target
from s2p_tui.formats.tensors import ArrayTensors
from s2p_tui.session.session import Session


def save_loader(
    mapping: SavedAlignment,
    target: Target,
    path: Path,
    *,
    allow_unused: tuple[str, ...] = (),
    protected: tuple[Path, ...] = (),
) -> Path | None:
    """Write the Python file that loads a mapping's checkpoint into a pytree like the target.

    Args:
        mapping: The mapping; it holds the shapes of its entries.
        target: The skeleton.
        path: The file. Another one there is kept with `~` behind its name.
        allow_unused: Keys or patterns of entries to accept as unused beside the mapping's.
        protected: Files that it must not replace.

    Returns:
        Where another file of that name is kept now; None if there was none.

    Raises:
        AlignmentError: Rows do not line up, or are doubtful and not trusted, or entries are unused
            that nothing explains.
        OtherFilesError: The mapping was made for another skeleton.
        OutputError: It cannot be written.
    """
    require_place(path, protected)
    entries = tuple(Entry(k, v.shape, v.dtype) for k, v in mapping.entries.items())
    source = mapping.source
    checkpoint = Checkpoint(source.file, (), source.size, StateDict(entries), ArrayTensors({}))
    session = Session.between(checkpoint, target, mapping=mapping, has_numbers=False)
    session.allow_unused(allow_unused)
    # No mapping tells which entries are one storage, so that one explains the other: the loader
    # looks at the numbers of those that may be copies.
    used = {mapping.entries[key] for _, row in mapping.rows for key in row.keys}
    blocking = [one.key for one in session.unused.blocking_entries()]
    copies = [key for key in blocking if mapping.entries[key] in used]
    session.allow_unused(copies)
    plan = session.plan(None, "safetensors")
    unused = [key for key in session.alignment.bench if key not in copies]
    names = source.file, target.label
    text = loader_of(plan, session.checkpoint.state_dict.shape, unused, copies, names)
    return write_beside(path, text.encode(), keep_old=True)
