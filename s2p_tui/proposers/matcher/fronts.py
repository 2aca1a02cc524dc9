"""What of two trees is next to be matched."""

from __future__ import annotations

from collections.abc import Iterable

from s2p_tui.proposers.matcher.tree import Node


def untaken(node: Node, taken: set[int]) -> Iterable[Node]:
    """The largest parts of a node of which no tensor is taken."""
    if not any(start in taken for start in range(node.start, node.start + node.size)):
        yield node
        return
    for child in node.children.values():
        yield from untaken(child, taken)


def parts_of(node: Node) -> list[Node]:
    """What is in a node; a module that is all there is in it is only a wrapper."""
    while len(node.children) == 1 and (only := next(iter(node.children.values()))).children:
        node = only
    return list(node.children.values()) if node.children else [node]


def largest(fronts: tuple[list[Node], list[Node]]) -> tuple[int, Node | None]:
    """The node with most tensors under it, the first of those alike, and on which side it is."""
    best: tuple[int, Node | None] = 0, None
    for side in (0, 1):
        for node in fronts[side]:
            if best[1] is None or node.size > best[1].size:
                best = side, node
    return best
