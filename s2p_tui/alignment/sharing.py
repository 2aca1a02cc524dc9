"""Entries that several rows share, each taking a part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from math import prod

from msgspec import Struct

from s2p_tui.alignment.alignment import Alignment, Row, Rows
from s2p_tui.alignment.choices import MOST, alike, laid_out
from s2p_tui.alignment.edits import SetRows
from s2p_tui.alignment.fit import Fit, Verdict
from s2p_tui.alignment.judge import judge
from s2p_tui.alignment.layer_rules import rule_applied
from s2p_tui.alignment.layouts import ways
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import (
    Expr,
    Reshape,
    Shape,
    Split,
    Take,
    describe,
    nodes_of,
    operands,
    shape_of,
)


class Division(Struct, frozen=True):
    """One way to cut an entry into the parts that fill several leaves.

    Attributes:
        exprs: What each leaf takes, in the leaves' order.
        words: What is done, for people.
        verdict: That of the row that fits worst.
    """

    exprs: tuple[Expr, ...]
    words: str
    verdict: Verdict


def divisions(leaves: Sequence[Leaf], key: str, state_dict: StateDict) -> tuple[Division, ...]:
    """All ways to cut an entry along one axis over two or more leaves, in order; best first.

    Each part is as large as its leaf and all are laid out in the same manner. Reads no tensor data.
    """
    shape = state_dict.shape(key)
    if len(leaves) < 2 or sum(prod(leaf.shape) for leaf in leaves) != prod(shape):
        return ()
    found: dict[tuple[Expr, ...], Division] = {}
    for axis, exprs in _cuts(leaves, key, shape):
        verdicts = [
            judge(leaf, Row(expr, by="user"), state_dict)
            for leaf, expr in zip(leaves, exprs, strict=True)
        ]
        worst = max(verdicts, key=lambda verdict: _ORDER[verdict.fit])
        if worst.fit is not Fit.MISMATCHED and len(found) < MOST:
            words = f"split over the {len(leaves)} rows along axis {axis}"
            layout = describe(exprs[0]).partition(", ")[2]
            found.setdefault(
                exprs, Division(exprs, f"{words}{layout and f', each: {layout}'}", worst)
            )
    return tuple(found.values())


_ORDER = {fit: number for number, fit in enumerate(Fit)}


def _cuts(leaves: Sequence[Leaf], key: str, shape: Shape) -> Iterator[tuple[int, tuple[Expr, ...]]]:
    turned: list[tuple[int, tuple[Expr, ...]]] = []
    for axis in range(len(shape)):
        parts = _parts(leaves, key, shape, axis)
        if parts is None:
            continue
        shapes = [(*shape[:axis], part.stop - part.start, *shape[axis + 1 :]) for part in parts]
        ruled = [
            rule_applied(leaf, part, size)
            for leaf, part, size in zip(leaves, parts, shapes, strict=True)
        ]
        whole = tuple(expr for expr in ruled if expr is not None)
        if len(whole) == len(leaves):
            yield axis, whole
        lists = [ways(size, leaf.shape) for leaf, size in zip(leaves, shapes, strict=True)]
        for chosen in alike(lists):
            exprs = tuple(
                laid_out(leaf, part, size, way)
                for leaf, part, size, way in zip(leaves, parts, shapes, chosen, strict=True)
            )
            if chosen[0].moves:
                turned.append((axis, exprs))
            else:
                yield axis, exprs
    yield from turned


def _parts(leaves: Sequence[Leaf], key: str, shape: Shape, axis: int) -> list[Split] | None:
    across = prod(shape[:axis]) * prod(shape[axis + 1 :])
    if not across or any(prod(leaf.shape) % across for leaf in leaves):
        return None
    parts: list[Split] = []
    start = 0
    for leaf in leaves:
        stop = start + prod(leaf.shape) // across
        parts.append(Split(Take(key), axis, start, stop))
        start = stop
    return parts


def takes_part(expr: Expr, key: str) -> bool:
    """Return True if only parts of an entry are taken: wherever it is read, it is split first."""
    match expr:
        case Take(other):
            return other != key
        case Split(Take() | Reshape(Take())):
            return True
        case _:
            return all(takes_part(of, key) for of in operands(expr))


def sharing(
    alignment: Alignment, changes: Sequence[tuple[int, Row]], tied: Collection[int] = ()
) -> SetRows:
    """The edit that gives rows new contents and lets others keep their parts of the same entries.

    Rows that take a part of an entry stay if what is new takes parts of it only; rows that an entry
    has to be taken from become empty, as with any `SetRows`.

    Args:
        alignment: The rows as they are.
        changes: What rows get, by index.
        tied: Rows that keep the whole entry which another one gets as well.
    """
    touched = {index for index, _ in changes}
    new = [(row.source, set(row.keys)) for _, row in changes if row.source is not None]
    taken = {key for _, keys in new for key in keys}
    kept: list[tuple[int, Row]] = []
    numbering = alignment.rows.numbering
    for index in alignment.rows.taking(map(numbering.entry, taken)):
        if index in touched:
            continue
        row = alignment.rows[index]
        if index in tied or (
            row.source is not None
            and all(
                takes_part(source, key)
                for key in taken.intersection(row.keys)
                for source, keys in (*new, (row.source, set(row.keys)))
                if key in keys
            )
        ):
            kept.append((index, row))
    return SetRows((*changes, *kept))


def parts_dropped(before: Rows, after: Rows, span: range, bench: Sequence[str]) -> list[str]:
    """Keys of entries of which an edit left a part unused while other rows still take the rest.

    Args:
        before: The rows as they were.
        after: The rows now.
        span: Those of them that changed.
        bench: The bench now; an entry on it is whole again.
    """
    parts = _parts_in(before.made(span))
    if not parts:
        return []
    parts.difference_update(_parts_in(after.made(span)))
    keys = {part.of.key for part in parts if isinstance(part.of, Take)}.difference(bench)
    sources = [row.source for row in after[span.start : span.stop] if row.source is not None]
    return sorted(key for key in keys if all(takes_part(source, key) for source in sources))


def _parts_in(sources: Iterable[Expr]) -> set[Split]:
    return {
        node
        for source in sources
        for node in nodes_of(source)
        if isinstance(node, Split) and isinstance(node.of, Take)
    }


def covered_keys(sources: Iterable[Expr], state_dict: StateDict) -> set[str]:
    """Return the entries of which some sources together read every element.

    Slices count together where they are slices of the same along one axis.
    """
    covered: set[Expr] = set()
    parts: defaultdict[tuple[Expr, int], list[tuple[int, int]]] = defaultdict(list)
    waiting = list(sources)
    while waiting:
        node = waiting.pop()
        if node in covered:
            continue
        covered.add(node)
        if not isinstance(node, Split):
            waiting += operands(node)
            continue
        taken = parts[node.of, node.axis]
        taken.append((node.start, node.stop))
        shape = shape_of(node.of, state_dict.shape)
        # A mapping written by hand may name an axis that is not there.
        if node.axis in range(len(shape)) and _unite(taken) >= shape[node.axis]:
            waiting.append(node.of)
    return {node.key for node in covered if isinstance(node, Take)}


def _unite(ranges: list[tuple[int, int]]) -> int:
    """Return how far the ranges reach from 0 without a hole."""
    reach = 0
    for start, stop in sorted(ranges):
        if start > reach:
            break
        reach = max(reach, stop)
    return reach
