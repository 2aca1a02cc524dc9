"""Small pairs, in memory and in files, opened as sessions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def make_session(
    entries: Iterable[Entry], leaves: Iterable[Leaf], *, arrange: Arrangement | None = None
) -> Session:
    """A session in memory: unless arranged, by order, and names are no evidence.

    Entries count up from 0, the skeleton's values are 0.
    """
    entries, leaves = tuple(entries), tuple(leaves)
    arrays = {e.key: np.arange(np.prod(e.shape), dtype=e.dtype).reshape(e.shape) for e in entries}
    kept = {leaf.path: np.zeros(leaf.shape, leaf.dtype) for leaf in leaves}
    checkpoint = Checkpoint("model.pt", (), 4321, StateDict(entries), ArrayTensors(arrays))
    target = Target("model_skeleton.eqx", (), 99, Skeleton(leaves), ArrayTensors(kept))
    if arrange is None:
        return Session(checkpoint, target)
    return Session.between(checkpoint, target, arrange=arrange)


def linears() -> Session:
    """Rows 0, 1 mismatched, 2 doubtful, 3 exact, 4 a scalar, 5 transformed; one entry benched."""
    shapes = {"a": (2, 3), "b": (4,), "c": (6, 2), "d": (5,), "e": (3, 1), "left.over": (7,)}
    leaves = [
        Leaf(".first", (4,), "float32", owner="equinox.nn.Linear"),
        Leaf(".second", (2, 3), "float32", owner="equinox.nn.Linear"),
        Leaf(".third", (2, 6), "float32"),
        Leaf(".fourth", (5,), "float32"),
        Leaf(".drop.p", (), "float64", kind="scalar", owner="equinox.nn.Dropout"),
        Leaf(".fifth", (3,), "float32"),
    ]
    return make_session((Entry(key, shape, "float32") for key, shape in shapes.items()), leaves)


def fitting(count: int = 4) -> Session:
    """Every row exact."""
    names = [f"layer{i}" for i in range(count)]
    return make_session(
        (Entry(name, (2, 2), "float32") for name in names),
        (Leaf(f".{name}", (2, 2), "float32") for name in names),
    )


def reordered(arrange: Arrangement | None = "auto") -> Session:
    """Layers last to first in the checkpoint, first to last in the skeleton."""
    shapes = {"weight": (2, 2), "bias": (2,)}
    owner = "equinox.nn.Linear"
    return make_session(
        (Entry(f"lin{n}.{k}", shapes[k], "float32") for n in (3, 2, 1) for k in shapes),
        (
            Leaf(f".lin{n}.{k}", shapes[k], "float32", owner=owner)
            for n in (1, 2, 3)
            for k in shapes
        ),
        arrange=arrange,
    )


def without_partner() -> Session:
    """Row 2 is a leaf that nothing in the checkpoint corresponds to."""
    owner = "mynet.Linear"
    return make_session(
        [
            Entry("lin1.weight", (2, 2), "float32"),
            Entry("lin2.weight", (3, 2), "float32"),
            Entry("lin2.bias", (3,), "float32"),
        ],
        [
            Leaf(".lin1.weight", (2, 2), "float32", owner=owner),
            Leaf(".lin1.bias", (2,), "float32", owner=owner),
            Leaf(".lin2.weight", (3, 2), "float32", owner=owner),
            Leaf(".lin2.bias", (3,), "float32", owner=owner),
        ],
        arrange="auto",
    )


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
