"""What a journal comes to when its steps are made again, and a shorter journal of the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from s2p_tui.core.alignment import Alignment
from s2p_tui.core.edit_json import edit_from_json, rows_from_json
from s2p_tui.core.errors import InputError, OtherFilesError
from s2p_tui.core.history import History
from s2p_tui.core.journal import Header, head, header_of, lines_of, outcome, step_line
from s2p_tui.core.pytree import Skeleton
from s2p_tui.core.state_dict import StateDict
from s2p_tui.core.untrusted import MalformedError, list_of, size_of, string_of, why_malformed


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a journal comes to.

    Attributes:
        header: What it is about.
        alignment: The alignment after its last step.
        history: The edits in force and those undone.
        steps: How many steps it holds.
        last: When the last one was made, in Unix seconds.
        size: Bytes up to the end of the last whole line.
        chain: That line's checksum.
    """

    header: Header
    alignment: Alignment
    history: History
    steps: int
    last: int
    size: int
    chain: int

    @property
    def edits(self) -> int:
        """Edits in force."""
        return self.header.before + len(self.history)


def replay(
    content: bytes, name: str, pair: str, state_dict: StateDict, skeleton: Skeleton
) -> Replayed | None:
    """What a journal comes to. A last line that was torn off is as if it had never been begun.

    Args:
        content: The file's bytes.
        name: What to call it in messages.
        pair: What identifies the two ends, see `pair_digest`.
        state_dict: The entries.
        skeleton: The leaves.

    Returns:
        None if it holds no step.

    Raises:
        InputError: It is damaged, or of a version whose steps make something else.
        OtherFilesError: It is about another pair.
    """
    try:
        lines = lines_of(content)
        first, second = next(lines, None), next(lines, None)
        if first is None or second is None:
            return None
        header = header_of(first[0])
        if header.pair != pair:
            raise OtherFilesError(
                f"{name} was made for other files: {header.source.file}.",
                hint="Open those to go on with it.",
            )
        start = Alignment.of(
            rows_from_json(second[0]),
            tuple(string_of(key) for key in list_of(second[0]["bench"])),
        )
        _require_whole(start, state_dict, skeleton)
        return _made_again(header, start, lines, state_dict, skeleton)
    except (ValueError, KeyError, IndexError, RecursionError) as error:
        raise InputError(
            f"{name} cannot be used: {why_malformed(error)}.",
            "Start afresh, or from a mapping file.",
        ) from None


def _made_again(
    header: Header,
    alignment: Alignment,
    lines: Iterator[tuple[dict[str, Any], int, int]],
    state_dict: StateDict,
    skeleton: Skeleton,
) -> Replayed | None:
    history = History()
    steps = last = size = chain = 0
    for node, line_chain, stop in lines:
        match node["do"]:
            case "undo":
                alignment, changed = history.undo(alignment)
            case "redo":
                alignment, changed = history.redo(alignment)
            case do:
                alignment, changed = history.make(alignment, edit_from_json(do))
        if node["made"] != outcome(alignment, changed):
            raise MalformedError(f"step {steps + 1} makes something else than it did")
        steps, last = steps + 1, size_of(node["at"])
        size, chain = stop, line_chain
    if not steps:
        return None
    _require_whole(alignment, state_dict, skeleton)
    return Replayed(header, alignment, history, steps, last, size, chain)


def _require_whole(alignment: Alignment, state_dict: StateDict, skeleton: Skeleton) -> None:
    """Make sure that every leaf has its row, and every entry is used or benched."""
    used = set(alignment.rows.keys)
    benched = set(alignment.bench)
    whole = (
        len(alignment.rows) == len(skeleton)
        and len(benched) == len(alignment.bench)
        and not used & benched
        and used | benched == {entry.key for entry in state_dict}
    )
    if not whole:
        raise MalformedError("its rows are not those of these files")


def compacted(found: Replayed, keep: int) -> bytes:
    """A journal of the same alignment that starts where all but the last edits were made.

    Args:
        found: What the old journal comes to; the same afterwards.
        keep: Edits that can still be undone; those undone can all still be made again.
    """
    history, alignment = found.history, found.alignment
    undone = history.undone
    kept = history.edits[-keep:]
    for _ in kept:
        alignment, _ = history.undo(alignment)
    header = replace(found.header, before=found.header.before + len(history))
    content, chain = head(header, alignment)
    parts = [content]
    for edit in (*kept, *undone):
        alignment, changed = history.redo(alignment)
        line, chain = step_line(edit, found.last, alignment, changed, chain)
        parts.append(line)
    for _ in undone:
        alignment, changed = history.undo(alignment)
        line, chain = step_line("undo", found.last, alignment, changed, chain)
        parts.append(line)
    return b"".join(parts)
