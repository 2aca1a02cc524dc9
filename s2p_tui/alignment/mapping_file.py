"""Mapping files: an alignment on disk, replayable without the terminal app.

JSON: `{"format": "s2p-mapping", "version": 1, "source", "target", "rows", "bench"}`, and
`accepted`, the keys on the bench that the user accepted as unused, if there are any. `source` and
`target` hold the file's name and size and the digest of its names, shapes and dtypes; `target` also
one per class of layers, which changes with their paths and settings. `entries` and `leaves` hold
dtype, shape and layer class of each, so that files that differ in nothing the mapping uses are
known as the same (`mapping_ends`); mappings of 0.1.0 have neither. A row holds `path`, then
`sources` (state-dict keys) and, if it is not a plain copy, `transform` (entries given by their
index into `sources`); or `"gap": true`; and `why`, `by`, `trusted`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, cast, get_args

from msgspec import Struct, structs
from msgspec import field as other_field

from s2p_tui.alignment.alignment import Alignment, Author, Row, Rows
from s2p_tui.alignment.layer_rules import as_layer_needs
from s2p_tui.alignment.mapping_ends import (
    Comparison,
    Kind,
    Kinds,
    compare_entries,
    compare_leaves,
    kinds_from_json,
    kinds_of,
    kinds_of_leaves,
    kinds_to_json,
)
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import Take, from_json, shape_of, show, to_json
from s2p_tui.alignment.untrusted import (
    MalformedError,
    list_of,
    object_of,
    parse_json,
    size_of,
    string_of,
    why_malformed,
)
from s2p_tui.errors import Code, Hint, InputError, OtherFilesError, TransformError

FORMAT = "s2p-mapping"
VERSION = 1
_DIFFERENCES_SHOWN = 4


class End(Struct, frozen=True):
    """One end of a mapping.

    Attributes:
        file: Its file's name.
        size: Its size in bytes.
        digest: The digest of its names, shapes and dtypes.
        count: Its entries or leaves.
        classes: Of a skeleton the digest of each class of layers, see `Skeleton`.
    """

    file: str
    size: int
    digest: str
    count: int
    classes: Mapping[str, str] = other_field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class SavedAlignment:
    """A mapping file's content.

    Attributes:
        source: The checkpoint it was made for.
        target: The skeleton it was made for.
        rows: Leaf key path and row, in leaf order.
        bench: Keys no row uses.
        accepted: Keys of these that the user accepted as unused.
        entries: The kinds of the checkpoint's entries; none if that is not known.
        leaves: The kinds of the skeleton's leaves; none if that is not known.
        name: What to call it in messages.
    """

    source: End
    target: End
    rows: tuple[tuple[str, Row], ...]
    bench: tuple[str, ...]
    accepted: tuple[str, ...] = ()
    entries: Kinds = field(default_factory=dict[str, Kind])
    leaves: Kinds = field(default_factory=dict[str, Kind])
    name: str = field(default="the mapping", compare=False)


class Replayed(Struct, frozen=True):
    """The alignment a mapping stands for over some files.

    Attributes:
        alignment: The alignment.
        told: Differences between these files and those it was made for, in words.
    """

    alignment: Alignment
    told: tuple[str, ...] = ()


def to_text(mapping: SavedAlignment) -> str:
    """The mapping file's content, one row a line."""
    head: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    for name, end, unit in (
        ("source", mapping.source, "entries"),
        ("target", mapping.target, "leaves"),
    ):
        head[name] = end_to_json(end, unit)
    lines = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    rows = ",\n".join("  " + json.dumps(_row_to_json(path, row)) for path, row in mapping.rows)
    more = [f' "accepted": {json.dumps(mapping.accepted)},'] if mapping.accepted else []
    for name, kinds in (("entries", mapping.entries), ("leaves", mapping.leaves)):
        if kinds:
            items = kinds_to_json(kinds).items()
            listed = ",\n".join(f"  {json.dumps(key)}: {json.dumps(kind)}" for key, kind in items)
            more += [f' "{name}": {{', listed, " },"]
    bench = f' "bench": {json.dumps(mapping.bench)}'
    return "\n".join(["{", *lines, ' "rows": [', rows, " ],", *more, bench, "}", ""])


def end_to_json(end: End, unit: str) -> dict[str, Any]:
    """One end as JSON values, its items counted in entries or leaves."""
    node = {"file": end.file, "size": end.size, unit: end.count, "digest": end.digest}
    return node | ({"classes": dict(end.classes)} if end.classes else {})


def _row_to_json(path: str, row: Row) -> dict[str, Any]:
    node: dict[str, Any] = {"path": path, "sources": list(row.keys)}
    if row.source is not None and not isinstance(row.source, Take):
        node["transform"] = to_json(row.source, row.keys)
    for name in ("gap", "fixed", "trusted"):
        if getattr(row, name):
            node[name] = True
    return node | {"by": row.by} | ({"why": row.why} if row.why else {})


def from_text(text: str, name: str) -> SavedAlignment:
    """Inverse of `to_text`.

    Args:
        text: The file's content.
        name: What to call the file in messages.

    Raises:
        InputError: It is not a mapping file, or of a version not known here.
    """
    try:
        data = object_of(parse_json(text.encode()))
        if data.get("format") != FORMAT:
            raise MalformedError('it has no "format": "s2p-mapping"')
        if data.get("version") != VERSION:
            raise MalformedError(f"it is of version {data.get('version')!r}, this reads {VERSION}")
        rows = tuple(_row_from_json(object_of(node)) for node in list_of(data["rows"]))
        bench = tuple(string_of(key) for key in list_of(data["bench"]))
        accepted = tuple(string_of(key) for key in list_of(data.get("accepted", [])))
        return SavedAlignment(
            end_from_json(object_of(data["source"]), "entries"),
            end_from_json(object_of(data["target"]), "leaves"),
            rows,
            bench,
            accepted,
            kinds_from_json(data.get("entries", {})),
            kinds_from_json(data.get("leaves", {})),
            name,
        )
    except (ValueError, KeyError, RecursionError) as error:
        raise InputError(
            f"{name} is not a usable mapping file: {why_malformed(error)}.",
            Hint(Code.SAVED_MAPPING),
        ) from None


def end_from_json(node: Mapping[str, Any], unit: str) -> End:
    """Inverse of `end_to_json`.

    Raises:
        MalformedError: The JSON is not an end.
        KeyError: Something is missing.
    """
    file, digest = string_of(node["file"]), string_of(node["digest"])
    known = object_of(node.get("classes", {}))
    classes = {string_of(name): string_of(value) for name, value in known.items()}
    return End(file, size_of(node["size"]), digest, size_of(node[unit]), classes)


def _row_from_json(node: Mapping[str, Any]) -> tuple[str, Row]:
    sources = [string_of(key) for key in list_of(node["sources"])]
    by = node.get("by", "user")
    if by not in get_args(Author):
        raise MalformedError(f"{by!r} is not an author")
    if "transform" in node:
        source = from_json(node["transform"], sources)
    else:
        source = Take(sources[0]) if len(sources) == 1 else None
        if len(sources) > 1:
            raise MalformedError(f"row {node['path']!r} has several sources and no transform")
    gap = node.get("gap") is True
    if gap and source is not None:
        raise MalformedError(f"row {node['path']!r} is a gap and has sources")
    row = Row(
        source,
        gap,
        cast("Author", by),
        string_of(node.get("why", "")),
        node.get("trusted") is True,
        node.get("fixed") is True,
    )
    return string_of(node["path"]), row


def replay(mapping: SavedAlignment, state_dict: StateDict, skeleton: Skeleton) -> Alignment:
    """The alignment a mapping stands for; see `replayed`.

    Raises:
        OtherFilesError: Either end is not what the mapping was made for.
    """
    return replayed(mapping, state_dict, skeleton).alignment


def replayed(mapping: SavedAlignment, state_dict: StateDict, skeleton: Skeleton) -> Replayed:
    """The alignment a mapping stands for, over files that hold what it uses, and what differs.

    Rows that the user accepted although they were doubtful, and entries accepted as unused, have
    to be accepted again where they are of another kind than they were.

    Raises:
        OtherFilesError: Either end is not what the mapping was made for.
    """
    compared = [
        _compared("checkpoint", mapping, state_dict),
        _compared("skeleton", mapping, skeleton),
    ]
    problems = [problem for one in compared for problem in one.problems]
    problems = problems or _class_problems(mapping.target.classes, skeleton.classes)
    paths = {path for path, _ in mapping.rows}
    problems += [(leaf.path, "not in the mapping") for leaf in skeleton if leaf.path not in paths]
    others = bool(problems)
    named = {where for where, _ in problems}
    for path, row in mapping.rows:
        found = _row_problems(path, row, state_dict, skeleton, sizes=others)
        problems += [(path, why) for why in found if path not in named]
    if not problems and [path for path, _ in mapping.rows] != [leaf.path for leaf in skeleton]:
        problems.append(("skeleton", "a leaf is named twice in the mapping"))
    if problems:
        shown = "; ".join(f"{where}: {why}" for where, why in problems[:_DIFFERENCES_SHOWN])
        more = len(problems) - _DIFFERENCES_SHOWN
        raise OtherFilesError(
            f"{mapping.name} was made for other files: {shown}{f'; and {more} more' * (more > 0)}.",
            problems,
            Hint(Code.OTHER_FILES),
        )
    changed = compared[0].changed | compared[1].changed
    pairs = zip(skeleton, mapping.rows, strict=True)
    wanted = (
        _without_rule(leaf, _kept(path, row, changed), state_dict) for leaf, (path, row) in pairs
    )
    rows = Rows.of(wanted, state_dict.numbering)
    used = set(rows.keys)
    known = (key for key in mapping.bench if key in state_dict)
    order = dict.fromkeys((*known, *(entry.key for entry in state_dict)))
    bench = tuple(key for key in order if key not in used)
    accepted = [key for key in mapping.accepted if key not in changed]
    alignment = Alignment.of(rows, bench, state_dict.numbering, skeleton.layers, accepted)
    return Replayed(alignment, (*compared[0].told, *compared[1].told))


def _compared(unit: str, mapping: SavedAlignment, end: StateDict | Skeleton) -> Comparison:
    """Compare one end with that a mapping was made for."""
    made_for = mapping.source if isinstance(end, StateDict) else mapping.target
    if made_for.digest == end.digest:
        return Comparison()
    if isinstance(end, StateDict) and mapping.entries:
        used = {key for _, row in mapping.rows for key in row.keys}
        return compare_entries(mapping.entries, kinds_of(end), used)
    if isinstance(end, Skeleton) and mapping.leaves:
        return compare_leaves(mapping.leaves, kinds_of_leaves(end))
    why = f"made for {made_for.file} with {made_for.count}, this one has {len(end)}"
    return Comparison(((unit, why),))


def _kept(path: str, row: Row, changed: frozenset[str]) -> Row:
    """The row as it was saved, but for trust in what is of another kind now."""
    is_other = changed and not changed.isdisjoint((path, *row.keys))
    if is_other and row.by == "forward":
        return structs.replace(row, by="moved", why="")
    return structs.replace(row, trusted=False) if is_other and row.trusted else row


def _without_rule(leaf: Leaf, row: Row, state_dict: StateDict) -> Row:
    """The row as the user made it, where its source is only what the layer's rule makes of it.

    So that an entry moved on to another layer does not take the rule along.
    """
    if row.source is None or isinstance(row.source, Take) or len(row.keys) != 1:
        return row
    (key,) = row.keys
    ruled = as_layer_needs(leaf, key, state_dict.shape(key)) == row.source
    return structs.replace(row, source=Take(key)) if ruled else row


def _class_problems(made_for: Mapping[str, str], found: Mapping[str, str]) -> list[tuple[str, str]]:
    """Classes of layers that are not as they were; of mappings that tell nothing of them, none."""
    if not made_for or not found:
        return []
    why = "other layers are of this class, or its settings are others, than when it was made"
    return [
        (name, why) for name in sorted({*made_for, *found}) if made_for.get(name) != found.get(name)
    ]


def _row_problems(
    path: str, row: Row, state_dict: StateDict, skeleton: Skeleton, *, sizes: bool
) -> list[str]:
    if path not in skeleton:
        return ["not in the skeleton"]
    missing = [key for key in row.keys if key not in state_dict]
    if missing or row.source is None or not sizes:
        # Work in progress may hold rows that do not fit yet; files it was not made for may not.
        return [f"its source {key} is not in the checkpoint" for key in missing]
    leaf = skeleton[skeleton.index(path)]
    try:
        shape = shape_of(row.source, state_dict.shape)
    except TransformError as error:
        return [error.message]
    if prod(shape) == prod(leaf.shape):
        return []
    return [f"expected {show(leaf.shape)}, its source gives {show(shape)}"]
