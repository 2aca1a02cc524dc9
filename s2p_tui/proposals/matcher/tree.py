"""Names as a tree of modules, with a fingerprint of the sizes under every node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from s2p_tui.alignment.transform import Shape
from s2p_tui.proposals.matcher.words import Name, name_of

_CLEARLY, _KIN, _MASS = 0.03, 0.6, 0.25


@dataclass(eq=False, slots=True)
class Node:
    """A module, or at the ends a tensor.

    Attributes:
        step: Its name in its parent.
        parent: The module it is in.
        children: What is in it, in the order of first appearance.
        item: The place of the tensor in the list the tree was made of; -1 for modules.
        shape: The tensor's shape.
        size: Tensors under it.
        print: How many tensors of each number of elements are under it.
        ones: 1-sized axes of the matrices and kernels under it.
        form: Equal for nodes with the same names, shapes and order of tensors under them.
        place: The first item under it.
        start: Tensors before it, depth first.
    """

    step: str
    parent: Node | None
    children: dict[str, Node] = field(default_factory=dict)
    item: int = -1
    shape: Shape = ()
    size: int = 0
    print: Counter[int] = field(default_factory=Counter)
    mark: int = 0
    ones: int = 0
    form: int = 0
    place: int = 0
    start: int = 0

    def leaves(self) -> Iterator[Node]:
        """All tensors under the node, depth first."""
        if self.item >= 0:
            yield self
        for child in self.children.values():
            yield from child.leaves()

    def modules(self) -> Iterator[Node]:
        """The node and all modules under it, depth first; of wrappers only what they hold."""
        if self.item < 0 and len(self.children) != 1:
            yield self
        for child in self.children.values():
            yield from child.modules()

    def steps_below(self, scope: Node) -> tuple[str, ...]:
        """The steps from a node above down to this one."""
        steps: list[str] = []
        node: Node | None = self
        while node is not None and node is not scope:
            steps.append(node.step)
            node = node.parent
        return tuple(reversed(steps))


def let_go(tree: Node) -> None:
    """Take a tree apart once nobody needs it: the garbage collector would find it late or never."""
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        nodes.extend(node.children.values())
        node.parent, node.children = None, {}


def _natural(node: Node) -> tuple[bool, int, int]:
    return (not node.step.isdigit(), int(node.step) if node.step.isdigit() else 0, node.place)


def tree_of(items: Iterable[tuple[int, tuple[str, ...], Shape]]) -> Node:
    """The tree of tensors given as `(item, steps, shape)`. Children numbered are in that order."""
    root = Node("", None)
    for item, steps, shape in items:
        node = root
        for step in steps:
            child = node.children.get(step)
            if child is None:
                child = node.children[step] = Node(step, node, place=item)
            node = child
        if node.item >= 0 or node.children:
            end = Node("", node, item=item, shape=shape, place=item)
            node.children[f"\0{item}"] = end
            node = end
        node.item, node.shape = item, shape
    _finish(root)
    _number(root, 0)
    return root


def _number(node: Node, start: int) -> int:
    node.start = start
    if node.item >= 0:
        return start + 1
    for child in node.children.values():
        start = _number(child, start)
    return start


def _finish(node: Node) -> None:
    for child in node.children.values():
        _finish(child)
    if node.item >= 0 and node.children:
        own = Node("", node, item=node.item, shape=node.shape, place=node.item)
        node.item = -1
        node.children[""] = own
        _finish(own)
    if node.item >= 0:
        node.size, node.print = 1, Counter({prod(node.shape): 1})
        node.ones = _ones(node.shape)
        node.form = hash((node.step, node.shape))
    else:
        ordered = sorted(node.children.values(), key=_natural)
        node.children = {child.step or f"\0{child.place}": child for child in ordered}
        for child in ordered:
            node.print.update(child.print)
            node.size += child.size
            node.ones += child.ones
        node.place = min((child.place for child in ordered), default=0)
        node.form = hash(tuple((child.step, child.form) for child in ordered))
    node.mark = hash(frozenset(node.print.items()))


def _ones(shape: Shape) -> int:
    """The 1-sized axes of a weight; those of a bias say only how it is added."""
    count = shape.count(1)
    return count if len(shape) - count > 1 else 0


def overlap(first: Node, second: Node) -> float:
    """How much of two nodes' sizes is the same, 0 to 1 (Dice)."""
    if first.mark == second.mark:
        return 1.0
    small, large = sorted((first.print, second.print), key=len)
    common = sum(min(count, large[size]) for size, count in small.items() if size in large)
    return 2 * common / (first.size + second.size)


def _mass(first: Node, second: Node) -> float:
    """The same by elements instead of tensors: scales and biases alone make no two modules kin."""
    common = sum(min(n, second.print[size]) * size for size, n in first.print.items())
    whole = sum(n * size for node in (first, second) for size, n in node.print.items())
    return 2 * common / whole if whole else 1.0


def contains_better(node: Node, other: Node, than: float) -> bool:
    """Whether a node strictly inside this one has clearly more in common with another one."""
    return any(
        2 * child.size >= other.size
        and (
            overlap(child, other) > min(than + _CLEARLY, 0.9999)
            or contains_better(child, other, than)
        )
        for child in node.children.values()
        if child.size > 1
    )


def kin_of(part: Node, others: Sequence[Node], equals: Mapping[int, int]) -> list[Node]:
    """The nodes a part has much in common with; none where the nearest of them is not its own.

    Args:
        part: The node that looks for its like.
        others: Nodes of the other side.
        equals: How many nodes of each mark are on the part's side: where there are as many as on
            the other, each has its equal.
    """
    marks = Counter(other.mark for other in others)
    near = {other: overlap(part, other) for other in others if other.size > 1}
    near = {
        other: common
        for other, common in near.items()
        if common >= _KIN and _mass(part, other) >= _MASS
    }
    kin = [
        other
        for other, common in near.items()
        if not 0 < marks[other.mark] <= equals.get(other.mark, 0)
        and not contains_better(part, other, common)
    ]
    return kin if max(near.values(), default=0.0) in [near[other] for other in kin] else []


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


_ALIKE = 0.6
"""How much the other members at one place must have in common, or the lists are shifted."""


def same_places(
    targets: Sequence[Node], sources: Sequence[Node]
) -> list[tuple[Node, Node, int, int]] | None:
    """Members of two lists of one length, by their places; None if they are not.

    The rest of a list counts too: a member that is not complete keeps its place all the same, and
    one unlike the other at its place shows that places are not what they have in common.
    """
    lists = _list_of(targets), _list_of(sources)
    if len(lists[0]) != len(lists[1]) or len(lists[0]) < 2:
        return None
    taken = {*targets}, {*sources}
    for target, source in zip(*lists, strict=True):
        both = target in taken[0] and source in taken[1]
        if not both and overlap(target, source) < _ALIKE:
            return None
    return [
        (target, source, place, len(lists[0]))
        for place, (target, source) in enumerate(zip(*lists, strict=True), 1)
        if target in taken[0] and source in taken[1]
    ]


def _list_of(nodes: Sequence[Node]) -> list[Node]:
    """The list that all nodes are members of, or they alone if the others are much smaller."""
    parent = nodes[0].parent
    name = name_of(nodes[0].step)
    if parent is None or not name.numbers:
        return []
    members = [node for node in parent.children.values() if _alike(name, name_of(node.step))]
    numbers = zip(*(name_of(node.step).numbers for node in members), strict=True)
    if not {*nodes} <= {*members} or sum(len({*column}) > 1 for column in numbers) > 1:
        return []
    complete = all(2 * node.size > nodes[0].size for node in members)
    return sorted(members if complete else nodes, key=lambda node: name_of(node.step).numbers)


def _alike(first: Name, second: Name) -> bool:
    return first.words == second.words and len(first.numbers) == len(second.numbers)
