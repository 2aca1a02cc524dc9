"""Edits and rows as JSON values, exactly and in few bytes: what a journal's lines hold.

An edit is a list, its name first. Rows come as `{"rows": [...], "why": [...]}`: one list a row, of
its author's place in `Author`, its reason's place in `why`, the bits of `gap`, `trusted` and
`fixed`, and its source: null, a key, or `{"sources", "transform"}` as in a mapping file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, get_args

from s2p_tui.core.edits import (
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
from s2p_tui.core.rows import EMPTY, Author, Row
from s2p_tui.core.transform import Expr, Take, from_json, to_json
from s2p_tui.core.untrusted import MalformedError, list_of, object_of, size_of, string_of

_AUTHORS: tuple[Author, ...] = get_args(Author)
_AUTHOR_PLACES = {author: place for place, author in enumerate(_AUTHORS)}
_GAP, _TRUSTED, _FIXED = 1, 2, 4


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


def rows_from_json(node: Any) -> tuple[Row, ...]:
    """Inverse of `rows_to_json`.

    Raises:
        MalformedError: The JSON is not such rows.
    """
    whole = object_of(node)
    why = [string_of(reason) for reason in list_of(whole.get("why"))]
    return tuple(_row(list_of(row), why) for row in list_of(whole.get("rows")))


def _row(node: list[Any], why: Sequence[str]) -> Row:
    if len(node) != 4:
        raise MalformedError(f"a row has {len(node)} values")
    by, reason, bits = (size_of(number) for number in node[:3])
    if by >= len(_AUTHORS) or reason >= len(why) or bits > _GAP | _TRUSTED | _FIXED:
        raise MalformedError(f"{node[:3]!r} does not begin a row")
    row = Row(
        _source_from_json(node[3]),
        bool(bits & _GAP),
        _AUTHORS[by],
        why[reason],
        bool(bits & _TRUSTED),
        bool(bits & _FIXED),
    )
    if row.gap and row.source is not None:
        raise MalformedError("a row is a gap and has a source")
    return EMPTY if row == EMPTY else row


def _source_from_json(node: Any) -> Expr | None:
    if node is None:
        return None
    if isinstance(node, str):
        return Take(node)
    whole = object_of(node)
    keys = [string_of(key) for key in list_of(whole.get("sources"))]
    return from_json(whole.get("transform"), keys)


def edit_to_json(edit: Edit) -> list[Any]:
    """An edit as a JSON list."""
    name = type(edit).__name__
    match edit:
        case SetRows(rows):
            return [name, [place for place, _ in rows], rows_to_json([row for _, row in rows])]
        case Several(edits):
            return [name, [edit_to_json(part) for part in edits]]
        case _:
            return [name, *(getattr(edit, attribute.name) for attribute in fields(edit))]


def edit_from_json(node: Any) -> Edit:
    """Inverse of `edit_to_json`.

    Raises:
        MalformedError: The JSON is not an edit.
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
            return SendToBench(_places(rows))
        case ["PlaceFromBench", key, row, bool(shift)]:
            return PlaceFromBench(string_of(key), size_of(row), shift)
        case ["SetRows", places, rows]:
            contents = rows_from_json(rows)
            if len(_places(places)) != len(contents):
                raise MalformedError("rows are set at another number of places")
            return SetRows(tuple(zip(_places(places), contents, strict=True)))
        case ["Trust", rows, bool(trusted)]:
            return Trust(_places(rows), trusted)
        case ["Several", edits]:
            return Several(tuple(edit_from_json(part) for part in list_of(edits)))
        case _:
            raise MalformedError(f"{node!r:.60} is not an edit")


def _places(node: Any) -> tuple[int, ...]:
    return tuple(size_of(place) for place in list_of(node))
