"""The orientation of a weight, where its shape alone does not show it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import prod

from s2p_tui.alignment.transform import Expr, Permute, Reshape, Shape, Split, Stack, Take
from s2p_tui.proposals.matcher.pieces import Piece
from s2p_tui.proposals.matcher.words import meanings, name_of

Steps = tuple[str, ...]
_AS_IT_IS = frozenset(("embed", "pos", "token", "class", "table", "norm", "relative", "register"))
_NO_TABLE = frozenset(("kernel", "w"))
"""Names of weights of dense layers and convolutions, not of tables."""
_UNANIMOUS = 0.9
_INWARD = frozenset(("query", "key", "value", "qkv", "kv"))
_MATRIX = 2
_NO_VOTES = (0, 0)


_ALIKE = {
    "same leaf": "this leaf in other blocks",
    "same module": "others of this module",
    "same modules": "others of such modules",
    "same layers": "others of such layers",
    "same rank": "others of this name and rank",
    "same name": "others of this name",
}


def _template(steps: Steps) -> Steps:
    return tuple("#" if step.isdigit() else step for step in steps)


def _classes(
    steps: Steps, shape: Shape, piece: Piece
) -> tuple[tuple[str, *tuple[object, ...]], ...]:
    """Return the classes a leaf shares with ever more leaves, the nearest first.

    Weights whose names say that they hold the input axis first are of another kind than others:
    a model may have layers of both.
    """
    template, last = _template(steps), (steps[-1], piece.is_input_first)
    rank = len(shape)
    return (
        ("same leaf", template),
        ("same module", steps[:-2], last),
        ("same modules", template[:-2], last),
        ("same layers", template[:-1][-1:], last, rank),
        ("same rank", last, rank),
        ("same name", last),
    )


class Orientation:
    """Learns from weights that go in one way only how the others of their kind go in."""

    def __init__(self) -> None:
        self._votes: dict[tuple[object, ...], list[int]] = defaultdict(lambda: [0, 0])

    def learn(self, pairs: Iterable[tuple[Steps, Shape, Piece]]) -> None:
        """Count the weights whose shapes leave no choice."""
        for steps, shape, piece in pairs:
            if sum(size > 1 for size in piece.member) < 2 or _as_it_is(steps):
                continue
            ways = piece.turns(shape)
            if len(ways) == 1:
                (out_last,) = ways
                for group in _classes(steps, shape, piece):
                    self._votes[group][out_last] += 1

    @property
    def common(self) -> bool | None:
        """The orientation of nearly all weights; None if they differ."""
        votes = [0, 0]
        for group, counts in self._votes.items():
            if group[0] == "same name":
                votes = [votes[0] + counts[0], votes[1] + counts[1]]
        return _verdict(votes)

    def choose(
        self,
        steps: Steps,
        shape: Shape,
        piece: Piece,
        *,
        known_layer: bool,
        own_name: bool = False,
    ) -> tuple[Expr, bool, str] | None:
        """The layout of a piece for a leaf: the expression, whether it is settled, and by what.

        None if no layout has the leaf's shape.

        Args:
            steps: The leaf's steps.
            shape: Its shape.
            piece: What it takes.
            known_layer: Whether it is of one of Equinox's layers.
            own_name: Whether it is kept in a plain dict under the very key of the entry.
        """
        layouts = piece.layouts(shape)
        if not layouts:
            return None
        if by_heads := _by_heads(layouts, steps, piece):
            return by_heads
        if len({out_last for _, out_last in layouts}) == 1:
            return layouts[0][0], _one_order(layouts, piece), ""
        if _as_it_is(steps):
            return _first(layouts, out_last=False), True, "tables keep their rows"
        if known_layer and (shown := _shown(piece)) is not None:
            return _first(layouts, out_last=shown), True, "its parts lie along the output axis"
        groups = _classes(steps, shape, piece)
        for group in groups:
            verdict = _verdict(self._votes.get(group, _NO_VOTES))
            if verdict is not None:
                return (
                    _first(layouts, out_last=verdict),
                    True,
                    f"laid out as {_ALIKE[group[0]]}, whose sizes leave no choice",
                )
        last = steps[-1]
        turned = self._votes.get(groups[-1], _NO_VOTES)[True]
        if own_name and not turned:
            why = "a dict that keeps entries under their own names keeps PyTorch's layout"
            return _first(layouts, out_last=False), True, why
        if known_layer:
            first = piece.is_input_first
            if first or piece.may_be_input_first:
                why = "by its name it may hold the input axis first"
                return _first(layouts, out_last=first), False, why
            why = "some weights of this name are transposed, and nothing shows whether this one is"
            why = why if turned else "the layer keeps PyTorch's layout"
            return _first(layouts, out_last=False), not turned, why
        if name_of(last).words[-1:] != ("weight",):
            same = last in (piece.steps[-1] if piece.steps else "",)
            return _first(layouts, out_last=False), same, "kept as it is under the same name"
        return (
            _first(layouts, out_last=last == "kernel"),
            False,
            "square, and nothing shows whether it is transposed",
        )


def _shown(piece: Piece) -> bool | None:
    """Return True if a fused matrix's part has its output axis last; None if not shown."""
    part = piece.members[0]
    if len(piece.members) > 1 or len(piece.member) != _MATRIX or piece.otherwise is not None:
        return None
    return part.axis == 1 if isinstance(part, Split) and isinstance(part.of, Take) else None


def _by_heads(
    layouts: Sequence[tuple[Expr, bool]], steps: Steps, piece: Piece
) -> tuple[Expr, bool, str] | None:
    """The layout that splits heads out of the axis they are on, where another one does not.

    Queries, keys and values have them on the output axis, what attention gives out takes them in.
    """
    if len(layouts) == 1 or (axis := _axis_of_heads(steps, piece.steps)) is None:
        return None
    found = [expr for expr, _ in layouts if _axis_split(expr, piece.member) == axis]
    if len(found) != 1:
        return None
    return found[0], True, f"heads are on the {('output', 'input')[axis]} axis"


def _axis_of_heads(*names: Steps) -> int | None:
    words = [set(meanings(steps)[0]) for steps in names]
    inward = any(_INWARD & found for found in words)
    outward = any({"attn", "out"} <= found for found in words)
    return None if inward == outward else 0 if inward else 1


def _axis_split(expr: Expr, member: Shape) -> int | None:
    """Return the axis of a matrix that a layout splits; None if neither, or it does not show."""
    inner: Expr | None = expr.of[0] if isinstance(expr, Stack) else expr
    if isinstance(inner, Permute):
        inner = inner.of
    if not isinstance(inner, Reshape) or len(member) != _MATRIX or len(inner.shape) <= _MATRIX:
        return None
    first, *middle, last = inner.shape
    ways = (first * prod(middle), last) == member, (first, prod(middle) * last) == member
    return ways.index(True) if sum(ways) == 1 else None


def _one_order(layouts: Sequence[tuple[Expr, bool]], piece: Piece) -> bool:
    return len(layouts) == 1 or len(piece.member) > 2 or len(layouts) <= 2


def _first(layouts: Sequence[tuple[Expr, bool]], *, out_last: bool) -> Expr:
    return next(expr for expr, last in layouts if last == out_last)


def _verdict(votes: Sequence[int]) -> bool | None:
    total = sum(votes)
    if not total or max(votes) < _UNANIMOUS * total:
        return None
    return votes[1] > votes[0]


def _as_it_is(steps: Steps) -> bool:
    return _is_table(steps[-2:])


@lru_cache(maxsize=1 << 16)
def _is_table(steps: Steps) -> bool:
    if steps[-1] in _NO_TABLE:
        return "norm" in meanings(steps[-2:-1])[0]
    words = meanings(steps[-2:])[0]
    head = meanings(steps[-1:])[0]
    return bool(_AS_IT_IS & set(head)) or (
        "norm" in words
        or (
            bool(_AS_IT_IS & set(words))
            and "proj" not in words
            and "conv" not in words
            and "patch" not in words
        )
    )
