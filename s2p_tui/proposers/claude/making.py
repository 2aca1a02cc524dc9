"""From the few words of an answer to an expression: only what the layer and shapes allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from s2p_tui.core.choices import Choice, choices, why_none
from s2p_tui.core.composites import composites_of
from s2p_tui.core.errors import TransformError
from s2p_tui.core.fit import judge, landing
from s2p_tui.core.pytree import Leaf
from s2p_tui.core.rows import Row
from s2p_tui.core.state_dict import StateDict
from s2p_tui.core.transform import (
    Concat,
    Expr,
    Flip,
    Permute,
    Split,
    Stack,
    Sum,
    keys_of,
    nodes_of,
    rename,
)
from s2p_tui.core.verdict import Fit
from s2p_tui.proposers.claude.references import WrongAnswerError


def _has(*kinds: type) -> Callable[[Expr], bool]:
    return lambda expr: any(isinstance(node, kinds) for node in nodes_of(expr))


_WANTED: dict[str, Callable[[Expr], bool]] = {
    "auto": lambda _: True,
    "transpose": _has(Permute),
    "flip": _has(Flip),
    "stack": _has(Stack),
    "concat": _has(Concat),
    "sum": _has(Sum),
}


class Maker:
    """Makes expressions; members of one group are made alike without looking for a way again."""

    def __init__(self, state_dict: StateDict) -> None:
        self._state_dict = state_dict
        self._made: dict[object, Expr] = {}

    def make(
        self, leaf: Leaf, keys: Sequence[str], how: str, part: tuple[int, int], alike: object
    ) -> Expr:
        """The source of a row.

        Args:
            leaf: What it is to fill.
            keys: The entries, in order.
            how: One of `HOWS`.
            part: Which of how many equal parts, counted from 1; `(0, 1)` for the whole.
            alike: Equal for rows of the same leaf group, entry groups, word and part.

        Raises:
            WrongAnswerError: There is no such way.
        """
        known = self._made.get(alike)
        if known is not None:
            expr = rename(known, dict(zip(keys_of(known), keys, strict=False)))
            if set(keys_of(expr)) == set(keys) and self._fits(leaf, expr):
                return expr
        expr = self._found(leaf, keys, how, part)
        if keys_of(expr) == tuple(keys):
            self._made[alike] = expr
        return expr

    def _fits(self, leaf: Leaf, expr: Expr) -> bool:
        verdict = judge(leaf, Row(expr, by="claude"), self._state_dict)
        return verdict.fit in (Fit.EXACT, Fit.TRANSFORMED)

    def _found(self, leaf: Leaf, keys: Sequence[str], how: str, part: tuple[int, int]) -> Expr:
        offered = choices(leaf, keys, self._state_dict)
        # Entries that merely could be added up are not, unless that was said.
        unasked = how == "auto" and not composites_of(keys, self._state_dict)
        fitting = [
            choice
            for choice in offered
            if set(keys_of(choice.expr)) == set(keys)
            and _part_of(choice.expr, self._state_dict) == part
            and _WANTED[how](self._done(leaf, choice))
            and not (unasked and _WANTED["sum"](choice.expr))
        ]
        if fitting:
            return next((c for c in fitting if not c.doubtful), fitting[0]).expr
        if not offered:
            raise WrongAnswerError(why_none(leaf, keys, self._state_dict).rstrip("."))
        names = ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")
        which = f"part {part[0]} of {part[1]} of {names}" if part[0] else names
        raise WrongAnswerError(f"{which} cannot fill {leaf.path} by {how!r}")

    def _done(self, leaf: Leaf, choice: Choice) -> Expr:
        try:
            return landing(choice.expr, leaf, self._state_dict)
        except TransformError:
            return choice.expr


def _part_of(expr: Expr, state_dict: StateDict) -> tuple[int, int]:
    """Which of how many equal parts an expression takes of its entry; `(0, 1)` for the whole."""
    splits = [node for node in nodes_of(expr) if isinstance(node, Split)]
    keys = keys_of(expr)
    if len(splits) != 1 or len(keys) != 1:
        return (0, 1)
    (split,) = splits
    size, start = split.stop - split.start, split.start
    shape = state_dict.shape(keys[0])
    if not size or split.axis >= len(shape):
        return (0, 1)
    return (start // size + 1, shape[split.axis] // size)
