"""Names as a tree of modules, with a fingerprint of the sizes under every node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from heapq import heappop, heappush
from math import ceil, prod

from msgspec import Struct

from s2p_tui.alignment.transform import Shape
from s2p_tui.proposals.matcher.indices import may_be_indices
from s2p_tui.proposals.matcher.words import Name, name_of

# Share of equal shapes from which two parts may be the same part; with more, parts that lack some
# of their tensors are no longer found. No row of the real pairs changes from 0.36 to 0.96.
KIN = 0.6
_CLEARLY, _MASS = 0.03, 0.25


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
        names: Equal for nodes with the same names and sizes of tensors under them, in any order.
        place: The first item under it.
        start: Tensors before it, depth first.
        path: All steps of a tensor, if they are known to be those of its name.
    """

    step: str
    parent: Node | None
    children: dict[str, Node] = field(default_factory=dict)
    item: int = -1
    shape: Shape = ()
    size: int = field(init=False)
    print: dict[int, int] = field(init=False)
    mark: int = field(init=False)
    ones: int = field(init=False)
    form: int = field(init=False)
    names: int = field(init=False)
    place: int = 0
    start: int = 0
    path: tuple[str, ...] | None = None

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
        if self.path is not None and scope.parent is None:
            return self.path
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
        else:
            node.path = steps
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
        node.item, node.path = -1, None
        node.children[""] = own
        _finish(own)
    if node.item >= 0:
        node.size = 1
        node.print, node.ones, node.names, node.mark = _of_tensor(node.shape)
        node.form = hash((node.step, node.shape))
    elif len(node.children) == 1:
        (only,) = node.children.values()
        node.children = {only.step or f"\0{only.place}": only}
        node.size, node.print, node.mark = only.size, only.print, only.mark
        node.ones, node.place = only.ones, only.place
        node.form = hash((only.step, only.form))
        node.names = hash((only.step, only.names)) if only.step else id(node)
    else:
        ordered = list(node.children.values())
        if len(ordered) > 1:
            ordered.sort(key=_natural)
            node.children = {child.step or f"\0{child.place}": child for child in ordered}
        node.size = sum(child.size for child in ordered)
        node.ones = sum(child.ones for child in ordered)
        node.print = _sum_of_prints(ordered)
        node.place = min((child.place for child in ordered), default=0)
        node.form = hash(tuple((child.step, child.form) for child in ordered))
        names = frozenset((child.step, child.names) for child in ordered)
        # Tensors without a name of their own cannot be looked up by it.
        node.names = hash((node.size, names)) if all(child.step for child in ordered) else id(node)
        node.mark = hash(frozenset(node.print.items()))


@lru_cache(maxsize=1 << 16)
def _of_tensor(shape: Shape) -> tuple[dict[int, int], int, int, int]:
    """Return the print, ones, names and mark of a tensor; all of one shape share them."""
    size = prod(shape)
    return {size: 1}, _ones(shape), hash((1, size)), hash(frozenset(((size, 1),)))


def _sum_of_prints(nodes: Sequence[Node]) -> dict[int, int]:
    if len(nodes) == 1:
        return nodes[0].print
    total: dict[int, int] = {}
    for node in nodes:
        for size, count in node.print.items():
            total[size] = total.get(size, 0) + count
    return total


def _ones(shape: Shape) -> int:
    """The 1-sized axes of a weight; those of a bias say only how it is added."""
    count = shape.count(1)
    return count if len(shape) - count > 1 else 0


def overlap(first: Node, second: Node) -> float:
    """Return the common part of two nodes' sizes, 0 to 1 (Dice)."""
    if first.mark == second.mark:
        return 1.0
    small, large = sorted((first.print, second.print), key=len)
    common = sum(min(count, large[size]) for size, count in small.items() if size in large)
    return 2 * common / (first.size + second.size)


def _mass(first: Node, second: Node) -> float:
    """The same by elements instead of tensors: scales and biases alone make no two modules kin."""
    common = sum(min(n, second.print.get(size, 0)) * size for size, n in first.print.items())
    whole = sum(n * size for node in (first, second) for size, n in node.print.items())
    return 2 * common / whole if whole else 1.0


def contains_better(node: Node, other: Node, than: float) -> bool:
    """Return True if a node inside this one is clearly more like another one."""
    return any(
        2 * child.size >= other.size
        and (
            overlap(child, other) > min(than + _CLEARLY, 0.9999)
            or contains_better(child, other, than)
        )
        for child in node.children.values()
        if child.size > 1
    )


def near(part: Node, other: Node) -> float:
    """Return the likeness of two nodes; 0 if it is small."""
    common = overlap(part, other)
    return common if common >= KIN and _mass(part, other) >= _MASS else 0.0


def same_named(target: Node, source: Node) -> Iterator[tuple[Node, Node]]:
    """The tensors under two nodes of the same `names`, each with the one of the same name."""
    if target.item >= 0:
        yield target, source
    for step, child in target.children.items():
        yield from same_named(child, source.children[step])


# A part is compared with no more marks of the other side: at 2 µs each, 10,000 modules of which
# each has something in common with all take 5 s. What is left out makes the rest doubtful.
_MOST_KIN = 256


class Front:
    """Nodes of one side, to be found by size and by mark; in the order in which they came.

    Args:
        nodes: Those it begins with.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._marks: dict[int, dict[Node, int]] = {}
        self._by_size: list[tuple[int, int, Node]] = []
        self._holding: _Holding | None = None
        self._came = 0
        self.extend(nodes)

    def extend(self, nodes: Iterable[Node]) -> None:
        """Add nodes."""
        for node in nodes:
            alike = self._marks.setdefault(node.mark, {})
            if not alike and self._holding is not None:
                _hold(self._holding, node)
            alike[node] = self._came
            heappush(self._by_size, (-node.size, self._came, node))
            self._came += 1

    def remove(self, node: Node) -> None:
        """Take a node out."""
        alike = self._marks[node.mark]
        del alike[node]
        if not alike:
            del self._marks[node.mark]
            if self._holding is not None:
                for size in node.print:
                    del self._holding[node.size][size][node.mark]

    def with_mark(self, mark: int) -> list[Node]:
        """The nodes of one fingerprint."""
        return list(self._marks.get(mark, ()))

    def __contains__(self, node: Node) -> bool:
        return node in self._marks.get(node.mark, ())

    def leaves(self) -> Iterable[Node]:
        """The tensors under all nodes."""
        came = {node: came for alike in self._marks.values() for node, came in alike.items()}
        return (leaf for node in sorted(came, key=came.__getitem__) for leaf in node.leaves())

    def largest(self) -> Node | None:
        """The node with most tensors under it, the first of those alike."""
        while self._by_size:
            _, came, node = self._by_size[0]
            if self._marks.get(node.mark, {}).get(node) == came:
                return node
            heappop(self._by_size)
        return None

    def kin_of(self, part: Node, equals: Mapping[int, int]) -> tuple[list[Node], bool]:
        """The nodes a part has much in common with, and whether all nodes were looked at.

        Those of its own mark are left out. None where the nearest of them is not its own.

        Args:
            part: The node of the other side that looks for its like.
            equals: How many nodes of each mark are on that side: where there are as many as here,
                each has its equal.
        """
        marks, is_complete = self._sharing(part)
        ones = {mark: next(iter(self._marks[mark])) for mark in marks}
        found = {
            mark: near(part, one)
            for mark, one in ones.items()
            if one.size > 1 and mark != part.mark
        }
        kin = {
            mark: common
            for mark, common in found.items()
            if common
            and not 0 < len(self._marks[mark]) <= equals.get(mark, 0)
            and not contains_better(part, ones[mark], common)
        }
        if max(found.values(), default=0.0) not in kin.values():
            return [], is_complete
        came = {node: came for mark in kin for node, came in self._marks[mark].items()}
        return sorted(came, key=came.__getitem__), is_complete

    def _sharing(self, part: Node) -> tuple[Iterable[int], bool]:
        """The marks of all nodes that can be near, the likeliest first; and whether these are all.

        Who has so much in common with a part shares one of any so many of its tensors: the rarest
        are looked at, among nodes of each number of tensors.
        """
        if len(self._marks) <= _MOST_KIN:
            return self._marks, True
        if self._holding is None:
            self._holding = {}
            for alike in self._marks.values():
                _hold(self._holding, next(iter(alike)))
        found: dict[int, None] = {}
        for count, holding in self._holding.items():
            least = ceil(KIN / 2 * (part.size + count) - 1e-9)
            spare = part.size - least
            if least > min(part.size, count):
                continue
            for size in sorted(part.print, key=lambda size: len(holding.get(size, ()))):
                if len(found) + len(holding.get(size, ())) > _MOST_KIN:
                    return found, False
                found.update(holding.get(size, {}))
                spare -= part.print[size]
                if spare < 0:
                    break
        return found, True


_Holding = dict[int, dict[int, dict[int, None]]]
"""By their numbers of tensors, and by sizes of these, the marks of nodes that hold such."""


def _hold(holding: _Holding, node: Node) -> None:
    alike = holding.setdefault(node.size, {})
    for size in node.print:
        alike.setdefault(size, {})[node.mark] = None


def untaken(node: Node, taken: set[int]) -> Iterable[Node]:
    """The largest parts of a node of which no tensor is taken."""
    if not any(start in taken for start in range(node.start, node.start + node.size)):
        yield node
        return
    for child in node.children.values():
        yield from untaken(child, taken)


def inside(node: Node) -> Node:
    """The node, or the one inside it: a module that is all there is in one is only wrapped."""
    while len(node.children) == 1 and (only := next(iter(node.children.values()))).children:
        node = only
    return node


def parts_of(node: Node) -> list[Node]:
    """Return the children of a node, without wrappers."""
    node = inside(node)
    return list(node.children.values()) if node.children else [node]


def largest(fronts: tuple[Front, Front]) -> tuple[int, Node | None]:
    """The node with most tensors under it, the first of those alike, and on which side it is."""
    both = fronts[0].largest(), fronts[1].largest()
    sizes = [0 if node is None else node.size for node in both]
    side = int(sizes[1] > sizes[0])
    return side, both[side]


_ALIKE = 0.6
"""The likeness that the other members at one index must have, or the lists are shifted."""


class _List(Struct, frozen=True, eq=False):
    """Numbered siblings in order.

    Attributes:
        members: All of them.
        places: The place of each.
        least: The fewest tensors that one of them holds.
    """

    members: list[Node]
    places: dict[Node, int]
    least: int


class Lists:
    """The lists of two trees; each is looked at once."""

    def __init__(self) -> None:
        self._found: dict[tuple[Node, tuple[str, ...], int], _List | None] = {}
        self._unlike: dict[tuple[_List, _List], frozenset[int]] = {}

    def same_places(
        self, targets: Sequence[Node], sources: Sequence[Node]
    ) -> list[tuple[Node, Node, int, int]] | None:
        """Members of two lists of one length, by their places; None if they are not.

        The rest of a list counts too: a member that is not complete keeps its place all the same,
        and one unlike the other at its place shows that places are not what they have in common.
        """
        first, second = self._list_of(targets), self._list_of(sources)
        if first is None or second is None:
            return None
        count = len(first.members)
        if count != len(second.members) or count < 2:
            return None
        taken = {first.places[node] for node in targets}
        taken &= {second.places[node] for node in sources}
        if len(taken) < count and not self._unlike_places(first, second) <= taken:
            return None
        return [
            (first.members[place], second.members[place], place + 1, count)
            for place in sorted(taken)
        ]

    def _unlike_places(self, first: _List, second: _List) -> frozenset[int]:
        """Return the indexes at which the members of two lists have little in common."""
        known = self._unlike.get((first, second))
        if known is None:
            both = zip(first.members, second.members, strict=True)
            known = frozenset(n for n, pair in enumerate(both) if overlap(*pair) < _ALIKE)
            self._unlike[first, second] = known
        return known

    def _list_of(self, nodes: Sequence[Node]) -> _List | None:
        """The list that all nodes are members of, or they alone if the others are much smaller."""
        parent = nodes[0].parent
        name = name_of(nodes[0].step)
        if parent is None or not name.numbers:
            return None
        key = parent, name.words, len(name.numbers)
        if key not in self._found:
            self._found[key] = _listed(parent, name)
        found = self._found[key]
        if found is None or not all(node in found.places for node in nodes):
            return None
        if 2 * found.least >= nodes[0].size:
            return found
        return _in_order(nodes)


def _listed(parent: Node, name: Name) -> _List | None:
    members = [node for node in parent.children.values() if _alike(name, name_of(node.step))]
    numbers = zip(*(name_of(node.step).numbers for node in members), strict=True)
    if sum(len({*column}) > 1 for column in numbers) > 1:
        return None
    return _in_order(members)


def _in_order(nodes: Sequence[Node]) -> _List:
    # Strides and years are names: their members come in the order in which they are held.
    is_list = all(map(may_be_indices, zip(*(name_of(n.step).numbers for n in nodes), strict=True)))
    members = sorted(nodes, key=lambda n: name_of(n.step).numbers if is_list else (n.place,))
    places = {node: place for place, node in enumerate(members)}
    return _List(members, places, min(node.size for node in members))


def _alike(first: Name, second: Name) -> bool:
    return first.words == second.words and len(first.numbers) == len(second.numbers)
