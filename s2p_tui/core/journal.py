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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from s2p_tui.core.alignment import Alignment
from s2p_tui.core.edit_json import edit_to_json, rows_to_json
from s2p_tui.core.edits import Edit
from s2p_tui.core.mapping import End, end_from_json, end_to_json
from s2p_tui.core.pytree import Skeleton
from s2p_tui.core.untrusted import MalformedError, list_of, object_of, size_of, string_of

FORMAT = "s2p-journal"
VERSION = 2
_DIGITS = 8

Step = Edit | Literal["undo", "redo"]


@dataclass(frozen=True, slots=True)
class Header:
    """What a journal is about.

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
    second, chain = framed({**rows_to_json(start.rows), "bench": start.bench}, chain)
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
    ends = [alignment.rows[place] for place in (changed[0], changed[-1])] if changed else []
    bench = alignment.bench
    seen = [len(changed), changed.start, rows_to_json(ends), len(bench), bench[:1], bench[-1:]]
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
        yield object_of(json.loads(text)), chain, start


def read_header(content: bytes) -> Header | None:
    """What a journal is about; None if it does not even hold that.

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
