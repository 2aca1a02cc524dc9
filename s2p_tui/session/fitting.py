"""The rows where entries would fit as they are, found for whole kinds of leaves at once."""

from __future__ import annotations

from collections.abc import Hashable
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from s2p_tui.alignment.alignment import Row
from s2p_tui.alignment.fit import Fit
from s2p_tui.alignment.judge import judge
from s2p_tui.alignment.layer_rules import rule_for
from s2p_tui.alignment.layouts import is_input_first
from s2p_tui.alignment.numbering import Flags
from s2p_tui.alignment.transform import Take

if TYPE_CHECKING:
    from s2p_tui.alignment.skeleton import Leaf
    from s2p_tui.session.session import Session

_FITTING = (Fit.EXACT, Fit.TRANSFORMED)


class Fitting:
    """Answers for one session, kept by the kind of entry.

    Args:
        session: The session.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._kinds: NDArray[np.int64] = np.empty(0, np.int64)
        self._examples: list[Leaf] = []
        self._known: dict[Hashable, Flags] = {}

    def of(self, key: str) -> Flags:
        """Return for each leaf whether an entry fits there as it is, or after what its layer does.

        Args:
            key: The entry.
        """
        entry = self._session.checkpoint.state_dict[key]
        # A rule of a layer may know an entry by the last word of its name, or by its module's.
        kind = entry.shape, entry.dtype, key.rpartition(".")[2], is_input_first(key)
        flags = self._known.get(kind)
        if flags is None:
            self._look_at_leaves()
            fits = [self._fits(leaf, key) for leaf in self._examples]
            flags = self._known[kind] = np.array(fits, np.bool_)[self._kinds]
        return flags

    def starts_of(self, span: range) -> list[int]:
        """Return the rows where what rows of a range take would all fit, one below the other.

        Args:
            span: The rows, or one benched entry.
        """
        session = self._session
        rows, count = session.alignment.rows, len(session.target.skeleton)
        if not count or len(span) > count:
            return []
        fits = np.ones(count - len(span) + 1, np.bool_)
        free = ~rows.fixed()
        for number, index in enumerate(span):
            row, benched = session.row(index), session.benched(index)
            keys = (benched,) if benched is not None else row.keys if row is not None else ()
            if not keys:
                continue
            there = slice(number, number + len(fits))
            fits &= self.of(keys[0])[there] & free[there] & (len(keys) == 1)
        return [start for start in np.flatnonzero(fits).tolist() if start != span.start]

    def _look_at_leaves(self) -> None:
        """Number the leaves that `judge` cannot tell apart, once."""
        if self._examples:
            return
        known: dict[Hashable, int] = {}
        kinds: list[int] = []
        for leaf in self._session.target.skeleton:
            rule = rule_for(leaf)
            ruled = None if rule is None else (leaf.owner, rule.role, id(leaf.config))
            kind = leaf.shape, leaf.dtype, leaf.kind, leaf.has_value, ruled
            if kind not in known:
                known[kind] = len(known)
                self._examples.append(leaf)
            kinds.append(known[kind])
        self._kinds = np.array(kinds, np.int64)

    def _fits(self, leaf: Leaf, key: str) -> bool:
        state_dict = self._session.checkpoint.state_dict
        if prod(leaf.shape) != prod(state_dict.shape(key)):
            return False
        return judge(leaf, Row(Take(key), by="user"), state_dict).fit in _FITTING
