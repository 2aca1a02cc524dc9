"""Certificates: the findings of verification, leaf by leaf, as JSON beside the output.

`{"format": "s2p-certificate", "version": 1, "verified": true, "source", "target", "output",
"versions", "dtype", "leaves", "unused", "parts_unused"}`. `source` and `target` identify both ends
as a mapping file does; unused are entries no leaf takes, each with `key`, `why` it may be left out
and `blocks`; and what is left of others. A leaf holds

    path, shape, dtype      what it is, and the dtype it was written in
    sources, source_dtypes  the entries it was made from; of a gap, none, and the skeleton's dtype
    transform, words        what was done to them (as in a mapping file; null for a plain copy)
    bytes, sha256           of its record as it lies in the file, the header of an .npy included
    max_abs_difference      of what was read back from the source after the transform; numbers that
                            are not finite on both sides are not in it but counted:
    overflowed, new_nan     finite numbers that became infinite, numbers that became NaN
    flushed                 numbers that became zero
    fit, by, why, trusted   how good the row is, who made it and why; gap for a gap
    proof                   the answers that prove it right: to which entry it is, in which order
                            of axes, how grouped, of one module, and that nothing is left over
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from s2p_tui import __version__
from s2p_tui.alignment.alignment import Alignment, Row
from s2p_tui.alignment.judge import judge
from s2p_tui.alignment.mapping_file import end_to_json
from s2p_tui.alignment.proof import Proof
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import Take, describe, keys_of, to_json
from s2p_tui.conversion.output import source_end, target_end
from s2p_tui.conversion.plan import Plan
from s2p_tui.conversion.report import parts_unused, unused_as_json
from s2p_tui.conversion.verify import Readback, ReadLeaf
from s2p_tui.formats.atomic import written_atomically
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.skeleton_file import Target

FORMAT = "s2p-certificate"
VERSION = 1


class Certifier:
    """Records what verification reads and writes it beside the output.

    Args:
        path: The certificate to write.
        checkpoint: The torch side.
        target: The JAX side.

    Attributes:
        readback: To be given to verification.
    """

    def __init__(self, path: Path, checkpoint: Checkpoint, target: Target) -> None:
        self.readback = Readback()
        self._path = path
        self._checkpoint = checkpoint
        self._target = target

    def write(
        self, output: Path, plan: Plan, alignment: Alignment, proof: Callable[[int], Proof]
    ) -> None:
        """Write the certificate of an output that was verified. Reads no tensor data.

        Args:
            output: The verified file.
            plan: The plan it was verified against.
            alignment: The alignment behind the plan.
            proof: Gives the proof of each row.

        Raises:
            OutputError: It cannot be written.
        """
        with written_atomically(self._path) as stream:
            stream.write(self._text(output, plan, alignment, proof).encode())

    def _text(
        self, output: Path, plan: Plan, alignment: Alignment, proof: Callable[[int], Proof]
    ) -> str:
        checkpoint, target = self._checkpoint, self._target
        head: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "verified": True,
            "source": {
                **end_to_json(source_end(checkpoint), "entries"),
                "files": [str(file) for file in checkpoint.files],
                "key": checkpoint.key,
            },
            "target": end_to_json(target_end(target), "leaves"),
            "output": {
                "path": str(output),
                "bytes": self.readback.size,
                "sha256": self.readback.sha256,
            },
            "versions": {
                "s2p-tui": __version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "dtype": plan.dtype,
            "unused": unused_as_json(checkpoint, alignment),
            "parts_unused": parts_unused(alignment.rows, checkpoint.state_dict),
        }
        lines = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
        leaves = ",\n".join(
            "  " + json.dumps(_leaf(leaf, row, checkpoint.state_dict, proof(index)))
            for index, (leaf, row) in enumerate(
                zip(self.readback.leaves, alignment.rows, strict=True)
            )
        )
        return "\n".join(["{", *lines, ' "leaves": [', leaves, " ]", "}", ""])


def _leaf(read: ReadLeaf, row: Row, state_dict: StateDict, proof: Proof) -> dict[str, Any]:
    leaf, expr = read.instruction.leaf, read.instruction.source
    keys = () if expr is None else keys_of(expr)
    verdict = judge(leaf, row, state_dict)
    return {
        "path": leaf.path,
        "shape": list(leaf.shape),
        "dtype": read.instruction.dtype,
        "sources": list(keys),
        "source_dtypes": [leaf.dtype] if expr is None else [state_dict[key].dtype for key in keys],
        "transform": None if expr is None or isinstance(expr, Take) else to_json(expr, keys),
        "words": "keeps the skeleton's value" if expr is None else describe(expr),
        "bytes": read.nbytes,
        "sha256": read.sha256,
        "max_abs_difference": read.largest_difference,
        "overflowed": read.loss.overflowed,
        "new_nan": read.loss.new_nan,
        "flushed": read.loss.flushed,
        "fit": str(verdict.fit),
        "gap": row.gap,
        "by": row.by,
        "why": row.why or verdict.why,
        "trusted": row.trusted,
        "proof": proof.as_json(),
    }
