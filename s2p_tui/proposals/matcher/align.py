"""Tree against tree: the largest parts of one structure first, names where structure is silent."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from math import prod
from typing import Protocol

import numpy as np
from msgspec import Struct, field
from rapidfuzz.distance import LCSseq

from s2p_tui.alignment.layouts import ways
from s2p_tui.alignment.task import Task
from s2p_tui.proposals.matcher.assignment import Matrix, assignment
from s2p_tui.proposals.matcher.buckets import NAMES_AGREE, SAME_NAME, SURE, Buckets, Found, Side
from s2p_tui.proposals.matcher.likeness import Learned, by_order, likeness
from s2p_tui.proposals.matcher.templates import words_of
from s2p_tui.proposals.matcher.tree import (
    Front,
    Lists,
    Node,
    inside,
    largest,
    near,
    parts_of,
    same_named,
    untaken,
)
from s2p_tui.proposals.matcher.words import is_known, is_phrase, meanings, name_of

# Every two of a group are compared up to so many: 256 by 256 take 20 ms, and as all groups of
# 100,000 tensors may be as large, 8 s. Larger ones go into buckets first.
_MOST_CELLS = 256 * 256
# A margin (likeness lost by the next best assignment) above which modules are paired for good. Less
# pairs early what a later round would see better; more leaves all to the last round.
_CLEAR = 0.4
"""From what margin on a pair teaches what names mean."""
_NOTHING_LEARNED: Learned = {}
LEFT_BY_OTHERS = "what others that may belong here have left"
SAME_PLACE = "same place in its list"
ONLY_PART = "the only part of this structure"
ONLY_SIZE = "the only entry of this size"
ONLY_SIZE_HERE = "the only entry of this size here"
_KNOWN_ELSEWHERE = 0.6
"""The likeness of names needed to pair a tensor whose module has its partner elsewhere: at 0.96
three more rows of the real pairs are doubtful (`python -m tests.benchmarks.alignment`).
"""
# Below it are only pairs whose roles or ends conflict, which cost 2.
_CONFLICTING = -0.9
# Likeness lost by a transposed matrix beside one of the very shape, in layers that keep PyTorch's.
_TURNED = 0.5


class Pair(Struct, frozen=True):
    """Two tensors that belong together.

    Attributes:
        target: Place of the leaf among the leaves of its scope.
        source: Place of the tensor among those of its scope.
        margin: By how much the names are worse with any two pairs exchanged; the least over all
            modules the pair lies in.
        how: What spoke for it.
    """

    target: int
    source: int
    margin: float
    how: str


class Fits(Protocol):
    """Evidence from layers and shapes on two tensors."""

    def __call__(self, target: Node, source: Node) -> bool | None:
        """Return True if a source fills a target by its layer's rule; None without a rule."""
        ...

    def turns(self, target: Node, source: Node) -> frozenset[bool]:
        """Return True if the output axis can come last where a source fills a target."""
        ...

    def turn(self, target: Node, source: Node) -> float:
        """Return 0 for a source of the very shape a layer keeps, 1 for it transposed, or else 2."""
        ...

    def bars(self, target: Node, source: Node) -> bool:
        """Return True if a source never is what a target holds, whatever its shape."""
        ...

    def kind_of_target(self, target: Node) -> Hashable:
        """Equal for targets that the same sources fit."""
        ...

    def kind_of_source(self, source: Node) -> Hashable:
        """Equal for sources that fit the same targets."""
        ...


class Aligner(Struct):
    """Aligns two trees.

    Attributes:
        fits: What layers and shapes say.
        task: Told how many tensors have a partner; may end the work.
        learned: What is known of names that mean the same here, from a first look.
        order: Whether the order of both sides says something.
        out_last: For shapes that fit either way, whether leaves keep the output axis last.
        guesses: Whether tensors of large groups that no name tells apart are paired too.
        seen: Steps of a leaf and of an entry that went together, and how surely; without guesses.
        by_name: Large groups of tensors, paired as far as names alone tell; without guesses.
    """

    fits: Fits
    task: Task = field(default_factory=Task)
    learned: Learned = field(default_factory=lambda: _NOTHING_LEARNED)
    order: bool = True
    out_last: bool | None = None
    guesses: bool = True
    seen: list[tuple[tuple[str, ...], tuple[str, ...], float]] = field(default_factory=list)
    lists: Lists = field(default_factory=Lists)
    by_name: dict[tuple[object, ...], Buckets] = field(default_factory=dict)
    _known: dict[tuple[int, int], tuple[Pair, ...]] = field(default_factory=dict)
    _whole: tuple[Node, int] | None = None

    def align(self, target: Node, source: Node) -> tuple[Pair, ...]:
        """The pairs of tensors under two nodes that correspond.

        Raises:
            CancelledError: The task was cancelled.
        """
        if self._whole is None:
            self._whole = target, self.task.done
        known = self._known.get((target.form, source.form))
        if known is None:
            known = self._known[target.form, source.form] = _Scope(self, target, source).solve()
        return known

    def go_on(self, target: Node, pairs: int) -> None:
        """Count the pairs found so far, if they are of all that is aligned.

        Raises:
            CancelledError: The task was cancelled.
        """
        self.task.check()
        if self._whole is not None and self._whole[0] is target:
            self.task.done = self._whole[1] + pairs


class _Scope(Struct):
    aligner: Aligner
    target: Node
    source: Node
    pairs: list[Pair] = field(default_factory=list)
    loose: tuple[list[Node], list[Node]] = field(default_factory=lambda: ([], []))
    released: set[Node] = field(default_factory=set)
    marks: dict[int, Counter[int]] = field(default_factory=dict)
    passed_over: dict[Node, float] = field(default_factory=dict)
    """Nodes that lost their partner to another node, and by how much at least."""

    def solve(self) -> tuple[Pair, ...]:
        """The pairs of tensors under both nodes that correspond."""
        if (same := self._all_of_same_name()) is not None:
            return same
        fronts = Front(parts_of(self.target)), Front(parts_of(self.source))
        while True:
            self.aligner.go_on(self.target, len(self.pairs))
            side, part = largest(fronts)
            if part is None or part.size == 1:
                break
            mine, others = fronts[side], fronts[1 - side]
            alike = others.with_mark(part.mark)
            is_complete = True
            if not alike:
                alike, is_complete = others.kin_of(part, self._marks(side))
            if not is_complete and (namesake := self._namesake(side, part, others)) is not None:
                # Too many are as near: the name says which it is.
                pair = (part, namesake) if side == 0 else (namesake, part)
                for front, node in zip(fronts, pair, strict=True):
                    front.remove(node)
                is_numbered = any(map(str.isdigit, "".join(part.steps_below(self._scope(side)))))
                self._take(*pair, 0.0 if is_numbered else SURE, SAME_NAME, fronts)
                continue
            same = mine.with_mark(part.mark)
            if is_complete and len(alike) < len(same):
                # One that lacks an entry may be what another of these goes with.
                kin, is_complete = others.kin_of(part, self._marks(side))
                alike = list(dict.fromkeys((*alike, *kin)))
            if alike and self._match(side, same, alike, fronts, is_complete=is_complete):
                continue
            for node in same:
                mine.remove(node)
                mine.extend(node.children.values())
        for side in (0, 1):
            self.loose[side].extend(fronts[side].leaves())
        self._match_tensors()
        return tuple(self.pairs)

    def _scope(self, side: int) -> Node:
        return self.source if side else self.target

    def _namesake(self, side: int, part: Node, others: Front) -> Node | None:
        """The node of the other side that is called like a part and much like it."""
        other: Node | None = self._scope(1 - side)
        for step in part.steps_below(self._scope(side)):
            other = None if other is None else other.children.get(step)
        return other if other is not None and other in others and near(part, other) else None

    def _all_of_same_name(self) -> tuple[Pair, ...] | None:
        """The pairs where both sides have the same names and sizes throughout; None if not."""
        target, source = inside(self.target), inside(self.source)
        if target.names != source.names:
            return None
        pairs = list(same_named(target, source))
        if not all(self._fill(*pair) for pair in pairs):
            return None
        return tuple(
            Pair(self._start(0, mine), self._start(1, its), SURE, SAME_NAME) for mine, its in pairs
        )

    def _marks(self, side: int) -> Counter[int]:
        """Count the modules of each fingerprint on a side, at any depth."""
        if side not in self.marks:
            self.marks[side] = Counter(node.mark for node in self._scope(side).modules())
        return self.marks[side]

    def _match(
        self,
        side: int,
        mine: list[Node],
        others: list[Node],
        fronts: tuple[Front, Front],
        *,
        is_complete: bool,
    ) -> bool:
        targets, sources = (mine, others) if side == 0 else (others, mine)
        found = list(self._assigned(targets, sources))
        for target, source, margin, how in found:
            fronts[0].remove(target)
            fronts[1].remove(source)
            self._take(target, source, margin if is_complete else 0.0, how, fronts)
        return bool(found)

    def _take(
        self,
        target: Node,
        source: Node,
        margin: float,
        how: str,
        fronts: tuple[Front, Front],
    ) -> None:
        starts = self._start(0, target), self._start(1, source)
        taken: tuple[set[int], set[int]] = (set(), set())
        left = min(self._left_by(target), self._left_by(source))
        margin, how = (left, LEFT_BY_OTHERS) if left < margin else (margin, how)
        for pair in self.aligner.align(target, source):
            taken[0].add(pair.target)
            taken[1].add(pair.source)
            self.pairs.append(
                Pair(
                    pair.target + starts[0],
                    pair.source + starts[1],
                    min(margin, pair.margin),
                    how if margin < pair.margin else pair.how,
                )
            )
        for side, node in enumerate((target, source)):
            if len(taken[side]) == node.size:
                continue
            # Where nothing of it was taken, a node is not to come again: its parts are.
            if taken[side]:
                released = list(untaken(node, {node.start + n for n in taken[side]}))
            else:
                released = list(node.children.values()) or [node]
            fronts[side].extend(released)
            self.released.update(leaf for part in released for leaf in part.leaves())

    def _start(self, side: int, node: Node) -> int:
        return node.start - self._scope(side).start

    def _assigned(
        self, targets: Sequence[Node], sources: Sequence[Node]
    ) -> Iterable[tuple[Node, Node, float, str]]:
        if (listed := self.aligner.lists.same_places(targets, sources)) is not None:
            for target, source, place, count in listed:
                how = f"{SAME_PLACE}, {place} of {count}"
                yield target, source, SURE, how
            return
        if len(targets) * len(sources) > _MOST_CELLS:
            found, left = self._in_buckets(targets, sources)
            for side, nodes in enumerate((targets, sources)):
                self.passed_over.update((nodes[n], 0.0) for n in left[side])
        else:
            matrix = self._likeness(targets, sources)
            if matrix.shape == (1, 1):
                if min(self._left_by(targets[0]), self._left_by(sources[0])) > _CLEAR:
                    self._learn(targets[0], sources[0], 1.0)
                yield (
                    targets[0],
                    sources[0],
                    SURE if targets[0].mark == sources[0].mark else 1.0 + matrix[0, 0],
                    ONLY_PART,
                )
                return
            pairs = assignment(matrix, self._order(targets, sources))
            self._pass_over(targets, sources, matrix, pairs)
            found = [(i, j, margin, NAMES_AGREE) for i, j, margin in pairs]
        for i, j, margin, how in found:
            if margin > _CLEAR:
                self._learn(targets[i], sources[j], 0.5)
            yield targets[i], sources[j], margin, how

    def _in_buckets(
        self, targets: Sequence[Node], sources: Sequence[Node]
    ) -> tuple[list[Found], tuple[list[int], list[int]]]:
        """The pairs of a large group, and the numbers of those without a partner."""
        released = frozenset(self.released)
        group = self.target, self.source, tuple(targets), tuple(sources), released
        buckets = self.aligner.by_name.pop(group, None)
        if buckets is None:
            sides = Side.of(targets, self.target), Side.of(sources, self.source)
            buckets = Buckets(*sides, self._fill, self.aligner.task.check)
            buckets.pair_by_name(order=self.aligner.order, apart=self.released)
        if targets[0].item >= 0 and not self.aligner.guesses:
            self.aligner.by_name[group] = buckets
            return buckets.found, buckets.left
        mine, theirs = buckets.left
        if mine and theirs and len(mine) * len(theirs) <= _MOST_CELLS:
            rest = [targets[i] for i in mine], [sources[j] for j in theirs]
            matrix = self._scores(*rest)
            for i, j, _ in assignment(matrix, self._order(*rest)):
                # Others, which have a partner, might be as near.
                if matrix[i, j] > _CONFLICTING:
                    buckets.take(mine[i], theirs[j], 0.0, NAMES_AGREE)
        buckets.pair_the_rest()
        return buckets.found, buckets.left

    def _pass_over(
        self,
        targets: Sequence[Node],
        sources: Sequence[Node],
        matrix: Matrix,
        found: Sequence[tuple[int, int, float]],
    ) -> None:
        """Remember by how much nodes without partner lost: what is left is no surer than that."""
        for nodes, scores, axis in ((targets, matrix.T, 0), (sources, matrix, 1)):
            taken = {pair[axis] for pair in found}
            for n in set(range(len(nodes))) - taken:
                lead = min(matrix[i, j] - scores[(i, j)[1 - axis], n] for i, j, _ in found)
                self.passed_over[nodes[n]] = min(lead, self.passed_over.get(nodes[n], lead))

    def _left_by(self, node: Node) -> float:
        """By how much another node won the partner that the node, or one around it, might have."""
        margin = SURE
        above: Node | None = node
        while self.passed_over and above is not None and above not in (self.target, self.source):
            margin = min(margin, self.passed_over.get(above, SURE))
            above = above.parent
        return margin

    def _learn(self, target: Node, source: Node, weight: float) -> None:
        if not self.aligner.guesses:
            steps = target.steps_below(self.target), source.steps_below(self.source)
            self.aligner.seen.append((*steps, weight))

    def _likeness(self, targets: Sequence[Node], sources: Sequence[Node]) -> Matrix:
        scopes = self.target, self.source
        return likeness(targets, sources, scopes, self.aligner.learned)

    def _order(self, targets: Sequence[Node], sources: Sequence[Node]) -> Matrix | None:
        return by_order(targets, sources) if self.aligner.order else None

    def _match_tensors(self) -> None:
        groups: dict[int, tuple[list[Node], list[Node]]] = {}
        for side in (0, 1):
            for node in self.loose[side]:
                groups.setdefault(node.mark, ([], []))[side].append(node)
        for targets, sources in groups.values():
            self.aligner.go_on(self.target, len(self.pairs))
            if not targets or not sources:
                continue
            alone = len(targets) == len(sources) == 1
            if len(targets) * len(sources) > _MOST_CELLS:
                found, _ = self._in_buckets(targets, sources)
            else:
                matrix = self._scores(targets, sources)
                hints = self._by_kind(self._hint, targets, sources)
                found: list[Found] = []
                for i, j, margin in assignment(matrix, self._order(targets, sources), hints):
                    if matrix[i, j] <= _CONFLICTING:
                        continue
                    if alone:
                        margin = 1.0 + min(matrix[i, j], 0.0)
                    how = ONLY_SIZE_HERE if alone else NAMES_AGREE
                    found.append((i, j, margin, how))
            for i, j, margin, how in found:
                left = min(self._left_by(targets[i]), self._left_by(sources[j]))
                margin, how = (left, LEFT_BY_OTHERS) if left < margin else (margin, how)
                if margin > _CLEAR:
                    self._learn(targets[i], sources[j], 1.0 if alone else 0.5)
                self.pairs.append(
                    Pair(self._start(0, targets[i]), self._start(1, sources[j]), margin, how)
                )

    def _scores(self, targets: Sequence[Node], sources: Sequence[Node]) -> Matrix:
        """Return the evidence for each pair of a group, shapes and layers included."""
        matrix = self._likeness(targets, sources)
        if targets[0].item < 0:
            return matrix
        matrix -= self._by_kind(self._misfit, targets, sources)
        if not self.aligner.out_last:
            turned = self._by_kind(self._turn, targets, sources)
            matrix -= np.where((turned == 0).any(axis=1)[:, None], _TURNED * (turned == 1), 0.0)
        if self.released:
            released = [
                np.array([node in self.released for node in side]) for side in (targets, sources)
            ]
            elsewhere = released[0][:, None] | released[1][None, :]
            matrix[elsewhere & (matrix < _KNOWN_ELSEWHERE)] -= 5.0
        return matrix

    def _by_kind(
        self,
        value: Callable[[Node, Node], float],
        targets: Sequence[Node],
        sources: Sequence[Node],
    ) -> Matrix:
        """A value for each two of a group, found once for those of one kind."""
        fits = self.aligner.fits
        rows, firsts = _kinds(targets, fits.kind_of_target)
        columns, others = _kinds(sources, fits.kind_of_source)
        values = np.array([[value(source, target) for source in others] for target in firsts])
        return values[np.ix_(rows, columns)]

    def _fill(self, target: Node, source: Node) -> bool:
        """Return True if a source can fill a target; modules always can."""
        return target.item < 0 or not self._misfit(source, target)

    def _misfit(self, source: Node, target: Node) -> float:
        if self.aligner.fits.bars(target, source):
            return 5.0
        if (ruled := self.aligner.fits(target, source)) is not None:
            return 0.0 if ruled else 0.5
        return 0.0 if ways(source.shape, target.shape) else 5.0

    def _turn(self, source: Node, target: Node) -> float:
        """Return 0 for a source of the very shape a layer keeps, 1 for it transposed, or else 2."""
        return self.aligner.fits.turn(target, source)

    def _hint(self, source: Node, target: Node) -> float:
        """A little for a layout like that of the other weights: names may say otherwise."""
        if self.aligner.out_last is None or len(source.shape) < 2:
            return 0.0
        return 0.5 * (self.aligner.out_last in self.aligner.fits.turns(target, source))


def _kinds(nodes: Sequence[Node], kind: Callable[[Node], Hashable]) -> tuple[list[int], list[Node]]:
    """The number of every node's kind, and the first node of each."""
    numbers: dict[Hashable, int] = {}
    firsts: list[Node] = []
    found: list[int] = []
    for node in nodes:
        number = numbers.setdefault(kind(node), len(firsts))
        if number == len(firsts):
            firsts.append(node)
        found.append(number)
    return found, firsts


ORDER_ALONE = "only the order speaks for it"
_NUMBER = re.compile(r"[0-9]+")
# The longest common sequence takes the square of the length in time and memory: 8 MB and 30 ms for
# so many tensors.
_WINDOW = 8192


def say_nothing(steps: Sequence[tuple[str, ...]], targets: Sequence[tuple[str, ...]]) -> bool:
    """Return True if names say nothing: only numbers differ, or no word is known.

    Names that are the same on both sides always say something.

    Args:
        steps: The steps of the entries' names.
        targets: The steps of the leaves' names; words that occur there are known too.
    """
    if {*steps} == {*targets}:
        return False
    if len(steps) > 2 and len({_NUMBER.sub("#", ".".join(path)) for path in steps}) == 1:
        # `w1`, `w2` and `w3` of a gated layer are words that end in numbers, in a list too.
        numbered = {step for path in steps for step in path if _NUMBER.search(step)}
        numbered = {step for step in numbered if not step.isdigit()}
        if numbered and all(map(is_phrase, numbered)):
            return False
        (mine, its), (theirs, others) = _one_list(targets), _one_list(steps)
        return not mine or mine != theirs or its != others
    known = {word for path in targets for word in words_of(path)}
    return not any(
        is_known(step) or bool(known.intersection(name_of(step).words) and len(step) > 1)
        for path in steps
        for step in path
        if not step.isdigit()
    ) and not all(step.isdigit() for path in steps for step in path)


def _one_list(paths: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], frozenset[int]]:
    """Return the words and the numbers of members of one list counted from 0; of others none."""
    words = [words_of(path) for path in paths]
    numbers = [meanings(path)[1] for path in paths]
    if len({*words}) == len({*map(len, numbers)}) == 1:
        columns = [column for column in zip(*numbers, strict=True) if len({*column}) > 1]
        if len(columns) == 1 and sorted(columns[0]) == [*range(len(paths))]:
            return words[0], frozenset(columns[0])
    return (), frozenset()


def in_sequence(target: Node, source: Node, check: Callable[[], None]) -> tuple[Pair, ...]:
    """The longest common sequence of sizes; sure only of sizes that occur once."""
    targets = list(target.leaves())
    by_leaf = list(source.leaves())
    sources = sorted(range(len(by_leaf)), key=lambda place: by_leaf[place].item)
    sizes = [prod(node.shape) for node in targets], [prod(by_leaf[n].shape) for n in sources]
    counts = Counter(sizes[0]), Counter(sizes[1])
    pairs: list[Pair] = []
    for first, second in _common(*sizes, check):
        alone = counts[0][sizes[0][first]] == counts[1][sizes[0][first]] == 1
        how = ONLY_SIZE if alone else ORDER_ALONE
        pairs.append(Pair(first, sources[second], 1.0 if alone else 0.0, how))
    return tuple(pairs)


def _common(
    first: Sequence[int], second: Sequence[int], check: Callable[[], None]
) -> Iterator[tuple[int, int]]:
    """Places of a common sequence, the longest one unless both sides are very long.

    Of these a window after the other is looked at, without what both begin and end with.
    """
    start, ends = 0, [len(first), len(second)]
    if max(ends) > _WINDOW:
        while start < min(ends) and first[start] == second[start]:
            yield start, start
            start += 1
        while start < min(ends) and first[ends[0] - 1] == second[ends[1] - 1]:
            ends = [end - 1 for end in ends]
            yield ends[0], ends[1]
    here = [start, start]
    while here[0] < ends[0] and here[1] < ends[1]:
        check()
        stop = [min(end, place + _WINDOW) for place, end in zip(here, ends, strict=True)]
        is_last = stop == ends
        # The rest of a window is looked at again with what follows it.
        limit = stop[0] if is_last else here[0] + _WINDOW // 2
        follows = here[1] + _WINDOW // 2
        for block in LCSseq.opcodes(first[here[0] : stop[0]], second[here[1] : stop[1]]):
            if block.tag != "equal":
                continue
            for offset in range(block.src_end - block.src_start):
                place = here[0] + block.src_start + offset
                if place < limit:
                    other = here[1] + block.dest_start + offset
                    yield place, other
                    follows = other + 1
        here = ends if is_last else [limit, follows]
