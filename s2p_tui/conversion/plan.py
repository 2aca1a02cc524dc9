"""A complete alignment turned into one instruction per leaf, or refused with every reason."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from s2p_tui.alignment.alignment import Alignment, Rows
from s2p_tui.alignment.dtypes import dtype_named
from s2p_tui.alignment.evidence import Evidence
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.judge import landing
from s2p_tui.alignment.left_over import Group, UnusedEntries, grouped
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import Expr
from s2p_tui.alignment.verdicts import Verdicts
from s2p_tui.errors import AlignmentError, Code, Hint, Patterns, UsageError

FileFormat = Literal["eqx", "safetensors", "torch", "orbax"]
"""Of outputs; `torch` holds state dicts alone, and `orbax` is a folder."""

_OF_AN_ADAPTER = re.compile(r"lora_?(a|b|down|up)(?![a-z])", re.IGNORECASE)
"""Names of factors that PEFT, torchtune, litgpt and kohya save."""


class Instruction(Struct, frozen=True):
    """The source and dtype of one leaf of the output.

    Attributes:
        leaf: The leaf, with its shape and the skeleton's dtype.
        source: An expression of the leaf's shape, or None to keep the skeleton's value.
        dtype: The dtype it is written in.
    """

    leaf: Leaf
    source: Expr | None
    dtype: str


class Plan(Struct, frozen=True):
    """All leaves in the order they are written.

    Attributes:
        instructions: One per leaf.
        format: The file format.
        dtype: The dtype of all real floating-point arrays; None for the skeleton's dtypes.
    """

    instructions: tuple[Instruction, ...]
    format: FileFormat
    dtype: str | None = None


def make_plan(
    state_dict: StateDict,
    skeleton: Skeleton,
    alignment: Alignment,
    *,
    evidence: Evidence | None = None,
    dtype: str | None = None,
    file_format: FileFormat = "eqx",
) -> Plan:
    """Turn an alignment into a plan. Reads no tensor data.

    Args:
        state_dict: The entries.
        skeleton: The leaves.
        alignment: One row per leaf.
        evidence: Names and structure; rows that contradict them are doubtful.
        dtype: Write every real floating-point array leaf in this dtype, not in the skeleton's.
        file_format: The format the plan will be written in.

    Raises:
        AlignmentError: Rows are empty, mismatched or doubtful and not trusted, or entries are left
            over that nothing explains and nobody accepted; all are listed.
        UsageError: A leaf's dtype cannot be loaded from a file of this format.
    """
    if dtype is not None and dtype_named(dtype).kind != "float":
        raise UsageError(
            f"{dtype} is not a floating-point dtype.",
            "Use float32, bfloat16, float16 or float64.",
        )
    problems: list[tuple[str, str]] = []
    are_doubtful = False
    instructions: list[Instruction] = []
    pairs = list(zip(skeleton, alignment.rows, strict=True))
    rows = Rows.of(alignment.rows, state_dict.numbering)
    verdicts = Verdicts(state_dict, skeleton, rows, evidence)
    blocking = verdicts.blocking_set()
    for index, (leaf, row) in enumerate(pairs):
        if index in blocking:
            verdict = verdicts.at(index)
            keys = ", ".join(row.keys)
            are_doubtful = are_doubtful or verdict.fit is Fit.DOUBTFUL
            problems.append((leaf.path, f"{keys}: {verdict.why}" if keys else verdict.why))
            continue
        source = None if row.source is None else landing(row.source, leaf, state_dict)
        instructions.append(Instruction(leaf, source, _written_dtype(leaf, dtype)))
    blocking_entries = UnusedEntries(state_dict, alignment).blocking_entries()
    unused = grouped(blocking_entries, (entry.key for entry in state_dict))
    if problems or unused:
        ways_out = Code.LINE_UP_ROWS if are_doubtful else Code.LINE_UP_MISMATCHED_ROWS
        if skeleton.is_nameless:
            ways_out = Code.LINE_UP_NAMELESS_ROWS
        raise _refusal(problems, ways_out, len(skeleton), unused)
    if file_format == "eqx":
        _refuse_unloadable(instructions)
    return Plan(tuple(instructions), file_format, dtype)


def _refusal(
    problems: Sequence[tuple[str, str]], ways_out: Code, rows: int, unused: Sequence[Group]
) -> AlignmentError:
    """Return the error that names every row and every entry that blocks."""
    said: list[str] = []
    hint: Hint | None = None
    globs = tuple(group.glob for group in unused)
    if unused:
        count = sum(len(group.members) for group in unused)
        said.append(f"{count:,} unused {'entry' if count == 1 else 'entries'}")
        hint = Hint(Code.ACCEPT_UNUSED, {"unused": Patterns(globs)})
        if any(_OF_AN_ADAPTER.search(left.key) for group in unused for left in group.members):
            hint = Hint(Code.MERGE_ADAPTER, more=hint)
    if problems:
        verb = "does" if len(problems) == 1 else "do"
        said.insert(0, f"{len(problems)} of {rows} rows {verb} not line up")
        hint = Hint(ways_out, more=hint)
    assert hint is not None
    left = [(group.name, group.why) for group in unused]
    return AlignmentError(f"{', and '.join(said)}.", [*problems, *left], hint, globs)


def _written_dtype(leaf: Leaf, dtype: str | None) -> str:
    if dtype is None or leaf.kind == "scalar" or dtype_named(leaf.dtype).kind != "float":
        return leaf.dtype
    return dtype


def _refuse_unloadable(instructions: list[Instruction]) -> None:
    bad = [i for i in instructions if not dtype_named(i.dtype).loads_in_equinox]
    if bad:
        names = ", ".join(dict.fromkeys(i.dtype for i in bad))
        raise UsageError(
            f"{len(bad)} leaves, {bad[0].leaf.path} the first, are {names}: "
            "Equinox saves these to .eqx files but cannot load them.",
            Hint(Code.LOADABLE_DTYPE),
        )
