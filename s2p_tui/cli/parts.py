"""The share of one of many workers, as `--part` names it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from s2p_tui.errors import UsageError

_BY_LAUNCHER = (
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
)


def part_of(text: str, variables: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Return which of how many workers this is.

    Args:
        text: `I/N`, or `auto`.
        variables: The environment.

    Raises:
        UsageError: It is neither, or no launcher says which.
    """
    if text == "auto":
        return _by_launcher(variables)
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    part, of = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 0 <= part < of:
        raise UsageError(
            f"--part {text} is not a share: expected I/N with I from 0 to N-1, or auto.",
            "The shares of two workers are --part 0/2 and --part 1/2.",
        )
    return part, of


def _by_launcher(variables: Mapping[str, str]) -> tuple[int, int]:
    # Each task of a Slurm array is a job of its own with one process.
    array = [variables.get(f"SLURM_ARRAY_TASK_{name}", "") for name in ("ID", "MIN", "COUNT")]
    if all(map(str.isdecimal, array)) and variables.get("SLURM_NTASKS", "1") == "1":
        number, first, count = map(int, array)
        if number - first < count:
            return number - first, count
        raise UsageError(
            "--part auto: the numbers of this Slurm array have gaps.",
            "Submit it with --array=0-63, or give --part I/N.",
        )
    for rank, size in _BY_LAUNCHER:
        part, of = variables.get(rank, ""), variables.get(size, "")
        if part.isdecimal() and of.isdecimal() and int(part) < int(of):
            return int(part), int(of)
    names = ", ".join(f"{rank} and {size}" for rank, size in _BY_LAUNCHER)
    raise UsageError(
        f"--part auto finds no launcher: none of {names} is set.",
        "Start it with srun or mpirun, or give --part I/N.",
    )
