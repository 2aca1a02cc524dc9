"""Which entries feed which leaf: one frozen row per leaf.

Edits (`s2p_tui.core.edits`) make the next alignment from one; nothing else does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from s2p_tui.core.layers import constant_for
from s2p_tui.core.pytree import Skeleton
from s2p_tui.core.state_dict import StateDict
from s2p_tui.core.transform import Expr, Take, keys_of
from s2p_tui.core.uses import Uses

Author = Literal["order", "user", "matcher", "claude", "rule"]


@dataclass(frozen=True, slots=True)
class Row:
    """What one leaf takes. Exactly one of: a source, a gap, or nothing yet.

    Attributes:
        source: The expression over entries that fills the leaf, or None.
        gap: True if the leaf deliberately keeps the skeleton's value.
        by: Who decided it.
        why: The reason, in words.
        trusted: The user takes a doubtful row for right.
        fixed: No entry belongs here: a Python scalar such as `Dropout.p`, or a leaf whose layer's
            rule says what it holds. Entries are moved past it even one by one.
    """

    source: Expr | None = None
    gap: bool = False
    by: Author = "order"
    why: str = ""
    trusted: bool = False
    fixed: bool = False

    @property
    def stays(self) -> bool:
        """Whether entries flow around the row instead of through it."""
        return self.gap or self.fixed

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the entries the row takes, each once."""
        return keys_of(self.source) if self.source is not None else ()


EMPTY = Row()


@dataclass(frozen=True, slots=True)
class Alignment:
    """One row per leaf, in leaf order, and the keys no row uses, in state-dict order or as sent."""

    rows: tuple[Row, ...]
    bench: tuple[str, ...] = ()
    _uses: Uses | None = field(default=None, init=False, compare=False, repr=False)

    @property
    def uses(self) -> Uses:
        """How many rows take each entry; counted once, then handed on from edit to edit."""
        if self._uses is None:
            object.__setattr__(self, "_uses", Uses.of(self.rows))
        assert self._uses is not None
        return self._uses

    def hand_on(self, uses: Uses | None) -> Alignment:
        """Be told what is known of `uses` already; returns itself."""
        object.__setattr__(self, "_uses", uses)
        return self

    @property
    def known_uses(self) -> Uses | None:
        """`uses` if they were counted or handed on."""
        return self._uses


def in_order(state_dict: StateDict, skeleton: Skeleton) -> Alignment:
    """Strictly by order: the n-th entry feeds the n-th array leaf. Reads no tensor data.

    Leaves no entry belongs to are skipped: Python scalars are gaps, and what a layer's rule fills
    is filled. Entries left over go to the bench; leaves left over stay empty.
    """
    keys = iter(entry.key for entry in state_dict)
    rows: list[Row] = []
    for leaf in skeleton:
        if leaf.owner is not None and (constant := constant_for(leaf)):
            source, why = constant
            rows.append(Row(source, by="rule", fixed=True, why=why))
        elif leaf.kind == "scalar":
            rows.append(
                Row(gap=True, by="rule", fixed=True, why="a Python scalar is never in a state dict")
            )
        else:
            key = next(keys, None)
            rows.append(EMPTY if key is None else Row(Take(key)))
    return Alignment(tuple(rows), tuple(keys))
