"""Small pairs of files, opened as sessions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from s2p_tui.alignment.alignment import Alignment, Row
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import Constant, Take
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.pytree.skeleton import save_skeleton
from s2p_tui.formats.registry import open_checkpoint
from s2p_tui.formats.skeleton_file import Target, open_target
from s2p_tui.formats.tensors import ArrayTensors
from s2p_tui.session.session import Arrangement, Session


def checkpoint_of(arrays: Mapping[str, np.ndarray]) -> Checkpoint:
    """A state dict in memory."""
    entries = tuple(Entry(key, a.shape, str(a.dtype)) for key, a in arrays.items())
    return Checkpoint("memory", (), 0, StateDict(entries), ArrayTensors(dict(arrays)))


def target_of(arrays: Mapping[str, np.ndarray]) -> Target:
    leaves = tuple(Leaf(path, a.shape, str(a.dtype)) for path, a in arrays.items())
    return Target("memory", (), 0, Skeleton(leaves), ArrayTensors(dict(arrays)))


def open_pair(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    pytree: object,
    *,
    legacy: bool = False,
    arrange: Arrangement | None = None,
) -> Session:
    """The tensors as `model.pt` and the pytree as `skeleton.eqx` in the folder, opened.

    Unless arranged, lined up by order and judged by shapes, dtypes and layers alone: names are no
    evidence then.
    """
    torch.save(dict(tensors), folder / "model.pt", _use_new_zipfile_serialization=not legacy)
    save_skeleton(folder / "skeleton.eqx", pytree)
    model, skeleton = folder / "model.pt", folder / "skeleton.eqx"
    if arrange is None:
        return Session(open_checkpoint(model), open_target(skeleton))
    return Session.open(model, skeleton, arrange=arrange)


def lettered(text: str, bench: str = "") -> Alignment:
    """An alignment in letters: `ab-_` takes a and b, then a gap, then nothing yet.

    `=` is a gap that stays, as for a Python scalar, `#` a constant that stays.
    """
    special = {"-": Row(gap=True), "_": Row(), "=": Row(gap=True, by="rule", fixed=True)}
    special["#"] = Row(Constant(1, ()), by="rule", fixed=True)
    return Alignment.of(tuple(special.get(c) or Row(Take(c)) for c in text), tuple(bench))


def letters(alignment: Alignment) -> tuple[str, str]:
    """Inverse of `lettered`."""
    return "".join(map(_letter, alignment.rows)), "".join(alignment.bench)


def _letter(row: Row) -> str:
    if row.source is not None:
        return "".join(row.keys) or "#"
    return ("=" if row.fixed else "-") if row.gap else "_"
