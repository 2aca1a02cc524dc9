"""The result of a conversion: facts, a summary of a few lines, and the same as JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct, structs

from s2p_tui.alignment.alignment import Alignment, Rows
from s2p_tui.alignment.fit import Fit, Verdict
from s2p_tui.alignment.left_over import LeftOver, UnusedEntries, grouped
from s2p_tui.alignment.proof import Proof
from s2p_tui.alignment.skeleton import Skeleton
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import Expr, Split, Take, operands
from s2p_tui.conversion.contents import CastLoss
from s2p_tui.conversion.output import Converted
from s2p_tui.conversion.output_names import location
from s2p_tui.errors import AlignmentError, S2PError, one_line
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.skeleton_file import Target

_GAPS_SHOWN = 3
_UNUSED_SHOWN = 5
# As long as an error's message may get: names in a file may have a million characters.
_LONGEST_LINE = 2000
TAKEN_AS_THEY_ARE = (
    "note: the skeleton names no layer classes, so transposed convolutions, LSTM, GRU and batch "
    "normalisation were taken as they are; a skeleton file or the model's factory names them"
)


def remarks(rows: Rows, skeleton: Skeleton) -> Iterator[str]:
    """List which leaves keep the skeleton's values, and what the skeleton does not name."""
    gaps = [skeleton[index].path for index in rows.gaps()]
    scalars = kept_scalars(rows, skeleton)
    return _remarks(gaps, scalars, skeleton.keys, skeleton.is_nameless)


def _remarks(
    gaps: Sequence[str], scalars: Sequence[str], keys: Sequence[str], is_nameless: bool
) -> Iterator[str]:
    kept = "keeps the skeleton's value", "keep the skeleton's values"
    stays = "stays as in your model", "stay as in your model"
    for paths, one, several, (of_one, of_several) in (
        (gaps, "leaf", "leaves", kept),
        (scalars, "Python scalar", "Python scalars", kept),
        (keys, "leaf of PRNG state", "leaves of PRNG state", stays),
    ):
        if paths:
            words = f"{one} {of_one}" if len(paths) == 1 else f"{several} {of_several}"
            yield f"{len(paths):,} {words}: {first_of(paths)}"
    if is_nameless:
        yield TAKEN_AS_THEY_ARE


def first_of(paths: Sequence[str]) -> str:
    """Name the first of some leaves, and say if there are more."""
    return ", ".join(paths[:_GAPS_SHOWN]) + (", …" if len(paths) > _GAPS_SHOWN else "")


def kept_scalars(rows: Rows, skeleton: Skeleton) -> tuple[str, ...]:
    """Return the key paths of Python scalars that keep the skeleton's value.

    Except settings of Equinox's own layers, such as `Dropout.p`, which no state dict has.
    """
    return tuple(
        leaf.path
        for index, leaf in enumerate(skeleton)
        if leaf.kind == "scalar"
        and not (leaf.owner or "").startswith("equinox.nn.")
        and not rows.takes_entry(index)
    )


_Ranges = list[tuple[int, int, int]]


def parts_unused(rows: Rows, state_dict: StateDict) -> dict[str, str]:
    """Return the ranges that no row takes of entries used in parts only, in words, by key.

    Parts along several axes of one entry are not added up. Reads no tensor data.
    """
    ranges: dict[str, _Ranges] = defaultdict(list)
    whole: set[str] = set()
    for source in rows.made(range(len(rows))):
        _collect(source, ranges, whole)
    whole.update(key for key in ranges if rows.take(key))
    found: dict[str, str] = {}
    for key, taken in ranges.items():
        axes = {axis for axis, _, _ in taken}
        if key in whole or len(axes) > 1:
            continue
        (axis,) = axes
        if left := _left(taken, state_dict.shape(key)[axis]):
            words = " and ".join(f"{start}:{stop}" for start, stop in left)
            found[key] = f"{words} of axis {axis}"
    return found


def _collect(expr: Expr, ranges: dict[str, _Ranges], whole: set[str]) -> None:
    match expr:
        case Take(key):
            whole.add(key)
        case Split(Take(key), axis, start, stop):
            ranges[key].append((axis, start, stop))
        case _:
            for operand in operands(expr):
                _collect(operand, ranges, whole)


def _left(taken: _Ranges, size: int) -> list[tuple[int, int]]:
    """Return the ranges of an axis that are not taken."""
    left: list[tuple[int, int]] = []
    position = 0
    for _, start, stop in sorted(taken, key=lambda part: part[1]):
        if start > position:
            left.append((position, start))
        position = max(position, stop)
    if position < size:
        left.append((position, size))
    return left


class Pair(Protocol):
    """An open pair, as far as its report needs it."""

    @property
    def alignment(self) -> Alignment:
        """The rows and the bench."""
        ...

    @property
    def checkpoint(self) -> Checkpoint:
        """The torch side."""
        ...

    @property
    def target(self) -> Target:
        """The JAX side."""
        ...

    @property
    def counts(self) -> Mapping[Fit, int]:
        """Rows per fit."""
        ...

    @property
    def told(self) -> tuple[str, ...]:
        """Differences from the pair that a followed mapping was made for."""
        ...

    def proof(self, index: int, /) -> Proof:
        """Return the answers that prove a row right."""
        ...

    def verdict(self, index: int, /) -> Verdict | None:
        """The fit of a row, with its reason."""
        ...


class Report(Struct, frozen=True):
    """A finished conversion. `str` gives it in a few lines; it can be passed as the path itself.

    Attributes:
        path: The file that was written.
        rows: Number of rows of each fit: exact, transformed, doubtful (trusted rows count as what
            they are), mismatched, gap.
        verified: True if the file was read back and compared with its sources, bit by bit.
        bytes: Size of the file.
        memory: Bytes of memory the conversion kept to, beside the program's own.
        seconds: From start to rename.
        notes: Parts of the checkpoint that were passed over, and differences from the pair that a
            followed mapping was made for, one line each.
        left_over: Entries that no leaf takes, and why each may be left out.
        parts_unused: Ranges that no leaf takes of entries used in part, in words, by key.
        gaps: Key paths of leaves that keep the skeleton's value.
        scalars: Key paths of Python scalars that do, except settings of Equinox's own layers.
        keys: Key paths of PRNG state, which is in no file; see `Skeleton`.
        lost: Numbers that did not survive a cast, by key path.
        is_nameless: True if the skeleton names no layer classes.
        mapping: The mapping file saved beside it, if any.
        certificate: The certificate written beside it, if any.
    """

    path: Path
    rows: Mapping[str, int]
    verified: bool
    bytes: int
    memory: int
    seconds: float
    notes: tuple[str, ...]
    left_over: tuple[LeftOver, ...]
    parts_unused: Mapping[str, str]
    gaps: tuple[str, ...]
    scalars: tuple[str, ...]
    keys: tuple[str, ...]
    lost: Mapping[str, CastLoss]
    is_nameless: bool
    mapping: Path | None = None
    certificate: Path | None = None

    @property
    def unused(self) -> tuple[str, ...]:
        """Keys that no leaf takes."""
        return tuple(one.key for one in self.left_over)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Notes, leftovers, kept values and lost numbers, one line each."""
        return tuple(self._warnings())

    def _warnings(self) -> Iterator[str]:
        yield from self.notes
        if groups := grouped(self.left_over):
            names: dict[str, list[str]] = defaultdict(list)
            for group in groups[:_UNUSED_SHOWN]:
                names[group.members[0].why].append(group.name)
            shown = "; ".join(f"{why}: {', '.join(those)}" for why, those in names.items())
            more = "; …" if len(groups) > _UNUSED_SHOWN else ""
            yield f"unused entries: {len(self.left_over):,} ({shown}{more})"
        for key, words in self.parts_unused.items():
            yield f"unused of {key}: {words}"
        yield from _remarks(self.gaps, self.scalars, self.keys, self.is_nameless)
        for path, loss in self.lost.items():
            yield f"{path}: {loss.words}"

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        checked = "verified" if self.verified else "not verified"
        counts = ", ".join(f"{count} {fit}" for fit, count in self.rows.items())
        lines = [
            f"{location(self.path)}: {self.bytes:,} bytes in {self.seconds:.2f} s, {checked}",
            # Nothing doubtful is written that nobody trusts.
            f"rows: {counts.replace(Fit.DOUBTFUL, 'trusted')}",
            *self.warnings,
        ]
        if self.mapping is not None:
            lines.append(f"mapping: {self.mapping}")
        if self.certificate is not None:
            lines.append(f"certificate: {self.certificate}")
        return "\n".join(one_line(line, _LONGEST_LINE) for line in lines)


def report_of(pair: Pair, converted: Converted) -> Report:
    """Return the report of a conversion. Reads no tensor data."""
    written, rows, skeleton = converted.written, pair.alignment.rows, pair.target.skeleton
    return Report(
        path=written.path,
        rows=_per_fit(pair),
        verified=written.verified,
        bytes=written.size,
        memory=written.memory,
        seconds=written.seconds,
        notes=(
            *(f"{pair.checkpoint.label}: {note}" for note in pair.checkpoint.notes),
            *pair.told,
        ),
        left_over=tuple(UnusedEntries(pair.checkpoint.state_dict, pair.alignment)),
        parts_unused=parts_unused(rows, pair.checkpoint.state_dict),
        gaps=tuple(skeleton[index].path for index in rows.gaps()),
        scalars=kept_scalars(rows, skeleton),
        keys=skeleton.keys,
        lost=written.losses,
        is_nameless=skeleton.is_nameless,
        mapping=converted.mapping,
        certificate=converted.certificate,
    )


def result_as_json(
    output: Path,
    pair: Pair | None,
    report: Report | None,
    error: S2PError | None,
    *,
    proof: bool = False,
) -> str:
    """Return the JSON object of a conversion, or of its refusal.

    Args:
        output: The file asked for.
        pair: The two sides; None if they could not be opened.
        report: What was written; None if nothing was.
        error: Why nothing was.
        proof: With the answers that prove each row, and the questions that are open.
    """
    status = "done"
    if error is not None:
        status = "refused" if isinstance(error, AlignmentError) else "failed"
    mapping = report.mapping if report is not None else None
    certificate = report.certificate if report is not None else None
    lost: Mapping[str, CastLoss] = report.lost if report is not None else {}
    result: dict[str, Any] = {
        "status": status,
        "output": location(report.path if report is not None else output),
        "rows": _per_fit(pair),
        "doubtful": _rows(pair, Fit.DOUBTFUL),
        "mismatched": _rows(pair, Fit.MISMATCHED),
        "notes": [*pair.checkpoint.notes, *pair.told] if pair is not None else [],
        "unused": unused_as_json(pair.checkpoint, pair.alignment) if pair is not None else [],
        "parts_unused": (
            parts_unused(pair.alignment.rows, pair.checkpoint.state_dict)
            if pair is not None
            else {}
        ),
        "gaps": _paths_of(pair, Fit.GAP),
        "mapping": str(mapping) if mapping is not None else None,
        "report": str(certificate) if certificate is not None else None,
        "bytes": report.bytes if report is not None else 0,
        "memory": report.memory if report is not None else 0,
        "seconds": round(report.seconds, 3) if report is not None else 0.0,
        "verified": report.verified if report is not None else False,
        "lost": {
            path: {
                "overflowed": loss.overflowed,
                "new_nan": loss.new_nan,
                "flushed": loss.flushed,
            }
            for path, loss in lost.items()
        },
        "error": error.line if error is not None else None,
    }
    if proof:
        result["proof"] = _proofs(pair)
    return json.dumps(result)


def _proofs(pair: Pair | None) -> list[dict[str, Any]]:
    if pair is None:
        return []
    rows = zip(pair.target.skeleton, pair.alignment.rows, strict=True)
    return [
        {
            "path": leaf.path,
            "sources": list(row.keys),
            "certain": proof.is_complete,
            "answers": proof.as_json(),
        }
        for index, (leaf, row) in enumerate(rows)
        for proof in (pair.proof(index),)
    ]


def unused_as_json(checkpoint: Checkpoint, alignment: Alignment) -> list[dict[str, Any]]:
    """Return the entries that no leaf takes, why they may be left out, and whether they block."""
    return [structs.asdict(one) for one in UnusedEntries(checkpoint.state_dict, alignment)]


def _per_fit(pair: Pair | None) -> dict[str, int]:
    return {fit.value: pair.counts[fit] if pair is not None else 0 for fit in Fit}


def _paths_of(pair: Pair | None, fit: Fit) -> list[str]:
    return [row["path"] for row in _rows(pair, fit)]


def _rows(pair: Pair | None, fit: Fit) -> list[dict[str, Any]]:
    if pair is None:
        return []
    return [
        {"path": leaf.path, "sources": list(pair.alignment.rows[index].keys), "why": verdict.why}
        for index, leaf in enumerate(pair.target.skeleton)
        if (verdict := pair.verdict(index)) is not None and verdict.fit is fit
    ]
