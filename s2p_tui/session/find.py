"""Finding rows and benched entries by name, pattern, shape, dtype, layer class or status."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np

from s2p_tui.alignment.dtypes import BY_NAME
from s2p_tui.alignment.fit import Fit, Verdict
from s2p_tui.alignment.globs import glob_test, is_glob
from s2p_tui.errors import UsageError

if TYPE_CHECKING:
    from s2p_tui.alignment.transform import Shape
    from s2p_tui.session.session import Session

_SHAPE = re.compile(r"\(?\d+(?:[x×*,]\d+)+\)?|\(\)|\(\d+,\)")
_LENGTH = re.compile(r"\d+")
_FITS = {fit.value for fit in Fit}
TRUSTED, BLOCKING, SETTLED, BENCH = "trusted", "blocking", "settled", "bench"
STATUSES = (*_FITS, TRUSTED, BLOCKING, SETTLED, BENCH)


class Found:
    """One row or benched entry, as words of a query look at it.

    Args:
        session: The session.
        index: The row, or benched entry.
    """

    __slots__ = ("_keys", "_leaf", "_session", "index", "names")

    def __init__(self, session: Session, index: int) -> None:
        self._session, self.index = session, index
        row, benched = session.row(index), session.benched(index)
        self._leaf = session.target.skeleton[index] if row is not None else None
        self._keys = row.keys if row is not None else () if benched is None else (benched,)
        self.names = self._keys if self._leaf is None else (*self._keys, self._leaf.path)

    @property
    def shapes(self) -> list[Shape]:
        """Those of its entries and its leaf."""
        shapes = [self._session.checkpoint.state_dict.shape(key) for key in self._keys]
        return shapes if self._leaf is None else [*shapes, self._leaf.shape]

    @property
    def dtypes(self) -> list[str]:
        """Those of its entries and its leaf."""
        dtypes = [self._session.checkpoint.state_dict[key].dtype for key in self._keys]
        return dtypes if self._leaf is None else [*dtypes, self._leaf.dtype]

    @property
    def owner(self) -> str:
        """The class of the leaf's layer; empty where there is none."""
        return (self._leaf.owner or "") if self._leaf is not None else ""

    def is_status(self, word: str) -> bool:
        """Return True if a row, or a benched entry, is of a status."""
        if self._leaf is None:
            account = self._session.unused_at(self.index)
            blocks = account is not None and account.blocks
            return word == BENCH or word == (BLOCKING if blocks else SETTLED)
        verdict = self._session.verdicts.sign(self.index)
        return word in _statuses(verdict)


def _statuses(verdict: Verdict) -> tuple[str, str]:
    fit = TRUSTED if verdict.is_trusted else verdict.fit.value
    return fit, BLOCKING if verdict.blocks else SETTLED


Test = Callable[[Found], bool]


def parse_query(text: str) -> Test:
    """Return a test for what matches every word of a query; `!` before a word means all others.

    A word is a shape (`10x10`, `64`), a dtype, a status (`doubtful`, `trusted`, `blocking`), a
    layer class (`Linear`), a pattern of a whole name (`.blocks[*].w`), a regular expression
    (`re:norm[12]`), or part of a name on either side. Upper and lower case are alike.

    Raises:
        UsageError: A regular expression is none.
    """
    tests = [_word_test(word) for word in text.split()]
    return lambda found: all(test(found) for test in tests)


def _word_test(word: str) -> Test:
    if len(word) > 1 and word.startswith("!"):
        others = _word_test(word[1:])
        return lambda found: not others(found)
    if word.startswith("re:"):
        return _by_regex(word[3:])
    lower = word.lower()
    if lower in STATUSES:
        return lambda found: found.is_status(lower)
    if _SHAPE.fullmatch(word):
        shape = tuple(map(int, re.findall(r"\d+", word)))
        return lambda found: shape in found.shapes
    if lower in BY_NAME:
        return lambda found: lower in found.dtypes
    if is_glob(word):
        means = glob_test(word, ignore_case=True)
        return lambda found: any(means(name) or means(name[1:]) for name in found.names)
    return _by_part(lower)


def _by_part(word: str) -> Test:
    """Part of a name; a whole number also as a length, a word also as a layer's class."""
    length = (int(word),) if _LENGTH.fullmatch(word) and len(word) < 19 else None
    whole = re.compile(rf"(?<!\d){word}(?!\d)") if length else None

    def test(found: Found) -> bool:
        names = [name.lower() for name in found.names]
        if whole is not None:
            return length in found.shapes or any(whole.search(name) for name in names)
        return any(word in name for name in names) or word == _class_name(found.owner)

    return test


def _class_name(owner: str) -> str:
    return owner.rpartition(".")[2].lower()


def _by_regex(pattern: str) -> Test:
    try:
        search = re.compile(pattern, re.IGNORECASE).search
    except re.error as error:
        raise UsageError(
            f"re:{pattern} is no regular expression: {error}.", "Write one such as re:norm[12]."
        ) from error
    return lambda found: any(search(name) is not None for name in found.names)


def find(session: Session, query: str, within: range | None = None) -> list[int]:
    """Return the indices that match every word of a query.

    Args:
        session: The session.
        query: The words.
        within: Look at these indices alone.

    Raises:
        UsageError: A regular expression is none.
    """
    matches = parse_query(query)
    span = range(len(session)) if within is None else within
    return [index for index in span if matches(Found(session, index))]


def next_blocking(session: Session, index: int, step: Literal[1, -1]) -> int | None:
    """Return the nearest index after (or before) one that blocks a conversion, going round."""
    unused = session.unused.blocking + len(session.alignment.rows)
    row = session.verdicts.next_blocking(index, step)
    found = [] if row is None else [row]
    if len(unused):
        beside = np.searchsorted(unused, index, "right" if step > 0 else "left")
        near = int(beside) if step > 0 else int(beside) - 1
        found += [int(unused[0]), int(unused[-1])]
        found += [int(unused[near])] if 0 <= near < len(unused) else []
    found.sort(reverse=step < 0)
    beyond = (one for one in found if (one - index) * step > 0)
    return next(beyond, found[0] if found else None)


def problem_number(session: Session, index: int) -> int:
    """Return how many rows and unused entries up to an index block a conversion."""
    rows = len(session.alignment.rows)
    count = session.verdicts.blocking_count(range(min(index + 1, rows)))
    return count + int(np.searchsorted(session.unused.blocking, index - rows, "right"))
