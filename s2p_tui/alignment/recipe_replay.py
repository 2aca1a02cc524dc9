"""Replaying a recipe: the rows its patterns give over a pair, and what speaks against them.

On the pair it was made from it gives the mapping back. Elsewhere a row is settled only where a hand
settled it there, and everything the pattern knew still holds; what the matcher had chosen, or was
accepted although doubtful, is the matcher's to prove again. Where one shape does not fit, the
files are not what the recipe is about, and it settles nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import chain, count
from math import prod
from typing import Any

from msgspec import Struct

from s2p_tui.alignment.alignment import Row, fixed_row
from s2p_tui.alignment.judge import as_taken, same_but_ones
from s2p_tui.alignment.mapping_file import SavedAlignment
from s2p_tui.alignment.recipe import (
    AmbiguousError,
    Name,
    Pattern,
    Recipe,
    fixed_number,
    fixed_places,
    in_lists,
    number_of,
    split_name,
    value_of,
)
from s2p_tui.alignment.skeleton import Leaf, Skeleton, class_name
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import Expr, Shape, Take, from_json, shape_of, show
from s2p_tui.alignment.untrusted import MalformedError, list_of, size_of
from s2p_tui.errors import TransformError, some

_SETTLED_BY = ("user", "recipe")


class Placed(Struct, frozen=True):
    """A row that a pattern gives.

    Attributes:
        index: The leaf.
        row: As in the mapping that the recipe was made from.
        pattern: The pattern.
        doubts: Why it may be wrong here, in words.
        fits: False if its source does not have the leaf's shape.
    """

    index: int
    row: Row
    pattern: Pattern
    doubts: tuple[str, ...] = ()
    fits: bool = True


class Applied(Struct, frozen=True):
    """A recipe over a pair that it was not made from.

    Attributes:
        rows: By leaf; `by` a recipe where settled, by a pattern where not, with the doubt.
        misfits: Leaves whose source does not have their shape.
        by_hand: Leaves whose rows were chosen by hand where the recipe was made.
        accepted: Keys accepted as unused.
        open: Array leaves that no pattern covers.
        lacking: Those of them that were filled by hand where the recipe was made, from a list that
            is shorter here, and the key that is missing.
    """

    rows: Mapping[int, Row]
    misfits: tuple[int, ...]
    by_hand: frozenset[int]
    accepted: tuple[str, ...]
    open: tuple[int, ...]
    lacking: Mapping[int, str]


class Replay:
    """One recipe over one pair of files. Reads no tensor data.

    Args:
        recipe: The recipe.
        state_dict: The entries.
        skeleton: The leaves.
    """

    def __init__(self, recipe: Recipe, state_dict: StateDict, skeleton: Skeleton) -> None:
        self._recipe, self._state_dict, self._skeleton = recipe, state_dict, skeleton
        self._by_texts: defaultdict[tuple[str, ...], list[Pattern]] = defaultdict(list)
        for pattern in sorted(recipe.patterns, key=lambda one: one.path.captures):
            self._by_texts[pattern.path.texts].append(pattern)
        self._contested = {
            texts
            for texts, patterns in self._by_texts.items()
            if len({pattern.takes for pattern in patterns}) > 1
        }
        self._places = {pattern.path: fixed_places(pattern) for pattern in recipe.patterns}
        self._lists: Mapping[str, int] | None = None

    @cached_property
    def _texts(self) -> set[tuple[str, ...]]:
        """Names of the checkpoint without their numbers."""
        return {split_name(entry.key)[0] for entry in self._state_dict}

    @property
    def is_its_own(self) -> bool:
        """True if the recipe was made from this very pair, numbers aside."""
        recipe = self._recipe
        return (recipe.source.digest, recipe.target.digest) == (
            self._state_dict.digest,
            self._skeleton.digest,
        )

    def placed(self, index: int) -> Placed | None:
        """Return the row that a pattern gives for a leaf; None if none does."""
        leaf = self._skeleton[index]
        texts, numbers = split_name(leaf.path)
        for pattern in self._by_texts.get(texts, ()):
            captured = pattern.path.captured(numbers)
            if captured is None:
                continue
            found = self._made(index, leaf, pattern, captured)
            if found is not None:
                return found
        return None

    def lacking(self, index: int) -> str:
        """Return the key that a hand had put on a leaf, missing in a list that is here; or ""."""
        leaf = self._skeleton[index]
        texts, numbers = split_name(leaf.path)
        for pattern in self._by_texts.get(texts, ()):
            captured = pattern.path.captured(numbers)
            if captured is None or pattern.by not in _SETTLED_BY or not pattern.sources:
                continue
            builder = _Builder(pattern, leaf.shape, self._state_dict, dict(captured), [])
            tree = 0 if pattern.transform is None else pattern.transform
            try:
                builder.built(tree)
            except _MissingError as error:
                key = str(error)
                if split_name(key)[0] in self._texts:
                    return key
            except (TransformError, MalformedError):
                continue
        return ""

    def _made(
        self, index: int, leaf: Leaf, pattern: Pattern, captured: Mapping[str, int]
    ) -> Placed | None:
        doubts: list[str] = []
        source: Expr | None = None
        if not pattern.gap and (pattern.sources or pattern.transform is not None):
            builder = _Builder(pattern, leaf.shape, self._state_dict, dict(captured), doubts)
            try:
                tree = 0 if pattern.transform is None else pattern.transform
                source = builder.built(tree)
            except _MissingError:
                return None
            except (TransformError, MalformedError) as error:
                # Nothing is put there, as the entry alone might do for what it is not.
                return Placed(index, Row(by=pattern.by), pattern, (str(error),), fits=False)
        why = _filled(pattern.why, captured)
        row = Row(source, pattern.gap, pattern.by, why, pattern.trusted, pattern.fixed)
        fits = True
        if source is not None:
            shape = shape_of(as_taken(source, leaf, self._state_dict), self._state_dict.shape)
            fits = prod(shape) == prod(leaf.shape) and same_but_ones(shape, leaf.shape)
            if not fits:
                doubts.append(f"it gives {show(shape)}, the leaf is {show(leaf.shape)}")
        return Placed(index, row, pattern, tuple(doubts), fits)

    def applied(self) -> Applied:
        """Return the rows for a pair that the recipe was not made from."""
        placed: list[Placed] = []
        open_leaves: list[int] = []
        for index, found in self._all():
            if found is None:
                open_leaves.append(index)
            else:
                placed.append(found)
        misfits = tuple(one.index for one in placed if not one.fits)
        others = f"{some([self._skeleton[n].path for n in misfits], most=1)} does not fit it"
        rows = {
            one.index: self._settled(one, f"{others}, so it settles nothing" if misfits else "")
            for one in placed
        }
        accepted = () if misfits else tuple(self.accepted_of(rows.values()))
        by_hand = frozenset(one.index for one in placed if one.row.by in _SETTLED_BY)
        lacking = {index: key for index in open_leaves if (key := self.lacking(index))}
        return Applied(rows, misfits, by_hand, accepted, tuple(open_leaves), lacking)

    @property
    def covers(self) -> bool:
        """True if every leaf that entries fill has a row whose shape fits."""
        return bool(len(self._skeleton)) and all(
            found is not None and found.fits for _, found in self._all()
        )

    def _all(self) -> Iterator[tuple[int, Placed | None]]:
        """Yield the leaves that entries fill, each with the row that a pattern gives."""
        for index, leaf in enumerate(self._skeleton):
            found = self.placed(index)
            # A scalar, or a leaf that its layer's rule fills: neither is a recipe's to say, unless
            # somebody filled it otherwise.
            is_usual = found is None or found.row.fixed or (found.row.source is None and found.fits)
            if is_usual and fixed_row(leaf) is not None:
                continue
            is_said = found is not None and (
                found.row.gap or found.row.source is not None or not found.fits
            )
            yield index, found if is_said else None

    def _settled(self, placed: Placed, others: str) -> Row:
        """Return a row as it stands here: settled, or with what speaks against it."""
        row, pattern, name = placed.row, placed.pattern, self._recipe.name
        doubts = [*placed.doubts, *self._doubts(placed.index, pattern)]
        if not doubts and others:
            doubts.append(others)
        if not doubts and row.by not in _SETTLED_BY:
            doubts.append("nobody chose it by hand where the recipe was made")
        if doubts:
            why = f"as recipe {name} has it, but {'; '.join(doubts)}"
            return Row(row.source, row.gap, by="pattern", why=why)
        return Row(row.source, row.gap, by="recipe", why=f"recipe {name}")

    def _doubts(self, index: int, pattern: Pattern) -> Iterator[str]:
        leaf = self._skeleton[index]
        owner = class_name(leaf.owner) if leaf.owner else ""
        if pattern.owner != owner:
            yield f"its layer is of class {owner or 'unknown'}, not {pattern.owner or 'unknown'}"
        if pattern.path.captures and pattern.path.texts in self._contested:
            yield "others of its list are filled otherwise"
        if places := self._places[pattern.path]:
            known = self._list_sizes()
            other = [p for p in sorted(places) if known.get(p) != self._recipe.lists.get(p)]
            if other:
                was, are = self._recipe.lists.get(other[0], 0), known.get(other[0], 0)
                yield f"{other[0].replace('{}', '*')}* were {was} where it was made, here {are}"

    def _list_sizes(self) -> Mapping[str, int]:
        if self._lists is None:
            paths = (leaf.path for leaf in self._skeleton)
            keys = (entry.key for entry in self._state_dict)
            self._lists = list_sizes(self._recipe.patterns, keys, paths)
        return self._lists

    def accepted_of(self, rows: Iterable[Row]) -> Iterator[str]:
        """Yield the keys accepted as unused that none of the rows uses."""
        used = {key for row in rows for key in row.keys}
        names: defaultdict[tuple[str, ...], list[Name]] = defaultdict(list)
        for name in self._recipe.accepted:
            names[name.texts].append(name)
        for entry in self._state_dict if names else ():
            texts, numbers = split_name(entry.key)
            if entry.key not in used and any(
                name.captured(numbers) is not None for name in names.get(texts, ())
            ):
                yield entry.key


def expanded(
    recipe: Recipe, mapping: SavedAlignment, state_dict: StateDict, skeleton: Skeleton
) -> SavedAlignment:
    """Return the mapping that a recipe gives over the pair it was made from.

    Args:
        recipe: The recipe.
        mapping: What to take the description of both ends from.
        state_dict: The entries.
        skeleton: The leaves.
    """
    replay = Replay(recipe, state_dict, skeleton)
    placed = (replay.placed(index) for index in range(len(skeleton)))
    rows = tuple(
        (leaf.path, Row() if one is None else one.row)
        for leaf, one in zip(skeleton, placed, strict=True)
    )
    used = {key for _, row in rows for key in row.keys}
    left = tuple(entry.key for entry in state_dict if entry.key not in used)
    bench = left if recipe.bench is None else recipe.bench
    accepted = set(replay.accepted_of(row for _, row in rows))
    return replace(
        mapping, rows=rows, bench=bench, accepted=tuple(key for key in bench if key in accepted)
    )


def list_sizes(
    patterns: Iterable[Pattern], keys: Iterable[str], paths: Iterable[str]
) -> dict[str, int]:
    """Return how many numbers each list has that a pattern takes a fixed number from."""
    wanted = {place for pattern in patterns for place in fixed_places(pattern)}
    found: defaultdict[str, set[int]] = defaultdict(set)
    for name in chain(keys, paths) if wanted else ():
        texts, numbers = split_name(name)
        for place, number in enumerate(numbers):
            if (known := in_lists(texts, place)) in wanted:
                found[known].add(number)
    return {known: len(found[known]) for known in sorted(wanted)}


class _MissingError(Exception):
    """The checkpoint holds no such entry."""


class _Builder:
    """Makes the source of one row from a pattern's transform.

    Args:
        pattern: The pattern.
        leaf: The leaf's shape.
        state_dict: The entries.
        captured: The variables; those that run over a stack are added.
        doubts: Gets a sentence for what does not follow here.
    """

    def __init__(
        self,
        pattern: Pattern,
        leaf: Shape,
        state_dict: StateDict,
        captured: dict[str, int],
        doubts: list[str],
    ) -> None:
        self._sources, self._leaf, self._state_dict = pattern.sources, leaf, state_dict
        self._captured, self._doubts = captured, doubts

    def built(self, node: Any) -> Expr:
        """Return the expression.

        Raises:
            _MissingError: It takes an entry that does not exist.
            TransformError: A step does not apply to the shape it meets.
            MalformedError: It is none.
        """
        if isinstance(node, int):
            return Take(self._key(self._sources[node]))
        if "each" in node:
            return self._each(node)
        step = {name: value for name, value in node.items() if name != "of"}
        if "of" not in node:
            return from_json(self._with_sizes(step, {"leaf": self._leaf}), ())
        of: Any = node["of"]
        operands = [self.built(one) for one in (list_of(of) if isinstance(of, list) else [of])]
        shapes = {"leaf": self._leaf}
        if _has_sizes(step):
            shapes["from"] = shape_of(operands[0], self._state_dict.shape)
        step = self._with_sizes(step, shapes)
        places = list(range(len(operands)))
        keys = [f"{place}" for place in places]
        made = from_json(step | {"of": places if isinstance(of, list) else 0}, keys)
        return made.with_operands(tuple(operands))

    def _key(self, source: Name) -> str:
        try:
            key = source.filled(self._captured)
        except AmbiguousError as error:
            self._doubts.append(str(error))
            key = _filled(source, self._captured)
        if key not in self._state_dict:
            raise _MissingError(key)
        return key

    def _each(self, node: Mapping[str, Any]) -> Expr:
        """Return a stack of as many operands as the checkpoint has."""
        operands: list[Expr] = []
        variable, step = node["over"], size_of(node["step"])
        for number in count(size_of(node["start"]), step or 1):
            self._captured[variable] = number
            try:
                operand = self.built(node["each"])
            except _MissingError:
                break
            if operands and operand == operands[-1]:
                raise MalformedError(f"{variable} runs over nothing")
            operands.append(operand)
        if not operands:
            raise _MissingError
        places = list(range(len(operands)))
        stack = {"op": "stack", "axis": node["axis"], "of": places}
        return from_json(stack, [""] * len(places)).with_operands(tuple(operands))

    def _with_sizes(self, step: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, Any]:
        found = dict(step)
        for name in ("start", "stop"):
            if isinstance(found.get(name), str):
                found[name] = self._size(found[name], shapes)
        if "shape" in found:
            found["shape"] = [self._size(size, shapes) for size in found["shape"]]
        return found

    def _size(self, text: str, shapes: Mapping[str, Shape]) -> int:
        number = number_of(text)
        fixed = fixed_number(number)
        if fixed is not None:
            if fixed > 1:
                # Such as a number of heads, which no shape shows.
                self._doubts.append(f"a size of {fixed} is taken over as it was")
            return fixed
        try:
            return value_of(number, self._captured, shapes)
        except AmbiguousError as error:
            self._doubts.append(str(error))
        value = number[0].value(self._captured, shapes)
        if value is None:
            raise TransformError(f"{text} is no whole number here")
        return value


def _has_sizes(step: Mapping[str, Any]) -> bool:
    return "shape" in step or "start" in step


def _filled(name: Name, captured: Mapping[str, int]) -> str:
    """Return the name by the first of each number's terms."""
    numbers = tuple(number[:1] for number in name.numbers)
    try:
        return Name(name.texts, numbers).filled(captured)
    except AmbiguousError:
        return str(name)
