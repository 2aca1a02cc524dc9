"""The result of an export: a summary of a few lines, the same as JSON, and the certificate.

A certificate of an export is `{"format": "s2p-export-certificate", "version": 1, "verified": true,
"source", "original", "files", "versions", "entries", "missing", "left"}`. An entry holds

    key, shape, dtype       what it is
    leaves, original        the leaves it was made of, and the original's entries
    transform, words        what was done to them (as in a mapping file, over both lists in a row)
    why                     the choices that were made where others give the same leaves, or the
                            reason why it is the original's
    file, sha256            of its bytes
    max_abs_difference      of its numbers from those before the cast to its dtype; and
                            overflowed, new_nan, flushed, as in a certificate of a conversion
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs

from s2p_tui import __version__
from s2p_tui.alignment.transform import Take, describe, keys_of, to_json
from s2p_tui.conversion.contents import CastLoss
from s2p_tui.conversion.export import Exported
from s2p_tui.conversion.export_plan import ORIGINAL, ExportPlan, MadeEntry
from s2p_tui.conversion.verify import Readback, ReadLeaf
from s2p_tui.errors import AlignmentError, S2PError, one_line, some
from s2p_tui.formats.atomic import written_atomically
from s2p_tui.formats.base import Checkpoint

FORMAT = "s2p-export-certificate"
VERSION = 1
_SHOWN = 5
_LONGEST_LINE = 2000


@dataclass(frozen=True, slots=True)
class ExportReport:
    """A finished export. `str` gives it in a few lines; it can be passed as the path itself.

    Attributes:
        path: The file, or the folder of shards.
        files: Names of the files in it.
        held: Number of entries that leaves hold, whole or in part.
        original: Entries that are the original's, and why, by key.
        chosen: Entries with numbers that were chosen, and how, by key.
        missing: Entries that were left out, and why, by key.
        left: Key paths of the leaves that no entry holds.
        casts: Number of entries that were cast, by the dtypes.
        lost: Numbers that did not survive a cast, by key.
        notes: What else to know, one line each.
        bytes: Bytes of all files.
        memory: Bytes of memory the export kept to, beside the program's own.
        seconds: From start to rename.
        verified: True, as every export is converted forward again and compared.
        certificate: The certificate written beside it, if any.
    """

    path: Path
    files: tuple[str, ...]
    held: int
    original: Mapping[str, str]
    chosen: Mapping[str, str]
    missing: Mapping[str, str]
    left: tuple[str, ...]
    casts: Mapping[str, int]
    lost: Mapping[str, CastLoss]
    notes: tuple[str, ...]
    bytes: int
    memory: int
    seconds: float
    verified: bool = True
    certificate: Path | None = None

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        lines = [
            f"{self.path}: {self.bytes:,} bytes in {self.seconds:.2f} s, verified",
            f"entries: {self.held:,} from leaves, {len(self.original):,} from the original, "
            f"{len(self.missing):,} missing",
            *self.warnings,
        ]
        if self.certificate is not None:
            lines.append(f"certificate: {self.certificate}")
        return "\n".join(one_line(line, _LONGEST_LINE) for line in lines)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Notes, choices, what is from elsewhere or left out, and lost numbers, one line each."""
        return tuple(self._warnings())

    def _warnings(self) -> Iterator[str]:
        yield from self.notes
        for words, those in (
            ("missing", self.missing),
            ("from the original", self.original),
            ("chosen", self.chosen),
        ):
            if those:
                yield f"{words}: {some([f'{key} ({why})' for key, why in those.items()], '; ')}"
        if self.left:
            yield f"no entry holds these leaves: {some(self.left, ', ', _SHOWN)}"
        for words, count in self.casts.items():
            yield f"cast {words}: {count:,} {'entry' if count == 1 else 'entries'}"
        for key, loss in self.lost.items():
            yield f"{key}: {loss.words}"


def export_report(
    plan: ExportPlan,
    exported: Exported,
    notes: Sequence[str] = (),
    certificate: Path | None = None,
) -> ExportReport:
    """Return the report of an export. Reads no tensor data."""
    return ExportReport(
        path=exported.path,
        files=exported.files,
        lost=exported.losses,
        notes=tuple(notes),
        bytes=exported.size,
        memory=exported.memory,
        seconds=exported.seconds,
        certificate=certificate,
        **_sorts(plan),
    )


def _sorts(plan: ExportPlan) -> dict[str, Any]:
    def of(origin: str) -> dict[str, str]:
        return {one.entry.key: one.why for one in plan.entries if one.origin == origin}

    held = of("leaves")
    return {
        "held": len(held),
        "original": of("original"),
        "chosen": {key: why for key, why in held.items() if why},
        "missing": of("missing"),
        "left": plan.left,
        "casts": dict(Counter(words for one in plan.entries for words in _casts(one, plan))),
    }


def _casts(one: MadeEntry, plan: ExportPlan) -> set[str]:
    names = () if one.source is None else keys_of(one.source)
    dtypes = {plan.both.state_dict[name].dtype for name in names}
    return {f"{dtype} to {one.entry.dtype}" for dtype in dtypes if dtype != one.entry.dtype}


def export_as_json(output: Path, report: ExportReport | None, error: S2PError | None) -> str:
    """Return the JSON object of an export, or of its refusal.

    Args:
        output: The file or folder asked for.
        report: What was written; None if nothing was.
        error: Why nothing was.
    """
    status = "done"
    if error is not None:
        status = "refused" if isinstance(error, AlignmentError) else "failed"
    problems = error.problems if isinstance(error, AlignmentError) else ()

    def listed(those: Mapping[str, str]) -> list[dict[str, str]]:
        return [{"key": key, "why": why} for key, why in those.items()]

    none: dict[str, str] = {}
    return json.dumps(
        {
            "status": status,
            "output": str(report.path if report is not None else output),
            "files": list(report.files) if report is not None else [],
            "held": report.held if report is not None else 0,
            "original": listed(report.original if report is not None else none),
            "chosen": listed(report.chosen if report is not None else none),
            "missing": listed(report.missing if report is not None else none),
            "left": list(report.left) if report is not None else [],
            "casts": dict(report.casts) if report is not None else {},
            "lost": (
                {key: structs.asdict(loss) for key, loss in report.lost.items()}
                if report is not None
                else {}
            ),
            "notes": list(report.notes) if report is not None else [],
            "problems": [{"where": where, "why": why} for where, why in problems],
            "certificate": (
                str(report.certificate)
                if report is not None and report.certificate is not None
                else None
            ),
            "bytes": report.bytes if report is not None else 0,
            "memory": report.memory if report is not None else 0,
            "seconds": round(report.seconds, 3) if report is not None else 0.0,
            "verified": report is not None,
            "error": error.line if error is not None else None,
        }
    )


def write_export_certificate(
    path: Path,
    plan: ExportPlan,
    exported: Exported,
    readbacks: Mapping[str, Readback],
    original: Checkpoint,
) -> None:
    """Write the certificate of an export. Reads the files once more, for their digests.

    Raises:
        OutputError: It cannot be written.
    """
    read = {
        leaf.instruction.leaf.path: (name, leaf)
        for name, readback in readbacks.items()
        for leaf in readback.leaves
    }
    shared = {
        (one.entry.storage, one.source): read[one.entry.key]
        for one in plan.entries
        if one.entry.key in read
    }
    files = (
        [exported.path]
        if exported.path.is_file()
        else [exported.path / name for name in exported.files]
    )
    head: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "verified": True,
        "source": [str(file) for file in plan.both.files if file not in original.files],
        "original": [str(file) for file in original.files],
        "files": [
            {"path": str(file), "bytes": file.stat().st_size, "sha256": _digest(file)}
            for file in files
        ],
        "versions": {
            "s2p-tui": __version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "missing": _sorts(plan)["missing"],
        "left": list(plan.left),
    }
    lines = [f" {json.dumps(name)}: {json.dumps(value)}," for name, value in head.items()]
    entries = ",\n".join(
        "  " + json.dumps(_entry(one, *shared[one.entry.storage, one.source]))
        if one.entry.key not in read
        else "  " + json.dumps(_entry(one, *read[one.entry.key]))
        for one in plan.entries
        if one.source is not None
    )
    text = "\n".join(["{", *lines, ' "entries": [', entries, " ]", "}", ""])
    with written_atomically(path) as stream:
        stream.write(text.encode())


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _entry(one: MadeEntry, file: str, read: ReadLeaf) -> dict[str, Any]:
    expr = one.source
    assert expr is not None
    names = keys_of(expr)
    return {
        "key": one.entry.key,
        "shape": list(one.entry.shape),
        "dtype": one.entry.dtype,
        "leaves": [name for name in names if not name.startswith(ORIGINAL)],
        "original": [n.removeprefix(ORIGINAL) for n in names if n.startswith(ORIGINAL)],
        "transform": None if isinstance(expr, Take) else to_json(expr, _in_order(names)),
        "words": describe(expr),
        "why": one.why,
        "file": file,
        "sha256": read.sha256,
        "max_abs_difference": read.largest_difference,
        "overflowed": read.loss.overflowed,
        "new_nan": read.loss.new_nan,
        "flushed": read.loss.flushed,
    }


def _in_order(names: Sequence[str]) -> list[str]:
    """Return names with those of leaves first, as the certificate lists them."""
    return sorted(names, key=lambda name: name.startswith(ORIGINAL))
