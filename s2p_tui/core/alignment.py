"""Which entries feed which leaf: one row per leaf.

Edits (`s2p_tui.core.edits`) make the next alignment from one; nothing else does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from s2p_tui.core.layers import constant_for
from s2p_tui.core.pytree import Skeleton
from s2p_tui.core.rows import Row, Rows
from s2p_tui.core.state_dict import StateDict
from s2p_tui.core.uses import Uses


@dataclass(frozen=True, slots=True)
class Alignment:
    """One row per leaf, in leaf order, and the keys no row uses, in state-dict order or as sent."""

    rows: Rows
    bench: tuple[str, ...] = ()
    _uses: Uses | None = field(default=None, init=False, compare=False, repr=False)

    @classmethod
    def of(cls, rows: Iterable[Row], bench: Sequence[str] = ()) -> Alignment:
        """An alignment of these rows."""
        return cls(Rows.of(rows), tuple(bench))

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
    fixed: dict[int, Row] = {}
    for place, leaf in enumerate(skeleton):
        if leaf.owner is not None and (constant := constant_for(leaf)):
            source, why = constant
            fixed[place] = Row(source, by="rule", fixed=True, why=why)
        elif leaf.kind == "scalar":
            why = "a Python scalar is never in a state dict"
            fixed[place] = Row(gap=True, by="rule", fixed=True, why=why)
    keys = [entry.key for entry in state_dict]
    room = len(skeleton) - len(fixed)
    return Alignment(Rows.of_keys(keys[:room], len(skeleton), fixed), tuple(keys[room:]))
