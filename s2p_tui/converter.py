"""`convert`: a state dict into a pytree's file, from memory or from paths, as one call.

The names and arguments are statedict2pytree's. Nothing is unpickled, a conversion that may be wrong
is refused, and the file that is written has been compared with its sources.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from s2p_tui.chunking import MEBIBYTE, chunkify_pytree, chunkify_state_dict
from s2p_tui.core.errors import CancelledError, UsageError
from s2p_tui.core.mapping import Mapping
from s2p_tui.core.names import output_path
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.target import Target
from s2p_tui.interruption import cleaned_up_first
from s2p_tui.memory import checkpoint_in_memory
from s2p_tui.objects import state_dict_at, target_in_memory
from s2p_tui.opening import load_mapping
from s2p_tui.report import Report, report_of
from s2p_tui.requested import Sides, in_words_of_python
from s2p_tui.session import Arrangement, Session
from s2p_tui.streaming.convert import refuse_to_replace
from s2p_tui.streaming.fill import filled
from s2p_tui.streaming.job import Job

__all__ = ["Report", "chunkify_pytree", "chunkify_state_dict", "convert", "convert_tree"]


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
    arrange: Arrangement | None = None,
    mapping: str | Path | Mapping | None = None,
    trust: bool | str | Sequence[str] = (),
    dtype: str | None = None,
    chunk_size: int = 64,
    jobs: int | None = None,
    verify: bool = True,
    save_mapping: str | Path | None = None,
    report: str | Path | None = None,
    key: str | None = None,
    like: str | None = None,
    confirm: Callable[[str], bool] | None = None,
) -> Report:
    """Convert a PyTorch state dict into the file of a pytree.

    The two sides are lined up by names and structure. What these do not settle is refused, row by
    row, until it is trusted, mapped or arranged otherwise. Tensors are read in place and in chunks;
    the file gets its name when it is complete and was compared with its sources.

    While it runs in the main thread, SIGTERM, SIGHUP and ctrl+c clean up first and then do what
    they would have done. Only a kill that cannot be caught leaves a temporary folder behind.

    Args:
        from_memory: Convert `state_dict` and `pytree`.
        from_path: Convert what lies at the paths.
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
        path_to_state_dict_chunks: A folder that `chunkify_state_dict` or `s2p-tui chunk` wrote.
        path_to_pytree_chunks: A folder that `chunkify_pytree` or `s2p-tui chunk` wrote.
        arrange_with_anthropic: Have Claude propose the arrangement, and ask before following it.
            Names, shapes and dtypes are sent, never numbers.
        anthropic_model: "haiku", "opus", "sonnet", "sonnet3.5" or a full model id.
        target_name: The file, `.eqx` or `.safetensors`.
        target_dir: Its folder.
        arrange: By names and structure ("auto", the default), or strictly by order ("order").
        mapping: Follow this mapping file instead.
        trust: Take these doubtful rows for right, by their leaves' key paths; True for all.
        dtype: Dtype of real floating-point leaves, in place of the pytree's: "bfloat16" …
        chunk_size: MiB to stay within.
        jobs: Threads that share the work; None for two, or one on a single core.
        verify: Read the file back and compare it with its sources, bit by bit.
        save_mapping: Save the alignment there, as a mapping file.
        report: Write a certificate there of what was read back, leaf by leaf.
        key: Dotted place of the state dict in a nested checkpoint.
        like: `pkg.module:factory` that names the leaves of a plain `.eqx`.
        confirm: Asked about Claude's proposal, in place of the terminal.

    Returns:
        What was written and how well it fits.

    Raises:
        UsageError: The arguments contradict each other; the message says what the mode needs.
        AlignmentError: Rows do not line up or are doubtful; all are listed, with the ways out.
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
    if arrange_with_anthropic and (mapping is not None or arrange is not None):
        raise UsageError(
            "arrange_with_anthropic=, mapping= and arrange= all say how to line up the two sides.",
            "Give one of them.",
        )
    job, chunk_bytes = Job(), chunk_size * MEBIBYTE
    output = output_path(Path(target_dir) / target_name)
    with cleaned_up_first(job), contextlib.ExitStack() as stack, in_words_of_python():
        ends = sides.open(stack, job, key=key, like=like, chunk_bytes=chunk_bytes)
        session = _aligned(*ends, mapping, arrange, trust)
        stack.callback(session.close)
        if arrange_with_anthropic:
            _ask_claude(session, anthropic_model, confirm)
        if isinstance(mapping, str | Path):
            refuse_to_replace(output, [Path(mapping)])
        converted = session.convert(
            output,
            dtype=dtype,
            chunk_bytes=chunk_bytes,
            jobs=jobs,
            verify=verify,
            mapping=save_mapping,
            report=report,
            job=job,
        )
        return report_of(session, converted)


def convert_tree(
    state_dict: Any,
    pytree: Any,
    *,
    arrange: Arrangement | None = None,
    mapping: str | Path | Mapping | None = None,
    trust: bool | str | Sequence[str] = (),
    dtype: str | None = None,
    chunk_size: int = 64,
    key: str | None = None,
) -> Any:
    """Fill a pytree from a state dict in memory, writing no file.

    Lined up and refused as by `convert`. Numbers that a cast makes infinite or NaN are warned of.

    Args:
        state_dict: As for `convert`; or the path of a checkpoint, which is read in chunks.
        pytree: As for `convert`.
        arrange: By names and structure ("auto", the default), or strictly by order ("order").
        mapping: Follow this mapping file instead.
        trust: Take these doubtful rows for right, by their leaves' key paths; True for all.
        dtype: Dtype of real floating-point leaves, in place of the pytree's.
        chunk_size: MiB to stay within, beside the new tree.
        key: Dotted place of the state dict in a nested checkpoint.

    Returns:
        A new pytree of the structure of `pytree`, its arrays JAX arrays (NumPy arrays where
        `pytree` has those), shapes and dtypes as there. For a module that still holds the initial
        values of its `StateIndex`es, `(model, state)`.

    Raises:
        UsageError: The arguments contradict each other.
        AlignmentError: Rows do not line up or are doubtful; all are listed, with the ways out.
        InputError: The state dict holds tensors that cannot be converted; all are named.
    """
    from s2p_tui.skeleton import with_values

    with in_words_of_python():
        if isinstance(state_dict, str | Path):
            checkpoint = state_dict_at(state_dict, key)
        else:
            checkpoint = checkpoint_in_memory(state_dict, key=key)
        target = target_in_memory(pytree)
        with contextlib.closing(_aligned(checkpoint, target, mapping, arrange, trust)) as session:
            # The other format: what keeps a dtype out of .eqx files does not matter here.
            plan = session.plan(dtype, "safetensors")
            made = filled(plan, checkpoint, target, chunk_bytes=chunk_size * MEBIBYTE)
            arrays, losses = zip(*made, strict=True)
            checkpoint.tensors.check_unchanged()
    for instruction, loss in zip(plan.instructions, losses, strict=True):
        if loss:
            warnings.warn(
                f"{instruction.leaf.path}: {loss.overflowed:,} numbers became infinite, "
                f"{loss.new_nan:,} not a number",
                stacklevel=2,
            )
    return with_values(pytree, arrays)


def _aligned(
    checkpoint: Checkpoint,
    target: Target,
    mapping: str | Path | Mapping | None,
    arrange: Arrangement | None,
    trust: bool | str | Sequence[str],
) -> Session:
    if mapping is not None and arrange is not None:
        raise UsageError(
            "mapping= and arrange= both say how to line up the two sides.", "Give one of them."
        )
    if arrange not in (None, *get_args(Arrangement)):
        raise UsageError(
            f"arrange={arrange!r} is not known, one of two ways was expected.",
            'Give "auto" or "order".',
        )
    if isinstance(mapping, str | Path):
        mapping = load_mapping(mapping)
    session = Session.between(checkpoint, target, mapping=mapping, arrange=arrange or "auto")
    if mapping is None:
        session.require_kinship()
    if trust:
        wanted = [trust] if isinstance(trust, str) else trust
        session.trust(None if isinstance(wanted, bool) else wanted)
    return session


def _ask_claude(session: Session, model: str, confirm: Callable[[str], bool] | None) -> None:
    from s2p_tui import asking

    if not asking.propose_with_claude(session, model=model, confirm=confirm):
        raise CancelledError("The proposal was declined; nothing was written.")
