"""Opening the two ends of a conversion, and the mapping between them."""

from __future__ import annotations

import os
from pathlib import Path

from s2p_tui.core import mapping as mapping_file
from s2p_tui.core.errors import InputError, OtherFilesError, UsageError
from s2p_tui.core.kinship import could_line_up
from s2p_tui.core.mapping import Mapping
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.registry import open_target
from s2p_tui.formats.sniff import read_whole
from s2p_tui.formats.target import Target

_MOST = 1 << 28
"""Bytes of a mapping file; 100,000 rows take some ten million."""


def open_any_target(skeleton: str | Path, like: str | None = None) -> Target:
    """Open a skeleton given as a file, a chunk folder or `pkg.module:factory`.

    Raises:
        S2PError: It cannot be opened, or `like` names other leaves.
    """
    from_code = not os.path.exists(skeleton) and ":" in str(skeleton)
    if not from_code:
        target = open_target(skeleton)
        return target if like is None else _named_like(target, like)
    if like is not None:
        raise UsageError(
            f"--like {like} names the leaves of a plain .eqx file, and {skeleton} is a factory.",
            "Leave --like out: a factory's model names its own leaves.",
        )
    from s2p_tui.factory import call_factory
    from s2p_tui.skeleton import target_of

    return target_of(call_factory(str(skeleton)), str(skeleton))


def _named_like(target: Target, like: str) -> Target:
    from s2p_tui.factory import call_factory
    from s2p_tui.skeleton import rename_leaves

    return rename_leaves(target, call_factory(like, abstract=True), like)


def require_kinship(checkpoint: Checkpoint, target: Target) -> None:
    """Make sure that two ends can be of one model at all, by sizes alone.

    Raises:
        OtherFilesError: No leaf could take anything from the checkpoint.
    """
    state_dict, skeleton = checkpoint.state_dict, target.skeleton
    if not could_line_up(state_dict, skeleton):
        raise OtherFilesError(
            f"{target.label} describes another model than {checkpoint.label} holds: "
            f"none of its {len(skeleton)} leaves is as large as any of the {len(state_dict)} "
            "entries, or as several of one size together.",
            hint="Give the checkpoint and the skeleton of one model.",
        )


def load_mapping(path: str | Path) -> Mapping:
    """Read a mapping file.

    Raises:
        InputError: It cannot be read, or is not one.
    """
    path = Path(path)
    try:
        text = read_whole(path, _MOST).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(
            f"{path} cannot be read: {reason}.",
            "Give a mapping file, as ctrl+s or --save-mapping writes it.",
        ) from None
    return mapping_file.from_text(text, str(path))
