"""Ports written as tables: a line per leaf, with the entry it comes from and what is done to it.

`entry shape -> leaf shape transform` in words of `tests.benchmarks.alignment_pairs`; `-` stands for
no entry or no leaf. Of a run of lines with `#` there are as many as blocks, `#` being 0, 1 … and
`%` being 1, 2 …; `@` in an entry stands for all of 0, 1 … at once, several entries are joined by
commas. A first line `many 4` says how many `@` stands for; 3 of them and 3 blocks otherwise. An
empty line parts two runs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from s2p_tui.alignment.transform import Expr, Shape, keys_of, rename
from tests.benchmarks.alignment_pairs import Pair, Tensor, parse

_BLOCKS = 3
_TABLES = Path(__file__).parent / "tables"
_STEP = re.compile(r"\['([^']*)'\]|\[(\d+)\]|\.([^.\[]+)")


def ports() -> list[Pair]:
    """All pairs in `tables`, by file name."""
    return [port(file.stem, file.read_text()) for file in sorted(_TABLES.glob("*.txt"))]


def unclear_ports() -> list[Pair]:
    """Pairs of which the names alone do not settle every row."""
    return [port(file.stem, file.read_text()) for file in sorted(_TABLES.glob("unclear/*.txt"))]


def lacking(pair: Pair, gone: Collection[str]) -> Pair:
    """The pair without these entries; what is made of them is made of nothing."""
    return replace(
        pair,
        source=tuple(tensor for tensor in pair.source if tensor.name not in gone),
        truth=tuple(
            None if expr is None or not set(keys_of(expr)).isdisjoint(gone) else expr
            for expr in pair.truth
        ),
    )


def renamed(pair: Pair, names: Mapping[str, str]) -> Pair:
    """The pair with entries under other names, by their names."""
    return replace(
        pair,
        source=tuple(replace(tensor, name=names[tensor.name]) for tensor in pair.source),
        truth=tuple(expr and rename(expr, names) for expr in pair.truth),
        tied={names[name]: names[first] for name, first in pair.tied.items()},
    )


def port(name: str, table: str) -> Pair:
    """A pair from a table; leaves in dicts are sorted by key, as JAX does."""
    entries: dict[str, Tensor] = {}
    leaves: list[tuple[Tensor, Expr | None]] = []
    many = 3
    for line in _lines(table.strip().splitlines()):
        if line.startswith("many "):
            many = int(line.removeprefix("many "))
            continue
        left, _, right = (part.strip() for part in line.partition("->"))
        takes = [] if left == "-" else list(_entries(left, many))
        for tensor in takes:
            assert entries.setdefault(tensor.name, tensor) == tensor, line
        if right == "-":
            continue
        path, shape, *how = right.split()
        size = _shape(shape)
        truth = parse(how[0] if how else "identity", takes, size) if takes else None
        leaves.append((Tensor(path, size, "float32"), truth))
    if "['" in leaves[0][0].name:
        leaves.sort(key=lambda leaf: _order(leaf[0].name))
    return Pair(
        name,
        name,
        tuple(entries.values()),
        tuple(leaf for leaf, _ in leaves),
        tuple(truth for _, truth in leaves),
        {key: key for key in entries},
    )


def _lines(lines: list[str]) -> Iterator[str]:
    run: list[str] = []
    for line in (*lines, ""):
        if "#" in line:
            run.append(line)
            continue
        for n in range(_BLOCKS if run else 0):
            for each in run:
                yield each.replace("#", str(n)).replace("%", str(n + 1))
        run = []
        if line.strip():
            yield line


def _entries(text: str, many: int) -> Iterator[Tensor]:
    names, shape = text.split()
    for name in names.split(","):
        for n in range(many if "@" in name else 1):
            yield Tensor(name.replace("@", str(n)), _shape(shape), "float32")


def _shape(text: str) -> Shape:
    return () if text == "()" else tuple(int(size) for size in text.split("x"))


def _order(path: str) -> tuple[str | int, ...]:
    return tuple(int(n) if n else key or name for key, n, name in _STEP.findall(path))
