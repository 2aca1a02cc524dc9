"""`convert`: a state dict into a pytree's file, from memory or from paths, as one call.

The names and arguments are statedict2pytree's. Nothing is unpickled, a conversion that may be wrong
is refused, and the file that is written has been compared with its sources.
"""

from __future__ import annotations

import contextlib
import gc
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from s2p_tui.alignment.mapping_file import SavedAlignment
from s2p_tui.alignment.recipe import Recipe
from s2p_tui.alignment.task import Job, ended_by
from s2p_tui.conversion.chunk_folder import chunk_checkpoint, chunk_target
from s2p_tui.conversion.contents import refuse_overflow
from s2p_tui.conversion.convert import filled, refuse_to_replace
from s2p_tui.conversion.output_names import output_path
from s2p_tui.conversion.report import Report, first_of, kept_scalars
from s2p_tui.converter.chunks import MEBIBYTE, chunkify_pytree, chunkify_state_dict
from s2p_tui.converter.ways_out import in_words_of_python
from s2p_tui.errors import CancelledError, UsageError
from s2p_tui.formats.adapter import with_adapter
from s2p_tui.formats.atomic import temporary_folder
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.memory import checkpoint_in_memory
from s2p_tui.formats.skeleton_file import Target
from s2p_tui.session.opening import (
    is_there,
    like_with_object,
    load_mapping,
    pytree_at,
    require_same_entries,
    state_dict_at,
    target_in_memory,
)
from s2p_tui.session.recipes import follow, load_recipe
from s2p_tui.session.session import Arrangement, Session
from s2p_tui.session.signals import cleaned_up_first

_IN_MEMORY = ("state_dict", "pytree")
_MEMORY_NEEDS = "from_memory=True needs state_dict and pytree."
_PATH_NEEDS = (
    "from_path=True needs path_to_state_dict_chunks or path_to_state_dict_object, and "
    "path_to_pytree_chunks or path_to_pytree_object; with chunkify=True the objects are written "
    "in chunks first. Of a side that has both, the chunks hold the numbers, and the object names "
    "them."
)


@dataclass(frozen=True)
class Sides:
    """The two sides as the arguments give them; the names are those of the arguments."""

    state_dict: Any
    pytree: Any
    path_to_state_dict_object: str | Path | None
    path_to_pytree_object: str | Path | None
    chunkify: bool
    path_to_state_dict_chunks: str | Path | None
    path_to_pytree_chunks: str | Path | None

    def require(self, from_memory: bool, from_path: bool) -> None:
        """Make sure that they go with the mode.

        Raises:
            UsageError: They do not; all that is missing or too much is named.
        """
        if from_memory == from_path:
            both = "not both" if from_memory else "and the arguments that go with it"
            raise UsageError(
                f"Give from_memory=True or from_path=True, {both}.",
                f"{_MEMORY_NEEDS} {_PATH_NEEDS}",
            )
        given = [field.name for field in fields(self) if _is_given(getattr(self, field.name))]
        if from_memory:
            problems = [f"{name} is missing" for name in _IN_MEMORY if name not in given]
            problems += [f"{name} does not go with it" for name in given if name not in _IN_MEMORY]
            mode, needs = "from_memory=True", _MEMORY_NEEDS
        else:
            problems = [f"{name} does not go with it" for name in given if name in _IN_MEMORY]
            for side in _IN_MEMORY:
                names = [f"path_to_{side}_chunks", f"path_to_{side}_object"]
                if not {*names} & {*given}:
                    problems.append(f"{names[0]} or {names[1]} is missing")
            if self.chunkify and not {f"path_to_{side}_object" for side in _IN_MEMORY} & {*given}:
                problems.append("chunkify=True has no object to chunk")
            mode, needs = "from_path=True", _PATH_NEEDS
        if problems:
            raise UsageError(f"convert({mode}): {'; '.join(problems)}.", needs)

    def open(
        self,
        stack: contextlib.ExitStack,
        job: Job,
        *,
        key: str | None,
        allow_missing: bool,
        like: str | None,
        chunk_bytes: int,
    ) -> tuple[Checkpoint, Target]:
        """Open both. Reads no tensor data, unless objects are to be written in chunks.

        Args:
            stack: Removes what is temporary.
            job: Asked whether to stop.
            key: Dotted place of the state dict in a nested checkpoint.
            allow_missing: Leave out entries that an index promises and no shard holds.
            like: `pkg.module:factory` that names the leaves of a plain `.eqx`.
            chunk_bytes: Memory to stay within, about.
        """
        if self.state_dict is not None:
            if like is not None:
                raise like_with_object(like)
            return checkpoint_in_memory(self.state_dict, key=key), target_in_memory(self.pytree)
        torch_side = self.path_to_state_dict_chunks or self.path_to_state_dict_object
        jax_side = self.path_to_pytree_chunks or self.path_to_pytree_object
        assert torch_side is not None
        assert jax_side is not None
        if self.path_to_pytree_chunks and self.path_to_pytree_object:
            if like is not None:
                raise UsageError(
                    f"like={like!r} and path_to_pytree_object={str(self.path_to_pytree_object)!r} "
                    "both name the leaves of the chunks.",
                    "Give one of them.",
                )
            if is_there(self.path_to_pytree_object):
                raise UsageError(
                    f"path_to_pytree_object={str(self.path_to_pytree_object)!r} is a file, which "
                    "holds its own leaves.",
                    "Give an import path that names the leaves of the chunks, or no chunks.",
                )
            like = str(self.path_to_pytree_object)
        there = is_there(torch_side), is_there(jax_side)
        if self.chunkify and not all(there):
            parent = Path(tempfile.gettempdir())
            folder = stack.enter_context(temporary_folder(parent, "s2p-tui-chunks-"))
            if not there[0]:
                checkpoint = state_dict_at(torch_side, key, allow_missing=allow_missing)
                chunk_checkpoint(
                    checkpoint, folder, chunk_bytes=chunk_bytes, durable=False, job=job
                )
                torch_side, key = folder, None
                del checkpoint
                gc.collect()
            if not there[1]:
                target = pytree_at(jax_side, like)
                chunk_target(target, folder, chunk_bytes=chunk_bytes, durable=False, job=job)
                jax_side, like = folder, None
                del target
                gc.collect()
        checkpoint = state_dict_at(torch_side, key, allow_missing=allow_missing)
        if self.path_to_state_dict_chunks and self.path_to_state_dict_object:
            named = state_dict_at(self.path_to_state_dict_object, allow_missing=allow_missing)
            named.tensors.close()
            require_same_entries(checkpoint, named)
        return checkpoint, pytree_at(jax_side, like)


def _is_given(value: Any) -> bool:
    return value is not None and value is not False


__all__ = ["Report", "chunkify_pytree", "chunkify_state_dict", "convert", "convert_tree"]


@in_words_of_python()
def convert(
    from_memory: bool | None = False,
    from_path: bool | None = False,
    state_dict: Any = None,
    pytree: Any = None,
    path_to_state_dict_object: str | Path | None = None,
    path_to_pytree_object: str | Path | None = None,
    chunkify: bool = False,
    path_to_state_dict_chunks: str | Path | None = None,
    path_to_pytree_chunks: str | Path | None = None,
    arrange_with_anthropic: bool = False,
    anthropic_model: str = "sonnet3.5",
    target_name: str = "model.eqx",
    target_dir: str | Path = ".",
    *,
    claude_model: str | None = None,
    arrange: Arrangement | None = None,
    mapping: str | Path | SavedAlignment | None = None,
    recipe: str | Path | Recipe | None = None,
    adapter: str | Path | None = None,
    trust: bool | str | Sequence[str] = (),
    allow_unused: bool | str | Sequence[str] = (),
    dtype: str | None = None,
    allow_overflow: bool = False,
    chunk_size: int = 64,
    jobs: int | None = None,
    verify: bool = True,
    save_mapping: str | Path | None = None,
    certificate: str | Path | None = None,
    report: str | Path | None = None,
    key: str | None = None,
    allow_missing: bool = False,
    like: str | None = None,
    confirm: Callable[[str], bool] | None = None,
) -> Report:
    """Convert a PyTorch state dict into the file of a pytree.

    The two sides are aligned by names and structure. Rows that these do not settle are refused
    until they are trusted, mapped or arranged otherwise. Tensors are read in place and in chunks;
    the file gets its name when it is complete and was compared with its sources.

    While it runs in the main thread, SIGTERM, SIGHUP and ctrl+c clean up first and then do what
    they would have done. Only a kill that cannot be caught leaves a temporary folder behind.

    Args:
        from_memory: Convert `state_dict` and `pytree`.
        from_path: Convert the files, folders or objects at the paths.
        state_dict: Names and torch tensors, NumPy or JAX arrays; a training checkpoint that holds
            such; or a torch module.
        pytree: A module, `(model, state)`, any pytree, or an abstract one
            (`equinox.filter_eval_shape`). A module that still holds the initial values of its
            `StateIndex`es is taken as `(model, state)`.
        path_to_state_dict_object: `pkg.mod.attr`, `pkg.mod:attr` or `file.py:attr`, which runs that
            code; the name of a state dict, a torch module, or a function that makes one. Or a
            checkpoint file.
        path_to_pytree_object: The same for the pytree; or a skeleton file or `.eqx`.
        chunkify: Write objects to a temporary folder in chunks first, one side after the other, so
            that what functions make need not stay in memory. The folder lies where `TMPDIR` says
            and is removed at the end. Files are read in place, without a copy.
        path_to_state_dict_chunks: A folder that `chunkify_state_dict` or `s2p-tui chunk` wrote. It
            holds the numbers where the object is given too, whose entries have to be the same.
        path_to_pytree_chunks: A folder that `chunkify_pytree` or `s2p-tui chunk` wrote. It holds
            the numbers where the object is given too, which names the leaves then.
        arrange_with_anthropic: Let Claude propose the arrangement, and ask before following it.
            Names, shapes and dtypes are sent, never numbers.
        anthropic_model: The old name of `claude_model`.
        target_name: The file, `.eqx` or `.safetensors`; or an Orbax checkpoint, `.orbax`.
        target_dir: Its folder.
        claude_model: "haiku", "opus", "sonnet", "sonnet3.5" or a full model id. Default:
            `anthropic_model`.
        arrange: By names and structure ("auto", the default), or strictly by order ("order").
        mapping: Follow this mapping file instead.
        recipe: Follow this recipe file, or the known recipe of this name, instead; what it says
            nothing of is aligned by names and structure.
        adapter: A LoRA adapter to merge into the state dict: `adapter_model.safetensors`, with
            `adapter_config.json` beside it, or the folder of both.
        trust: Accept these doubtful rows, by their leaves' key paths; True for all.
        allow_unused: Accept entries that no leaf takes, by their keys or patterns of them
            ("pooler.*"); True for all. Others are refused unless they hold no parameter.
        dtype: Dtype of real floating-point leaves instead of the pytree's: "bfloat16" …
        allow_overflow: Write numbers that a cast makes infinite or NaN; they are refused otherwise.
        chunk_size: MiB to stay within.
        jobs: Threads that share the work; None for two, or one on a single core.
        verify: Read the file back and compare it with its sources, bit by bit.
        save_mapping: Save the alignment there, as a mapping file.
        certificate: Write a certificate there: a JSON record of each leaf as it was read back.
        report: The old name of `certificate`.
        key: Dotted place of the state dict in a nested checkpoint.
        allow_missing: Leave out entries that an index promises and no shard holds.
        like: `pkg.module:factory` that names the leaves of a plain `.eqx`.
        confirm: Asked about Claude's proposal, in place of the terminal.

    Returns:
        The file that was written, and how well its rows fit.

    Raises:
        UsageError: The arguments contradict each other; the message says what the mode needs.
        AlignmentError: Rows do not line up or are doubtful, or entries are left over; all are
            listed, with the ways out.
        InputError: One side cannot be read, or holds tensors that cannot be converted.
        OutputError: The file cannot be written, or is not what it should be.
        CancelledError: Claude's proposal was declined; nothing was written.
    """
    sides = Sides(
        state_dict,
        pytree,
        path_to_state_dict_object,
        path_to_pytree_object,
        chunkify,
        path_to_state_dict_chunks,
        path_to_pytree_chunks,
    )
    sides.require(bool(from_memory), bool(from_path))
    claude = {"arrange_with_anthropic=": arrange_with_anthropic or None}
    _require_one(claude | {"mapping=": mapping, "recipe=": recipe, "arrange=": arrange})
    if certificate is not None and report is not None:
        raise UsageError(
            "certificate= and report= both name the certificate's file.",
            "Give certificate=; report= is its old name.",
        )
    job, chunk_bytes = Job(), chunk_size * MEBIBYTE
    output = output_path(Path(target_dir) / target_name)
    with cleaned_up_first(job), ended_by(job.check), contextlib.ExitStack() as stack:
        checkpoint, target = sides.open(
            stack, job, key=key, allow_missing=allow_missing, like=like, chunk_bytes=chunk_bytes
        )
        if adapter is not None:
            checkpoint = with_adapter(checkpoint, adapter)
        how = _LiningUp(mapping, recipe, arrange, trust, allow_unused)
        session = how.aligned(checkpoint, target)
        stack.callback(session.close)
        if arrange_with_anthropic:
            _ask_claude(session, claude_model or anthropic_model, confirm)
        if isinstance(mapping, str | Path):
            refuse_to_replace(output, [Path(mapping)])
        converted = session.convert(
            output,
            dtype=dtype,
            chunk_bytes=chunk_bytes,
            jobs=jobs,
            verify=verify,
            mapping=save_mapping,
            certificate=certificate or report,
            job=job,
            allow_overflow=allow_overflow,
        )
        return session.report_of(converted)


@in_words_of_python()
def convert_tree(
    state_dict: Any,
    pytree: Any,
    *,
    arrange: Arrangement | None = None,
    mapping: str | Path | SavedAlignment | None = None,
    recipe: str | Path | Recipe | None = None,
    adapter: str | Path | None = None,
    trust: bool | str | Sequence[str] = (),
    allow_unused: bool | str | Sequence[str] = (),
    dtype: str | None = None,
    allow_overflow: bool = False,
    chunk_size: int = 64,
    key: str | None = None,
    allow_missing: bool = False,
) -> Any:
    """Fill a pytree from a state dict in memory, writing no file.

    Aligned and refused as by `convert`. Warns of numbers that a cast makes zero, and names Python
    scalars that no entry fills: they keep the pytree's value.

    Args:
        state_dict: As for `convert`; or the path of a checkpoint, which is read in chunks.
        pytree: As for `convert`.
        arrange: By names and structure ("auto", the default), or strictly by order ("order").
        mapping: Follow this mapping file instead.
        recipe: Follow this recipe file, or the known recipe of this name, instead; what it says
            nothing of is aligned by names and structure.
        adapter: A LoRA adapter to merge into the state dict: `adapter_model.safetensors`, with
            `adapter_config.json` beside it, or the folder of both.
        trust: Accept these doubtful rows, by their leaves' key paths; True for all.
        allow_unused: Accept entries that no leaf takes, by their keys or patterns of them
            ("pooler.*"); True for all. Others are refused unless they hold no parameter.
        dtype: Dtype of real floating-point leaves, in place of the pytree's.
        allow_overflow: Take numbers that a cast makes infinite or NaN; they are refused otherwise.
        chunk_size: MiB to stay within, beside the new tree.
        key: Dotted place of the state dict in a nested checkpoint.
        allow_missing: Leave out entries that an index promises and no shard holds.

    Returns:
        A new pytree of the structure of `pytree`, its arrays JAX arrays (NumPy arrays where
        `pytree` has those), shapes and dtypes as there. For a module that still holds the initial
        values of its `StateIndex`es, `(model, state)`.

    Raises:
        UsageError: The arguments contradict each other.
        AlignmentError: Rows do not line up or are doubtful, or entries are left over; all are
            listed, with the ways out.
        OutputError: A cast made numbers infinite or NaN.
        InputError: The state dict holds tensors that cannot be converted; all are named.
    """
    from s2p_tui.formats.pytree.skeleton import with_values

    if isinstance(state_dict, str | Path):
        checkpoint = state_dict_at(state_dict, key, allow_missing=allow_missing)
    else:
        checkpoint = checkpoint_in_memory(state_dict, key=key)
    if adapter is not None:
        checkpoint = with_adapter(checkpoint, adapter)
    target = target_in_memory(pytree)
    how = _LiningUp(mapping, recipe, arrange, trust, allow_unused)
    with contextlib.closing(how.aligned(checkpoint, target)) as session:
        # The other format: dtypes that .eqx files cannot hold do not matter in memory.
        plan = session.plan(dtype, "safetensors")
        made = filled(plan, checkpoint, target, chunk_bytes=chunk_size * MEBIBYTE)
        arrays, losses = zip(*made, strict=True)
        checkpoint.tensors.check_unchanged()
        scalars = kept_scalars(session.alignment.rows, target.skeleton)
    paths = (instruction.leaf.path for instruction in plan.instructions)
    lost = {path: loss for path, loss in zip(paths, losses, strict=True) if loss}
    if not allow_overflow:
        refuse_overflow(lost)
    for path, loss in lost.items():
        warnings.warn(f"{path}: {loss.words}", stacklevel=3)
    if scalars:
        words = "No entry fills these Python scalars, which keep the pytree's values"
        warnings.warn(f"{words}: {first_of(scalars)}.", stacklevel=3)
    return with_values(pytree, arrays)


@dataclass(frozen=True)
class _LiningUp:
    """The way the two sides are lined up, as the arguments of that name say."""

    mapping: str | Path | SavedAlignment | None
    recipe: str | Path | Recipe | None
    arrange: Arrangement | None
    trust: bool | str | Sequence[str]
    allow_unused: bool | str | Sequence[str]

    def aligned(self, checkpoint: Checkpoint, target: Target) -> Session:
        """Line up two open sides."""
        mapping, recipe, arrange = self.mapping, self.recipe, self.arrange
        _require_one({"mapping=": mapping, "recipe=": recipe, "arrange=": arrange})
        if arrange not in (None, *get_args(Arrangement)):
            raise UsageError(
                f"arrange={arrange!r} is not known, one of two ways was expected.",
                'Give "auto" or "order".',
            )
        if isinstance(mapping, str | Path):
            mapping = load_mapping(mapping)
        if isinstance(recipe, str | Path):
            recipe = load_recipe(recipe)
        session = Session.between(checkpoint, target, mapping=mapping, arrange=arrange or "auto")
        if mapping is None:
            session.require_kinship()
        if recipe is not None:
            follow(session, recipe)
        if self.trust:
            wanted = [self.trust] if isinstance(self.trust, str) else self.trust
            session.trust(None if isinstance(wanted, bool) else wanted)
        if self.allow_unused:
            unused = self.allow_unused
            globs = [unused] if isinstance(unused, str) else unused
            session.allow_unused(None if isinstance(globs, bool) else globs)
        return session


def _require_one(ways: dict[str, Any]) -> None:
    """Make sure that the two sides are to be lined up in one way.

    Raises:
        UsageError: Several are given; they are named.
    """
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise UsageError(
            f"{', '.join(given[:-1])} and {given[-1]} {'both' if len(given) == 2 else 'all'} say "
            "how to line up the two sides.",
            "Give one of them.",
        )


def _ask_claude(session: Session, model: str, confirm: Callable[[str], bool] | None) -> None:
    from s2p_tui.session import ask_claude

    if not ask_claude.propose_with_claude(session, model=model, confirm=confirm):
        raise CancelledError("The proposal was declined; nothing was written.")
