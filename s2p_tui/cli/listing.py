"""Listing what a file holds, without reading tensor data."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.transform import describe as in_words
from s2p_tui.alignment.transform import show
from s2p_tui.errors import InputError, one_line, printable
from s2p_tui.formats.base import Checkpoint
from s2p_tui.formats.chunks import PYTREE, find_manifest
from s2p_tui.formats.orbax import is_orbax, open_orbax
from s2p_tui.formats.registry import CHECKPOINT_KINDS, Place, kind_of, open_checkpoint, open_target
from s2p_tui.formats.remote.address import located
from s2p_tui.formats.skeleton_file import Target
from s2p_tui.formats.sniff import KIND_NAMES
from s2p_tui.session.opening import load_mapping, open_any_target
from s2p_tui.session.recipes import load_recipe

_LONGEST_CELL = 300
_LONGEST_NOTE = 2000


@dataclass(frozen=True)
class Listing:
    """A file's content as a table.

    Attributes:
        title: One line about the whole.
        columns: Names of the columns.
        rows: The cells, as text.
        data: The same as JSON values.
        notes: Further remarks, a line each.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    data: dict[str, Any]
    notes: tuple[str, ...] = ()

    def as_lines(self) -> Iterator[str]:
        """Yield the table with aligned columns, names as inert text."""
        table = [self.columns, *(tuple(map(_cell, row)) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        yield printable(self.title)
        for row in table:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            yield "  ".join(cells).rstrip()
        yield from (one_line(note, _LONGEST_NOTE) for note in self.notes)

    def as_json(self) -> str:
        """Return one JSON object."""
        return json.dumps(self.data)


def _cell(text: str) -> str:
    """Inert text; of a name without end, both ends, as every row is as wide as the widest."""
    return one_line(text, _LONGEST_CELL)


def describe(path: str | Path, key: str | None = None, *, allow_missing: bool = False) -> Listing:
    """List a checkpoint, skeleton, mapping, recipe, chunk folder or Orbax checkpoint, or a factory.

    Args:
        path: The file, `pkg.module:factory` (runs its code), the folder of a sharded checkpoint or
            of chunks, or the address of a checkpoint.
        key: Dotted place of the state dict in a nested checkpoint.
        allow_missing: Leave out entries that an index promises and no shard holds.

    Raises:
        S2PError: It cannot be read, or is of another kind.
    """
    place = located(path)
    if isinstance(place, Path) and ":" in place.name and not os.path.exists(place):
        return _leaves(open_any_target(str(place), None), str(place), "factory")
    if isinstance(place, Path) and is_orbax(place):
        return _entries(open_orbax(str(place), {}), str(place), "Orbax checkpoint", "arrays")
    kind = kind_of(place)
    if kind in CHECKPOINT_KINDS:
        return _checkpoint(place, kind, key, allow_missing)
    if not isinstance(place, Path):
        raise InputError(
            f"{place} is {KIND_NAMES[kind]}, and of addresses only checkpoints are read.",
            "Download it, and give the file.",
        )
    path = place
    if kind == "mapping":
        return _mapping(path)
    if kind == "recipe":
        return _recipe(path)
    return _target(path, kind)


def _checkpoint(path: Place, kind: str, key: str | None, allow_missing: bool) -> Listing:
    checkpoint = open_checkpoint(path, key, allow_missing=allow_missing)
    notes = checkpoint.notes
    if (
        kind == "chunks"
        and isinstance(path, Path)
        and path.is_dir()
        and find_manifest(path, PYTREE) is not None
    ):
        notes = (*notes, f"it holds a pytree too, which {path / PYTREE.holds} lists")
    return _entries(checkpoint, str(path), checkpoint.kind or kind, "entries", notes)


def _entries(
    checkpoint: Checkpoint, name: str, kind: str, what: str, notes: tuple[str, ...] = ()
) -> Listing:
    entries = checkpoint.state_dict.entries
    place = f", state dict at {checkpoint.key!r}" if checkpoint.key else ""
    title = f"{name}: {kind}, {len(entries)} {what}, {checkpoint.size:,} bytes{place}"
    rows = [(entry.key, show(entry.shape), entry.dtype) for entry in entries]
    data = {
        "file": name,
        "kind": kind,
        "key": checkpoint.key,
        "entries": [
            {"key": entry.key, "shape": entry.shape, "dtype": entry.dtype} for entry in entries
        ],
        "notes": notes,
    }
    return Listing(title, ("key", "shape", "dtype"), rows, data, notes)


def _target(path: Path, kind: str) -> Listing:
    return _leaves(open_target(path), str(path), kind)


def _leaves(target: Target, name: str, kind: str) -> Listing:
    leaves = target.skeleton.leaves
    title = f"{name}: {kind}, {len(leaves)} leaves, {target.size:,} bytes"
    rows = [
        (
            leaf.path,
            show(leaf.shape),
            leaf.dtype,
            leaf.kind if leaf.has_value else f"{leaf.kind}, no value",
            leaf.owner or "",
        )
        for leaf in leaves
    ]
    data = {
        "file": name,
        "kind": kind,
        "leaves": [
            {
                "path": leaf.path,
                "shape": leaf.shape,
                "dtype": leaf.dtype,
                "kind": leaf.kind,
                "owner": leaf.owner,
                "config": dict(leaf.config),
                "value": leaf.has_value,
            }
            for leaf in leaves
        ],
    }
    return Listing(title, ("path", "shape", "dtype", "kind", "owner"), rows, data)


def _taken(row: Row) -> str:
    if row.source is None:
        return "(gap)" if row.gap else "(nothing yet)"
    return ", ".join(row.keys)


def _mapping(path: Path) -> Listing:
    mapping = load_mapping(path)
    title = f"{path}: mapping of {mapping.source.file} to {mapping.target.file}"
    rows = [
        (
            leaf,
            _taken(row),
            in_words(row.source) if row.source is not None else "",
            row.by,
            row.why,
        )
        for leaf, row in mapping.rows
    ]
    notes = (f"unused: {', '.join(mapping.bench)}",) if mapping.bench else ()
    data = json.loads(path.read_text(encoding="utf-8"))
    return Listing(title, ("path", "sources", "transform", "by", "why"), rows, data, notes)


def _recipe(path: Path) -> Listing:
    recipe = load_recipe(path)
    title = f"{path}: recipe {recipe.name}, {len(recipe.patterns)} patterns"
    rows = [
        (
            str(one.path),
            ", ".join(map(str, one.sources)) or ("(gap)" if one.gap else "(nothing)"),
            _pattern_in_words(one.transform),
            one.by,
            one.owner,
        )
        for one in recipe.patterns
    ]
    made_from = f"made from {recipe.source.file} and {recipe.target.file}"
    accepted = ", ".join(map(str, recipe.accepted))
    notes = (made_from, *([f"unused: {accepted}"] if accepted else []))
    data = {"file": str(path), "kind": "recipe", **json.loads(path.read_text(encoding="utf-8"))}
    return Listing(title, ("path", "sources", "transform", "by", "owner"), rows, data, notes)


def _pattern_in_words(node: Any) -> str:
    """Return the steps of a recipe's transform, the first one first."""
    if not isinstance(node, dict):
        return ""
    step = cast("dict[str, Any]", node)
    of: Any = step.get("each", step.get("of"))
    operands: list[Any] = [of]
    if isinstance(of, list):
        operands = cast("list[Any]", of)
    steps = [_pattern_in_words(one) for one in operands]
    before: dict[str, None] = {words: None for words in steps if words}
    facts = [
        f"{name} {_fact_in_words(value)}"
        for name, value in step.items()
        if name not in ("op", "of", "each")
    ]
    own = " ".join([str(step.get("op")), *facts])
    return ", then ".join([*before, own])


def _fact_in_words(value: Any) -> str:
    if isinstance(value, list):
        return f"({', '.join(map(_fact_in_words, cast('list[Any]', value)))})"
    return str(value)
