"""Opening of both ends of a conversion and of mappings, and the first alignment of a session."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from s2p_tui.alignment import mapping_file
from s2p_tui.alignment.alignment import Alignment, in_order
from s2p_tui.alignment.evidence import Evidence, as_suggested
from s2p_tui.alignment.left_over import UnusedEntries
from s2p_tui.alignment.mapping_file import SavedAlignment, replayed
from s2p_tui.alignment.skeleton import Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.task import Task
from s2p_tui.alignment.transform import show
from s2p_tui.errors import Code, Hint, InputError, OtherFilesError, UsageError
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.copies import copies
from s2p_tui.formats.memory import checkpoint_in_memory, is_torch_module
from s2p_tui.formats.models import Models
from s2p_tui.formats.registry import kind_of, open_checkpoint, open_target
from s2p_tui.formats.remote.address import is_address, shown
from s2p_tui.formats.skeleton_file import Target
from s2p_tui.formats.sniff import read_whole


def could_line_up(state_dict: StateDict, skeleton: Skeleton) -> bool:
    """Return True if some array leaf could take something from the checkpoint, by size.

    An entry of the leaf's size, several entries of one size that make it up together, or a share
    of an entry that several leaves of one size make up. True where either side has nothing.
    """
    entries = _per_size(entry.shape for entry in state_dict)
    leaves = _per_size(leaf.shape for leaf in skeleton if leaf.kind == "array")
    if not entries or not leaves or not entries.keys().isdisjoint(leaves):
        return True
    return any(
        _makes_up(entry, entries[entry], leaf) or _makes_up(leaf, leaves[leaf], entry)
        for entry in entries
        for leaf in leaves
    )


def _per_size(shapes: Iterable[tuple[int, ...]]) -> Counter[int]:
    sizes = Counter[int]()
    for shape, count in Counter(shapes).items():
        sizes[prod(shape)] += count
    return sizes


def _makes_up(part: int, count: int, whole: int) -> bool:
    return part == whole or (0 < part <= whole and whole % part == 0 and whole // part <= count)


_MOST = 1 << 28
"""Bytes of a mapping file; 100,000 rows take some ten million."""


def open_source(
    model: str | Path,
    key: str | None = None,
    *,
    allow_missing: bool = False,
    adapter: str | Path | None = None,
) -> Checkpoint:
    """Open a checkpoint, with a LoRA adapter merged into it where one is given; see `Session.open`.

    Raises:
        S2PError: One of the two cannot be opened, or they do not fit together.
    """
    checkpoint = open_checkpoint(model, key, allow_missing=allow_missing)
    if adapter is None:
        return checkpoint
    from s2p_tui.formats.adapter import with_adapter

    return with_adapter(checkpoint, adapter)


def open_any_target(skeleton: str | Path, like: str | None = None) -> Target:
    """Open a skeleton given as a file, a chunk folder or `pkg.module:factory`.

    Raises:
        S2PError: It cannot be opened, or `like` names other leaves.
    """
    if is_address(skeleton):
        raise UsageError(
            f"{shown(skeleton)} is an address: skeletons are read from this machine only.",
            "Download it, and give the file.",
        )
    from_code = not os.path.exists(skeleton) and ":" in str(skeleton)
    if not from_code:
        target = open_target(skeleton)
        return target if like is None else _named_like(target, like)
    if like is not None:
        raise UsageError(
            f"{skeleton} is a factory, whose model names its own leaves: {like} cannot name them.",
            Hint(Code.NO_NAMES_FOR_LEAVES),
        )
    from s2p_tui.formats.pytree.factory import model_and_factory
    from s2p_tui.formats.pytree.skeleton import target_of

    pytree, factory = model_and_factory(str(skeleton))
    return target_of(pytree, str(skeleton), Models(factory))


def _named_like(target: Target, like: str) -> Target:
    from s2p_tui.formats.pytree.factory import model_of
    from s2p_tui.formats.pytree.skeleton import rename_leaves

    return rename_leaves(target, model_of(like, abstract=True), like)


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


def require_same_entries(checkpoint: Checkpoint, other: Checkpoint) -> None:
    """Make sure that a state dict in chunks is that of the object it was made from.

    Raises:
        InputError: Names, shapes or dtypes differ; all that do are counted, the first is named.
    """
    ours = {entry.key: entry for entry in checkpoint.state_dict}
    theirs = {entry.key: entry for entry in other.state_dict}
    differing = [
        key
        for key in dict.fromkeys([*ours, *theirs])
        if key not in ours
        or key not in theirs
        or (ours[key].shape, ours[key].dtype) != (theirs[key].shape, theirs[key].dtype)
    ]
    if differing:
        raise InputError(
            f"{checkpoint.label} and {other.label} differ in {len(differing)} entries, the first "
            f"is {differing[0]}: "
            f"{_of(ours.get(differing[0]))} and {_of(theirs.get(differing[0]))}.",
            "Give the chunks of that object, or one of the two.",
        )


def _of(entry: Entry | None) -> str:
    """The dtype and shape of an entry, in words."""
    return f"{entry.dtype} {show(entry.shape)}" if entry else "none"


def load_mapping(path: str | Path) -> SavedAlignment:
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
            Hint(Code.SAVED_MAPPING),
        ) from None
    return mapping_file.from_text(text, str(path))


_FILES = (".bin", ".ckpt", ".eqx", ".json", ".npy", ".npz", ".pt", ".pth", ".safetensors")
_TARGETS = ("skeleton", "eqx", "pytree chunks")
PYTREE_LABEL = "pytree in memory"


def state_dict_at(
    where: str | Path, key: str | None = None, *, allow_missing: bool = False
) -> Checkpoint:
    """Open a checkpoint file or folder, or the state dict that an import path names.

    Args:
        where: A file, an index, a folder of shards or chunks, or the address of one; or
            `pkg.mod.attr`, `pkg.mod:attr` or `file.py:attr`, which runs that code: a state dict, a
            torch module, or a function that makes one when called without arguments.
        key: Dotted place of the state dict in a nested one; None to look for it.
        allow_missing: Leave out entries that an index promises and no shard holds.

    Raises:
        S2PError: There is nothing, it holds no state dict, or it cannot be read.
    """
    if is_there(where):
        return open_checkpoint(where, key, allow_missing=allow_missing)
    return checkpoint_in_memory(state_dict_object(str(where)), key=key, label=str(where))


def pytree_at(where: str | Path, like: str | None = None) -> Target:
    """Open a skeleton file, `.eqx` or chunk folder, or the pytree that an import path names.

    Args:
        where: As for `state_dict_at`; a required argument `key` of a function gets a `PRNGKey`.
        like: `pkg.module:factory` that names the leaves of a plain `.eqx`.

    Raises:
        S2PError: There is nothing, it holds no leaves, or it cannot be read.
    """
    if is_there(where):
        if like is None and not is_address(where):
            return open_target(where)

        return open_any_target(where, like)
    if like is not None:
        raise like_with_object(like)
    return target_in_memory(pytree_object(str(where)), str(where))


def like_with_object(like: str) -> UsageError:
    """Return the refusal of names for leaves that have their own."""
    return UsageError(
        f"The pytree is an object, which names its own leaves: {like} cannot name them.",
        Hint(Code.NO_NAMES_FOR_LEAVES),
    )


def target_in_memory(pytree: Any, label: str = PYTREE_LABEL) -> Target:
    """Describe the leaves of a pytree in memory.

    Raises:
        UsageError: There are none, or one cannot be saved to a file at all.
    """
    from s2p_tui.formats.pytree.skeleton import target_of

    target = target_of(pytree, label)
    if not len(target.skeleton):
        raise UsageError(
            f"The {label} is of type {type(pytree).__name__}, which has no leaves that could be "
            "filled.",
            "Give a pytree that holds arrays; register a dataclass of your own with "
            "jax.tree_util.register_dataclass, or make it an equinox.Module.",
        )
    return target


def state_dict_object(where: str) -> Any:
    """Import the torch side, or call what makes it. Runs that code.

    Raises:
        UsageError: There is no such module or name.
        InputError: Calling it failed.
    """
    from s2p_tui.formats.pytree.factory import call_factory

    return call_factory(where, is_object=lambda value: _is_state_dict(value))


def pytree_object(where: str) -> Any:
    """Import the JAX side, or call what makes it. Runs that code.

    Raises:
        UsageError: There is no such module or name.
        InputError: Calling it failed.
    """
    from s2p_tui.formats.pytree.factory import model_of

    return model_of(where)


def is_there(where: str | Path) -> bool:
    """Return True for a file, a folder or an address, False for an import path.

    Raises:
        InputError: It reads like a file's name, and there is no such file.
    """
    if is_address(where) or os.path.exists(where):
        return True
    if isinstance(where, Path) or (":" not in where and _reads_like_a_file(where)):
        raise InputError(
            f"{where} does not exist.",
            "Give a file, a folder, or an import path, pkg.mod:attr or pkg.mod.attr.",
        )
    return False


def require_order(pytree: str | Path, state_dict: str | Path) -> None:
    """Make sure that two paths were not given the wrong way round.

    Raises:
        UsageError: They were.
    """
    if _holds_target(state_dict) and not _holds_target(pytree):
        raise UsageError(
            f"{state_dict} is given as the state dict and holds a pytree.",
            "The order is: the pytree's path, then the state dict's.",
        )


def _holds_target(where: str | Path) -> bool:
    try:
        return os.path.exists(where) and kind_of(Path(where)) in _TARGETS
    except InputError:
        return False


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) or is_torch_module(value)


def _reads_like_a_file(where: str) -> bool:
    return os.sep in where or where.endswith(_FILES)


Arrangement = Literal["auto", "order"]
_MATCHED_AT_ONCE = 2000
"""Leaves that the matcher is done with before anybody notices."""


class Findings(Struct, frozen=True):
    """All that the matcher finds out about two ends.

    Attributes:
        evidence: What names and structure say.
        suggested: The alignment they speak for.
        checkpoint: The torch side, with entries left over by it known as used ones again.
    """

    evidence: Evidence
    suggested: Alignment
    checkpoint: Checkpoint


class Start(Struct, frozen=True):
    """The parts of a new session.

    Attributes:
        checkpoint: The torch side, with entries left over known as used ones again.
        alignment: The first alignment.
        evidence: The matcher's; None where it was left for later.
        told: Differences between this pair and the one a followed mapping was made for.
    """

    checkpoint: Checkpoint
    alignment: Alignment
    evidence: Evidence | None
    told: tuple[str, ...] = ()


def begin(
    checkpoint: Checkpoint,
    target: Target,
    *,
    mapping: SavedAlignment | None = None,
    arrange: Arrangement = "auto",
    soon: bool = False,
    task: Task | None = None,
    has_numbers: bool = True,
) -> Start:
    """Return the parts of a session on two open ends; see `Session.open`.

    Raises:
        OtherFilesError: The mapping was made for other files.
    """
    state_dict, leaves = checkpoint.state_dict, target.skeleton
    evidence = None
    try:
        if not soon or len(leaves) <= _MATCHED_AT_ONCE:
            evidence = evidence_of(state_dict, leaves, task)
    except Exception:
        # Where it may be left for later it fails again beside the rows, which says so and goes on.
        if not soon:
            raise
    told: tuple[str, ...] = ()
    if mapping is not None:
        followed = replayed(mapping, state_dict, leaves)
        alignment, told = followed.alignment, followed.told
    elif arrange == "auto" and evidence is not None:
        alignment = as_suggested(evidence, state_dict, leaves)
    else:
        alignment = in_order(state_dict, leaves)
    if has_numbers and evidence is not None:
        checkpoint = _with_copies(checkpoint, alignment)
    return Start(checkpoint, alignment, evidence, told)


def find_out(checkpoint: Checkpoint, target: Target, task: Task | None = None) -> Findings:
    """Return all that the matcher finds out, and which entries left over are used ones again."""
    evidence = evidence_of(checkpoint.state_dict, target.skeleton, task)
    suggested = as_suggested(evidence, checkpoint.state_dict, target.skeleton)
    return Findings(evidence, suggested, _with_copies(checkpoint, suggested))


def evidence_of(state_dict: StateDict, skeleton: Skeleton, task: Task | None = None) -> Evidence:
    """Return the offline matcher's evidence. Reads no tensor data."""
    # Its import takes longer than most matches.
    from s2p_tui.proposals.matcher import forget_names, match

    try:
        return match(state_dict, skeleton, task)
    finally:
        forget_names()


def _with_copies(checkpoint: Checkpoint, alignment: Alignment) -> Checkpoint:
    """Return the checkpoint with what is left over, and is a used entry again, known as such."""
    state_dict = checkpoint.state_dict
    unused = [one.key for one in UnusedEntries(state_dict, alignment).blocking_entries()]
    if not unused:
        return checkpoint
    benched = set(alignment.bench)
    used = {entry.key for entry in state_dict if entry.key not in benched}
    found = copies(checkpoint, unused, used)
    return replace(checkpoint, state_dict=state_dict.with_copies(found)) if found else checkpoint
