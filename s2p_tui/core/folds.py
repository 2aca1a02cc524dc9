"""Repeated blocks in a list of key paths: `.layers[0]` to `.layers[60]`, and those within."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from msgspec import Struct

_NUMBER = re.compile(r"\[(?:\d+|'\d+')\]|\.\d+(?=[.\[]|$)")
_FEWEST_ROWS = 3


class Fold(Struct, frozen=True, eq=False, gc=False):
    """Rows that can be shown as one line: all blocks of a list, or one of them.

    Attributes:
        start: The first row.
        stop: The row after the last.
        prefix: The list's key path; empty for the bench.
        first: The first block's number as it is written: `[0]`, `['0']`, `.0`.
        last: The last block's; the same for a single block.
        blocks: How many there are.
        inner: Folds within, ascending.
    """

    start: int
    stop: int
    prefix: str
    first: str
    last: str
    blocks: int
    inner: tuple[Fold, ...] = ()

    def __len__(self) -> int:
        return self.stop - self.start

    def title(self, ellipsis: str = "…") -> str:
        """`.layers[0 … 60]`, or `.layers[3]` for a single block."""
        if self.blocks == 1:
            return f"{self.prefix}{self.first}"
        if self.first.startswith("["):
            return f"{self.prefix}{self.first[:-1]} {ellipsis} {self.last[1:]}"
        return f"{self.prefix}{self.first} {ellipsis} {self.last[1:]}"


@dataclass(slots=True)
class _List:
    """A list whose end is not found yet, and its last block, whose path ends with its number."""

    start: int
    prefix: str
    first: str
    last: str
    block_start: int
    block_path: str
    blocks: int = 1
    done: list[Fold] = field(default_factory=lambda: list[Fold]())
    inner: list[Fold] = field(default_factory=lambda: list[Fold]())

    def next_block(self, row: int, number: str, path: str) -> None:
        """Begin another block."""
        self.end_block(row)
        self.last, self.block_start, self.block_path = number, row, path
        self.blocks += 1

    def end_block(self, row: int) -> None:
        """Keep the last block if it can be folded."""
        if row - self.block_start > 1:
            inner, self.inner = tuple(self.inner), []
            fold = Fold(self.block_start, row, self.prefix, self.last, self.last, 1, inner)
            self.done.append(fold)

    def folds(self, row: int) -> Iterable[Fold]:
        """What of it can be folded, once it has ended."""
        self.end_block(row)
        if self.blocks == 1:
            return (fold for block in self.done for fold in block.inner)
        if row - self.start < _FEWEST_ROWS:
            return ()
        name = self.prefix, self.first, self.last
        return (Fold(self.start, row, *name, self.blocks, tuple(self.done)),)


def find_folds(paths: Sequence[str]) -> tuple[Fold, ...]:
    """The outermost folds of leaves in flatten order.

    A list folds where it has two blocks or more and three leaves or more, a block where it has
    two leaves or more. A number that a path begins with tells `(model, state)` apart, or is all
    there is of a plain `.eqx`: neither is a list of blocks.
    """
    found: list[Fold] = []
    lists: list[_List] = []
    innermost: _List | None = None
    search, match = _NUMBER.search, _NUMBER.match
    for row, path in enumerate(paths):
        begin = 1
        while innermost is not None:
            begin = len(innermost.block_path)
            if path.startswith(innermost.block_path) and (path[begin : begin + 1] or ".") in ".[":
                break
            number = None
            if path.startswith(innermost.prefix):
                number = match(path, len(innermost.prefix))
            if number is not None:
                begin = number.end()
                innermost.next_block(row, number[0], path[:begin])
                break
            lists.pop()
            ended, innermost = innermost, lists[-1] if lists else None
            (found if innermost is None else innermost.inner).extend(ended.folds(row))
            begin = 1
        while (number := search(path, begin)) is not None:
            begin = number.end()
            name = number[0]
            innermost = _List(row, path[: number.start()], name, name, row, path[:begin])
            lists.append(innermost)
    while lists:
        ended = lists.pop()
        (lists[-1].inner if lists else found).extend(ended.folds(len(paths)))
    return tuple(found)
