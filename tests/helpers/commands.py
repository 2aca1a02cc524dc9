"""The command line in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.formats.safetensors import header_for
from s2p_tui.formats.skeleton_file import head_line

ENDED = 300.0
"""Seconds, after which a process is taken to hang."""


def started(
    *arguments: str, env: Mapping[str, str] | None = None, before: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """A command under way, its output piped.

    Args:
        arguments: The command and its arguments.
        env: Added to the environment.
        before: A program that runs it, such as `nohup`.
    """
    return subprocess.Popen(
        [*before, sys.executable, "-m", "s2p_tui", *arguments], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **(env or {})},
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Its exit status, and what it printed on standard output and error."""
    out, err = process.communicate(timeout=ENDED)
    return process.returncode, out, err


def large_pair(folder: Path, size: int) -> tuple[Path, Path]:
    """A checkpoint of one tensor of zeros of so many bytes, that takes no room on the disk, and
    its skeleton without values.
    """
    count = size // 4
    model, skeleton = folder / "model.safetensors", folder / "skeleton.eqx"
    head = header_for([("w", (count,), "float32")])
    with model.open("wb") as stream:
        stream.write(head)
        stream.truncate(len(head) + count * 4)
    skeleton.write_bytes(head_line([Leaf(".w", (count,), "float32", has_value=False)]))
    return model, skeleton


def small_pair(folder: Path, numbers: Sequence[float] = (1, 2, 3)) -> tuple[Path, Path]:
    """A checkpoint of one small tensor and its skeleton."""
    model, skeleton = folder / "model.safetensors", folder / "skeleton.eqx"
    array = np.asarray(numbers, np.float32)
    model.write_bytes(header_for([("w", array.shape, "float32")]) + array.tobytes())
    skeleton.write_bytes(head_line([Leaf(".w", array.shape, "float32", has_value=False)]))
    return model, skeleton
