"""Nothing of an answer is used before it was found possible here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from s2p_tui.core.fit import judge
from s2p_tui.core.proposal import Confidence
from s2p_tui.core.rows import Row
from s2p_tui.core.transform import Expr
from s2p_tui.core.verdict import Fit
from s2p_tui.proposers.base import Situation
from s2p_tui.proposers.claude.answer import Answer, AnsweredRow
from s2p_tui.proposers.claude.listing import Line
from s2p_tui.proposers.claude.making import Maker
from s2p_tui.proposers.claude.references import (
    Reference,
    WrongAnswerError,
    resolve,
    shared_out,
)
from s2p_tui.proposers.claude.usage import Used


@dataclass(frozen=True, slots=True)
class Accepted:
    """A row that could be.

    Attributes:
        row: The row.
        confidence: How sure Claude is of it.
        group: Rows with an equal one share a reason: the request, and the group of its answer.
    """

    row: Row
    confidence: Confidence
    group: tuple[int, int]


@dataclass
class Found:
    """What has been found possible so far, and what not.

    Attributes:
        rows: By place.
        problems: Why an answered row cannot be, by place.
        stray: What was said of ids that nobody asked about.
    """

    rows: dict[int, Accepted] = field(default_factory=lambda: dict[int, Accepted]())
    problems: dict[int, str] = field(default_factory=lambda: dict[int, str]())
    stray: list[str] = field(default_factory=lambda: list[str]())


class Validator:
    """Holds answers against a situation.

    Args:
        situation: What was asked about.
        lines: What was listed, by id.
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
        for place in wanted:
            found.problems.pop(place, None)
        proposed = self._proposed(answer, wanted, found, request)
        for place, accepted in self._without_clashes(proposed, found):
            found.rows[place] = accepted
        for place in sorted(wanted - found.rows.keys()):
            found.problems.setdefault(place, "nothing was said of it")

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
            strangers = [place for place in leaves.items if place not in wanted]
            if strangers:
                found.stray.append(f"{row.leaf[:60]} was not asked about here")
            said.update(leaves.items)
            why = answer.reasons[row.group]
            try:
                sources = list(self._sources(row, leaves))
            except WrongAnswerError as error:
                found.problems.update(dict.fromkeys(set(leaves.items) - {*strangers}, str(error)))
                continue
            for place, source in zip(leaves.items, sources, strict=True):
                if place in wanted:
                    self._add(place, source, row, why, (request, row.group), proposed, found)
        for place, count in said.items():
            if count > 1 and proposed.pop(place, None) is not None:
                found.problems[place] = "it was answered more than once"
        return proposed

    def _add(
        self,
        place: int,
        source: _Source,
        row: AnsweredRow,
        why: str,
        group: tuple[int, int],
        proposed: dict[int, Accepted],
        found: Found,
    ) -> None:
        leaf = self._situation.skeleton[place]
        try:
            made = Row(self._made(place, source), gap=not source.keys, by="claude", why=why)
        except WrongAnswerError as error:
            found.problems[place] = str(error)
            return
        verdict = judge(leaf, made, self._situation.state_dict)
        if verdict.fit is Fit.MISMATCHED:
            found.problems[place] = verdict.why
        else:
            proposed[place] = Accepted(made, row.confidence, group)

    def _sources(self, row: AnsweredRow, leaves: Reference) -> Iterator[_Source]:
        """What each member of a leaf reference is to take."""
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

    def _made(self, place: int, source: _Source) -> Expr | None:
        if not source.keys:
            return None
        leaf = self._situation.skeleton[place]
        return self._maker.make(leaf, source.keys, source.how, source.part, source.alike)

    def _without_clashes(
        self, proposed: Mapping[int, Accepted], found: Found
    ) -> Iterator[tuple[int, Accepted]]:
        """The rows of which no two read the same elements; of two that do neither is believed."""
        kept = ((place, a.row.source) for place, a in found.rows.items() if a.row.source)
        # What settled rows take was never listed, so that no answer can name it.
        used = Used(kept)
        for place, accepted in proposed.items():
            if accepted.row.source is not None:
                used.add(place, accepted.row.source)
        skeleton = self._situation.skeleton
        for place, accepted in proposed.items():
            source = accepted.row.source
            clash = used.others(place, source) if source is not None else None
            if clash is None:
                yield place, accepted
            else:
                key, other = clash
                found.problems[place] = f"{key} is used by {skeleton[other].path} too"


@dataclass(frozen=True, slots=True)
class _Source:
    """What one leaf is to take, in an answer's words.

    Attributes:
        keys: The entries; none for a gap.
        how: One of `HOWS`.
        part: Which of how many equal parts, counted from 1.
        alike: Equal for rows that are made in the same manner.
    """

    keys: tuple[str, ...]
    how: str
    part: tuple[int, int]
    alike: object


def in_words(problems: Mapping[int, str], names: Mapping[int, str], most: int) -> list[str]:
    """Problems as `name: why`, those alike together, and how many more there are.

    Args:
        problems: Why, by place.
        names: What to call the rows, by place.
        most: Lines at most.
    """
    by_reason: dict[str, list[str]] = {}
    for place in sorted(problems):
        by_reason.setdefault(problems[place], []).append(names[place])
    lines = [
        f"{alike[0]}{f' and {len(alike) - 1:,} more' if len(alike) > 1 else ''}: {why}"
        for why, alike in list(by_reason.items())[:most]
    ]
    left = sum(len(alike) for alike in list(by_reason.values())[most:])
    return [*lines, f"and {left:,} more rows"] if left else lines
