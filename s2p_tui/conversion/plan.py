"""A complete alignment turned into one instruction per leaf, or refused with every reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from s2p_tui.alignment.alignment import Alignment
from s2p_tui.alignment.dtypes import dtype_named
from s2p_tui.alignment.evidence import Evidence, weigh
from s2p_tui.alignment.judge import landing
from s2p_tui.alignment.left_over import Group, blocking, grouped
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import Expr
from s2p_tui.errors import AlignmentError, UsageError

_GLOBS_SHOWN = 3
FileFormat = Literal["eqx", "safetensors"]


@dataclass(frozen=True, slots=True)
class Instruction:
    """The source and dtype of one leaf of the output.

    Attributes:
        leaf: The leaf, with its shape and the skeleton's dtype.
        source: An expression of the leaf's shape, or None to keep the skeleton's value.
        dtype: The dtype it is written in.
    """

    leaf: Leaf
    source: Expr | None
    dtype: str


@dataclass(frozen=True, slots=True)
class Plan:
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
            f"--dtype {dtype} is not a floating-point dtype.",
            "Use float32, bfloat16, float16 or float64.",
        )
    problems: list[tuple[str, str]] = []
    instructions: list[Instruction] = []
    for place, (leaf, row) in enumerate(zip(skeleton, alignment.rows, strict=True)):
        verdict = weigh(place, row, state_dict, skeleton, evidence)
        if verdict.blocks:
            keys = ", ".join(row.keys)
            problems.append((leaf.path, f"{keys}: {verdict.why}" if keys else verdict.why))
            continue
        source = None if row.source is None else landing(row.source, leaf, state_dict)
        instructions.append(Instruction(leaf, source, _written_dtype(leaf, dtype)))
    groups = grouped(blocking(state_dict, alignment))
    if problems or groups:
        raise _refused(problems, len(skeleton), groups)
    if file_format == "eqx":
        _refuse_unloadable(instructions)
    return Plan(tuple(instructions), file_format, dtype)


def _refused(
    problems: Sequence[tuple[str, str]], rows: int, groups: Sequence[Group]
) -> AlignmentError:
    """Return the error that names every row and every entry that stands in the way."""
    said: list[str] = []
    hints: list[str] = []
    if problems:
        one = len(problems) == 1
        said.append(f"{len(problems)} of {rows} rows {'does' if one else 'do'} not line up")
        hints.append(
            "Line them up in the app, pass a --mapping, or --trust rows that are only doubtful."
        )
    if groups:
        count = sum(len(group.members) for group in groups)
        said.append(f"{count} unused {'entry' if count == 1 else 'entries'}")
        globs = " ".join(f"--allow-unused '{group.glob}'" for group in groups[:_GLOBS_SHOWN])
        more = " …" if len(groups) > _GLOBS_SHOWN else ""
        hints.append(f"Accept entries that the model does not need with {globs}{more}.")
    left = [(group.name, group.why) for group in groups]
    return AlignmentError(
        f"{', and '.join(said)}.",
        [*problems, *left],
        " ".join(hints),
        unused=tuple(group.glob for group in groups),
    )


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
            "Write bfloat16 with --dtype bfloat16, or write a .safetensors file.",
        )
