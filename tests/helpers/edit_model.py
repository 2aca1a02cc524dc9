"""Edits as they are meant, on plain lists and one row at a time: what the arrays are compared with.

Run as a script for very many random sequences: `python -m tests.helpers.edit_model 100000`.
"""

from __future__ import annotations

import random
import sys

import numpy as np
from msgspec import structs

from s2p_tui.alignment.alignment import EMPTY, Alignment, Row
from s2p_tui.alignment.edits import (
    CloseGap,
    Edit,
    MoveBlock,
    MoveTo,
    OpenGap,
    PlaceFromBench,
    SendToBench,
    SetRows,
    Several,
    Swap,
    Trust,
)
from s2p_tui.alignment.history import History
from s2p_tui.alignment.numbering import Numbering
from s2p_tui.alignment.transform import Expr, Permute, Split, Stack, Take

Source = Expr | None
KEYS = "abcdefgh"
LAYERS = (0, 0, 0, 1, 1, -1, 2, 2, -1)
LAYERS_ARRAY = np.array(LAYERS, np.int32)
_ANY = ("order", "user", "matcher", "claude", "rule")
_GAP = Permute(Take("a gap"), ())


class Model:
    """One row per leaf as a list; decisions by leaf and source."""

    def __init__(self, rows: list[Row], bench: list[str]) -> None:
        self.sources = [_GAP if row.gap else row.source for row in rows]
        self.last = dict(zip(range(len(rows)), zip(self.sources, rows, strict=True), strict=True))
        self.earlier: dict[tuple[int, Source], Row] = {}
        self.bench = bench

    def row(self, n: int) -> Row:
        """The row as the arrays should have it."""
        source, decision = self.last[n]
        if self.sources[n] == source:
            return decision
        if self.sources[n] is None:
            return EMPTY
        gap = self.sources[n] == _GAP
        return Row(None if gap else self.sources[n], gap, "moved")

    def rows(self) -> list[Row]:
        return [self.row(n) for n in range(len(self.sources))]

    def _decide(self, n: int, row: Row) -> None:
        self.chosen.add(n)
        if self.row(n) != row:
            self._set(n, row)

    def _set(self, n: int, row: Row, keep: tuple[str, ...] = ("user", "claude")) -> None:
        source, old = self.last[n]
        self.sources[n] = _GAP if row.gap else row.source
        if source is not None and source != self.sources[n] and old.by in keep:
            self.earlier[n, source] = structs.replace(old, trusted=False)
        self.last[n] = self.sources[n], row

    def _choose(self, n: int) -> None:
        source = self.sources[n]
        known = self.last[n][0] == source or (n, source) in self.earlier
        if source is not None and source != self.before[n] and not known:
            gap = source == _GAP
            self.chosen.add(n)
            self._set(n, Row(None if gap else source, gap, "user"), _ANY)

    def _flows(self, n: int) -> bool:
        return self.sources[n] != _GAP and not self.row(n).fixed

    def _keys(self, source: Source) -> tuple[str, ...]:
        return () if source is None or source == _GAP else Row(source).keys

    def _drop(self, keys: list[str], *, first: bool = False) -> None:
        used = {key for source in self.sources for key in self._keys(source)}
        new = [key for key in dict.fromkeys(keys) if key not in used and key not in self.bench]
        kept = [key for key in self.bench if key not in used]
        self.bench = [*new, *kept] if first else [*kept, *new]

    def apply(self, edit: Edit) -> None:
        """Make one edit."""
        self.before, self.chosen = list(self.sources), set[int]()
        self._make(edit)
        for (n, source), row in list(self.earlier.items()):
            if self.sources[n] == source and self.last[n][0] != source:
                self._set(n, row, _ANY)
        changed = {n for n, old in enumerate(self.before) if old != self.sources[n]}
        for n, layer in enumerate(LAYERS):
            others = {m for m in changed if LAYERS[m] == layer and m != n}
            if layer >= 0 and others and n not in self.chosen:
                source, row = self.last[n]
                self.last[n] = source, structs.replace(row, trusted=False)

    def _make(self, edit: Edit) -> None:
        match edit:
            case Several(edits):
                for part in edits:
                    self._make(part)
            case Swap(a, b):
                if not (self.row(a).fixed or self.row(b).fixed):
                    self.sources[a], self.sources[b] = self.sources[b], self.sources[a]
                    self._choose(a)
                    self._choose(b)
            case MoveBlock(start, stop, steps):
                self._move_block(start, stop, steps)
            case MoveTo(start, to):
                self._move_to(start, to)
            case OpenGap(n):
                self._open(n)
            case CloseGap(n):
                if not self.row(n).fixed:
                    self._close(n)
            case SendToBench(rows):
                sent = [key for n in rows for key in self._keys(self.sources[n])]
                for n in rows:
                    self.sources[n] = self.sources[n] if self.sources[n] == _GAP else None
                self._drop(sent)
            case PlaceFromBench(key, n, shift):
                here = self.sources[n]
                left = here
                if shift and self._flows(n) and here is not None:
                    left = self._push(n, Take(key))
                self._decide(n, Row(Take(key), by="user"))
                self._drop(list(self._keys(left)), first=True)
            case SetRows(changes):
                taken = {key for _, row in changes for key in row.keys}
                touched = [n for n, _ in changes]
                lost = {n: self.sources[n] for n in touched}
                for n, source in enumerate(self.sources):
                    if n not in lost and not taken.isdisjoint(self._keys(source)):
                        lost[n], self.sources[n] = source, None
                for n, row in changes:
                    self._decide(n, row)
                self._drop([key for n in sorted(lost) for key in self._keys(lost[n])])
            case Trust(rows, trusted):
                for n in rows:
                    if self.sources[n] is not None and self.row(n).trusted != trusted:
                        self._decide(n, structs.replace(self.row(n), trusted=trusted))

    def _move_block(self, start: int, stop: int, steps: int) -> None:
        free = [n for n in range(len(self.sources)) if not self.row(n).fixed]
        block = [n for n in free if start <= n < stop]
        for _ in range(abs(steps)):
            at = free.index(block[-1 if steps > 0 else 0]) if block else -1
            beyond = at + (1 if steps > 0 else -1)
            if not block or not 0 <= beyond < len(free):
                break
            path = [*block, free[beyond]] if steps > 0 else [free[beyond], *block]
            held = [self.sources[n] for n in path]
            held = [held[-1], *held[:-1]] if steps > 0 else [*held[1:], held[0]]
            for n, source in zip(path, held, strict=True):
                self.sources[n] = source
            block = path[1:] if steps > 0 else path[:-1]
        for n in block:
            self._choose(n)

    def _move_to(self, start: int, to: int) -> None:
        source = self.sources[start]
        fixed = self.row(start).fixed or self.row(to).fixed
        if start == to or source is None or source == _GAP or fixed:
            return
        if self.sources[to] == _GAP:
            path = [start, to]
        else:
            step = 1 if to > start else -1
            between = [n for n in range(start + step, to, step) if self._flows(n)]
            path = [start, *between, to]
        held = [self.sources[n] for n in path]
        for n, other in zip(path, [*held[1:], held[0]], strict=True):
            self.sources[n] = other
        self._choose(to)

    def _push(self, n: int, source: Source) -> Source:
        """Put a source in a row and push on what is there; what is left at the end."""
        for m in range(n, len(self.sources)):
            if source is None:
                return None
            if self._flows(m):
                self.sources[m], source = source, self.sources[m]
        return source

    def _open(self, n: int) -> None:
        here = self.sources[n]
        if here == _GAP:
            return
        is_fixed = self.row(n).fixed
        self._decide(n, Row(gap=True, by="user"))
        left = here if is_fixed else self._push(n + 1, here)
        self._drop(list(self._keys(left)), first=True)

    def _close(self, n: int) -> None:
        if self.sources[n] != _GAP:
            return
        room = n
        for m in range(n + 1, len(self.sources)):
            if self._flows(m):
                self.sources[room], self.sources[m] = self.sources[m], None
                room = m
                if self.sources[self._before_room(n, room)] is None:
                    return
        self.sources[room] = Take(self.bench[0]) if self.bench else None
        self._drop([])

    def _before_room(self, n: int, room: int) -> int:
        """The row that what was in `room` went up to."""
        return next(m for m in range(room - 1, n - 1, -1) if m == n or self._flows(m))


def random_model_edit(chance: random.Random, count: int) -> Edit:
    """Any edit at all."""
    n, m = chance.randrange(count), chance.randrange(count)
    some = tuple(sorted(chance.sample(range(count), chance.randint(1, 3))))
    key = chance.choice(KEYS)
    match chance.randrange(11):
        case 0:
            return Swap(n, m)
        case 1:
            return MoveBlock(n, min(count, n + chance.randint(0, 3)), chance.randint(-4, 4))
        case 2:
            return MoveTo(n, m)
        case 3:
            return OpenGap(n)
        case 4:
            return CloseGap(n)
        case 5:
            return SendToBench(some)
        case 6:
            return PlaceFromBench(key, n, chance.random() < 0.5)
        case 7 | 8:
            made: tuple[Source, ...] = (
                Take(key), Take(key), Split(Take(key), 0, 0, 1), Stack((Take(key), Take("a")), 0)
            )  # fmt: skip
            row = Row(chance.choice(made), by=chance.choice(("user", "matcher", "claude")))
            row = chance.choice((row, row, Row(gap=True, by="user"), EMPTY))
            return SetRows(
                ((n, structs.replace(row, trusted=row != EMPTY and chance.random() < 0.5)),)
            )
        case 9:
            return Trust(some, chance.random() < 0.8)
        case _:
            return Several((Swap(n, m), OpenGap(chance.randrange(count))))


def compare(seed: int) -> None:
    """One random sequence of edits, undone in part, in the arrays and in the model."""
    chance = random.Random(seed)
    rows = [Row(Take(key), by=chance.choice(("order", "matcher"))) for key in KEYS[:5]]
    rows[2:2] = [Row(gap=True, by="rule", why="a scalar", fixed=True)]
    rows += [EMPTY, Row(Take("f"), by="user", trusted=True), Row(gap=True, by="matcher")]
    model = Model(rows, list("gh"))
    alignment = Alignment.of(rows, "gh", Numbering(KEYS), LAYERS_ARRAY)
    history = History()
    for _ in range(chance.randint(1, 25)):
        edit = random_model_edit(chance, len(rows))
        if isinstance(edit, PlaceFromBench) and edit.key not in model.bench:
            continue
        before = alignment
        alignment, changed = history.make(alignment, edit)
        model.apply(edit)
        assert list(alignment.rows) == model.rows(), (seed, edit)
        assert list(alignment.bench) == model.bench, (seed, edit)
        moved = [n for n, row in enumerate(before.rows) if row != alignment.rows[n]]
        hull = range(moved[0], moved[-1] + 1) if moved else range(0)
        assert changed == hull or not moved, (seed, edit)
        if chance.random() < 0.2 and alignment is not before:
            back, _ = history.undo(alignment)
            assert back == before, (seed, edit)
            assert history.redo(back)[0] == alignment, (seed, edit)


if __name__ == "__main__":
    for number in range(int(sys.argv[1])):
        compare(number)
    print(f"{sys.argv[1]} sequences agree")
