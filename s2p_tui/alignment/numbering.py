"""Numbers for sources and decisions, so that an alignment is a few arrays of them.

The entries of a checkpoint are numbered in its order. Anything else that fills a leaf is an
expression; it gets a number when it is first used and keeps it, so all alignments of one checkpoint
are compared, undone and judged by numbers alone.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Iterable, Sequence
from math import copysign
from threading import Lock
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from s2p_tui.alignment.transform import Constant, Expr, Scale, Take, keys_of, nodes_of

NOTHING, GAP, _FIRST_EXPRESSION = -1, -2, -3
"""Sources that are not an entry's number: no source yet, a gap, and downwards expressions."""

Numbers = NDArray[np.int32]
Flags = NDArray[np.bool_]
Author = Literal[
    "order", "user", "matcher", "claude", "rule", "moved", "recipe", "pattern", "forward"
]
"""The author of a decision. `user` chose it for this leaf; `moved` came here by moves of the
user's, maybe of other rows; a `recipe` settles it as a hand did where the recipe was made; by a
`pattern` of one it is only proposed, `why` being the doubt. By the `forward` both models were run,
and agreed with nothing else."""


class Decision(NamedTuple):
    """All that is true of a row beside its source; see `Row`."""

    by: Author = "order"
    why: str = ""
    trusted: bool = False
    fixed: bool = False


FACTS: dict[str, Callable[[Decision], bool]] = {
    "fixed": lambda decision: decision.fixed,
    "trusted": lambda decision: decision.trusted,
    "user": lambda decision: decision.by == "user",
    "claude": lambda decision: decision.by == "claude",
    "recipe": lambda decision: decision.by == "recipe",
    "forward": lambda decision: decision.by == "forward",
    "ruled": lambda decision: decision.by == "rule" and bool(decision.why),
}
_FIXED, _TRUSTED = 0, 1
BY_ORDER, MOVED = 0, 1
"""Numbers of the decisions that every numbering begins with."""


class Numbering:
    """The numbers of one checkpoint's entries, and of expressions and decisions about them.

    It only grows, and may do so in several threads.

    Args:
        keys: Keys of the entries in the checkpoint's order; None to number keys as they come.
        numbers: The number of each key, if that is known.
    """

    def __init__(
        self, keys: Iterable[str] | None = None, numbers: dict[str, int] | None = None
    ) -> None:
        self.keys: list[str] = [] if keys is None else list(keys)
        if numbers is None:
            numbers = {key: number for number, key in enumerate(self.keys)}
        self._numbers = numbers
        self._grows = keys is None
        self.expressions: list[Expr] = []
        self._expression_numbers: dict[Hashable, int] = {}
        # Each entry that an expression reads: the entry and the expression's source number.
        self._read = array("i"), array("i")
        self.decisions: list[Decision] = [Decision(), Decision("moved")]
        self._decision_numbers = {decision: n for n, decision in enumerate(self.decisions)}
        self._facts = np.empty((len(FACTS), 0), np.bool_)
        self._lock = Lock()

    def entry(self, key: str) -> int:
        """Return the number of an entry.

        Raises:
            KeyError: There is no such entry.
        """
        if self._grows and key not in self._numbers:
            with self._lock:
                if key not in self._numbers:
                    self.keys.append(key)
                    self._numbers[key] = len(self.keys) - 1
        return self._numbers[key]

    def number(self, source: Expr) -> int:
        """Return the number of a source.

        Raises:
            KeyError: It reads an entry that does not exist.
        """
        if isinstance(source, Take):
            return self.entry(source.key)
        known = _identity(source)
        found = self._expression_numbers.get(known)
        if found is not None:
            return found
        entries = [self.entry(key) for key in keys_of(source)]
        with self._lock:
            found = self._expression_numbers.get(known)
            if found is None:
                found = _FIRST_EXPRESSION - len(self.expressions)
                self.expressions.append(source)
                self._read[0].extend(entries)
                self._read[1].extend([found] * len(entries))
                self._expression_numbers[known] = found
        return found

    def source(self, number: int) -> Expr | None:
        """Return the source of that number; None for a gap and where there is nothing."""
        if number >= 0:
            return Take(self.keys[number])
        return None if number >= GAP else self.expressions[_FIRST_EXPRESSION - number]

    def keys_of(self, number: int) -> tuple[str, ...]:
        """Return the keys of the entries that a source reads, each once."""
        if number >= 0:
            return (self.keys[number],)
        return () if number >= GAP else keys_of(self.expressions[_FIRST_EXPRESSION - number])

    def decision(self, decision: Decision) -> int:
        """Return the number of a decision."""
        found = self._decision_numbers.get(decision)
        if found is None:
            with self._lock:
                found = self._decision_numbers.get(decision)
                if found is None:
                    found = len(self.decisions)
                    self.decisions.append(decision)
                    self._decision_numbers[decision] = found
        return found

    def fixed(self, decisions: Numbers) -> Flags:
        """Return which of these decisions are `fixed`."""
        return self.facts[_FIXED].take(decisions)

    def trusted(self, decisions: Numbers) -> Flags:
        """Return which of these decisions are `trusted`."""
        return self.facts[_TRUSTED].take(decisions)

    @property
    def has_trusted(self) -> bool:
        """True if any decision is `trusted`."""
        return bool(self.facts[_TRUSTED].any())

    @property
    def facts(self) -> NDArray[np.bool_]:
        """A row of flags per fact, one flag per decision; see `FACTS`."""
        if self._facts.shape[1] != len(self.decisions):
            facts = [[fact(decision) for decision in self.decisions] for fact in FACTS.values()]
            self._facts = np.array(facts, np.bool_)
        return self._facts

    def reading(self, entries: Iterable[int]) -> Numbers:
        """Return the numbers of all sources that read one of these entries."""
        wanted = np.fromiter(entries, np.int32)
        if not self.expressions:
            return wanted
        read, expressions = (np.array(column, np.int32) for column in self._read)
        return np.concatenate([wanted, np.unique(expressions[are_in(read, wanted)])])

    def read_by(self, sources: Numbers) -> Numbers:
        """Return the numbers of all entries that these sources read, ascending."""
        used = np.zeros(len(self.keys), np.bool_)
        used[sources[sources >= 0]] = True
        made = sources[sources <= _FIRST_EXPRESSION]
        if len(made):
            read, expressions = (np.array(column, np.int32) for column in self._read)
            used[read[are_in(expressions, made)]] = True
        return np.flatnonzero(used).astype(np.int32)


class SourceTable:
    """A number for every source of one numbering: entries from the start, expressions as they come.

    Args:
        entries: The number of each entry.
        none: The number of a gap, and of nothing.
    """

    def __init__(self, entries: Sequence[int], none: int) -> None:
        self._count = len(entries)
        # Expressions come first, in reverse, so that a source is an index but for what is added.
        self._numbers = np.array([none, none, *entries], np.int32)

    @property
    def expressions(self) -> int:
        """The count of expressions that have a number."""
        return len(self._numbers) - self._count - 2

    def add(self, numbers: Sequence[int]) -> None:
        """Give the next expressions their numbers."""
        self._numbers = np.concatenate([np.array(numbers[::-1], np.int32), self._numbers])

    def of(self, sources: Numbers) -> Numbers:
        """Return the number of each source."""
        # An index of another kind than NumPy's own: `take` needs half the time of brackets.
        return self._numbers.take(sources + (len(self._numbers) - self._count))


def are_in(numbers: Numbers, wanted: Numbers) -> Flags:
    """Return which numbers are among the wanted ones; `numpy.isin` would sort them for that."""
    if not len(wanted) or not len(numbers):
        return np.zeros(len(numbers), np.bool_)
    low = min(int(wanted.min()), int(numbers.min()))
    table = np.zeros(max(int(wanted.max()), int(numbers.max())) - low + 1, np.bool_)
    table[wanted - low] = True
    return table.take(numbers - low)


def _identity(source: Expr) -> Hashable:
    """Return what tells expressions apart: `Constant(0.0)` equals those of -0.0, 0 and False."""
    signs = tuple(
        (type(number), copysign(1, number))
        for node in nodes_of(source)
        if isinstance(node, Constant | Scale)
        for number in (node.value if isinstance(node, Constant) else node.factor,)
    )
    return (source, signs) if signs else source
