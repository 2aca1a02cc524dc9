"""Recipe files: `{"format": "s2p-recipe", "version": 1, "name", "source", "target", "rows"}`.

`source` and `target` describe what it was made from, as in a mapping file. A row holds `path` and
`sources` with numbers in braces (`recipe.Term`), then what a mapping's row holds, and `owner`, the
class of its layer. `lists`, `accepted` and `bench` are there if they hold something.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast, get_args

from s2p_tui.alignment.alignment import Author
from s2p_tui.alignment.mapping_file import end_from_json, end_to_json
from s2p_tui.alignment.recipe import Name, Pattern, Recipe, fixed_number, name_of, number_of
from s2p_tui.alignment.transform import from_json
from s2p_tui.alignment.untrusted import (
    MalformedError,
    list_of,
    object_of,
    parse_json,
    size_of,
    string_of,
    why_malformed,
)
from s2p_tui.errors import Code, Hint, InputError

FORMAT = "s2p-recipe"
VERSION = 1


def to_text(recipe: Recipe) -> str:
    """The recipe file's content, one pattern a line."""
    head: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "name": recipe.name,
        "source": end_to_json(recipe.source, "entries"),
        "target": end_to_json(recipe.target, "leaves"),
    }
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    rows = ",\n".join("  " + json.dumps(_row_to_json(pattern)) for pattern in recipe.patterns)
    lines.append(f' "rows": [\n{rows}\n ]')
    more = {
        "lists": dict(recipe.lists),
        "accepted": [str(name) for name in recipe.accepted],
        "bench": recipe.bench,
    }
    lines += [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in more.items() if value]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _row_to_json(pattern: Pattern) -> dict[str, Any]:
    node: dict[str, Any] = {
        "path": str(pattern.path),
        "sources": [str(source) for source in pattern.sources],
    }
    if pattern.transform is not None:
        node["transform"] = pattern.transform
    for name in ("gap", "fixed", "trusted"):
        if getattr(pattern, name):
            node[name] = True
    node["by"] = pattern.by
    if why := str(pattern.why):
        node["why"] = why
    return node | ({"owner": pattern.owner} if pattern.owner else {})


def from_text(text: str, name: str) -> Recipe:
    """Inverse of `to_text`.

    Args:
        text: The file's content.
        name: What to call the file in messages.

    Raises:
        InputError: It is no recipe file, or of a version not known here.
    """
    try:
        data = object_of(parse_json(text.encode()))
        if data.get("format") != FORMAT:
            raise MalformedError('it has no "format": "s2p-recipe"')
        if data.get("version") != VERSION:
            raise MalformedError(f"it is of version {data.get('version')!r}, this reads {VERSION}")
        bench = data.get("bench")
        lists = object_of(data.get("lists", {}))
        return Recipe(
            end_from_json(object_of(data["source"]), "entries"),
            end_from_json(object_of(data["target"]), "leaves"),
            tuple(_row_from_json(object_of(node)) for node in list_of(data["rows"])),
            tuple(name_of(string_of(key)) for key in list_of(data.get("accepted", []))),
            None if bench is None else tuple(string_of(key) for key in list_of(bench)),
            {place: size_of(size) for place, size in lists.items()},
            string_of(data["name"]),
        )
    except (ValueError, KeyError, RecursionError) as error:
        raise InputError(
            f"{name} is not a usable recipe file: {why_malformed(error)}.",
            Hint(Code.SAVED_RECIPE),
        ) from None


def _row_from_json(node: Mapping[str, Any]) -> Pattern:
    path = name_of(string_of(node["path"]))
    for number in path.numbers:
        term = number[0]
        is_plain = (term.scale, term.offset, term.unit, term.divisor) == (1, 0, "", 1)
        if len(number) > 1 or (fixed_number(number) is None and not is_plain):
            raise MalformedError(f"{path} captures more than numbers")
    if len(set(path.numbers)) != len(path.numbers) and _repeats(path):
        raise MalformedError(f"{path} captures one number twice")
    sources = tuple(name_of(string_of(source)) for source in list_of(node["sources"]))
    by = node.get("by", "user")
    if by not in get_args(Author):
        raise MalformedError(f"{by!r} is not an author")
    transform, gap = node.get("transform"), node.get("gap") is True
    if transform is None and len(sources) > 1:
        raise MalformedError(f"row {path} has several sources and no transform")
    if gap and (sources or transform is not None):
        raise MalformedError(f"row {path} is a gap and has sources")
    if transform is not None:
        _check(transform, sources)
    return Pattern(
        path,
        sources,
        transform,
        gap,
        cast("Author", by),
        name_of(string_of(node.get("why", ""))),
        node.get("trusted") is True,
        node.get("fixed") is True,
        string_of(node.get("owner", "")),
    )


def _repeats(path: Name) -> bool:
    variables = [number[0].variable for number in path.numbers if fixed_number(number) is None]
    return len(set(variables)) != len(variables)


def _check(node: Any, sources: tuple[Name, ...]) -> None:
    """Make sure that a transform is one of a mapping file, numbers and repeated stacks aside.

    Raises:
        MalformedError: It is not.
    """
    if type(node) is int:
        if not 0 <= node < len(sources):
            raise MalformedError(f"a transform refers to source {node}, it has {len(sources)}")
        return
    step = dict(object_of(node))
    if "each" in step:
        if set(step) != {"op", "axis", "each", "over", "start", "step"} or step["op"] != "stack":
            raise MalformedError(f"{step!r:.80} repeats no stack")
        string_of(step["over"])
        if not size_of(step["step"]):
            raise MalformedError("a stack runs over one number")
        size_of(step["start"])
        _check(step["each"], sources)
        return
    of = step.get("of", [])
    for operand in cast("list[Any]", of) if isinstance(of, list) else [of]:
        _check(operand, sources)
    for name in ("start", "stop"):
        if name in step:
            number_of(string_of(step[name]))
            step[name] = 0
    if "shape" in step:
        for size in list_of(step["shape"]):
            number_of(string_of(size))
        step["shape"] = []
    if "of" in step:
        step["of"] = [0] * len(cast("list[Any]", of)) if isinstance(of, list) else 0
    from_json(step, [""])
