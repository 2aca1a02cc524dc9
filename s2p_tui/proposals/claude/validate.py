"""Nothing of an answer is used before it was found possible here."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.choices import Choice, choices, why_none
from s2p_tui.alignment.composites import composites_of
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.judge import judge, landing
from s2p_tui.alignment.skeleton import Leaf
from s2p_tui.alignment.state_dict import StateDict
from s2p_tui.alignment.transform import (
    Concat,
    Expr,
    Flip,
    Permute,
    Split,
    Stack,
    Sum,
    Take,
    keys_of,
    nodes_of,
    operands,
    rename,
)
from s2p_tui.errors import TransformError
from s2p_tui.proposals.claude.answer import (
    Answer,
    AnsweredRow,
    Reference,
    WrongAnswerError,
    resolve,
    shared_out,
)
from s2p_tui.proposals.claude.listing import Line
from s2p_tui.proposals.proposal import Confidence, Situation


def _has(*kinds: type) -> Callable[[Expr], bool]:
    return lambda expr: any(isinstance(node, kinds) for node in nodes_of(expr))


_WANTED: dict[str, Callable[[Expr], bool]] = {
    "auto": lambda _: True,
    "transpose": _has(Permute),
    "flip": _has(Flip),
    "stack": _has(Stack),
    "concat": _has(Concat),
    "sum": _has(Sum),
}


class Maker:
    """Makes expressions; members of one group are made alike without looking for a way again."""

    def __init__(self, state_dict: StateDict) -> None:
        self._state_dict = state_dict
        self._made: dict[object, Expr] = {}

    def make(
        self, leaf: Leaf, keys: Sequence[str], how: str, part: tuple[int, int], alike: object
    ) -> Expr:
        """The source of a row.

        Args:
            leaf: The leaf to fill.
            keys: The entries, in order.
            how: One of `HOWS`.
            part: The part, counted from 1, and the number of parts; `(0, 1)` for the whole.
            alike: Equal for rows of the same leaf group, entry groups, word and part.

        Raises:
            WrongAnswerError: It is not possible.
        """
        known = self._made.get(alike)
        if known is not None:
            expr = rename(known, dict(zip(keys_of(known), keys, strict=False)))
            if set(keys_of(expr)) == set(keys) and self._fits(leaf, expr):
                return expr
        expr = self._found(leaf, keys, how, part)
        if keys_of(expr) == tuple(keys):
            self._made[alike] = expr
        return expr

    def _fits(self, leaf: Leaf, expr: Expr) -> bool:
        verdict = judge(leaf, Row(expr, by="claude"), self._state_dict)
        return verdict.fit in (Fit.EXACT, Fit.TRANSFORMED)

    def _found(self, leaf: Leaf, keys: Sequence[str], how: str, part: tuple[int, int]) -> Expr:
        offered = choices(leaf, keys, self._state_dict)
        # Entries that merely could be added up are not, unless that was said.
        unasked = how == "auto" and not composites_of(keys, self._state_dict)
        fitting = [
            choice
            for choice in offered
            if set(keys_of(choice.expr)) == set(keys)
            and _part_of(choice.expr, self._state_dict) == part
            and _WANTED[how](self._done(leaf, choice))
            and not (unasked and _WANTED["sum"](choice.expr))
        ]
        if fitting:
            return next((c for c in fitting if not c.doubtful), fitting[0]).expr
        if not offered:
            raise WrongAnswerError(why_none(leaf, keys, self._state_dict).rstrip("."))
        names = ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")
        which = f"part {part[0]} of {part[1]} of {names}" if part[0] else names
        raise WrongAnswerError(f"{which} cannot fill {leaf.path} by {how!r}")

    def _done(self, leaf: Leaf, choice: Choice) -> Expr:
        try:
            return landing(choice.expr, leaf, self._state_dict)
        except TransformError:
            return choice.expr


def _part_of(expr: Expr, state_dict: StateDict) -> tuple[int, int]:
    """Return the equal part an expression takes of its entry, and the number of parts."""
    splits = [node for node in nodes_of(expr) if isinstance(node, Split)]
    keys = keys_of(expr)
    if len(splits) != 1 or len(keys) != 1:
        return (0, 1)
    (split,) = splits
    size, start = split.stop - split.start, split.start
    shape = state_dict.shape(keys[0])
    if not size or split.axis >= len(shape):
        return (0, 1)
    return (start // size + 1, shape[split.axis] // size)


@dataclass(frozen=True, slots=True)
class Reading:
    """A part of an entry along one axis.

    Attributes:
        key: The entry.
        axis: The axis, -1 for the whole entry.
        start: First index.
        stop: Index after the last.
    """

    key: str
    axis: int = -1
    start: int = 0
    stop: int = 0

    def overlaps(self, other: Reading) -> bool:
        """Return True if two readings of one entry may share elements."""
        if self.axis < 0 or self.axis != other.axis:
            return True
        return self.start < other.stop and other.start < self.stop


def readings_of(expr: Expr) -> Iterator[Reading]:
    """Return the reads of an expression: whole entries or splits of them."""
    match expr:
        case Take(key):
            yield Reading(key)
        case Split(Take(key), axis, start, stop):
            yield Reading(key, axis, start, stop)
        case _:
            for operand in operands(expr):
                yield from readings_of(operand)


class Used:
    """Readings by leaf.

    Args:
        sources: Leaf indices and what they take for good.
    """

    def __init__(self, sources: Iterable[tuple[int, Expr]]) -> None:
        self._by_key: dict[str, list[tuple[int, Reading]]] = defaultdict(list)
        for index, source in sources:
            self.add(index, source)

    def add(self, index: int, source: Expr) -> None:
        """Note what a leaf takes."""
        for reading in readings_of(source):
            self._by_key[reading.key].append((index, reading))

    def others(self, index: int, source: Expr) -> tuple[str, int] | None:
        """A key that another leaf reads too, and that leaf's index; None if there is none."""
        for reading in readings_of(source):
            for other, theirs in self._by_key.get(reading.key, ()):
                if other != index and reading.overlaps(theirs):
                    return reading.key, other
        return None


@dataclass(frozen=True, slots=True)
class Accepted:
    """A row that could be.

    Attributes:
        row: The row.
        confidence: Claude's confidence.
        group: Rows with an equal one share a reason: the request, and the group of its answer.
    """

    row: Row
    confidence: Confidence
    group: tuple[int, int]


@dataclass
class Found:
    """The rows validated so far, and the problems found.

    Attributes:
        rows: By index.
        problems: Reasons why answered rows are impossible, by leaf index.
        stray: Answers about ids that were not asked about.
    """

    rows: dict[int, Accepted] = field(default_factory=lambda: dict[int, Accepted]())
    problems: dict[int, str] = field(default_factory=lambda: dict[int, str]())
    stray: list[str] = field(default_factory=lambda: list[str]())


class Validator:
    """Holds answers against a situation.

    Args:
        situation: The pair that was asked about.
        lines: The listed groups, by id.
    """

    def __init__(self, situation: Situation, lines: Mapping[str, Line]) -> None:
        self._situation = situation
        self._lines = lines
        self._maker = Maker(situation.state_dict)
        self._keys = [entry.key for entry in situation.state_dict]

    def check(self, answer: Answer, wanted: Collection[int], found: Found, request: int) -> None:
        """Add what is possible of an answer, and why the rest is not, to what was found.

        Args:
            answer: The answer.
            wanted: Places of the rows that it was asked for.
            found: Rows found before keep what they take.
            request: The number of the request.
        """
        wanted = frozenset(wanted)
        for index in wanted:
            found.problems.pop(index, None)
        proposed = self._proposed(answer, wanted, found, request)
        for index, accepted in self._without_clashes(proposed, found):
            found.rows[index] = accepted
        for index in sorted(wanted - found.rows.keys()):
            found.problems.setdefault(index, "nothing was said of it")

    def _proposed(
        self, answer: Answer, wanted: Collection[int], found: Found, request: int
    ) -> dict[int, Accepted]:
        proposed: dict[int, Accepted] = {}
        said = Counter[int]()
        for row in answer.rows:
            try:
                leaves = resolve(row.leaf, "L", self._lines)
            except WrongAnswerError as error:
                found.stray.append(str(error))
                continue
            strangers = [index for index in leaves.items if index not in wanted]
            if strangers:
                found.stray.append(f"{row.leaf[:60]} was not asked about here")
            said.update(leaves.items)
            why = answer.reasons[row.group]
            try:
                sources = list(self._sources(row, leaves))
            except WrongAnswerError as error:
                found.problems.update(dict.fromkeys(set(leaves.items) - {*strangers}, str(error)))
                continue
            for index, source in zip(leaves.items, sources, strict=True):
                if index in wanted:
                    self._add(index, source, row, why, (request, row.group), proposed, found)
        for index, count in said.items():
            if count > 1 and proposed.pop(index, None) is not None:
                found.problems[index] = "it was answered more than once"
        return proposed

    def _add(
        self,
        index: int,
        source: _Source,
        row: AnsweredRow,
        why: str,
        group: tuple[int, int],
        proposed: dict[int, Accepted],
        found: Found,
    ) -> None:
        leaf = self._situation.skeleton[index]
        try:
            made = Row(self._made(index, source), gap=not source.keys, by="claude", why=why)
        except WrongAnswerError as error:
            found.problems[index] = str(error)
            return
        verdict = judge(leaf, made, self._situation.state_dict)
        if verdict.fit is Fit.MISMATCHED:
            found.problems[index] = verdict.why
        else:
            proposed[index] = Accepted(made, row.confidence, group)

    def _sources(self, row: AnsweredRow, leaves: Reference) -> Iterator[_Source]:
        """Return the source of each member of a leaf reference."""
        references = [resolve(text, "E", self._lines) for text in row.sources]
        parted = [reference for reference in references if reference.part]
        if parted and len(references) > 1:
            raise WrongAnswerError(f"{parted[0].text} cannot be joined with other entries")
        count = len(leaves.items)
        shares = [shared_out(reference, leaves.lengths, count) for reference in references]
        for number in range(count):
            keys = tuple(self._keys[item] for share in shares for item in share[number])
            part = (0, 1)
            if parted:
                which = number % parted[0].parts + 1 if parted[0].part < 0 else parted[0].part
                part = (which, parted[0].parts)
            if len(set(keys)) != len(keys):
                raise WrongAnswerError(f"{keys[0]} is named twice for one leaf")
            yield _Source(keys, row.how, part, (leaves.line.id, row.sources, row.how, part))

    def _made(self, index: int, source: _Source) -> Expr | None:
        if not source.keys:
            return None
        leaf = self._situation.skeleton[index]
        return self._maker.make(leaf, source.keys, source.how, source.part, source.alike)

    def _without_clashes(
        self, proposed: Mapping[int, Accepted], found: Found
    ) -> Iterator[tuple[int, Accepted]]:
        """The rows of which no two read the same elements; of two that do neither is believed."""
        kept = ((index, a.row.source) for index, a in found.rows.items() if a.row.source)
        # What settled rows take was never listed, so that no answer can name it.
        used = Used(kept)
        for index, accepted in proposed.items():
            if accepted.row.source is not None:
                used.add(index, accepted.row.source)
        skeleton = self._situation.skeleton
        for index, accepted in proposed.items():
            source = accepted.row.source
            clash = used.others(index, source) if source is not None else None
            if clash is None:
                yield index, accepted
            else:
                key, other = clash
                found.problems[index] = f"{key} is used by {skeleton[other].path} too"


@dataclass(frozen=True, slots=True)
class _Source:
    """The source of one leaf in the terms of an answer.

    Attributes:
        keys: The entries; none for a gap.
        how: One of `HOWS`.
        part: Number of the part, counted from 1, and number of equal parts.
        alike: Equal for rows that are made in the same manner.
    """

    keys: tuple[str, ...]
    how: str
    part: tuple[int, int]
    alike: object


def in_words(problems: Mapping[int, str], names: Mapping[int, str], most: int) -> list[str]:
    """Problems as `name: why`, those alike together, and how many more there are.

    Args:
        problems: Why, by index.
        names: Names of the rows, by leaf index.
        most: Lines at most.
    """
    by_reason: dict[str, list[str]] = {}
    for index in sorted(problems):
        by_reason.setdefault(problems[index], []).append(names[index])
    lines = [
        f"{alike[0]}{f' and {len(alike) - 1:,} more' if len(alike) > 1 else ''}: {why}"
        for why, alike in list(by_reason.items())[:most]
    ]
    left = sum(len(alike) for alike in list(by_reason.values())[most:])
    return [*lines, f"and {left:,} more rows"] if left else lines
