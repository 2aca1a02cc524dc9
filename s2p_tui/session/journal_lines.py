"""Journals: where the edits of a session began and what was done since, line by line.

Every line is JSON behind its checksum, CRC-32 in eight hexadecimal digits, which goes on from the
line before: no line can be missing, doubled or moved unseen. The first line says which pair the
journal is about, the second holds the alignment it starts from, so that a later version with
another matcher starts from the same; every further line is one step: `at` (Unix seconds), `do` (an
edit, or `undo`, `redo`), and `made`, a checksum of what came of it.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
from msgspec import Struct, structs

from s2p_tui.alignment.alignment import Alignment, Author, Row, Rows, numbers_of
from s2p_tui.alignment.edits import (
    AcceptUnused,
    CloseGap,
    Edit,
    MoveBlock,
    MoveTo,
    OpenGap,
    PlaceFromBench,
    SendToBench,
    SetRows,
    Several,
    Swap,
    Trust,
)
from s2p_tui.alignment.history import History
from s2p_tui.alignment.mapping_file import End, end_from_json, end_to_json
from s2p_tui.alignment.numbering import GAP, Numbering
from s2p_tui.alignment.skeleton import Skeleton
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.task import gc_paused
from s2p_tui.alignment.transform import Expr, Take, from_json, to_json
from s2p_tui.alignment.untrusted import (
    MalformedError,
    list_of,
    object_of,
    size_of,
    string_of,
    why_malformed,
)
from s2p_tui.errors import InputError, OtherFilesError

_AUTHORS: tuple[Author, ...] = get_args(Author)
_AUTHOR_PLACES = {author: index for index, author in enumerate(_AUTHORS)}
_GAP, _TRUSTED, _FIXED = 1, 2, 4
_OTHER_ROWS = "its rows are not those of these files"


def rows_to_json(rows: Sequence[Row]) -> dict[str, Any]:
    """Rows as JSON values."""
    why: dict[str, int] = {}
    nodes = [
        [
            _AUTHOR_PLACES[row.by],
            why.setdefault(row.why, len(why)),
            row.gap * _GAP | row.trusted * _TRUSTED | row.fixed * _FIXED,
            _source_to_json(row.source),
        ]
        for row in rows
    ]
    return {"rows": nodes, "why": list(why)}


def _source_to_json(source: Expr | None) -> Any:
    if source is None:
        return None
    if isinstance(source, Take):
        return source.key
    keys = Row(source).keys
    return {"sources": keys, "transform": to_json(source, keys)}


def rows_from_json(node: Any, numbering: Numbering) -> Rows:
    """Inverse of `rows_to_json`, as arrays.

    Raises:
        MalformedError: The JSON is not such rows, or one takes an entry that does not exist.
    """
    whole = object_of(node)
    why = [string_of(reason) for reason in list_of(whole.get("why"))]
    # Few rows begin in a way of their own: what they take without a source, and the decision.
    begun: dict[str, tuple[int, int]] = {}
    sources, decisions = list[int](), list[int]()
    for one in list_of(whole.get("rows")):
        if len(list_of(one)) != 4:
            raise MalformedError(f"a row has {len(one)} values")
        start, source = str(one[:3]), one[3]
        known = begun.get(start)
        if known is None:
            known = begun[start] = _begun(list(map(size_of, one[:3])), why, numbering)
        without, decision = known
        if source is not None and without == GAP:
            raise MalformedError("a row is a gap and has a source")
        sources.append(without if source is None else _source_from_json(source, numbering))
        decisions.append(decision)
    taken = np.array(sources, np.int32)
    return Rows(numbering, taken, taken, np.array(decisions, np.int32))


def _begun(start: list[int], why: Sequence[str], numbering: Numbering) -> tuple[int, int]:
    by, reason, bits = start
    if by >= len(_AUTHORS) or reason >= len(why) or bits > _GAP | _TRUSTED | _FIXED:
        raise MalformedError(f"{start!r} does not begin a row")
    is_gap, trusted, fixed = (bool(bits & bit) for bit in (_GAP, _TRUSTED, _FIXED))
    return numbers_of(Row(None, is_gap, _AUTHORS[by], why[reason], trusted, fixed), numbering)


def _source_from_json(node: Any, numbering: Numbering) -> int:
    source = node
    if not isinstance(node, str):
        whole = object_of(node)
        keys = [string_of(key) for key in list_of(whole.get("sources"))]
        source = from_json(whole.get("transform"), keys)
    try:
        return numbering.entry(source) if isinstance(source, str) else numbering.number(source)
    except KeyError:
        raise MalformedError(_OTHER_ROWS) from None


def _placed_to_json(placed: Sequence[tuple[int, Row]]) -> dict[str, Any]:
    return {"at": [index for index, _ in placed], **rows_to_json([row for _, row in placed])}


def _placed_from_json(node: dict[str, Any], numbering: Numbering) -> tuple[tuple[int, Row], ...]:
    rows, indexes = rows_from_json(node, numbering), _indices(node["at"])
    if len(indexes) != len(rows):
        raise MalformedError("rows are set at another number of indices")
    return tuple(zip(indexes, rows, strict=True))


def edit_to_json(edit: Edit) -> list[Any]:
    """An edit as a JSON list."""
    name = type(edit).__name__
    match edit:
        case SetRows(rows):
            return [name, _placed_to_json(rows)]
        case Several(edits):
            return [name, [edit_to_json(part) for part in edits]]
        case _:
            return [name, *(getattr(edit, field) for field in edit.__struct_fields__)]


def edit_from_json(node: Any, numbering: Numbering) -> Edit:
    """Inverse of `edit_to_json`.

    Raises:
        MalformedError: The JSON is not an edit, or sets a row to an entry that does not exist.
    """
    match list_of(node):
        case ["Swap", first, second]:
            return Swap(size_of(first), size_of(second))
        case ["MoveBlock", start, stop, steps] if type(steps) is int:
            return MoveBlock(size_of(start), size_of(stop), steps)
        case ["MoveTo", start, to]:
            return MoveTo(size_of(start), size_of(to))
        case ["OpenGap", row]:
            return OpenGap(size_of(row))
        case ["CloseGap", row]:
            return CloseGap(size_of(row))
        case ["SendToBench", rows]:
            return SendToBench(_indices(rows))
        case ["PlaceFromBench", key, row, bool(shift)]:
            return PlaceFromBench(string_of(key), size_of(row), shift)
        case ["SetRows", rows]:
            return SetRows(_placed_from_json(object_of(rows), numbering))
        case ["Trust", rows, bool(trusted)]:
            return Trust(_indices(rows), trusted)
        case ["AcceptUnused", keys, bool(accept)]:
            return AcceptUnused(tuple(string_of(key) for key in list_of(keys)), accept)
        case ["Several", edits]:
            return Several(tuple(edit_from_json(part, numbering) for part in list_of(edits)))
        case _:
            raise MalformedError(f"{node!r:.60} is not an edit")


def _indices(node: Any) -> tuple[int, ...]:
    return tuple(size_of(index) for index in list_of(node))


FORMAT = "s2p-journal"
VERSION = 3
_DIGITS = 8

Step = Edit | Literal["undo", "redo"]


class Header(Struct, frozen=True):
    """A journal's header.

    Attributes:
        source: The checkpoint.
        target: The skeleton.
        pair: What identifies both, see `pair_digest`.
        files: The files of both.
        program: The version that wrote it.
        before: Edits made before the alignment it starts from.
    """

    source: End
    target: End
    pair: str
    files: tuple[str, ...]
    program: str
    before: int = 0


def pair_digest(source: End, target: End, skeleton: Skeleton) -> str:
    """SHA-256 over all that alignments of two ends depend on; not over the numbers.

    Unlike the digest of a mapping file's end it tells layer classes and their settings apart: rows
    that a layer's rule filled are right for these alone.
    """
    digest = hashlib.sha256(f"{source.digest} {target.digest}\n".encode())
    known: dict[object, str] = {}
    lines: list[str] = []
    for leaf in skeleton:
        # Whoever reads leaves has those that are alike share their layers' settings.
        kind = leaf.kind, leaf.owner, leaf.has_value, id(leaf.config)
        line = known.get(kind)
        if line is None:
            config = leaf.config and json.dumps(dict(leaf.config), default=repr, sort_keys=True)
            line = f"{leaf.kind} {leaf.owner!r} {leaf.has_value} {config or ''}\n"
            known[kind] = line
        lines.append(line)
    digest.update("".join(lines).encode())
    return digest.hexdigest()


def framed(node: dict[str, Any], chain: int) -> tuple[bytes, int]:
    """One line, and the checksum that the next one goes on from."""
    text = json.dumps(node, separators=(",", ":")).encode()
    chain = zlib.crc32(text, chain)
    return b"%0*x %s\n" % (_DIGITS, chain, text), chain


def head(header: Header, start: Alignment) -> tuple[bytes, int]:
    """The lines every journal begins with, and the last one's checksum."""
    about = {
        "format": FORMAT,
        "version": VERSION,
        "program": header.program,
        "source": end_to_json(header.source, "entries"),
        "target": end_to_json(header.target, "leaves"),
        "pair": header.pair,
        "files": header.files,
        "before": header.before,
    }
    first, chain = framed(about, 0)
    last, earlier = map(_placed_to_json, start.rows.memory())
    rows = rows_to_json(start.rows) | {"last": last, "earlier": earlier, "bench": start.bench}
    if start.accepted:
        rows["accepted"] = sorted(start.accepted)
    second, chain = framed(rows, chain)
    return first + second, chain


def step_line(
    step: Step, at: int, alignment: Alignment, changed: range, chain: int
) -> tuple[bytes, int]:
    """The line of one step, and its checksum.

    Args:
        step: What was done.
        at: When, in Unix seconds.
        alignment: What came of it.
        changed: The rows that may have changed.
        chain: The checksum of the line before.
    """
    do = step if isinstance(step, str) else edit_to_json(step)
    return framed({"at": at, "do": do, "made": outcome(alignment, changed)}, chain)


def outcome(alignment: Alignment, changed: range) -> int:
    """A checksum over the ends of what a step changed, cheap enough for every key."""
    ends = [alignment.rows[index] for index in (changed[0], changed[-1])] if changed else []
    bench = alignment.bench
    benched: list[Any] = [len(bench), bench[:1], bench[-1:]]
    if alignment.accepted:
        benched.append([len(alignment.accepted), min(alignment.accepted), max(alignment.accepted)])
    seen = [len(changed), changed.start, rows_to_json(ends), *benched]
    return zlib.crc32(json.dumps(seen).encode())


def lines_of(content: bytes) -> Iterator[tuple[dict[str, Any], int, int]]:
    """Every whole line's JSON, its checksum and where it ends; what is torn off is left out.

    Raises:
        MalformedError: A line is damaged.
    """
    chain = start = 0
    while (stop := content.find(b"\n", start)) >= 0:
        digits, text = content[start : start + _DIGITS], content[start + _DIGITS + 1 : stop]
        chain = zlib.crc32(text, chain)
        if digits != b"%0*x" % (_DIGITS, chain) or content[start + _DIGITS] != ord(" "):
            raise MalformedError("a line is not what its checksum says")
        start = stop + 1
        yield object_of(json.loads(text.decode())), chain, start


def read_header(content: bytes) -> Header | None:
    """Read a journal's header; None if it does not even hold that.

    Raises:
        MalformedError: It is damaged, or of a version not known here.
        KeyError: Something is missing.
    """
    first = next(lines_of(content), None)
    return None if first is None else header_of(first[0])


def header_of(node: dict[str, Any]) -> Header:
    """The header that a first line's JSON stands for.

    Raises:
        MalformedError: It is none, or of a version not known here.
        KeyError: Something is missing.
    """
    if node.get("format") != FORMAT:
        raise MalformedError("it is no journal")
    if node.get("version") != VERSION:
        raise MalformedError(f"it is of version {node.get('version')!r}, this reads {VERSION}")
    return Header(
        end_from_json(object_of(node["source"]), "entries"),
        end_from_json(object_of(node["target"]), "leaves"),
        string_of(node["pair"]),
        tuple(string_of(file) for file in list_of(node["files"])),
        string_of(node["program"]),
        size_of(node["before"]),
    )


class Replayed(Struct, frozen=True):
    """The result of replaying a journal.

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


@gc_paused()
def replay(
    content: bytes, name: str, pair: str, state_dict: StateDict, skeleton: Skeleton
) -> Replayed | None:
    """Replay a journal. An incomplete last line is ignored.

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
        numbering = state_dict.numbering
        last, earlier = (
            _placed_from_json(object_of(second[0][name]), numbering) for name in ("last", "earlier")
        )
        start = Alignment.of(
            rows_from_json(second[0], numbering).remembering(last, earlier),
            tuple(string_of(key) for key in list_of(second[0]["bench"])),
            numbering,
            skeleton.layers,
            frozenset(string_of(key) for key in list_of(second[0].get("accepted", []))),
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
    history, numbering = History(), state_dict.numbering
    steps = last = size = chain = 0
    for node, line_chain, stop in lines:
        match node["do"]:
            case "undo":
                alignment, changed = history.undo(alignment)
            case "redo":
                alignment, changed = history.redo(alignment)
            case do:
                alignment, changed = history.make(alignment, edit_from_json(do, numbering))
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
    rows, bench = alignment.rows, set(alignment.bench)
    names: list[str] = rows.numbering.keys
    used: list[int] = rows.numbering.read_by(np.unique(rows.sources)).tolist()
    whole = (
        len(rows) == len(skeleton)
        and len(bench) == len(alignment.bench)
        and len(used) + len(bench) == len(state_dict)
        and all(key in state_dict for key in bench)
        and bench.isdisjoint(names[number] for number in used)
    )
    if not whole:
        raise MalformedError(_OTHER_ROWS)


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
    header = structs.replace(found.header, before=found.header.before + len(history))
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
