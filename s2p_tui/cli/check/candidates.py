"""Other sources that a row, or several together, may have: what the forward chooses from."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from math import prod

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.choices import choices
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.judge import judge, landing
from s2p_tui.alignment.rearrangements import alternatives
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import Concat, Expr, Permute, Split, keys_of, shape_of

# Of one entry there are rarely more that differ; each is a forward of a small module.
_MOST_OPTIONS = 160
_MOST_EXCHANGES = 400


# Gates of LSTM and GRU.
_GATES = (4, 3)


@dataclass(frozen=True, slots=True)
class Candidate:
    """Sources to try together.

    Attributes:
        changes: A source by the leaf it fills.
        words: What would be done.
    """

    changes: tuple[tuple[int, Expr], ...]
    words: str


class Candidates:
    """Candidates for the rows of one pair.

    Args:
        state_dict: The entries.
        skeleton: The leaves.
    """

    def __init__(self, state_dict: StateDict, skeleton: Skeleton) -> None:
        self._state_dict, self._skeleton = state_dict, skeleton
        self._known: dict[tuple[int, Expr], list[tuple[Expr, str]]] = {}

    def fits(self, index: int, source: Expr) -> bool:
        """Return True if a source can fill a leaf."""
        leaf = self._skeleton[index]
        verdict = judge(leaf, Row(source, by="user"), self._state_dict)
        return verdict.fit is not Fit.MISMATCHED

    def of_row(self, index: int, source: Expr) -> list[tuple[Expr, str]]:
        """Return other sources over the same entries, the likeliest first."""
        known = self._known.get((index, source))
        if known is None:
            found: dict[Expr, str] = {}
            for other, words in self._of_row(self._skeleton[index], source):
                if other != source:
                    found.setdefault(other, words)
                if len(found) == _MOST_OPTIONS:
                    break
            known = self._known[index, source] = list(found.items())
        return known

    def _of_row(self, leaf: Leaf, source: Expr) -> Iterator[tuple[Expr, str]]:
        keys = keys_of(source)
        shape = shape_of(source, self._state_dict.shape)
        offered = choices(leaf, keys, self._state_dict) if keys else ()
        listed = [(landing(one.expr, leaf, self._state_dict), one.words) for one in offered]
        yield from listed[:12]
        if prod(shape) == prod(leaf.shape) and keys:
            yield from alternatives(source, shape)
            if shape != leaf.shape:
                yield from alternatives(landing(source, leaf, self._state_dict), leaf.shape)
        if len(keys) > 1:
            for one in choices(leaf, keys[::-1], self._state_dict)[:12]:
                yield landing(one.expr, leaf, self._state_dict), f"reversed, {one.words}"
        yield from listed[12:]

    def of_entries(self, index: int, keys: Iterable[str], most: int) -> list[tuple[Expr, str]]:
        """Return sources of one of some entries, of each the likeliest."""
        leaf = self._skeleton[index]
        found: list[tuple[Expr, str]] = []
        for key in keys:
            size = prod(self._state_dict.shape(key))
            if size == prod(leaf.shape) and size:
                for one in choices(leaf, (key,), self._state_dict)[:most]:
                    done = landing(one.expr, leaf, self._state_dict)
                    found.append((done, f"{key} {one.words}".strip()))
        return found

    def exchanges(self, rows: Sequence[int], sources: Sequence[Expr | None]) -> Iterator[Candidate]:
        """Rows that take each other's sources, whole modules that do, and lists in reverse.

        Args:
            rows: The leaves to choose from.
            sources: What fills each leaf of the model now.
        """
        filled = [index for index in rows if sources[index] is not None]
        yield from self._reversed_lists(filled, sources)
        yield from self._exchanged_modules(filled, sources)
        groups: defaultdict[tuple[tuple[int, ...], str], list[int]] = defaultdict(list)
        for index in filled:
            leaf = self._skeleton[index]
            groups[tuple(sorted(leaf.shape)), leaf.dtype].append(index)
        pairs = sorted(
            (pair for group in groups.values() for pair in combinations(group, 2)),
            key=lambda pair: self.distance(*pair),
        )
        for first, second in pairs[:_MOST_EXCHANGES]:
            if (candidate := self.exchange(first, second, sources)) is not None:
                yield candidate

    def reordered(self, rows: Sequence[int], sources: Sequence[Expr | None]) -> Iterator[Candidate]:
        """All leaves of a layer with their parts in another order, as gates of a recurrent cell."""
        for path, leaves in self._modules(rows).items():
            shapes = {index: self._skeleton[index].shape for index in leaves.values()}
            (size, *others) = set[int].intersection(*map(set, shapes.values())) or (0,)
            is_clear = not others and all(shape.count(size) == 1 for shape in shapes.values())
            filled = {index: sources[index] for index in shapes}
            if len(shapes) < 2 or not is_clear:
                continue
            for count in _GATES:
                if size % count or size == count:
                    continue
                for order in list(permutations(range(count)))[1:]:
                    changes = tuple(
                        (index, _parts_as(order, source, shapes[index].index(size), size))
                        for index, source in filled.items()
                        if source is not None
                    )
                    words = ", ".join(str(part + 1) for part in order)
                    yield Candidate(changes, f"the {count} parts of {path} as {words}")

    def exchange(self, first: int, second: int, sources: Sequence[Expr | None]) -> Candidate | None:
        """Return two rows that take each other's source; None if these do not fit."""
        one, other = sources[first], sources[second]
        if one is None or other is None or one == other:
            return None
        there, here = self._as(one, second), self._as(other, first)
        if here is None or there is None:
            return None
        words = f"{self._skeleton[first].path} and {self._skeleton[second].path} exchanged"
        return Candidate(((first, here), (second, there)), words)

    def _as(self, source: Expr, index: int) -> Expr | None:
        """Return a source for another leaf; transposed if it only fits so."""
        wanted, shape = self._skeleton[index].shape, shape_of(source, self._state_dict.shape)
        if prod(shape) == prod(wanted) and (shape == wanted or shape != wanted[::-1]):
            return source if self.fits(index, source) else None
        if shape == wanted[::-1]:
            turned = Permute(source, tuple(range(len(shape)))[::-1])
            return turned if self.fits(index, turned) else None
        return None

    def distance(self, first: int, second: int) -> tuple[int, int]:
        """Return how far two leaves are apart in the tree: those of one module come first."""
        one, other = (re.split(r"[.\[]", self._skeleton[n].path) for n in (first, second))
        common = next(
            (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one)
        )
        return len(one) + len(other) - 2 * common, abs(first - second)

    def _modules(self, rows: Sequence[int]) -> dict[str, dict[str, int]]:
        """Return the leaves below every prefix of their key paths, by the rest of these."""
        found: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for index in rows:
            path = self._skeleton[index].path
            for place, letter in enumerate(path):
                if letter in ".[" and place:
                    found[path[:place]][path[place:]] = index
        return found

    def _exchanged_modules(
        self, rows: Sequence[int], sources: Sequence[Expr | None]
    ) -> Iterator[Candidate]:
        modules = self._modules(rows)
        parents: defaultdict[str, list[str]] = defaultdict(list)
        for path in modules:
            parents[re.sub(r"(\.[^.\[]*|\[[^\]]*\])$", "", path)].append(path)
        for children in parents.values():
            for first, second in list(combinations(children, 2))[:_MOST_EXCHANGES]:
                pairs = self._paired(modules[first], modules[second])
                candidate = self._all_exchanged(pairs, sources, f"{first} and {second} exchanged")
                if candidate is not None:
                    yield candidate

    def _reversed_lists(
        self, rows: Sequence[int], sources: Sequence[Expr | None]
    ) -> Iterator[Candidate]:
        modules = self._modules(rows)
        lists: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
        for path in modules:
            if found := re.fullmatch(r"(.*)\[(\d+)\]", path):
                lists[found[1]].append((int(found[2]), path))
        for path, items in lists.items():
            items.sort()
            if len(items) < 3:
                continue
            half = len(items) // 2
            lots = [
                self._paired(modules[first], modules[last])
                for (_, first), (_, last) in zip(items[:half], items[::-1][:half], strict=True)
            ]
            pairs = [pair for lot in lots for pair in lot or ()] if None not in lots else None
            candidate = self._all_exchanged(pairs, sources, f"{path} reversed")
            if candidate is not None:
                yield candidate

    def _paired(
        self, first: dict[str, int], second: dict[str, int]
    ) -> list[tuple[int, int]] | None:
        """Return the leaves of two modules pairwise; None unless they are alike."""
        if first.keys() != second.keys() or len(first) < 2:
            return None
        pairs = [(index, second[rest]) for rest, index in first.items()]
        alike = all(self._skeleton[a].shape == self._skeleton[b].shape for a, b in pairs)
        return pairs if alike else None

    def _all_exchanged(
        self, pairs: list[tuple[int, int]] | None, sources: Sequence[Expr | None], words: str
    ) -> Candidate | None:
        changes: dict[int, Expr] = {}
        for first, second in pairs or ():
            one, other = sources[first], sources[second]
            if one is None or other is None:
                return None
            if one != other:
                changes |= {first: other, second: one}
        return Candidate(tuple(changes.items()), words) if changes else None


def _parts_as(order: Sequence[int], source: Expr, axis: int, size: int) -> Expr:
    """Return a source whose parts along an axis are in another order."""
    length = size // len(order)
    return Concat(tuple(Split(source, axis, n * length, (n + 1) * length) for n in order), axis)
