"""The edits that change an alignment, and the one function that makes them: `apply`.

Keys, the matcher, Claude, rules and replayed mapping files all speak in these.

Moving works on *movable* rows. A gap is a property of its leaf (the leaf takes nothing), so entries
flow around gaps and gaps stay where they were put.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from s2p_tui.core import rearranging
from s2p_tui.core.alignment import Alignment
from s2p_tui.core.draft import Draft
from s2p_tui.core.rows import Row


@dataclass(frozen=True, slots=True)
class Swap:
    """Exchange what two rows take."""

    first: int
    second: int


@dataclass(frozen=True, slots=True)
class MoveBlock:
    """Move the movable rows of `start:stop` past `steps` movable neighbours (negative: upwards)."""

    start: int
    stop: int
    steps: int


@dataclass(frozen=True, slots=True)
class MoveTo:
    """Take the source out of row `start` and put it in row `to`; those between shift by one."""

    start: int
    to: int


@dataclass(frozen=True, slots=True)
class OpenGap:
    """Put a gap at the row; entries from there on flow down by one, around other gaps."""

    row: int


@dataclass(frozen=True, slots=True)
class CloseGap:
    """Take the gap away; entries below flow up by one, the first benched entry fills the end."""

    row: int


@dataclass(frozen=True, slots=True)
class SendToBench:
    """Empty the rows; their entries go to the end of the bench."""

    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PlaceFromBench:
    """Put a benched entry in the row.

    With `shift`, entries from the row on flow down to the next empty row (or the last falls to the
    bench); without, what the row held goes to the bench in its stead.
    """

    key: str
    row: int
    shift: bool = True


@dataclass(frozen=True, slots=True)
class SetRows:
    """Give rows new contents; entries taken from other rows leave those empty.

    What a proposal, a rule, a mapping file or a chosen transform amounts to.
    """

    rows: tuple[tuple[int, Row], ...]


@dataclass(frozen=True, slots=True)
class Trust:
    """Take doubtful rows for right (or take the trust back)."""

    rows: tuple[int, ...]
    trusted: bool = True


@dataclass(frozen=True, slots=True)
class Several:
    """Make edits one after the other, as one step of the history."""

    edits: tuple[Edit, ...]


Edit = (
    Swap
    | MoveBlock
    | MoveTo
    | OpenGap
    | CloseGap
    | SendToBench
    | PlaceFromBench
    | SetRows
    | Trust
    | Several
)


def apply(alignment: Alignment, edit: Edit) -> Alignment:
    """The alignment after one edit. An edit that changes nothing returns the same object.

    It depends on values alone, never on which rows are one object, so that a journal's edits read
    from a file make what they made before. Whoever changes what an edit makes counts up
    `s2p_tui.core.journal.VERSION`.

    Raises:
        IndexError: The edit names a row that does not exist.
        KeyError: The edit takes an entry from the bench that is not there.
    """
    return applied(alignment, edit)[0]


def applied(alignment: Alignment, edit: Edit) -> tuple[Alignment, range]:
    """`apply`, and the rows from the first to the last that differ.

    Raises:
        IndexError: As `apply`.
        KeyError: As `apply`.
    """
    draft = Draft(alignment)
    _make(draft, edit)
    return draft.done()


def _make(draft: Draft, edit: Edit) -> None:
    match edit:
        case Swap(first, second):
            rearranging.swap(draft, first, second)
        case MoveBlock(start, stop, steps):
            rearranging.move_block(draft, start, stop, steps)
        case MoveTo(start, to):
            rearranging.move_to(draft, start, to)
        case OpenGap(row):
            rearranging.open_gaps(draft, (row,))
        case CloseGap(row):
            rearranging.close_gaps(draft, (row,))
        case SendToBench(rows):
            rearranging.send_to_bench(draft, rows)
        case PlaceFromBench(key, row, shift):
            rearranging.place_from_bench(draft, key, row, shift)
        case SetRows(rows):
            rearranging.set_rows(draft, rows)
        case Trust(rows, trusted):
            rearranging.trust(draft, rows, trusted)
        case Several(edits):
            _several(draft, edits)


def _several(draft: Draft, edits: Sequence[Edit]) -> None:
    """One after the other; gaps from top to bottom in one pass, as that is the same."""
    opened = [edit.row for edit in edits if isinstance(edit, OpenGap)]
    closed = [edit.row for edit in edits if isinstance(edit, CloseGap)]
    if len(opened) == len(edits) > 1 and _ascend(opened):
        rearranging.open_gaps(draft, opened)
    elif len(closed) == len(edits) > 1 and _ascend(closed):
        rearranging.close_gaps(draft, closed)
    else:
        for part in edits:
            _make(draft, part)


def _ascend(positions: Sequence[int]) -> bool:
    return positions[0] >= 0 and all(one < other for one, other in pairwise(positions))
