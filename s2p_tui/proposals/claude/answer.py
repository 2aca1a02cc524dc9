"""An answer as text, read into rows; nothing in it is believed yet."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from s2p_tui.alignment.untrusted import MalformedError, list_of, object_of, string_of
from s2p_tui.errors import printable
from s2p_tui.proposals.claude.listing import Line
from s2p_tui.proposals.claude.question import HOWS, LONGEST_REASON
from s2p_tui.proposals.proposal import Confidence

_REFERENCE = re.compile(
    r"([EL][0-9]{1,6})(?:\[([0-9*.,]{1,80})\])?(?:#([0-9]{1,4}|\*)/([0-9]{1,4}))?"
)
_CHOICE = re.compile(r"(\*)|([0-9]{1,9})(?:\.\.([0-9]{1,9}))?")


class WrongAnswerError(ValueError):
    """Part of an answer does not have the requested form; the message names it."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Members of a group.

    Attributes:
        text: As it was written.
        line: The group's.
        items: The members, the last axis running fastest.
        lengths: Number of choices along each axis with more than one.
        part: The equal part of each, counted from 1; 0 for the whole, -1 for one each.
        parts: Number of parts.
    """

    text: str
    line: Line
    items: tuple[int, ...]
    lengths: tuple[int, ...]
    part: int = 0
    parts: int = 1


def resolve(text: str, letter: str, lines: Mapping[str, Line]) -> Reference:
    """The members that a reference names.

    Args:
        text: The reference.
        letter: `E` or `L`, whichever is wanted.
        lines: All lines by id.

    Raises:
        WrongAnswerError: It names nothing that was listed.
    """
    match = _REFERENCE.fullmatch(text.strip())
    line = lines.get(match[1]) if match else None
    if match is None or line is None or line.letter != letter:
        kind = "an entry's" if letter == "E" else "a listed leaf's"
        raise WrongAnswerError(f"{text[:60]!r} is not {kind} id")
    chosen = _chosen(text, line, match[2])
    part, parts = 0, 1
    if match[4] is not None:
        parts = int(match[4])
        part = -1 if match[3] == "*" else int(match[3])
        if letter == "L" or parts < 2 or part == 0 or part > parts:
            raise WrongAnswerError(f"{text[:60]!r} names no part that there is")
    group = line.group
    strides = [prod(map(len, group.axes[n + 1 :])) for n in range(len(group.axes))]
    items = tuple(
        group.items[sum(index * stride for index, stride in zip(indices, strides, strict=True))]
        for indices in product(*chosen)
    )
    lengths = tuple(len(indices) for indices in chosen if len(indices) > 1)
    return Reference(text.strip(), line, items, lengths, part, parts)


def _chosen(text: str, line: Line, choices: str | None) -> list[Sequence[int]]:
    """Places along each axis."""
    axes, wide = line.group.axes, line.group.wide
    if choices is None:
        return [range(len(axis)) for axis in axes]
    words = choices.split(",")
    if len(words) != len(wide):
        raise WrongAnswerError(f"{text[:60]!r} needs {len(wide)} numbers in brackets")
    remaining = iter(words)
    return [_indices(text, axis, next(remaining)) if len(axis) > 1 else (0,) for axis in axes]


def _indices(text: str, axis: Sequence[int], word: str) -> Sequence[int]:
    match = _CHOICE.fullmatch(word)
    if match is None:
        raise WrongAnswerError(f"{text[:60]!r} cannot be read")
    if match[1]:
        return range(len(axis))
    first, last = int(match[2]), int(match[3] or match[2])
    indices = [index for index, number in enumerate(axis) if first <= number <= last]
    if not indices or axis[indices[0]] != first or axis[indices[-1]] != last:
        raise WrongAnswerError(f"{text[:60]!r} names members that are not there")
    return indices


def shared_out(reference: Reference, wanted: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """The members that each of `count` leaves takes.

    Args:
        reference: The entries.
        wanted: Number of leaves along each axis with more than one.
        count: Number of leaves.

    Raises:
        WrongAnswerError: They cannot be shared out evenly, or in more than one manner.
    """
    items, lengths = reference.items, reference.lengths
    if len(items) == count:
        return [(item,) for item in items]
    if reference.part == -1 and len(items) * reference.parts == count:
        return [(item,) for item in items for _ in range(reference.parts)]
    if reference.part and len(items) == 1:
        return [items] * count
    each, over = divmod(len(items), count)
    if over or not each:
        raise WrongAnswerError(f"{reference.text} has {len(items)} members for {count} leaves")
    leading = lengths[: len(wanted)] == tuple(wanted)
    trailing = lengths[len(lengths) - len(wanted) :] == tuple(wanted)
    if count > 1 and leading == trailing:
        raise WrongAnswerError(
            f"which of {reference.text}'s {len(items)} members go to which of {count} leaves is "
            "not clear: name them leaf by leaf"
        )
    if count == 1 or leading:
        return [items[n * each : (n + 1) * each] for n in range(count)]
    return [items[n::count] for n in range(count)]


_MOST_ROWS = 20_000
_MOST_SOURCES = 4_096


@dataclass(frozen=True, slots=True)
class AnsweredRow:
    """The answer for one leaf id.

    Attributes:
        leaf: The leaf id.
        sources: The entry ids; none for a gap.
        how: One of `HOWS`.
        confidence: Claude's confidence.
        group: Its group in the answer.
    """

    leaf: str
    sources: tuple[str, ...]
    how: str
    confidence: Confidence
    group: int


@dataclass(frozen=True, slots=True)
class Answer:
    """All of it.

    Attributes:
        rows: In the order given.
        reasons: One per group.
        notes: Ignored parts of the answer.
    """

    rows: tuple[AnsweredRow, ...]
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_answer(text: str) -> Answer:
    """Return the rows of an answer. Prose around the JSON is ignored and noted.

    Raises:
        WrongAnswerError: It holds no such JSON.
    """
    start = text.find("{")
    if start < 0:
        raise WrongAnswerError("it holds no JSON object")
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
        rows, reasons = _groups(value)
    except MalformedError as error:
        raise WrongAnswerError(f"it is not of the form asked for: {error}") from None
    except (ValueError, RecursionError):
        raise WrongAnswerError("its JSON breaks off or is damaged") from None
    prose = bool(text[:start].strip() or text[end:].strip())
    notes = ("Words around the answer were ignored.",) if prose else ()
    return Answer(tuple(rows), tuple(reasons), notes)


def _groups(value: Any) -> tuple[list[AnsweredRow], list[str]]:
    rows: list[AnsweredRow] = []
    reasons: list[str] = []
    for number, group in enumerate(map(object_of, list_of(object_of(value).get("groups")))):
        reasons.append(_reason(string_of(group.get("reason", ""))))
        rows += _rows(group.get("rows"), number)
        if len(rows) > _MOST_ROWS:
            raise MalformedError("more rows than were asked for")
    return rows, reasons


def _reason(text: str) -> str:
    words = printable(" ".join(text.split()))
    return words if len(words) <= LONGEST_REASON else f"{words[: LONGEST_REASON - 1]}…"


def _rows(value: Any, group: int) -> Iterator[AnsweredRow]:
    for row in map(object_of, list_of(value)):
        sources = tuple(map(string_of, list_of(row.get("from"))))
        how = string_of(row.get("how", "auto"))
        if how not in HOWS or len(sources) > _MOST_SOURCES:
            raise MalformedError(f"{how[:40]!r} is none of {', '.join(HOWS)}")
        try:
            confidence = Confidence(string_of(row.get("confidence", "unsure")))
        except ValueError:
            confidence = Confidence.UNSURE
        yield AnsweredRow(string_of(row.get("leaf")), sources, how, confidence, group)
