"""A proposal as lines of text, for terminals without the app."""

from __future__ import annotations

import re
from collections.abc import Iterator

from s2p_tui.core.printable import printable
from s2p_tui.core.proposal import Change, Hunk, Proposal
from s2p_tui.core.pytree import Skeleton
from s2p_tui.core.rows import Row
from s2p_tui.core.transform import describe

_NUMBER = re.compile(r"[0-9]+")
_MOST_KEYS = 4
_MOST_LINES = 400


def lines_of(proposal: Proposal, skeleton: Skeleton) -> Iterator[str]:
    """What would change, hunk by hunk; rows alike but for their numbers share a line."""
    shown = 0
    for hunk in proposal.hunks:
        yield printable(f"{hunk.title}: {hunk.reason}" if hunk.reason else hunk.title)
        for line in _rows(hunk, skeleton):
            shown += 1
            if shown <= _MOST_LINES:
                yield printable(line)
    if shown > _MOST_LINES:
        yield f"and {shown - _MOST_LINES:,} more lines; the app shows them all"
    yield from map(printable, proposal.notes)


def _rows(hunk: Hunk, skeleton: Skeleton) -> Iterator[str]:
    alike: dict[tuple[str, ...], list[str]] = {}
    for change in hunk.changes:
        line = _line(change, skeleton[change.place].path)
        alike.setdefault(tuple(_NUMBER.split(line)), []).append(line)
    for lines in alike.values():
        more = f"  (and {len(lines) - 1:,} alike)" if len(lines) > 1 else ""
        yield f"  {lines[0]}{more}"


def _line(change: Change, path: str) -> str:
    but = f"; but {change.objection}" if change.objection else ""
    old, new = in_words(change.old), in_words(change.new)
    what = f"{old} stays" if old == new else f"{old} -> {new}"
    return f"{path}: {what}  [{change.confidence}]{but}"


def in_words(row: Row) -> str:
    """What a row takes."""
    if row.source is None:
        return "the skeleton's value" if row.gap else "nothing"
    keys, done = row.keys, describe(row.source)
    names = ", ".join(keys[:_MOST_KEYS])
    if len(keys) > _MOST_KEYS:
        names += f" and {len(keys) - _MOST_KEYS} more"
    return f"{names} ({done})" if names and done else names or done
