"""Learning a recipe from a mapping: the fewest patterns that give back every row of it.

Rows that read alike but for their numbers are one pattern where their numbers follow from those of
their key paths, and their sizes from shapes; otherwise they are parted by one number, and so on.
Replaying a recipe on its own pair gives the mapping back, which is checked here.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from msgspec import Struct, structs

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.mapping_file import SavedAlignment, to_text
from s2p_tui.alignment.recipe import (
    CAPTURES,
    RUNNING,
    Name,
    Number,
    Pattern,
    Recipe,
    Term,
    literal,
    show_number,
    split_name,
)
from s2p_tui.alignment.recipe_replay import expanded, list_sizes
from s2p_tui.alignment.skeleton import Leaf, Skeleton
from s2p_tui.alignment.state_dict import Entry, StateDict
from s2p_tui.alignment.transform import (
    Broadcast,
    Constant,
    Expr,
    Reshape,
    Shape,
    Split,
    Stack,
    Take,
    shape_of,
    to_json,
)
from s2p_tui.errors import InputError, TransformError

# Parts of a fused weight; beyond that any two sizes are some fraction of each other.
_LARGEST_DIVISOR = 64
_MOST_TERMS = 4
_FEWEST_FOR_A_SLOPE = 3


def learn(mapping: SavedAlignment, name: str) -> Recipe:
    """Return the recipe of a mapping that knows the kinds of its entries and leaves.

    Args:
        mapping: The mapping.
        name: What to call the recipe.

    Raises:
        InputError: The mapping does not know them, or names entries it does not hold.
    """
    if not mapping.entries or not mapping.leaves:
        raise InputError(f"{mapping.name} does not hold the shapes of its entries and leaves.")
    state_dict = StateDict(tuple(Entry(k, v.shape, v.dtype) for k, v in mapping.entries.items()))
    skeleton = Skeleton(
        tuple(Leaf(p, v.shape, v.dtype, owner=v.owner or None) for p, v in mapping.leaves.items())
    )
    text = to_text(mapping)
    for each in (True, False):
        recipe = _learned(mapping, state_dict, skeleton, name, each=each)
        if to_text(expanded(recipe, mapping, state_dict, skeleton)) == text:
            return recipe
    raise InputError(f"{mapping.name} does not hold together: its rows are not those of its ends.")


def _learned(
    mapping: SavedAlignment, state_dict: StateDict, skeleton: Skeleton, name: str, *, each: bool
) -> Recipe:
    samples: defaultdict[tuple[Any, ...], list[_Sample]] = defaultdict(list)
    for index, (path, row) in enumerate(mapping.rows):
        if path not in skeleton or any(key not in state_dict for key in row.keys):
            raise InputError(f"{mapping.name} does not hold the shape of {path} or of its source.")
        sample = _Reader(state_dict, skeleton, each=each).read(index, path, row)
        samples[sample.kind].append(sample)
    solved = [found for group in samples.values() for found in _solved(group)]
    solved = _apart(solved)
    solved.sort(key=lambda found: found.samples[0].index)
    patterns = tuple(found.pattern for found in solved)
    used = {key for _, row in mapping.rows for key in row.keys}
    bench = tuple(entry.key for entry in state_dict if entry.key not in used)
    return Recipe(
        mapping.source,
        mapping.target,
        patterns,
        _accepted(mapping),
        None if bench == mapping.bench else mapping.bench,
        list_sizes(patterns, mapping.entries, mapping.leaves),
        name,
    )


class _Slot(Struct, frozen=True):
    """A size in a transform.

    Attributes:
        value: The size.
        shapes: The leaf's shape, and that of the transform's operand.
        axis: The axis of the operand it is about; None for a size of a shape.
        only: The one term that can be meant, if any.
    """

    value: int
    shapes: Mapping[str, Shape]
    axis: int | None = None
    only: Term | None = None


Numbers = tuple[int | str, ...]
"""Numbers of a name; a text is a variable that runs over a stack's operands."""


class _Sample(Struct, frozen=True):
    """One row as texts and numbers."""

    index: int
    texts: tuple[str, ...]
    numbers: tuple[int, ...]
    row: Row
    owner: str
    sources: tuple[tuple[tuple[str, ...], Numbers], ...]
    tree: Any
    slots: tuple[_Slot, ...]
    why: tuple[tuple[str, ...], tuple[int, ...]]

    @property
    def kind(self) -> tuple[Any, ...]:
        """Equal for rows that are alike but for their numbers."""
        row = self.row
        runs = tuple(tuple(n for n in numbers if isinstance(n, str)) for _, numbers in self.sources)
        return (
            self.texts,
            tuple(texts for texts, _ in self.sources),
            runs,
            json.dumps(self.tree),
            (row.by, row.gap, row.trusted, row.fixed, self.owner),
            self.why[0],
        )


class _Reader:
    """Reads one row of a mapping as a sample."""

    def __init__(self, state_dict: StateDict, skeleton: Skeleton, *, each: bool) -> None:
        self._state_dict, self._skeleton, self._each = state_dict, skeleton, each
        self._slots: list[_Slot] = []
        self._leaf: Shape = ()

    def read(self, index: int, path: str, row: Row) -> _Sample:
        leaf = self._skeleton[self._skeleton.index(path)]
        self._leaf = leaf.shape
        if row.by == "forward":
            # Other models were not run: there it is what a hand has settled here.
            row = structs.replace(row, by="user", why="")
        sources: list[tuple[tuple[str, ...], Numbers]] = []
        tree = None
        if row.source is not None:
            tree = self._tree(row.source, sources, 0)
        texts, numbers = split_name(path)
        owner = leaf.owner or ""
        slots, why = tuple(self._slots), split_name(row.why)
        return _Sample(index, texts, numbers, row, owner, tuple(sources), tree, slots, why)

    def _tree(self, expr: Expr, sources: list[tuple[tuple[str, ...], Numbers]], depth: int) -> Any:
        """Return the expression as JSON values, with places for sizes; collects keys and sizes."""
        if isinstance(expr, Take):
            name = split_name(expr.key)
            if name not in sources:
                sources.append(name)
            return sources.index(name)
        if self._each and isinstance(expr, Stack) and len(expr.of) > 1 and depth < len(RUNNING):
            found = self._running(expr, sources, depth)
            if found is not None:
                return found
        of = [self._tree(operand, sources, depth) for operand in expr.operands]
        # As a file would give it back: lists for tuples.
        node = json.loads(json.dumps(to_json(_without_operands(expr), ("",))))
        if "of" in node:
            node["of"] = of if isinstance(node["of"], list) else of[0]
        return self._with_slots(expr, node)

    def _with_slots(self, expr: Expr, node: dict[str, Any]) -> dict[str, Any]:
        match expr:
            case Split(of, axis, start, stop):
                shapes = self._shapes(of)
                self._slots += [_Slot(start, shapes, axis), _Slot(stop, shapes, axis)]
                return node | {"start": "?", "stop": "?"}
            case Reshape(shape=shape) | Broadcast(shape=shape) | Constant(shape=shape):
                shapes = {"leaf": self._leaf}
                if not isinstance(expr, Constant):
                    shapes = self._shapes(expr.of)
                is_leafs = shape == self._leaf
                for axis, size in enumerate(shape):
                    only = Term(offset=1, unit="leaf", axis=axis) if is_leafs else None
                    self._slots.append(_Slot(size, shapes, None, only))
                return node | {"shape": ["?"] * len(shape)}
            case _:
                return node

    def _shapes(self, of: Expr) -> Mapping[str, Shape]:
        try:
            return {"leaf": self._leaf, "from": shape_of(of, self._state_dict.shape)}
        except TransformError:
            return {"leaf": self._leaf}

    def _running(
        self, expr: Stack, sources: list[tuple[tuple[str, ...], Numbers]], depth: int
    ) -> Any:
        """Return the stack as its first operand, repeated; None if its operands are not alike."""
        before = len(self._slots)
        parts: list[tuple[Any, list[tuple[tuple[str, ...], Numbers]], list[_Slot]]] = []
        for operand in expr.of:
            own: list[tuple[tuple[str, ...], Numbers]] = []
            tree = self._tree(operand, own, depth + 1)
            parts.append((tree, own, self._slots[before:]))
            del self._slots[before:]
        tree, first, slots = parts[0]
        merged = _merged([own for _, own, _ in parts], RUNNING[depth])
        if merged is None or any(
            (other, [slot.value for slot in theirs]) != (tree, [slot.value for slot in slots])
            for other, _, theirs in parts
        ):
            return None
        names, start, step = merged
        if self._goes_on(first, names, RUNNING[depth], start + step * len(parts)):
            return None
        self._slots += slots
        places: list[int] = []
        for name in names:
            if name not in sources:
                sources.append(name)
            places.append(sources.index(name))
        each = _renumbered(tree, places)
        over = {"over": RUNNING[depth], "start": start, "step": step}
        return {"op": "stack", "axis": expr.axis, "each": each} | over

    def _goes_on(
        self,
        first: Sequence[tuple[tuple[str, ...], Numbers]],
        names: Sequence[tuple[tuple[str, ...], Numbers]],
        variable: str,
        number: int,
    ) -> bool:
        """Return True if the checkpoint holds more operands of the kind than the stack takes."""
        filled = (
            (texts, tuple(number if n == variable else n for n in numbers))
            for texts, numbers in names
        )
        keys = [_joined(name) for name in filled]
        return bool(first) and all(key in self._state_dict for key in keys)


def _joined(name: tuple[tuple[str, ...], Numbers]) -> str:
    texts, numbers = name
    return texts[0] + "".join(
        f"{number}{text}" for number, text in zip(numbers, texts[1:], strict=True)
    )


def _without_operands(expr: Expr) -> Expr:
    """Return the step alone, over nothing in particular."""
    return expr.with_operands(tuple(Take("") for _ in expr.operands))


def _over_operands(tree: Any, change: Callable[[Any], Any]) -> dict[str, Any]:
    """Return a node of an expression in JSON with its operands changed, first to last."""
    found: dict[str, Any] = dict(tree)
    for name in ("of", "each"):
        if isinstance(found.get(name), list):
            found[name] = [change(one) for one in found[name]]
        elif name in found:
            found[name] = change(found[name])
    return found


def _renumbered(tree: Any, indices: Sequence[int]) -> Any:
    if isinstance(tree, int):
        return indices[tree]
    return _over_operands(tree, lambda one: _renumbered(one, indices))


def _merged(
    operands: Sequence[Sequence[tuple[tuple[str, ...], Numbers]]], variable: str
) -> tuple[list[tuple[tuple[str, ...], Numbers]], int, int] | None:
    """Return the keys of operands with the one number that runs replaced; its start and step."""
    first = operands[0]
    if not first or any([t for t, _ in own] != [t for t, _ in first] for own in operands):
        return None
    names: list[tuple[tuple[str, ...], Numbers]] = []
    ranges: set[tuple[int, int]] = set()
    for place, (texts, _) in enumerate(first):
        columns = list(zip(*(own[place][1] for own in operands), strict=True))
        merged: list[int | str] = []
        for column in columns:
            if len(set(column)) == 1:
                merged.append(column[0])
                continue
            values = [one for one in column if isinstance(one, int)]
            steps = {after - before for before, after in pairwise(values)}
            if len(values) != len(column) or len(steps) != 1 or min(steps) < 1:
                return None
            ranges.add((values[0], min(steps)))
            merged.append(variable)
        if variable not in merged:
            return None
        names.append((texts, tuple(merged)))
    if len(ranges) != 1:
        return None
    return names, *next(iter(ranges))


class _Solved(Struct, frozen=True):
    """A pattern and the rows it stands for."""

    pattern: Pattern
    samples: tuple[_Sample, ...]


def _solved(samples: Sequence[_Sample]) -> list[_Solved]:
    """Return the fewest patterns of rows that are alike but for their numbers."""
    pattern = _pattern(samples)
    if pattern is not None:
        return [_Solved(pattern, tuple(samples))]
    best: list[_Solved] = []
    for place in _varying(samples):
        parts: defaultdict[int, list[_Sample]] = defaultdict(list)
        for sample in samples:
            parts[sample.numbers[place]].append(sample)
        found = [one for part in parts.values() for one in _solved(part)]
        if not best or len(found) < len(best):
            best = found
    return best


def _varying(samples: Sequence[_Sample]) -> list[int]:
    columns = zip(*(sample.numbers for sample in samples), strict=True)
    return [place for place, column in enumerate(columns) if len(set(column)) > 1]


def _pattern(samples: Sequence[_Sample]) -> Pattern | None:
    """Return the one pattern of some rows; None if their numbers do not follow from each other."""
    first, places = samples[0], _varying(samples)
    if len(places) > len(CAPTURES):
        return None
    captured = {
        CAPTURES[number]: [sample.numbers[place] for sample in samples]
        for number, place in enumerate(places)
    }
    numbers = [(literal(number),) for number in first.numbers]
    for variable, place in zip(captured, places, strict=True):
        numbers[place] = (Term(variable),)
    try:
        sources = tuple(
            _name(texts, [sample.sources[place][1] for sample in samples], captured)
            for place, (texts, _) in enumerate(first.sources)
        )
        why = _name(first.why[0], [sample.why[1] for sample in samples], captured)
        columns = zip(*(sample.slots for sample in samples), strict=True)
        sizes = iter([show_number(_size(slots, captured)) for slots in columns])
    except _NoTermError:
        return None
    row = first.row
    # Nothing at all, or a plain copy.
    is_copy = first.tree is None or isinstance(first.tree, int)
    tree = None if is_copy else _with_sizes(first.tree, sizes)
    path = Name(first.texts, tuple(numbers))
    return Pattern(path, sources, tree, row.gap, row.by, why, row.trusted, row.fixed, first.owner)


def _with_sizes(tree: Any, sizes: Iterator[str]) -> Any:
    """Return the tree with its sizes filled in, operands first, as they were collected."""
    if isinstance(tree, int):
        return tree
    found = _over_operands(tree, lambda one: _with_sizes(one, sizes))
    if found.get("start") == "?":
        found |= {"start": next(sizes), "stop": next(sizes)}
    if "?" in found.get("shape", ()):
        found["shape"] = [next(sizes) for _ in found["shape"]]
    return found


class _NoTermError(ValueError):
    """A number follows from nothing."""


_Captured = Mapping[str, Sequence[int]]


def _name(texts: tuple[str, ...], rows: Sequence[Numbers], captured: _Captured) -> Name:
    """Return the name whose numbers follow from what was captured.

    Raises:
        _NoTermError: One does not.
    """
    numbers: list[Number] = []
    for column in zip(*rows, strict=True):
        if len(set(column)) == 1:
            one = column[0]
            numbers.append((Term(one),) if isinstance(one, str) else (literal(one),))
            continue
        terms = tuple(_affine([int(value) for value in column], captured))
        if not terms:
            raise _NoTermError
        numbers.append(terms[:_MOST_TERMS])
    return Name(texts, tuple(numbers))


def _affine(values: Sequence[int], captured: _Captured) -> Iterator[Term]:
    """Yield terms of one variable each that give the values, which are not all the same."""
    for variable, given in captured.items():
        pairs = dict(zip(given, values, strict=True))
        (x, y), *others = pairs.items()
        if not others:
            continue
        run, rise = others[-1][0] - x, others[-1][1] - y
        scale, rest = divmod(rise, run)
        # Any two numbers lie on a line; only a line through a third shows more than a shift.
        if rest or scale < 1 or (scale > 1 and len(pairs) < _FEWEST_FOR_A_SLOPE):
            continue
        term = Term(variable, scale, y - scale * x)
        if all(scale * a + term.offset == b for a, b in zip(given, values, strict=True)):
            yield term


def _size(slots: Sequence[_Slot], captured: _Captured) -> Number:
    """Return the terms that give a size of a transform in every row.

    Raises:
        _NoTermError: None does.
    """
    only = slots[0].only
    if only is not None and all(slot.only == only for slot in slots):
        return (only,)
    values = [slot.value for slot in slots]
    is_same = len(set(values)) == 1
    if is_same and values[0] in (0, 1):
        return (literal(values[0]),)
    found = list(_of_shapes(slots, values, captured))
    if not is_same:
        found += _affine(values, captured)
    if not found and is_same:
        return (literal(values[0]),)
    if not found:
        raise _NoTermError
    return tuple(found[:_MOST_TERMS])


def _of_shapes(
    slots: Sequence[_Slot], values: Sequence[int], captured: _Captured
) -> Iterator[Term]:
    for unit in ("leaf", "from"):
        shapes = [slot.shapes.get(unit, ()) for slot in slots]
        for axis in range(min(map(len, shapes))):
            if unit == "from" and slots[0].axis not in (None, axis):
                continue
            sizes = [shape[axis] for shape in shapes]
            if 0 in sizes:
                continue
            if slots[0].axis is None:
                # A share of an axis may be a number of heads, which is no share of another one.
                if sizes == values:
                    yield Term(offset=1, unit=unit, axis=axis)
                continue
            term = _share(values, sizes, unit)
            if term is not None:
                yield structs.replace(term, axis=axis)
            elif unit == "leaf" and all(
                value % size == 0 for value, size in zip(values, sizes, strict=True)
            ):
                factors = [value // size for value, size in zip(values, sizes, strict=True)]
                if len(set(factors)) > 1:
                    for one in _affine(factors, captured):
                        yield structs.replace(one, unit="leaf", axis=axis)


def _share(values: Sequence[int], sizes: Sequence[int], unit: Any) -> Term | None:
    """Return the values as one multiple, or of an operand one fraction, of sizes."""
    for divisor in range(1, _LARGEST_DIVISOR + 1 if unit == "from" else 2):
        factor, rest = divmod(values[0] * divisor, sizes[0])
        if not rest and factor and factor <= _LARGEST_DIVISOR:
            pairs = zip(values, sizes, strict=True)
            if all(value * divisor == size * factor for value, size in pairs):
                return Term(offset=factor, unit=unit, divisor=divisor)
    return None


def _apart(solved: list[_Solved]) -> list[_Solved]:
    """Return patterns of which each row is matched by its own first, the narrower before others.

    Of two that get in each other's way, the one with fewer rows is spelled out row by row.
    """
    by_texts: defaultdict[tuple[str, ...], list[_Solved]] = defaultdict(list)
    for one in solved:
        by_texts[one.pattern.path.texts].append(one)
    done: list[_Solved] = []
    for group in by_texts.values():
        while (victim := _in_the_way(group)) is not None:
            group.remove(victim)
            for sample in victim.samples:
                group += _solved([sample])
        done += group
    return done


def _in_the_way(group: Sequence[_Solved]) -> _Solved | None:
    if len(group) < 2:
        return None
    order = sorted(group, key=lambda one: one.pattern.path.captures)
    for own in order:
        for sample in own.samples:
            first = next(o for o in order if o.pattern.path.captured(sample.numbers) is not None)
            if first is not own:
                return min((first, own), key=lambda one: len(one.samples))
    return None


def _accepted(mapping: SavedAlignment) -> tuple[Name, ...]:
    """Return the names of the entries accepted as unused, numbers that differ captured."""
    groups: defaultdict[tuple[str, ...], list[tuple[int, ...]]] = defaultdict(list)
    others: defaultdict[tuple[str, ...], list[tuple[int, ...]]] = defaultdict(list)
    accepted = set(mapping.accepted)
    for key in mapping.bench:
        texts, numbers = split_name(key)
        (groups if key in accepted else others)[texts].append(numbers)
    found: list[Name] = []
    for texts, rows in groups.items():
        columns = list(zip(*rows, strict=True))
        varying = [place for place, column in enumerate(columns) if len(set(column)) > 1]
        names = dict(zip(varying, CAPTURES, strict=False))
        general = Name(
            texts,
            tuple(
                (Term(names[place]),) if place in names else (literal(column[0]),)
                for place, column in enumerate(columns)
            ),
        )
        is_too_wide = any(general.captured(numbers) is not None for numbers in others[texts])
        if is_too_wide or len(varying) > len(CAPTURES):
            found += [Name(texts, tuple((literal(n),) for n in numbers)) for numbers in rows]
        else:
            found.append(general)
    return tuple(found)
