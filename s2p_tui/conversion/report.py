"""What a conversion comes to, for whoever called it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from s2p_tui.alignment.alignment import Alignment, Rows
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.left_over import parts_unused
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.conversion.contents import CastLoss
from s2p_tui.conversion.output import Converted
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.skeleton_file import Target

_SHOWN = 3
TAKEN_AS_THEY_ARE = (
    "note: the skeleton names no layer classes, so that transposed convolutions, LSTM, "
    "GRU and batch normalisation were taken as they are; --like names them"
)


def remarks(rows: Rows, skeleton: Skeleton) -> Iterator[str]:
    """Which leaves keep the skeleton's values, and what the skeleton does not tell; a line each."""
    kept = rows.gaps()
    if kept:
        names = ", ".join(skeleton[place].path for place in kept[:_SHOWN])
        more = ", …" if len(kept) > _SHOWN else ""
        leaves = "leaf keeps its value" if len(kept) == 1 else "leaves keep their values"
        yield f"{len(kept):,} {leaves} of the skeleton: {names}{more}"
    scalars = [leaf.path for place, leaf in enumerate(skeleton) if _keeps_scalar(rows, place, leaf)]
    if scalars:
        names = ", ".join(scalars[:_SHOWN])
        more = ", …" if len(scalars) > _SHOWN else ""
        values = (
            "Python scalar keeps its value"
            if len(scalars) == 1
            else ("Python scalars keep their values")
        )
        yield f"{len(scalars):,} {values} of the skeleton: {names}{more}"
    if skeleton.is_nameless:
        yield TAKEN_AS_THEY_ARE


def _keeps_scalar(rows: Rows, place: int, leaf: Leaf) -> bool:
    """Return True if a scalar keeps the skeleton's value, and no layer of Equinox's says why.

    `Dropout.p` and the like are settings of a layer, which PyTorch keeps in no state dict.
    """
    is_setting = (leaf.owner or "").startswith("equinox.nn.")
    return leaf.kind == "scalar" and not is_setting and not rows.takes_entry(place)


_UNUSED_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Report:
    """A finished conversion. `str` gives it in a few lines; it can be passed as the path itself.

    Attributes:
        path: The file that was written.
        rows: How many rows there are of each fit: exact, transformed, doubtful (that were trusted
            count as what they are), mismatched, gap.
        warnings: What the user should know: entries and parts of entries that no leaf takes,
            leaves that keep the skeleton's, numbers that did not survive a cast. One line each.
        verified: Whether the file was read back and compared with its sources, bit by bit.
        bytes: Size of the file.
        seconds: From start to rename.
        unused: Keys that no leaf takes.
        mapping: The mapping file saved beside it, if any.
        certificate: The certificate written beside it, if any.
    """

    path: Path
    rows: Mapping[str, int]
    warnings: tuple[str, ...]
    verified: bool
    bytes: int
    seconds: float
    unused: tuple[str, ...]
    mapping: Path | None = None
    certificate: Path | None = None

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        checked = "verified" if self.verified else "not verified"
        lines = [
            f"{self.path}: {self.bytes:,} bytes in {self.seconds:.2f} s, {checked}",
            f"rows: {', '.join(f'{count} {fit}' for fit, count in self.rows.items())}",
            *self.warnings,
        ]
        if self.mapping is not None:
            lines.append(f"mapping: {self.mapping}")
        if self.certificate is not None:
            lines.append(f"certificate: {self.certificate}")
        return "\n".join(lines)


def report_of(
    alignment: Alignment,
    checkpoint: Checkpoint,
    target: Target,
    counts: Mapping[Fit, int],
    converted: Converted,
) -> Report:
    """Return the report of a conversion. Reads no tensor data."""
    written = converted.written
    return Report(
        written.path,
        {fit.value: counts[fit] for fit in Fit},
        tuple(warnings_of(alignment, checkpoint, target, written.losses)),
        written.verified,
        written.size,
        written.seconds,
        alignment.bench,
        converted.mapping,
        converted.report,
    )


def warnings_of(
    alignment: Alignment, checkpoint: Checkpoint, target: Target, losses: Mapping[str, CastLoss]
) -> Iterator[str]:
    """What the user should know of a conversion, one line each."""
    bench = alignment.bench
    if bench:
        more = ", …" if len(bench) > _UNUSED_SHOWN else ""
        yield f"unused entries: {len(bench)} ({', '.join(bench[:_UNUSED_SHOWN])}{more})"
    parts = parts_unused(alignment.rows, checkpoint.state_dict)
    for key, words in parts.items():
        yield f"unused of {key}: {words}"
    yield from remarks(alignment.rows, target.skeleton)
    for path, loss in losses.items():
        yield f"{path}: {loss.words}"
