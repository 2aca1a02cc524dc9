"""An answer as text, read into rows; nothing in it is believed yet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from s2p_tui.core.printable import printable
from s2p_tui.core.proposal import Confidence
from s2p_tui.core.untrusted import MalformedError, list_of, object_of, string_of
from s2p_tui.proposers.claude.references import WrongAnswerError
from s2p_tui.proposers.claude.schema import HOWS, LONGEST_REASON

_MOST_ROWS = 20_000
_MOST_SOURCES = 4_096


@dataclass(frozen=True, slots=True)
class AnsweredRow:
    """What an answer says of one leaf id.

    Attributes:
        leaf: The leaf id.
        sources: The entry ids; none for a gap.
        how: One of `HOWS`.
        confidence: How sure Claude is.
        group: Which group of the answer it is in.
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
        notes: What was ignored.
    """

    rows: tuple[AnsweredRow, ...]
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_answer(text: str) -> Answer:
    """The rows of an answer. Prose around the JSON is ignored and said so.

    Raises:
        WrongAnswerError: There is no such JSON in it.
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
