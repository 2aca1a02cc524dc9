"""Kinds of rows: those that are alike but for the numbers in their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.fit import Fit, Verdict
from s2p_tui.alignment.transform import Expr, Shape, describe, keys_of, rename

if TYPE_CHECKING:
    from s2p_tui.session.session import Session

_INDEX = re.compile(r"\d+")
_WHOLE_INDEX = re.compile(r"(?<=\[)\d+(?=\])|(?<=\[')\d+(?='\])|(?:(?<=\.)|^)\d+(?=[.\[]|$)")
_WORST_FIRST = (Fit.MISMATCHED, Fit.DOUBTFUL, Fit.GAP, Fit.TRANSFORMED, Fit.EXACT)
# Keys of three numbers have 4^3 ways to come from a path of three; nothing has many more.
_MOST_WAYS = 4096


def pattern_of(name: str) -> str:
    """Return a key or key path with `*` for each index in it: `.blocks[*].mixer.weight`."""
    return _WHOLE_INDEX.sub("*", name)


class Kind(Struct, frozen=True):
    """Rows, or benched entries, that are alike.

    Attributes:
        path: The pattern of the leaves' key paths; empty on the bench.
        key: The pattern of the entries' keys, with what is done to them; empty where there is none.
        shape: The leaves' shape; None on the bench.
        entry_shape: The entries' shape; None where there are several, or none.
        indices: The session's indices, ascending.
    """

    path: str
    key: str
    shape: Shape | None
    entry_shape: Shape | None
    indices: tuple[int, ...]

    @property
    def is_bench(self) -> bool:
        return self.shape is None

    @property
    def name(self) -> str:
        """The pattern that names them."""
        return self.path or self.key


class Kinds:
    """The kinds of a session's rows; what names say is looked at once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._known: dict[Hashable, int] = {}
        self._leaves = self._numbered(
            ("leaf", pattern_of(leaf.path), leaf.shape, leaf.dtype)
            for leaf in session.target.skeleton
        )
        self._entries = self._numbered(
            ("entry", pattern_of(entry.key), entry.shape, entry.dtype)
            for entry in session.checkpoint.state_dict
        )
        self._expressions: list[int] = []

    def _numbered(self, kinds: Iterable[Hashable]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        known = self._known
        return np.array([known.setdefault(kind, len(known)) for kind in kinds], np.int64)

    def all(self) -> list[Kind]:
        """Return the kinds in the order of their first rows, those of the bench last."""
        session = self._session
        rows, state_dict = session.alignment.rows, session.checkpoint.state_dict
        new = state_dict.numbering.expressions[len(self._expressions) :]
        self._expressions += [
            self._known.setdefault(self._expression(one), len(self._known)) for one in new
        ]
        # Sources are numbers from -1, nothing, and -2, a gap, downwards through expressions.
        table = np.array([*self._expressions[::-1], -2, -1, *self._entries], np.int64)
        sources = table[rows.sources + len(self._expressions) + 2]
        found = [self._kind(indices) for indices in _alike(self._leaves * (2**32) + sources + 2)]
        numbering, first = state_dict.numbering, len(rows)
        bench = [int(self._entries[numbering.entry(key)]) for key in session.alignment.bench]
        for indices in _alike(np.array(bench, np.int64)):
            key = session.alignment.bench[indices[0]]
            moved = tuple(first + index for index in indices)
            found.append(Kind("", pattern_of(key), None, state_dict.shape(key), moved))
        return found

    def _expression(self, source: Expr) -> Hashable:
        keys = tuple(map(pattern_of, keys_of(source)))
        return ("expression", describe(source), len(keys), tuple(dict.fromkeys(keys)))

    def _kind(self, indices: tuple[int, ...]) -> Kind:
        session = self._session
        row, leaf = session.alignment.rows[indices[0]], session.target.skeleton[indices[0]]
        keys = row.keys
        shapes = {session.checkpoint.state_dict.shape(key) for key in keys}
        name = " ".join(dict.fromkeys(map(pattern_of, keys)))
        if not keys and row.source is not None:
            name = describe(row.source)
        shape = shapes.pop() if len(shapes) == 1 else None
        return Kind(pattern_of(leaf.path), name, leaf.shape, shape, indices)

    def signs(self, kind: Kind) -> list[tuple[Verdict, int]]:
        """Return how many rows of a kind have which fit, worst first, without reasons."""
        if kind.is_bench:
            blocking = self.blocking(kind)
            return [(Verdict(Fit.DOUBTFUL, blocks=True), blocking)] if blocking else []
        found = Counter(map(self._session.verdicts.sign, kind.indices))
        return sorted(found.items(), key=lambda item: _rank(item[0]))

    def worst(self, kind: Kind) -> int:
        """Return the row of a kind that is worst, or the entry that blocks."""
        if kind.is_bench:
            return next(filter(self._blocks, kind.indices), kind.indices[0])
        return min(kind.indices, key=lambda index: _rank(self._session.verdicts.sign(index)))

    def blocking(self, kind: Kind) -> int:
        """Return how many rows, or entries, of a kind block a conversion."""
        return sum(map(self._blocks, kind.indices))

    def _blocks(self, index: int) -> bool:
        account = self._session.unused_at(index)
        return self._session.verdicts.sign(index).blocks if account is None else account.blocks


def _rank(verdict: Verdict) -> tuple[bool, int]:
    return not verdict.blocks, _WORST_FIRST.index(verdict.fit)


def _alike(kinds: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Iterator[tuple[int, ...]]:
    """Yield the places of equal numbers, in the order of the first of each."""
    order = np.argsort(kinds, kind="stable")
    if not len(order):
        return
    begins = np.flatnonzero(np.diff(kinds[order])) + 1
    groups: list[list[int]] = [group.tolist() for group in np.split(order, begins)]
    yield from map(tuple, sorted(groups))


def names_alike(
    first: str, chosen: str, others: Sequence[str], is_known: Callable[[str], bool]
) -> list[str] | None:
    """Return the names that belong to others as a chosen one does to the first.

    Numbers in the chosen name are those of the first one, the same or shifted, or stay as they are.

    Args:
        first: A name.
        chosen: The name that was chosen for it.
        others: Names that differ from the first by their numbers.
        is_known: Whether there is a name.

    Returns:
        One name for each of the others, all different; None where no rule of that kind gives them.
    """
    ours = list(map(int, _INDEX.findall(first)))
    numbers, pieces = _INDEX.findall(chosen), _INDEX.split(chosen)
    ways: list[list[tuple[int, int]]] = []
    for text in numbers:
        number = int(text)
        near = sorted(range(len(ours)), key=lambda at: (ours[at] != number, at))
        ways.append([*((at, number - ours[at]) for at in near), (-1, number)])
    for way in list(product(*ways))[:_MOST_WAYS]:
        made: list[str] = []
        for other in others:
            theirs = list(map(int, _INDEX.findall(other)))
            if len(theirs) != len(ours):
                return None
            values = [theirs[at] + shift if at >= 0 else shift for at, shift in way]
            name = pieces[0] + "".join(
                f"{value}{piece}" for value, piece in zip(values, pieces[1:], strict=True)
            )
            if not is_known(name):
                break
            made.append(name)
        if len(made) == len(others) and len({*made, chosen}) == len(made) + 1:
            return made
    return None


def sources_alike(
    session: Session, indices: Sequence[int], source: Expr
) -> list[tuple[int, Row]] | None:
    """Return what all rows of a kind take if the first one takes a source; None if that is unclear.

    Args:
        session: The session.
        indices: The rows, which differ by the numbers in their names.
        source: The source chosen for the first.
    """
    paths = [session.target.skeleton[index].path for index in indices]
    known = session.checkpoint.state_dict.__contains__
    renamed: list[dict[str, str]] = [{} for _ in indices[1:]]
    for key in keys_of(source):
        names = names_alike(paths[0], key, paths[1:], known)
        if names is None:
            return None
        for names_of, name in zip(renamed, names, strict=True):
            names_of[key] = name
    sources = [source, *(rename(source, names) for names in renamed)]
    return [(index, Row(one, by="user")) for index, one in zip(indices, sources, strict=True)]
