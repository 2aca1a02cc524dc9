"""The way back, opened: the leaves' file, the skeleton, the mapping and the original checkpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from s2p_tui.alignment.dtypes import dtype_named
from s2p_tui.alignment.mapping_file import SavedAlignment
from s2p_tui.alignment.skeleton import Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.task import Job, Task
from s2p_tui.alignment.transform import show
from s2p_tui.conversion.contents import CastLoss
from s2p_tui.conversion.convert import DEFAULT_CHUNK
from s2p_tui.conversion.export import export_arrays, is_file_name, write_export
from s2p_tui.conversion.export_plan import ExportPlan, make_export_plan
from s2p_tui.conversion.export_report import (
    ExportReport,
    export_report,
    write_export_certificate,
)
from s2p_tui.conversion.output import require_place
from s2p_tui.conversion.report import TAKEN_AS_THEY_ARE
from s2p_tui.conversion.verify import Readback
from s2p_tui.errors import AlignmentError, Code, Hint, InputError, OtherFilesError, UsageError, some
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.chunks import PYTREE, find_manifest
from s2p_tui.formats.orbax import BUCKET, open_orbax
from s2p_tui.formats.registry import kind_of, open_checkpoint, open_target
from s2p_tui.formats.safetensors import open_safetensors
from s2p_tui.formats.skeleton_file import Target
from s2p_tui.formats.tensors import ArrayTensors, FileTensors
from s2p_tui.formats.tree_nodes import nodes_of
from s2p_tui.session.opening import open_any_target
from s2p_tui.session.session import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

_OF_SKELETON = "Give the file of the model that the skeleton describes."


@dataclass(frozen=True)
class Export:
    """An opened export.

    Attributes:
        plan: The entries and what they are made of.
        original: The original checkpoint; names, shapes and dtypes alone if it was not given.
        notes: What to know beside the plan, one line each.
        protected: Files that are not replaced, beside those that are read.
    """

    plan: ExportPlan
    original: Checkpoint
    notes: tuple[str, ...]
    protected: tuple[Path, ...] = ()

    def write(
        self,
        output: str | Path,
        *,
        certificate: str | Path | None = None,
        chunk_bytes: int = DEFAULT_CHUNK,
        job: Job | None = None,
        jobs: int | None = None,
        allow_overflow: bool = False,
    ) -> ExportReport:
        """Write the output, then the certificate. Blocks; meant for a worker thread.

        Args:
            output: The file, `.safetensors` or one of torch's; or a folder of shards.
            certificate: Write one there, see `s2p_tui.conversion.export_report`.
            chunk_bytes: Memory to stay within, about.
            job: Progress and cancellation.
            jobs: Threads that share the work; None for two, or one on a single core.
            allow_overflow: Write numbers that a cast makes infinite or NaN.

        Raises:
            S2PError: Leaves hold what no entry can, the output cannot be written, or it was
                cancelled.
        """
        path = Path(output)
        where = None if certificate is None else Path(certificate)
        if where is not None:
            require_place(where, (*self.plan.both.files, *self.protected, path))
        if is_file_name(path):
            require_place(path, (*self.plan.both.files, *self.protected))
        readbacks: dict[str, Readback] = {}
        exported = write_export(
            self.plan,
            self.original,
            path,
            protected=self.protected,
            chunk_bytes=chunk_bytes,
            readbacks=readbacks if where is not None else None,
            job=job,
            jobs=jobs,
            allow_overflow=allow_overflow,
        )
        if where is not None:
            write_export_certificate(where, self.plan, exported, readbacks, self.original)
        return export_report(self.plan, exported, self.notes, where)

    def arrays(
        self, *, chunk_bytes: int = DEFAULT_CHUNK, allow_overflow: bool = False
    ) -> tuple[dict[str, NDArray[Any]], dict[str, CastLoss]]:
        """Return the entries as arrays in memory, and what casts lost, by key."""
        return export_arrays(self.plan, chunk_bytes=chunk_bytes, allow_overflow=allow_overflow)

    def close(self) -> None:
        """Close the files."""
        self.plan.both.tensors.close()


def open_export(
    file: str | Path,
    skeleton: str | Path,
    mapping: SavedAlignment,
    checkpoint: str | Path | None = None,
    *,
    key: str | None = None,
    allow_missing: bool = False,
    like: str | None = None,
    trust: Sequence[str] | None = (),
    task: Task | None = None,
) -> Export:
    """Open everything an export of a file needs. Reads little tensor data.

    Args:
        file: The pytree's file, as Equinox or this program writes it, or an Orbax checkpoint.
        skeleton: The skeleton it was converted with.
        mapping: The mapping it was converted by.
        checkpoint: The original checkpoint, if it is there.
        key: Dotted place of the state dict in a nested checkpoint.
        allow_missing: Leave out entries that an index promises and no shard holds.
        like: `pkg.module:factory` that names the leaves of a plain `.eqx` skeleton.
        trust: Key paths of doubtful rows to take for right; None for all.
        task: Kept up to date by the matcher; ends it when it is cancelled.

    Raises:
        S2PError: One of them cannot be read, or they do not belong together.
    """
    target = open_any_target(skeleton, like)
    leaves = leaves_in(file, target)
    original = None
    if checkpoint is not None:
        original = open_checkpoint(checkpoint, key, allow_missing=allow_missing)
    return export_of(leaves, target, mapping, original, trust=trust, task=task)


def export_of(
    leaves: Checkpoint,
    target: Target,
    mapping: SavedAlignment,
    original: Checkpoint | None,
    *,
    trust: Sequence[str] | None = (),
    task: Task | None = None,
) -> Export:
    """Plan the export of open leaves; see `open_export`."""
    given = original is not None
    original = original or _described_by(mapping)
    session = Session.between(original, target, mapping=mapping, task=task, has_numbers=given)
    if trust is None or trust:
        session.trust(trust)
    skeleton, rows = target.skeleton, session.alignment.rows
    problems = [
        (skeleton[index].path, why)
        for index, why in session.problems()
        # A gap's value is not needed on the way back.
        if not (rows[index].gap and not skeleton[index].has_value)
    ]
    if problems:
        raise AlignmentError(
            f"{len(problems)} of {len(skeleton)} rows of {mapping.name} do not line up.",
            problems,
            Hint(Code.SETTLE_MAPPING),
        )
    plan = make_export_plan(leaves, skeleton, rows, original, has_original=given)
    notes = [f"{original.label}: {note}" for note in original.notes]
    if given and original.key:
        notes.append(f"{original.label}: only its state dict at {original.key!r} is exported")
    notes += [f"unlike what the mapping was made for: {told}" for told in session.told]
    notes += [TAKEN_AS_THEY_ARE] * skeleton.is_nameless
    return Export(plan, original, tuple(notes), target.files)


def _described_by(mapping: SavedAlignment) -> Checkpoint:
    """Return the original's entries as the mapping tells them, without numbers.

    Raises:
        UsageError: It tells nothing of them.
    """
    if not mapping.entries:
        raise UsageError(
            f"{mapping.name} does not say which shapes the entries have: it was saved by an "
            "earlier version.",
            Hint(Code.GIVE_ORIGINAL),
        )
    entries = (Entry(key, kind.shape, kind.dtype) for key, kind in mapping.entries.items())
    described = StateDict(tuple(entries))
    return Checkpoint(mapping.source.file, (), 0, described, ArrayTensors({}))


def leaves_in(file: str | Path, target: Target) -> Checkpoint:
    """Open the file of a pytree as entries named by the skeleton's key paths.

    Raises:
        InputError: It cannot be read, or is no such file.
        OtherFilesError: It does not hold the skeleton's leaves; all differences are named.
    """
    skeleton = target.skeleton
    path = Path(file)
    is_folder = os.path.isdir(path) and find_manifest(path, PYTREE) is None
    if str(file).startswith(BUCKET) or is_folder:
        return _matched(_leaves_in_orbax(str(file), target), skeleton)
    if not os.path.lexists(path):
        raise InputError(f"{path} does not exist.", "Give the file of the pytree's leaves.")
    if kind_of(path) == "safetensors":
        return _matched(open_safetensors(path), skeleton)
    opened = open_target(path)
    held = opened.skeleton
    hollow = [leaf.path for leaf in held if not leaf.has_value]
    if hollow:
        raise InputError(
            f"{path} is a skeleton without values: {some(hollow)}.",
            "Give the file that equinox.tree_serialise_leaves wrote.",
        )
    if held.is_nameless and len(held) != len(skeleton):
        why = f"it holds {len(held)} leaves, the skeleton describes {len(skeleton)}"
        raise OtherFilesError(
            f"{path} does not hold the skeleton's leaves: {why}.", [(str(path), why)], _OF_SKELETON
        )
    if held.is_nameless:
        names = [leaf.path for leaf in skeleton]
        extents = {
            name: opened.values.extent(leaf.path) for name, leaf in zip(names, held, strict=True)
        }
        values = FileTensors(extents.get, opened.files)
        entries = [
            Entry(name, leaf.shape, leaf.dtype) for name, leaf in zip(names, held, strict=True)
        ]
    else:
        values = opened.values
        entries = [Entry(leaf.path, leaf.shape, leaf.dtype) for leaf in held]
    found = Checkpoint(opened.label, opened.files, opened.size, StateDict(tuple(entries)), values)
    return _matched(found, skeleton)


def _leaves_in_orbax(where: str, target: Target) -> Checkpoint:
    """Open an Orbax checkpoint as entries named by the skeleton's key paths.

    It holds arrays alone: a Python scalar is the skeleton's.
    """
    names: dict[tuple[str, ...], str] = {}
    scalars: dict[str, NDArray[Any]] = {}
    for node in nodes_of(target):
        if node.leaf is None:
            continue
        names[tuple(map(str, node.keys))] = path = node.leaf.path
        if node.kind == "scalar" and node.leaf.has_value:
            scalars[path] = np.asarray(target.values.read(path, ()))
    return open_orbax(where, names, scalars)


def leaves_of(target: Target) -> Checkpoint:
    """Return the leaves of a pytree in memory as entries named by key path.

    Raises:
        UsageError: It is an abstract one, which holds no numbers.
    """
    hollow = [leaf.path for leaf in target.skeleton if not leaf.has_value]
    if hollow:
        raise UsageError(
            f"The {target.label} holds no numbers: {some(hollow)}.", "Give the model itself."
        )
    entries = (Entry(leaf.path, leaf.shape, leaf.dtype) for leaf in target.skeleton)
    return Checkpoint(target.label, (), 0, StateDict(tuple(entries)), target.values)


def _matched(leaves: Checkpoint, skeleton: Skeleton) -> Checkpoint:
    """Make sure that a file holds the skeleton's leaves, in whatever floating-point dtypes."""
    held = leaves.state_dict
    problems = [(leaf.path, "is not in the file") for leaf in skeleton if leaf.path not in held]
    problems += [(e.key, "is not in the skeleton") for e in held if e.key not in skeleton]
    for leaf in skeleton:
        if leaf.path not in held:
            continue
        found = held[leaf.path]
        if found.shape != leaf.shape:
            problems.append((leaf.path, f"expected {show(leaf.shape)}, got {show(found.shape)}"))
        kinds = {dtype_named(dtype).kind for dtype in (found.dtype, leaf.dtype)}
        if found.dtype != leaf.dtype and kinds != {"float"}:
            problems.append((leaf.path, f"expected {leaf.dtype}, got {found.dtype}"))
    if problems:
        shown = some([f"{path} {why}" for path, why in problems], "; ", 4)
        raise OtherFilesError(
            f"{leaves.label} does not hold the skeleton's leaves: {shown}.",
            problems,
            _OF_SKELETON,
        )
    return replace(leaves, state_dict=StateDict(tuple(held[leaf.path] for leaf in skeleton)))
